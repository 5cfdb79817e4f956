"""The report card of a run, kept as `evaluation.json`: base against tuned, held-out pairs. Floor 5.

The card holds what was measured, a few numbers a pair, and what follows from them. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.data.wording import plural
from orpo_qlora.evaluation import statistics
from orpo_qlora.evaluation.unpaired import Responses, both
from orpo_qlora.runs import store
from orpo_qlora.runs.curves.intervals import Interval
from orpo_qlora.runs.store import Run, RunPaths
from orpo_qlora.storage import FileStamp

FILE = "evaluation.json"
SCHEMA = 1
FEW_PROMPTS = 30
"""With fewer prompts the card explains why the intervals are wide."""

DRIFT = "Drift from the base, KL in nats a token"
SPACE = "\N{NO-BREAK SPACE}"
HOW = (
    "Accuracy: the share of held-out pairs whose chosen response has the higher mean token "
    "log-prob.",
    "Intervals are 95 % bootstrap intervals over prompts (2,000 draws, seeded); where all pairs "
    "agree, Wilson's. The difference is drawn pair by pair.",
    "Equal length: a logistic fit of “chosen preferred” on the difference in tokens, with Firth's "
    "penalty, read where the difference is 0.",
)


HOW_UNPAIRED = (
    "Accuracy: the share of all combinations of a chosen with a rejected held-out response in "
    "which the chosen one has the higher mean token log-prob; the prompts differ, so 50 % is what "
    "chance alone gives.",
    "Intervals are 95 % bootstrap intervals over prompts (2,000 draws, seeded).",
)


class Scores(BaseModel):
    """What was measured, column by column: a row of the file, token counts, mean log-probs."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[int, ...]
    prompts: tuple[int, ...]
    """Which prompt each pair belongs to, as a number from 0 up."""
    chosen_tokens: tuple[int, ...]
    rejected_tokens: tuple[int, ...]
    base_chosen: tuple[float, ...]
    """Mean token log-prob in nats, as are the next three."""
    base_rejected: tuple[float, ...]
    tuned_chosen: tuple[float, ...]
    tuned_rejected: tuple[float, ...]

    def margins(self, *, tuned: bool) -> NDArray[np.float64]:
        """Return chosen minus rejected of each pair, in nats a token."""
        sides = (self.base_chosen, self.base_rejected)
        if tuned:
            sides = (self.tuned_chosen, self.tuned_rejected)
        chosen, rejected = (np.asarray(side, dtype=np.float64) for side in sides)
        return np.subtract(chosen, rejected, dtype=np.float64)

    def won(self, *, tuned: bool) -> NDArray[np.bool_]:
        """Return which pairs' chosen response is preferred, as the run's own accuracy counts."""
        return np.asarray(self.margins(tuned=tuned) > 0)


class ResponseScores(BaseModel):
    """What was measured of labelled responses that are not paired, column by column."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[int, ...]
    prompts: tuple[int, ...]
    is_chosen: tuple[bool, ...]
    tokens: tuple[int, ...]
    base: tuple[float, ...]
    """Mean token log-prob in nats."""
    tuned: tuple[float, ...]


NO_PAIRS = Scores(
    rows=(),
    prompts=(),
    chosen_tokens=(),
    rejected_tokens=(),
    base_chosen=(),
    base_rejected=(),
    tuned_chosen=(),
    tuned_rejected=(),
)


class Side(BaseModel):
    """One model on the held-out pairs."""

    model_config = ConfigDict(frozen=True)

    accuracy: Interval
    margin: Interval
    """Mean log-prob of chosen minus that of rejected, in nats a token; not multiplied by λ."""
    chosen_logp: float
    rejected_logp: float
    accuracy_not_longer: Interval | None
    """Over pairs whose chosen response has no more tokens than the rejected one; None without."""
    accuracy_equal_length: Interval | None
    """Read off a logistic fit where both answers have as many tokens; None without pairs."""


class Difference(BaseModel):
    """Tuned minus base, pair by pair."""

    model_config = ConfigDict(frozen=True)

    accuracy: Interval
    margin: Interval
    gained: int
    """Pairs whose chosen response only the tuned model prefers."""
    lost: int
    """Pairs whose chosen response only the base prefers."""


class ReportCard(BaseModel):
    """Base against tuned on the held-out pairs of a run."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    run: str
    made_at: float
    adapter_sha256: str
    pairs: int
    prompts: int
    pairs_not_longer: int
    """Those whose chosen response has no more tokens than the rejected one."""
    is_extrapolated: bool
    """Whether every chosen response is longer, or every one shorter: equal length was not seen."""
    base: Side
    tuned: Side
    difference: Difference
    kl_base: float | None = None
    """KL(tuned ‖ base) in nats, mean over the tokens of the chosen responses; None in a card of an
    earlier version."""
    notes: tuple[str, ...]
    """How it was measured: arithmetic, layout, pairs left out."""
    seconds: float
    scores: Scores
    responses: ResponseScores | None = None
    """Where single labelled responses were held out; `pairs` then counts responses."""

    @property
    def how(self) -> tuple[str, ...]:
        """How the numbers were computed, in sentences."""
        return HOW if self.responses is None else HOW_UNPAIRED

    def sentences(self) -> list[str]:
        """Return the card as sentences, most important first."""
        if self.responses is not None:
            return [self.accuracy_sentence(), self.logp_sentence()]
        return [
            self.accuracy_sentence(),
            f"Length-controlled: {self.length_sentence()}",
            self.logp_sentence(),
            self.flip_sentence(),
        ]

    def accuracy_sentence(self) -> str:
        """Return what changed and whether chance explains it."""
        base, tuned, change = self.base.accuracy, self.tuned.accuracy, self.difference.accuracy
        what = plural(self.pairs, "held-out pair")
        if self.responses is not None:
            what = f"the combinations of {plural(self.pairs, 'held-out response')}"
        text = (
            f"Tuned prefers the chosen response in {in_percent(tuned)}, base in {in_percent(base)} "
            f"of {what}: {in_points(change)}. "
        )
        if change.is_above_zero:
            return f"{text}The gain is larger than chance explains."
        if change.is_below_zero:
            return f"{text}The loss is larger than chance explains."
        few = " More held-out pairs would show it." if self.prompts < FEW_PROMPTS else ""
        return f"{text}Chance alone could explain this.{few}"

    def length_sentence(self) -> str:
        """Return the accuracy controlled for the length of the answers."""
        equal = (
            f"at equal length a logistic fit reads {in_percent(self.tuned.accuracy_equal_length)}, "
            f"base {in_percent(self.base.accuracy_equal_length)}"
        )
        if self.is_extrapolated:
            equal += " (beyond what was seen: all length differences have one sign)"
        base, tuned = self.base.accuracy_not_longer, self.tuned.accuracy_not_longer
        if base is None or tuned is None:
            return f"no pair's chosen response is as short as its rejected one; {equal}."
        return (
            f"where the chosen response is not longer ({plural(self.pairs_not_longer, 'pair')}), "
            f"{in_percent(tuned)}, base {in_percent(base)}; {equal}."
        )

    def logp_sentence(self) -> str:
        """Return the mean log-probs and their margin."""
        base, tuned, change = self.base, self.tuned, self.difference.margin
        return (
            f"Mean log-prob a token: chosen {base.chosen_logp:.3f} → {tuned.chosen_logp:.3f}, "
            f"rejected {base.rejected_logp:.3f} → {tuned.rejected_logp:.3f}; margin "
            f"{base.margin.value:+.3f} → {tuned.margin.value:+.3f} nats "
            f"({change.value:+.3f}, 95 % interval {change.low:+.3f} to {change.high:+.3f})."
        )

    def flip_sentence(self) -> str:
        """Return how many pairs changed sides."""
        change = self.difference
        return (
            f"{plural(change.gained, 'pair')} flipped to the chosen response, "
            f"{change.lost:,} away from it."
        )

    def figures(self) -> list[tuple[str, str, str]]:
        """Return the numbers in text: what, of the base, of the tuned model."""
        short = f"Accuracy where chosen is not longer ({plural(self.pairs_not_longer, 'pair')})"
        drift = [] if self.kl_base is None else [(DRIFT, "0", f"{self.kl_base:.3g}")]
        of_length = [
            (short, *self._both(lambda side: in_percent(side.accuracy_not_longer))),
            (
                "Accuracy at equal length",
                *self._both(lambda side: in_percent(side.accuracy_equal_length)),
            ),
        ]
        return [
            ("Preference accuracy", *self._both(lambda side: in_percent(side.accuracy))),
            *([] if self.responses is not None else of_length),
            ("Mean margin, nats a token", *self._both(lambda side: _in_nats(side.margin))),
            ("Mean log-prob of chosen", *self._both(lambda side: f"{side.chosen_logp:.3f}")),
            ("Mean log-prob of rejected", *self._both(lambda side: f"{side.rejected_logp:.3f}")),
            *drift,
        ]

    def _both(self, show: Callable[[Side], str]) -> tuple[str, str]:
        return show(self.base), show(self.tuned)


def in_percent(share: Interval | None) -> str:
    """Return a share with its interval: “86 % (60–97 %)”; a dash without one."""
    if share is None:
        return "–"
    low, value, high = (round(100 * part) for part in (share.low, share.value, share.high))
    return f"{value}{SPACE}% ({low}–{high}{SPACE}%)"


def in_points(change: Interval) -> str:
    """Return a difference of shares with its interval: “+43 points (14 to 71)”."""
    low, value, high = (100 * part for part in (change.low, change.value, change.high))
    return f"{value:+.0f} points ({low:+.0f} to {high:+.0f})"


def _in_nats(margin: Interval) -> str:
    return f"{margin.value:+.3f} ({margin.low:+.3f} to {margin.high:+.3f})"


def summarise(scores: Scores) -> dict[str, object]:
    """Return everything of a card that follows from the scores, by name."""
    prompts = np.asarray(scores.prompts)
    lengths = np.asarray(scores.chosen_tokens) - np.asarray(scores.rejected_tokens)
    base, tuned = (_side(scores, lengths, tuned=tuned) for tuned in (False, True))
    before, after = (scores.won(tuned=tuned) for tuned in (False, True))
    growth = scores.margins(tuned=True) - scores.margins(tuned=False)
    return {
        "pairs": len(scores.rows),
        "prompts": len(np.unique(prompts)),
        "pairs_not_longer": int((lengths <= 0).sum()),
        "is_extrapolated": bool((lengths > 0).all() or (lengths < 0).all()),
        "base": base,
        "tuned": tuned,
        "difference": Difference(
            accuracy=statistics.difference_interval(before, after, prompts),
            margin=statistics.mean_interval(growth, prompts),
            gained=int((after & ~before).sum()),
            lost=int((before & ~after).sum()),
        ),
    }


def summarise_responses(scores: ResponseScores) -> dict[str, object]:
    """Return everything of a card that follows from unpaired responses, by name."""
    found = Responses(np.asarray(scores.is_chosen), np.asarray(scores.prompts))
    before, after = np.asarray(scores.base), np.asarray(scores.tuned)
    changes = (both(measure(after), measure(before)) for measure in (found.accuracy, found.margin))
    accuracy, margin = (found.interval(change) for change in changes)
    return {
        "pairs": len(scores.rows),
        "prompts": len(np.unique(found.prompts)),
        "pairs_not_longer": 0,
        "is_extrapolated": False,
        "base": _side_of_responses(found, before),
        "tuned": _side_of_responses(found, after),
        "difference": Difference(accuracy=accuracy, margin=margin, gained=0, lost=0),
        "scores": NO_PAIRS,
        "responses": scores,
    }


def _side_of_responses(found: Responses, logps: NDArray[np.float64]) -> Side:
    return Side(
        accuracy=found.interval(found.accuracy(logps)),
        margin=found.interval(found.margin(logps)),
        chosen_logp=float(logps[found.is_chosen].mean()),
        rejected_logp=float(logps[~found.is_chosen].mean()),
        accuracy_not_longer=None,
        accuracy_equal_length=None,
    )


def _side(scores: Scores, lengths: NDArray[np.int64], *, tuned: bool) -> Side:
    won, prompts, short = scores.won(tuned=tuned), np.asarray(scores.prompts), lengths <= 0
    chosen, rejected = (
        (scores.tuned_chosen, scores.tuned_rejected)
        if tuned
        else (scores.base_chosen, scores.base_rejected)
    )
    return Side(
        accuracy=statistics.share_interval(won, prompts),
        margin=statistics.mean_interval(scores.margins(tuned=tuned), prompts),
        chosen_logp=float(np.mean(chosen)),
        rejected_logp=float(np.mean(rejected)),
        accuracy_not_longer=(
            statistics.share_interval(won[short], prompts[short]) if short.any() else None
        ),
        accuracy_equal_length=statistics.share_at_zero(won, lengths.astype(np.float64)),
    )


@dataclass(frozen=True)
class Flip:
    """A pair that changed sides, with its texts."""

    pair: PreferencePair
    before: float
    """Margin of the base, in nats a token."""
    after: float


def flips(run: Run, card: ReportCard, *, gained: bool, most: int) -> list[Flip]:
    """Return pairs that changed sides, those whose margin moved furthest first."""
    before, after = (card.scores.margins(tuned=tuned) for tuned in (False, True))
    flipped = (after > 0) & (before <= 0) if gained else (before > 0) & (after <= 0)
    places = sorted(
        np.flatnonzero(flipped).tolist(), key=lambda place: -abs(after[place] - before[place])
    )
    shown = places[:most]
    pairs = _pairs_at(run, card.scores.rows, {card.scores.rows[place] for place in shown})
    return [
        Flip(pairs[place], float(before[place]), float(after[place]))
        for place in shown
        if place in pairs
    ]


def _pairs_at(run: Run, rows: tuple[int, ...], wanted: set[int]) -> dict[int, PreferencePair]:
    """Return the measured pairs of wanted rows by their place in the scores.

    A ranked row has several pairs; where some were too long to be measured, it is left out.
    """
    places: dict[int, list[int]] = {row: [] for row in wanted}
    for place, row in enumerate(rows):
        if row in wanted:
            places[row].append(place)
    found: dict[int, list[PreferencePair]] = {row: [] for row in wanted}
    for pair in store.held_out_pairs(run.paths):
        if pair.row in wanted:
            found[pair.row].append(pair)
    return {
        place: pair
        for row in wanted
        if len(places[row]) == len(found[row])
        for place, pair in zip(places[row], found[row], strict=True)
    }


def file_of(paths: RunPaths) -> Path:
    """Return where a run's card is, or will be."""
    return paths.folder / FILE


def read_card(run: Run) -> ReportCard | None:
    """Return a run's card, None without one or if the adapter has changed since."""
    try:
        card = ReportCard.model_validate_json(file_of(run.paths).read_bytes())
    except (OSError, ValidationError):
        return None
    return card if card.adapter_sha256 == adapter_sha256(run.paths) else None


def adapter_sha256(paths: RunPaths) -> str:
    """Return the SHA-256 of a run's adapter, empty without one; cached until it changes."""
    weights = paths.adapter / "adapter_model.safetensors"
    try:
        return _hash_of(weights, FileStamp.of(weights))
    except FileNotFoundError:
        return ""


@lru_cache(maxsize=256)
def _hash_of(path: Path, stamp: FileStamp) -> str:
    return storage.sha256_of(path)
