"""Runs on disk: a run's folder, state, metrics and checkpoints. Floor 3."""
