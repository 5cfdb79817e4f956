"""Base against tuned on a run's held-out pairs: measured once, kept with the run. Floor 5."""
