"""Reward models that score answers, and the controls beside them."""
