"""Sinks: where events go; one adapter a file."""
