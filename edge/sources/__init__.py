"""Sources: where frames come from; one adapter a file."""
