"""The metrics of a run, and what they say. Floor 3; no torch."""
