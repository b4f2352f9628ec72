"""A trained model -> the bytes of a model file at fp32; one file a format."""
