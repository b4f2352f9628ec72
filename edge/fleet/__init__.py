"""What runs beside the broker, never on a device: the ingest, and the ledger that it keeps.

The rest of `edge` does not import this; `edge fleet` is found by its entry point.
"""
