"""Engines: one adapter a runtime, and the host that lets several pipelines share one."""
