"""Runs side by side: held-out results with intervals, drift from the base, and cost. Floor 5.

The page and the terminal show the same rows. No torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.wording import in_bytes
from orpo_qlora.evaluation import report_card, statistics
from orpo_qlora.evaluation.report_card import ReportCard, Scores, in_points
from orpo_qlora.methods import LossNeeds, method_of
from orpo_qlora.runs import history, present, store
from orpo_qlora.runs.curves.intervals import Interval, wilson
from orpo_qlora.runs.curves.metrics import ACCURACY, Metrics
from orpo_qlora.runs.curves.results import Measured
from orpo_qlora.runs.differences import order_key, text_of, varied_settings
from orpo_qlora.runs.file_cache import FileMemory
from orpo_qlora.runs.store import Run

_hash_of = FileMemory(storage.sha256_of)


@dataclass(frozen=True)
class Cost:
    """What training cost, measured over all recorded steps; None where it was not recorded."""

    forwards_per_pair: float | None = None
    """Sequences, prompt with one response, that the model computed for a pair."""
    tokens_per_pair: float | None = None
    seconds_per_pair: float | None = None
    peak_memory_bytes: float | None = None
    reference_forwards_per_pair: int | None = None
    """Likewise, once per data set before the steps, and in none of the other numbers; None for a
    method without a reference."""


@dataclass(frozen=True)
class Entry:
    """One run of a comparison."""

    run: Run
    label: str
    """What differs, or the run's title."""
    held_out: Measured | None = None
    """The latest measurement on held-out pairs."""
    accuracy: Interval | None = None
    """Held-out accuracy with its Wilson interval."""
    difference: Interval | None = None
    """Accuracy minus that of the best run, pair by pair; None of the best, or without cards."""
    card: ReportCard | None = None
    kl_base: float | None = None
    """Drift from the base in nats a token."""
    cost: Cost = Cost()

    def value(self, name: str) -> float | None:
        """Return a held-out metric, None if it was not measured."""
        return self.held_out.value(name) if self.held_out else None

    @property
    def gap(self) -> float | None:
        """Mean log-prob of chosen minus rejected, nats a token."""
        return self.held_out.gap if self.held_out else None


@dataclass(frozen=True)
class Comparison:
    """Runs in the order of what differs between them."""

    settings: tuple[str, ...]
    """The settings that are varied, or differ."""
    entries: tuple[Entry, ...]
    best: Entry | None
    """The run with the highest held-out accuracy."""
    is_sweep: bool
    """Whether the labels are the settings that are varied."""
    has_same_pairs: bool
    """Whether all runs were measured on the same held-out pairs."""
    bold: Mapping[str, str]
    """The id of the best run by column, where its interval overlaps no other."""

    def undecided(self) -> list[Entry]:
        """Return the runs whose accuracy is not clearly below the best one's."""
        best = self.best
        return [] if best is None else [one for one in self.entries if not _is_beaten(best, one)]


def compare(runs: Sequence[Run], metrics: Mapping[str, Metrics] | None = None) -> Comparison:
    """Return runs side by side.

    Args:
        runs: to be compared.
        metrics: what was read of their metrics, by id; None reads all.
    """
    known = metrics or {run.id: store.metrics_of(run.paths) for run in runs}
    settings = varied_settings(runs)
    labels = labels_of(runs, settings)
    ordered = sorted(runs, key=lambda run: order_key(run.config, settings))
    entries = [_entry(run, labels[run.id], known[run.id]) for run in ordered]
    has_same_pairs = len({_hash_of.of(run.paths.held_out) for run in runs}) <= 1
    measured = [one for one in entries if one.accuracy is not None]
    best = max(measured, key=_accuracy, default=None)
    if best is not None and has_same_pairs:
        entries = [replace(one, difference=_difference(best, one)) for one in entries]
        best = next(one for one in entries if one.run.id == best.run.id)
    bold = _bold(best, entries) if has_same_pairs else {}
    return Comparison(
        settings=tuple(settings),
        entries=tuple(entries),
        best=best,
        is_sweep=_is_sweep(runs),
        has_same_pairs=has_same_pairs,
        bold=bold,
    )


def labels_of(runs: Sequence[Run], settings: Sequence[str]) -> dict[str, str]:
    """Return a label for each run by id: what its sweep varies, else its title.

    Runs that would have the same label have their id in it.
    """
    is_sweep = _is_sweep(runs)
    texts = {run.id: text_of(run.config, settings) if is_sweep else run.title for run in runs}
    counts = Counter(texts.values())
    return {id_: text if counts[text] == 1 else f"{text} ({id_})" for id_, text in texts.items()}


def _is_sweep(runs: Sequence[Run]) -> bool:
    return bool(runs) and all(run.label.varied for run in runs)


def _entry(run: Run, label: str, metrics: Metrics) -> Entry:
    held_out, card = history.results(run).held_out, report_card.read_card(run)
    accuracy = held_out.value(ACCURACY) if held_out else None
    drift = metrics.series("kl_base", held_out=True)
    return Entry(
        run=run,
        label=label,
        held_out=held_out,
        accuracy=None
        if held_out is None or accuracy is None
        else wilson(accuracy, held_out.value("pairs") or 0),
        card=card,
        kl_base=drift[-1][1] if drift else card.kl_base if card else None,
        cost=cost_of(metrics, run.config, 1 if run.report.noun == "response" else 2),
    )


def _reference_forwards(needs: LossNeeds, responses: int) -> int | None:
    if not needs.reference:
        return None
    return responses * (2 if needs.mismatched else 1)


def cost_of(metrics: Metrics, config: TrainConfig, responses: int = 2) -> Cost:
    """Return what a training's steps cost, sums over steps divided by their pairs, and the rest."""
    needs = method_of(config).needs(config)
    values = {
        name: metrics.course(name).values
        for name in ("pairs", "forwards", "tokens", "seconds", "peak_memory_bytes")
    }
    pairs, peak = values["pairs"], values["peak_memory_bytes"]

    def per_pair(name: str) -> float | None:
        # A step of an earlier version recorded less.
        known = len(values[name]) == len(pairs) > 0
        return float(values[name].sum() / pairs.sum()) if known else None

    return Cost(
        forwards_per_pair=per_pair("forwards"),
        tokens_per_pair=per_pair("tokens"),
        seconds_per_pair=per_pair("seconds"),
        peak_memory_bytes=float(peak.max()) if len(peak) else None,
        reference_forwards_per_pair=_reference_forwards(needs, responses),
    )


def _accuracy(one: Entry) -> float:
    return one.accuracy.value if one.accuracy else -math.inf


def _paired(one: Entry, other: Entry) -> list[Scores]:
    """Return both runs' scores where they are of the same pairs, else nothing."""
    scores = [each.card.scores for each in (one, other) if each.card is not None]
    is_same = len(scores) == 2 and len({(each.rows, each.prompts) for each in scores}) == 1
    return scores if is_same and scores[0].rows else []  # responses that are not paired have none


def _difference(best: Entry, one: Entry) -> Interval | None:
    """Return the accuracy of a run minus the best one's, pair by pair."""
    scores = _paired(best, one)
    if one.run.id == best.run.id or not scores:
        return None
    before, after = (each.won(tuned=True) for each in scores)
    return statistics.difference_interval(before, after, np.asarray(scores[0].prompts))


def _is_beaten(best: Entry, one: Entry) -> bool:
    """Whether the best run's accuracy is higher beyond chance; always so of the best run itself."""
    if one.run.id == best.run.id:
        return True
    if one.difference is not None:
        return one.difference.is_below_zero
    if best.accuracy is None or one.accuracy is None:
        return False
    return best.accuracy.low > one.accuracy.high


def _bold(best: Entry | None, entries: Sequence[Entry]) -> dict[str, str]:
    found: dict[str, str] = {}
    if best is not None and len(entries) > 1 and all(_is_beaten(best, one) for one in entries):
        found["accuracy"] = best.run.id
    widest = max(entries, key=lambda one: -math.inf if one.gap is None else one.gap, default=None)
    if widest is not None and len(entries) > 1:
        others = [one for one in entries if one.run.id != widest.run.id]
        if all(_has_larger_gap(widest, one) for one in others):
            found["gap"] = widest.run.id
    return found


def _has_larger_gap(best: Entry, one: Entry) -> bool:
    """Whether a run's log-prob gap is larger than another's beyond chance, pair by pair."""
    scores = _paired(best, one)
    if not scores:
        return False
    high, low = (each.margins(tuned=True) for each in scores)
    return statistics.mean_interval(high - low, np.asarray(scores[0].prompts)).is_above_zero


def result_sentence(found: Comparison) -> str:
    """Return the run with the highest held-out accuracy, and those it does not clearly beat."""
    best = found.best
    if best is None or best.accuracy is None:
        return ""
    text = f"Highest held-out accuracy so far: {best.label}, {_percent(best.accuracy)}."
    if not found.has_same_pairs:
        return f"{text} The runs were not measured on the same pairs."
    undecided = [one.label for one in found.undecided() if one.accuracy is not None]
    if not undecided:
        is_beyond = "accuracy" in found.bold
        return f"{text} Chance does not explain its lead." if is_beyond else text
    return (
        f"{text} Chance alone could explain the difference to {_listed(undecided)}, so these "
        "pairs do not decide which is better; compare the log-probs too."
    )


def _listed(labels: Sequence[str]) -> str:
    """Return labels as a list; one setting is named once: “λ = 0.05, 0.1”."""
    names, values = zip(*(label.partition(" = ")[::2] for label in labels), strict=True)
    if len(set(names)) == 1 and all(values) and not any(" = " in value for value in values):
        return f"{names[0]} = {', '.join(values)}"
    return "; ".join(labels)


def _percent(share: Interval) -> str:
    return f"{present.percent(share.value)} ({share.low * 100:.0f}–{share.high * 100:.0f} %)"


@dataclass(frozen=True)
class Column:
    """One column of the table: a name for `--json` and CSS, a title, and each run's text."""

    name: str
    title: str
    text: Callable[[Entry], str]


def _number(value: float | None) -> str:
    return "–" if value is None else present.number(value)


def _metric(name: str) -> Callable[[Entry], str]:
    return lambda one: _number(one.value(name))


RESULTS = (
    Column("step", "Step", lambda one: f"{one.held_out.step:,}" if one.held_out else "–"),
    Column(
        "accuracy",
        "Accuracy (95 % interval)",
        lambda one: _percent(one.accuracy) if one.accuracy else "–",
    ),
    Column(
        "difference",
        "Against the best",
        lambda one: in_points(one.difference) if one.difference else "–",
    ),
    Column("pairs", "Pairs", _metric("pairs")),
    Column("gap", "Log-prob gap", lambda one: _number(one.gap)),
    Column("chosen", "Chosen log-prob", _metric("logps/chosen")),
    Column("rejected", "Rejected log-prob", _metric("logps/rejected")),
    Column("margin", "Margin", _metric("rewards/margins")),
    Column("log_odds_ratio", "Log odds ratio", _metric("log_odds_ratio")),
    Column("nll_loss", "NLL", _metric("nll_loss")),
    Column("loss", "Loss", _metric("loss")),
    Column("kl_base", "Drift from base", lambda one: _number(one.kl_base)),
)
COSTS = (
    Column(
        "forwards_per_pair", "Forwards per pair", lambda one: _number(one.cost.forwards_per_pair)
    ),
    Column(
        "reference_forwards_per_pair",
        "Reference, once",
        lambda one: _number(one.cost.reference_forwards_per_pair),
    ),
    Column("tokens_per_pair", "Tokens per pair", lambda one: _number(one.cost.tokens_per_pair)),
    Column("seconds_per_pair", "Seconds per pair", lambda one: _number(one.cost.seconds_per_pair)),
    Column(
        "peak_memory_bytes",
        "Peak memory",
        lambda one: (
            in_bytes(one.cost.peak_memory_bytes) if one.cost.peak_memory_bytes is not None else "–"
        ),
    ),
)
NOTES = (
    "Accuracy: share of held-out pairs whose chosen response is more likely, with its Wilson score "
    "interval. “Against the best” compares pair by pair, once each run has a report card "
    "(“Evaluate”). The best is bold only where its interval overlaps no other.",
    "Gap: chosen minus rejected log-prob, which unlike margin and loss means the same under every "
    "method and weight. Drift: KL of the tuned model from its base in nats a token, on the chosen "
    "responses, after the last step.",
    "Cost is measured over the training steps: forwards are sequences of a prompt with one "
    "response, seconds the wall time of the steps without evaluations, memory the worker's peak. "
    "“Reference, once” counts the forwards a pair that dpo, ipo and kto take before the first "
    "step, once per data set and base; they are in no other number.",
)


def columns_of(found: Comparison, columns: Sequence[Column]) -> list[Column]:
    """Return the columns in which any run has a value."""
    return [each for each in columns if any(each.text(one) != "–" for one in found.entries)]


def is_bold(found: Comparison, column: Column, one: Entry) -> bool:
    """Whether a cell is the best of its column beyond chance."""
    return found.bold.get(column.name) == one.run.id


def to_json(found: Comparison) -> dict[str, object]:
    """Return a comparison as plain data, for `--json`."""
    return {
        "settings": list(found.settings),
        "has_same_held_out_pairs": found.has_same_pairs,
        "best": found.best.run.id if found.best else None,
        "best_beyond_chance": dict(found.bold),
        "result": result_sentence(found),
        "runs": [_entry_json(found, one) for one in found.entries],
    }


def _entry_json(found: Comparison, one: Entry) -> Mapping[str, object]:
    config = one.run.config.model_dump(mode="json", by_alias=True)
    return {
        "id": one.run.id,
        "name": one.run.title,
        "status": one.run.state.status,
        "settings": {name: config[name] for name in found.settings},
        "step": one.held_out.step if one.held_out else None,
        "accuracy": asdict(one.accuracy) if one.accuracy else None,
        "difference_to_best": asdict(one.difference) if one.difference else None,
        "gap": one.gap,
        "kl_base": one.kl_base,
        "held_out": dict(one.held_out.values) if one.held_out else None,
        "cost": asdict(one.cost),
    }
