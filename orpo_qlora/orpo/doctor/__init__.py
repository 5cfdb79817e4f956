"""Checks of this machine: what a training would use, and whether it computes correctly. Floor 2."""
