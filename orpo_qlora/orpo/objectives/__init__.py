"""Training objectives as pure functions of log-probs. Floor 2."""
