"""The processes of a run: start, queue, worker, supervisor. Floor 3."""
