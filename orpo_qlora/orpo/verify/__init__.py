"""One training step here beside the same step in TRL. Floor 2; worker process only."""
