"""One run in several processes: their start, their work, their end. Floor 3."""
