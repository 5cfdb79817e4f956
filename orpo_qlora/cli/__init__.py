"""The same jobs from a terminal. Floor 6; no torch."""
