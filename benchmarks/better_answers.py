"""Whether the tuned model answers as its pairs ask, with a run on shuffled pairs as control.

Run: python -m benchmarks.better_answers --out benchmarks/results/better_answers.md
(about 25 minutes on two CPU cores)

Trains the demo preset on the short answers, and on the same pairs with chosen and rejected swapped
by a coin, through the tool itself. A reward model of the first run's training pairs then compares
the answers of base and both runs to the held-out prompts; a reward model of the shuffled pairs is
asked to do the same and must be refused. Exits with 1 where the reward model is right on at most
90 % of the held-out pairs, or the tuned run's interval of wins against its base or against the
shuffled run contains 50 %. Runs that the home folder already has under the same name and settings
are taken as they are.

The shuffled run may beat the base too: training on either style shortens the answers, which is all
that this reward model can see (its length control says so). What the preferences add is the
difference between the two runs.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import tempfile
from pathlib import Path

from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.evaluation.answers.kept import AnswerSampling
from orpo_qlora.evaluation.answers.prompts import held_out_prompts
from orpo_qlora.evaluation.reward.verdicts import RewardDetails
from orpo_qlora.evaluation.suite import request as suite
from orpo_qlora.evaluation.suite import table
from orpo_qlora.evaluation.suite.request import SuiteAnswer
from orpo_qlora.evaluation.suite.results import SuiteResults
from orpo_qlora.export.reports import markdown
from orpo_qlora.runs import store
from orpo_qlora.runs.curves.intervals import Interval
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.store import Run
from orpo_qlora.shipped_presets import read_preset

EXAMPLE = "short_answers"
HOURS = 3600.0
AGREEMENT, CHANCE = 0.9, 0.5
LONGEST = 96
"""Tokens of an answer; the pairs' responses have at most 70."""


def main() -> None:
    """Train both runs, compare their answers, print or write the page, and check it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="Markdown page to write")
    options = parser.parse_args()
    tuned = trained("short answers", example_path(EXAMPLE))
    with tempfile.TemporaryDirectory() as folder:
        shuffled = trained("shuffled labels", write_shuffled(Path(folder) / "shuffled.csv"))
    both, control = compared(tuned, shuffled), compared(shuffled)
    page = to_page(both, control)
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    sys.exit("\n".join(failures_of(tuned, shuffled, both, control)) or 0)


def write_shuffled(path: Path, seed: int = 0) -> Path:
    """Write the example with chosen and rejected swapped by a fair coin in every row."""
    coin = random.Random(seed)
    with example_path(EXAMPLE).open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        for row in rows:
            if coin.random() < CHANCE:
                row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
            writer.writerow(row)
    return path


def trained(name: str, file: Path) -> Run:
    """Return the finished run of a file under the demo preset, trained now unless it is there."""
    config = build_config(read_preset("demo-cpu") | {"name": name})
    for run in store.list_runs():
        if run.config == config and run.state.status == "finished":
            return run
    paths = launch.start_run(config, load_preferences(file))
    print(f"{name}: run {paths.id}", flush=True)
    run = launch.wait_for(paths, 2 * HOURS)
    if run.state.status != "finished":
        sys.exit(f"run {run.id} {run.state.status}: {run.state.error}")
    return run


def compared(*runs: Run) -> SuiteAnswer:
    """Return answers of base and runs to the first run's held-out prompts, and their rewards."""
    request = suite.SuiteRequest(
        adapters=suite.adapters_of(list(runs)),
        prompts=held_out_prompts(runs[0]),
        sampling=AnswerSampling(max_tokens=LONGEST),
        parts=("answers", "reward"),
    )
    return suite.JOB.wait(request, lambda state: print(state.phase, state.done, flush=True))


def wins(answer: SuiteAnswer, run: Run, opponent: Run | None = None) -> Interval:
    """Return the share of a run's answers with a higher reward than its opponent's, or base's."""
    results = _results(answer)
    names = {one.run: one.name for one in results.systems}
    other = names[opponent.id if opponent else ""]
    return next(
        figure.interval
        for figure in results.figures
        if (figure.measure, figure.system, figure.opponent) == ("reward_wins", names[run.id], other)
    )


def failures_of(tuned: Run, shuffled: Run, both: SuiteAnswer, control: SuiteAnswer) -> list[str]:
    """Return in words what does not hold."""
    agreement, refused = _details(both).check, _details(control).check
    checks = {
        "the reward model is right on at most 90 % of the held-out pairs": (
            agreement is not None and agreement.agreement.value > AGREEMENT
        ),
        "the tuned run does not beat its base": wins(both, tuned).low > CHANCE,
        "the tuned run does not beat the one on shuffled pairs": (
            wins(both, tuned, shuffled).low > CHANCE
        ),
        "the reward model of the shuffled pairs is not refused": (
            refused is not None and refused.is_refused
        ),
    }
    return [text for text, holds in checks.items() if not holds]


def _results(answer: SuiteAnswer) -> SuiteResults:
    assert answer.results is not None, answer.state
    return answer.results


def _details(answer: SuiteAnswer) -> RewardDetails:
    assert answer.reward is not None, answer.state
    return answer.reward


def to_page(both: SuiteAnswer, control: SuiteAnswer) -> str:
    """Return the page: checks of both reward models and the table of all measures."""
    results = _results(both)
    names = [system.name for system in results.systems]
    rows = (
        [row.title, *(row.cells.get(name, "") for name in names)] for row in table.rows_of(results)
    )
    sentences = {
        "The reward model of the short answers": _details(both).check,
        "The reward model of the shuffled pairs": _details(control).check,
    }
    paragraphs = __doc__.split("\n\n")
    lines = [paragraphs[0].rstrip("."), "", " ".join(paragraphs[-1].split()), ""]
    lines += markdown.table(["", *names], rows)
    for title, found in sentences.items():
        check = found.sentences() if found else ["It was not checked."]
        lines += ["", f"**{title}.** {' '.join(check)}"]
    count = len(results.prompts.prompts)
    lines += [
        "",
        f"{count} held-out prompts, one answer each of at most {LONGEST} tokens at temperature "
        f"{results.sampling.temperature}. Rerun: `python -m benchmarks.better_answers`.",
    ]
    return "# " + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
