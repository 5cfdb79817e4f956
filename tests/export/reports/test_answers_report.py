"""The report of answers: one table with votes, pictures and texts, nothing a browser would run."""

import re

from orpo_qlora.chat.conversations import Answer as ChatAnswer
from orpo_qlora.chat.vote_rows import vote_rows
from orpo_qlora.chat.votes import Score
from orpo_qlora.evaluation.answers.kept import AnswerSampling
from orpo_qlora.evaluation.answers.prompts import PromptSet
from orpo_qlora.evaluation.reward.verdicts import Example, RewardDetails
from orpo_qlora.evaluation.suite import table
from orpo_qlora.evaluation.suite.figures import Figure
from orpo_qlora.evaluation.suite.results import PartResult, SuiteResults, System
from orpo_qlora.export.reports.answers_report import AnswersReport, answers_html
from orpo_qlora.runs.curves.intervals import Interval

EVIL = "<script>alert(1)</script>"
SYSTEMS = (
    System(name="base", model="m", answers="a"),
    System(name=f"run {EVIL}", run="r1", model="m", adapter_sha256="11", answers="b",
           opponent="base"),
    System(name="other", run="r2", model="m", adapter_sha256="22", answers="c", opponent="base"),
)  # fmt: skip


def figure(system, value, *, category="", measure="ended"):
    interval = Interval(value, value - 0.05, value + 0.05)
    return Figure(measure=measure, system=system, category=category, interval=interval, count=9)


def results():
    figures = [
        figure(one.name, value, category=category)
        for one, value in zip(SYSTEMS, (0.2, 0.9, 0.5), strict=True)
        for category in ("", "math", "writing")
    ]
    return SuiteResults(
        made_at=0,
        prompts=PromptSet(name="made", prompts=()),
        sampling=AnswerSampling(),
        systems=SYSTEMS,
        parts=(PartResult(part="answers", figures=tuple(figures), sentences=(EVIL,), seconds=0),),
    )


def example(difference):
    return Example(
        system="other", opponent="base", prompt=EVIL, answer="a", other="b", difference=difference
    )


def test_the_report_has_table_bars_and_texts_and_runs_nothing():
    details = RewardDetails(
        check=None,
        rewards={"base": (0.1, 0.2), "other": (0.4, 0.9)},
        wins=(example(2.0),),
        losses=(example(-1.0),),
    )
    page = answers_html(AnswersReport(results(), details))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 5
    assert "<strong>90" in page
    assert "By category" in page
    assert "Rewards of the answers" in page
    assert "Clearest wins (1)" in page
    assert "Clearest losses (1)" in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "default-src 'none'" in page


def test_the_csv_has_a_row_for_every_figure():
    lines = table.to_csv(results()).splitlines()
    assert lines[0].startswith("part,measure,system,opponent,category,value")
    assert len(lines) == 1 + 9


def answer(run, sha256):
    return ChatAnswer.model_construct(run=run, sha256=sha256, title=run)


def test_votes_on_the_same_adapters_are_rows_of_the_table():
    base, first, second = answer("", ""), answer("r1", "11"), answer("r2", "22")
    scores = [
        Score("m", first, base, wins=60, losses=2),
        Score("m", second, base, wins=20, losses=20, ties=3),
        Score("m", second, first, wins=0, losses=0, ties=2),
        Score("m", answer("r1", "older"), base, wins=5),
    ]
    (row,) = vote_rows(results(), scores)
    assert row.title == "Your blind votes against base"
    assert row.cells["other"].startswith("50")
    assert row.best == SYSTEMS[1].name
