"""What was compared when an export was read back. Floor 5; no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Checks(BaseModel):
    """A file compared with the run's own model."""

    model_config = ConfigDict(frozen=True)

    read_with: str
    """The program that loaded the file."""
    pairs: int
    """Pairs whose two answers were compared."""
    largest_difference_nats: float
    """Of the mean log-prob of an answer."""
    mean_difference_nats: float
    tolerance_nats: float
    prompts: int
    same_answers: int
    """Prompts with identical greedy answers."""

    def sentences(self) -> list[str]:
        """Return what was compared and how it came out."""
        return [
            f"Token ids, chat template and end token of {self.pairs} templated pairs are the "
            "run's own.",
            f"Mean log-prob of an answer: at most {self.largest_difference_nats:.2g} nats a token "
            f"from the run's own model, {self.mean_difference_nats:.2g} on average (accepted: "
            f"{self.tolerance_nats:g}).",
            f"Greedy answers: {self.same_answers} of {self.prompts} are identical.",
            f"Read back with {self.read_with}.",
        ]
