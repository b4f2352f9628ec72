"""A trained model -> the bytes of a model file at fp32; one file a way.

Importing this package imports no framework.
"""

FIXED_BATCH = "TFLite has a batch of 1: a dynamic batch is not safe there"
"""A note for who asked for one. Resizing raises for most models, and for some silently computes
the first sample alone."""
