"""The user's blind votes as rows of an evaluation's table. Floor 5; no torch."""

from __future__ import annotations

from collections.abc import Iterable

from orpo_qlora.chat.votes import Score
from orpo_qlora.evaluation.report_card import in_percent
from orpo_qlora.evaluation.suite.results import SuiteResults
from orpo_qlora.evaluation.suite.table import TableRow
from orpo_qlora.runs.curves.intervals import Interval

MEASURE = "votes"


def vote_rows(results: SuiteResults, scores: Iterable[Score]) -> list[TableRow]:
    """Return one row for each opponent of whom there are decided votes on the evaluated adapters.

    Votes on an earlier adapter of a run do not count. The best is bold where its interval parts
    from all others.
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
            best=_best(intervals),
        )
        for opponent, intervals in found.items()
    ]


def _best(intervals: dict[str, Interval]) -> str:
    if len(intervals) < 2:
        return ""
    best = max(intervals, key=lambda name: intervals[name].value)
    others = [one for name, one in intervals.items() if name != best]
    return best if all(intervals[best].low > one.high for one in others) else ""
