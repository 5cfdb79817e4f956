"""What is wrong with pairs, and what fixes it. Floor 1; no torch."""
