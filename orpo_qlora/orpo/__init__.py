"""The objective and the engine that trains it. Floor 2; worker process only."""
