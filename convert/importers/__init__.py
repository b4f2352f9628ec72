"""A recipe -> a trained model that can be run and exported; one file a framework."""
