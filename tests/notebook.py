"""A recording callback for tests of the trainer, and what they compare."""


class Notebook:
    """A `RunCallback` that records every call."""

    def __init__(self, stop_after=None):
        self.steps, self.evaluations, self.notes, self.checkpoints = [], [], [], []
        self.everything = []
        self._stop_after, self._asked = stop_after, 0

    def on_step(self, record):
        self.steps.append(record)
        self.everything.append(record)

    def on_phase(self, phase):
        pass

    def on_evaluation(self, record):
        self.evaluations.append(record)
        self.everything.append(record)

    def on_note(self, note):
        self.notes.append(note)

    def on_checkpoint(self, step, write):
        self.checkpoints.append(step)

    def should_stop(self):
        self._asked += 1
        return self._asked == self._stop_after


def adapter(policy):
    """Return a copy of the adapter by name."""
    return {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}
