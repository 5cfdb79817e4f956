"""Frozen layers with their adapters as single differentiable functions. Floor 2."""
