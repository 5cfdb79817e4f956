"""The processes that share one training. Floor 2."""
