"""`runs`, `label`, `log` and `delete`. Floor 6; no torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from orpo_qlora import methods
from orpo_qlora.chat import client
from orpo_qlora.cli.console import err, out, plain, print_whole
from orpo_qlora.cli.options import AsJson, RunName
from orpo_qlora.cli.sweep import print_comparison
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import comparison
from orpo_qlora.runs import history, labels, store
from orpo_qlora.runs.curves.metrics import ACCURACY
from orpo_qlora.runs.curves.results import Measured
from orpo_qlora.runs.history import Filters, Order
from orpo_qlora.runs.process import deletion as deletion_of_runs
from orpo_qlora.runs.process import watch
from orpo_qlora.runs.process.sweep import group_of
from orpo_qlora.runs.store import Run


def add_run_verbs(app: typer.Typer) -> None:
    """Add these commands to the program's."""
    for verb in (runs, label, log, delete):
        app.command()(verb)


def runs(
    find: Annotated[str, typer.Option(help="Words in name, model, data, tags, λ=0.1.")] = "",
    status: Annotated[str, typer.Option(help="Only with this status.")] = "",
    tag: Annotated[str, typer.Option(help="Only with this tag.")] = "",
    order: Annotated[str, typer.Option(help=f"{', '.join(history.ORDERS)}.")] = "newest",
    sweep: Annotated[
        str, typer.Option(metavar="TAG", help="Compare the runs of this sweep, or of the “last”.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List runs, newest first, or compare those of a sweep."""
    if sweep:
        if find or status or tag:
            raise InputError(
                "--sweep compares all runs of a sweep.",
                hint="Leave out --find, --status and --tag.",
            )
        print_comparison(comparison.compare(group_of(sweep)), as_json=as_json)
        return
    listed = history.read_history()
    filters = Filters(find, _one_of(status, history.STATUSES, "status"), tag=tag)
    wanted = _one_of(order, history.ORDERS, "order")
    found = history.matching(listed.runs, _ordered(filters, wanted))
    if as_json:
        out.print_json(json.dumps([_as_json(run) for run in found]))
        return
    table = Table(
        *("run", "name", "status", "step", "objective", "accuracy", "loss", "model", "pairs"),
        "tags",
        box=SIMPLE_HEAD,
    )
    for run in found:
        table.add_row(*_row(run))
    print_whole(table)
    for broken in listed.unreadable:
        err.print(f"[yellow]{broken.id} cannot be read:[/] {plain(broken.reason)}", soft_wrap=True)
    for card in filter(None, map(watch.stalled, found)):
        err.print(f"[yellow]{plain(card.message)}[/]\n{plain(card.hint)}", soft_wrap=True)


def _one_of(value: str, allowed: tuple[str, ...], what: str) -> str:
    if value and value not in allowed:
        raise InputError(f"“{value}” is not a valid {what}.", hint=f"One of {', '.join(allowed)}.")
    return value


def _ordered(filters: Filters, wanted: str) -> Filters:
    order: Order = next(order for order in history.ORDERS if order == wanted)
    return Filters(filters.text, filters.status, filters.model, filters.tag, order)


def _row(run: Run) -> tuple[str, ...]:
    state, config = run.state, run.config
    held_out = history.results(run).held_out
    steps = f"{state.step}/{state.total_steps}" if state.total_steps else ""
    return (
        *(run.id, plain(run.title), state.status, steps),
        methods.short_name(config),
        _number(held_out, ACCURACY, ".0%"),
        _number(held_out, "loss", ".3g"),
        *(plain(config.model), str(run.report.pairs), plain(", ".join(run.label.tags))),
    )


def _number(measured: Measured | None, name: str, form: str) -> str:
    value = measured.value(name) if measured else None
    return "" if value is None else format(value, form)


def _as_json(run: Run) -> dict[str, object]:
    results = history.results(run)
    return store.to_json(run) | {
        "results": {
            name: asdict(side) if side else None
            for name, side in (("training", results.training), ("held_out", results.held_out))
        }
    }


def label(
    run: RunName,
    name: Annotated[
        str | None, typer.Option(help="New name; empty restores the original one.")
    ] = None,
    tags: Annotated[str | None, typer.Option(help="Tags, separated by commas.")] = None,
) -> None:
    """Set a run's name or tags; without options, print both."""
    found = store.find_run(run)
    if name is not None or tags is not None:
        new = labels.label_of(
            found.label.name if name is None else name,
            found.label.tags if tags is None else tags,
        )
        labels.write_label(found.paths.label, new)
        found = store.read_run(found.paths)
    out.print(f"{found.id} {plain(found.name)} {plain(', '.join(found.label.tags))}".rstrip())


def log(
    run: RunName,
    lines: Annotated[int, typer.Option(min=1, help="Number of last lines.")] = 40,
) -> None:
    """Print the end of a run's log."""
    text = store.log_tail(store.find_run(run).paths, lines)
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def delete(
    run: RunName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a run with its checkpoints, adapter, metrics and log; never one in use."""
    found = store.find_run(run)
    if not yes:
        typer.confirm(f"Delete run {found.id} “{found.title}” permanently?", abort=True)
    held = client.status()
    deletion_of_runs.delete_run(found.paths, held.runs if held else ())
    out.print(f"Run {found.id} is deleted.")
