"""Weights that are converted before they are loaded. Floor 1."""
