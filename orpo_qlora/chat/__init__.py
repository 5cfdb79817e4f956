"""Side-by-side chat with base and tuned models: client (no torch), server, votes. Floor 5."""
