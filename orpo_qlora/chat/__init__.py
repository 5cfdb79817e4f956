"""Talking to base and tuned side by side: client (no torch) and server. Floor 4."""
