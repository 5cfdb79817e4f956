"""The user's blind votes as rows of an evaluation's table. Floor 5; no torch."""

from __future__ import annotations

from collections.abc import Iterable

from orpo_qlora.chat.votes import Score
from orpo_qlora.evaluation.report_card import in_percent
from orpo_qlora.evaluation.suite.results import SuiteResults
from orpo_qlora.evaluation.suite.table import TableRow
from orpo_qlora.runs.curves.intervals import Interval, clearly_best

MEASURE = "votes"


def vote_rows(results: SuiteResults, scores: Iterable[Score]) -> list[TableRow]:
    """Return one row for each opponent of whom there are decided votes on the evaluated adapters.

    Votes on an earlier adapter of a run do not count.
    """
    names = {(one.run, one.adapter_sha256): one for one in results.systems if one.run}
    found: dict[str, dict[str, Interval]] = {}
    for score in scores:
        system = names.get((score.one.run, score.one.sha256))
        if system is None or not score.decided:
            continue
        other = names.get((score.other.run, score.other.sha256))
        opponent = other.name if other else system.opponent if not score.other.run else ""
        if opponent:
            found.setdefault(opponent, {})[system.name] = score.interval
    return [
        TableRow(
            measure=MEASURE,
            title=f"Your blind votes against {opponent}",
            opponent=opponent,
            category="",
            cells={name: in_percent(interval) for name, interval in intervals.items()},
            best=clearly_best(intervals),
        )
        for opponent, intervals in found.items()
    ]
