"""`sweep`, and its runs side by side. Floor 6; no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from orpo_qlora.cli.console import out, plain, print_whole
from orpo_qlora.cli.files import DEFAULTS, DataOptions, with_data_options, with_mapping
from orpo_qlora.cli.options import (
    AsJson,
    ModelName,
    Preset,
    Settings,
    config_of,
)
from orpo_qlora.data.examples import example_names
from orpo_qlora.data.files.combine import load_files
from orpo_qlora.data.files.hub import looks_like_id
from orpo_qlora.data.pairs import split_pairs
from orpo_qlora.errors import InputError, UnknownRun
from orpo_qlora.evaluation import comparison
from orpo_qlora.evaluation.comparison import Column, Comparison, Entry
from orpo_qlora.runs import present, store
from orpo_qlora.runs.differences import text_of, value_of
from orpo_qlora.runs.process import sweep
from orpo_qlora.runs.process.sweep import Variation
from orpo_qlora.runs.store import Run


@with_data_options
def sweep_(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...|RUN",
            help="Files as for `train`, or a run (id, name or “last”) whose pairs and settings "
            "are taken; that run is part of the sweep.",
        ),
    ],
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="A setting with its values; a second --over crosses two. Without, a run's λ, "
            "β or learning rate is halved and doubled.",
        ),
    ] = None,
    preset: Preset = None,
    model: ModelName = None,
    settings: Settings = None,
    name: Annotated[str | None, typer.Option(help="What the runs' names begin with.")] = None,
    options: DataOptions = DEFAULTS,
    as_json: AsJson = False,
) -> None:
    """Queue the same training with several values of one or two settings, on the same pairs."""
    variations = [sweep.parse_over(text) for text in over or ()]
    if _are_files(sources):
        if not variations:
            raise InputError(
                "There is nothing to vary.", hint="Add for example --over lambda=0.1,0.5,1."
            )
        config = config_of(preset, settings, {"model": model, "name": name})
        configs = sweep.runs_from(config, variations)  # before a long file is read
        data = options.file_set(sources, quiet=as_json, configs=configs)
        dataset = load_files(with_mapping(data, options.columns))
        parts = split_pairs(dataset.pairs, config.held_out, config.seed)
        runs = sweep.start_sweep(config, variations, parts, dataset.report)
    else:
        if any((preset, model, settings, name, options.are_given)):
            raise InputError(
                f"There is no file “{sources[0]}”, and a sweep of a run takes everything that is "
                "not varied from that run.",
                hint="Name a file, or leave out all options but --over and --json.",
            )
        runs = _from_run(store.find_run(sources[0]), variations)
    _print(runs, as_json=as_json)


def _are_files(sources: Sequence[str]) -> bool:
    """Whether the arguments are data rather than a run; a Hub id may also be a run's name."""
    first = sources[0]
    if len(sources) > 1 or first in example_names() or Path(first).expanduser().exists():
        return True
    try:
        store.find_run(first)
    except UnknownRun:
        return looks_like_id(first)
    return False


def _from_run(run: Run, variations: Sequence[Variation]) -> list[Run]:
    usual = sweep.usual_setting(run.config)
    offered = Variation(usual, sweep.offered_values(run.config, usual))
    return sweep.sweep_from(run, variations or [offered])


def _print(runs: Sequence[Run], *, as_json: bool) -> None:
    tag = sweep.tag_of(runs[-1])
    if as_json:
        out.print_json(json.dumps({"sweep": tag, "runs": [run.id for run in runs]}))
        return
    for run in runs:
        varied = text_of(run.config, runs[-1].label.varied)
        out.print(f"{run.id} {plain(varied)} {run.state.status}", soft_wrap=True)
    out.print(f"Compare them: orpo-qlora runs --sweep {tag}", soft_wrap=True)


def print_comparison(found: Comparison, *, as_json: bool) -> None:
    """Print results and cost of runs, the varied settings as columns; the best bold."""
    if as_json:
        out.print_json(json.dumps(comparison.to_json(found)))
        return
    for columns in (comparison.RESULTS, comparison.COSTS):
        shown = comparison.columns_of(found, columns)
        if not shown and columns is comparison.COSTS:
            continue
        print_whole(_table(found, shown))
    sentence = comparison.result_sentence(found)
    for line in filter(None, [sentence, *comparison.NOTES]):
        out.print(plain(line), soft_wrap=True)


def _table(found: Comparison, columns: Sequence[Column]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for title in ("run", "status", *found.settings, *(each.title for each in columns)):
        table.add_column(plain(title))
    for one in found.entries:
        varied = [present.setting_value(value_of(one.run.config, name)) for name in found.settings]
        cells = [_cell(found, column, one) for column in columns]
        table.add_row(one.run.id, one.run.state.status, *map(plain, varied), *cells)
    return table


def _cell(found: Comparison, column: Column, one: Entry) -> str:
    text = plain(column.text(one))
    return f"[bold]{text}[/]" if comparison.is_bold(found, column, one) else text
