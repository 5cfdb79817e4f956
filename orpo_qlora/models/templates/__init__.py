"""Chat templates: built in, from a file, or the model's own. Floor 1."""
