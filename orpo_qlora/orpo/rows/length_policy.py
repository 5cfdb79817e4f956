"""How over-long pairs are cut or dropped, from token counts alone. Floor 2; no torch.

`orpo.tokens` applies it to a run's pairs; the page predicts its effect before a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OverLength = Literal["drop", "cut_prompt", "cut_answers"]


@dataclass(frozen=True, slots=True)
class PairLengths:
    """Tokens of a whole pair under the chat template."""

    prompt: int
    chosen: int
    rejected: int
    same_start: int
    """Length of the common prefix of both answers."""

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longer answer; `max_length` bounds this."""
        return self.prompt + max(self.chosen, self.rejected)


@dataclass(frozen=True, slots=True)
class Kept:
    """Tokens of a pair that are trained on: the prompt's last ones, each answer's first ones."""

    prompt: int
    chosen: int
    rejected: int


def fit(pair: PairLengths, max_length: int, over_length: OverLength) -> Kept | None:
    """Return the tokens that are kept of a pair, or None if it is dropped."""
    if pair.longest <= max_length:
        return Kept(pair.prompt, pair.chosen, pair.rejected)
    if over_length == "cut_prompt":
        room = max_length - max(pair.chosen, pair.rejected)
        return Kept(room, pair.chosen, pair.rejected) if room >= 1 else None
    if over_length == "cut_answers":
        room = max_length - pair.prompt
        if room < 1:
            return None
        chosen, rejected = min(room, pair.chosen), min(room, pair.rejected)
        # Answers that become identical by cutting carry no preference.
        is_same = chosen == rejected and pair.same_start >= chosen
        return None if is_same else Kept(pair.prompt, chosen, rejected)
    return None
