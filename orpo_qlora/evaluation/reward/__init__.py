"""Reward models as judges of answers, and the controls beside them."""
