"""Two or more response columns, and a verdict that says which is better. Floor 1; no torch."""
