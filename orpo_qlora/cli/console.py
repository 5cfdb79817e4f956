"""The two consoles, errors and progress bars of all commands. Floor 6; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.progress import Progress
from rich.table import Table

from orpo_qlora.config import setting_fields
from orpo_qlora.data.columns import PARTS_OF_SHAPE, mapping_of
from orpo_qlora.data.wording import brief
from orpo_qlora.errors import BrokenRows, NeedsColumns, NeedsEncoding, OrpoQloraError
from orpo_qlora.jobs.job import JobState

PROPOSED_CHARACTERS = 200
WIDEST = 1000
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_error(error: OrpoQloraError) -> None:
    """Print what went wrong and what to do."""
    err.print(f"[red]error:[/] {plain(error.message)}", soft_wrap=True)
    if error.hint:
        err.print(plain(with_options(error.hint)), soft_wrap=True)
    for option in _remedies(error):
        err.print(f"  {plain(option)}", soft_wrap=True)


def with_options(hint: str) -> str:
    """Return a hint with the option of every setting that it names as the page does."""
    if "--" in hint:
        return hint
    for name, field in setting_fields().items():
        hint = hint.replace(f"“{field.title}”", f"“{field.title}” (--set {name}=…)")
    return hint


def _remedies(error: OrpoQloraError) -> list[str]:
    """Return the options of `check` that solve an error about data."""
    if isinstance(error, NeedsEncoding):
        return [f"--encoding {one.encoding}: {one.preview}" for one in error.candidates]
    if isinstance(error, NeedsColumns) and error.proposal:
        row = error.proposal
        texts = {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected}
        return [f"{part}: {brief(text, PROPOSED_CHARACTERS)}" for part, text in texts.items()]
    if isinstance(error, NeedsColumns) and error.columns:
        parts = PARTS_OF_SHAPE[mapping_of(error.found).shape]
        return [f"--map PART=COLUMN: choose the columns; the parts are {', '.join(parts)}."]
    if isinstance(error, BrokenRows):
        return [f"--fix {error.fix} leaves them out."]
    return []


def plain(text: str) -> str:
    """Return a text with its brackets escaped from rich markup."""
    return text.replace("[", r"\[")


@contextmanager
def job_progress(*, quiet: bool) -> Iterator[Callable[[JobState], None]]:
    """Show a job's progress; yields what `BackgroundJob.wait` calls."""
    with Progress(console=err, transient=True, disable=quiet or not err.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def on_progress(state: JobState) -> None:
            total = state.total or None
            bar.update(task, description=state.phase, completed=state.done, total=total)

        yield on_progress


def print_whole(table: Table) -> None:
    """Print a table whole, also where the terminal is narrower: a cell cut short says nothing."""
    width = Measurement.get(out, out.options.update(max_width=WIDEST), table).maximum
    Console(highlight=False, width=max(width, out.width)).print(table)
