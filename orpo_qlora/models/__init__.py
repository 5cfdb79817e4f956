"""Base models: catalogue, hardware, memory, loading, generation. Floor 1."""
