"""One background job in several processes: their start, their work, their end. Floor 4."""
