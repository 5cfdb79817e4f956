"""The list of runs, comparisons and a run's own files joined to their handlers. Floor 5."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from orpo_qlora.charts.view import Choices
from orpo_qlora.errors import UnknownRun
from orpo_qlora.runs import history as all_runs
from orpo_qlora.runs import store
from orpo_qlora.ui.data import tab as data_tab
from orpo_qlora.ui.data.tab import DataTab
from orpo_qlora.ui.history import compare, deletion, history_table, listing, sweep_panel
from orpo_qlora.ui.history.deletion import wire_deletion
from orpo_qlora.ui.parts import downloads, theme
from orpo_qlora.ui.parts.events import QUIET, READING, UNCHECKED, parameters_of
from orpo_qlora.ui.parts.guard import Updates, card_of, guarded
from orpo_qlora.ui.runs import files as run_files
from orpo_qlora.ui.runs import tab as runs_tab
from orpo_qlora.ui.runs.tab import RunsTab
from orpo_qlora.ui.train import form
from orpo_qlora.ui.train import tab as train_tab
from orpo_qlora.ui.train.tab import TrainTab

IN_ADDRESS = {"text": "find", "status": "status", "model": "model", "tag": "tag", "order": "order"}
"""Filters by their names in the page's address."""


def wire_history(runs: RunsTab, ticked: Any) -> None:  # noqa: ANN401 - gradio's dependency
    """Join the list and comparisons to the page.

    Args:
        runs: the tab.
        ticked: the page's timer has been answered. The list is looked at only then: whatever made
            the timer stop is seen.
    """
    view = _on_view(runs)
    part, shown = runs.history, [runs.picker, *_view_outputs(runs)]
    inputs = [runs.picker, runs.comparison.ids, runs.comparison.side, *part.inputs]
    # One look after the other: the list that was asked for first would hide a comparison or a run
    # that was asked for since.
    looks = [runs.picker.change, runs.comparison.ids.change, runs.tab.select]
    gr.on(looks, view, inputs, shown, trigger_mode="always_last", **QUIET)
    _wire_own_fields(runs)
    _wire_tick(runs, ticked, inputs)
    _wire_filters(runs)
    _wire_several(runs)
    _wire_comparison(runs)


def _view_outputs(runs: RunsTab) -> list[Any]:
    return [runs.card, runs.empty, *runs.history.outputs, *runs.comparison.outputs]


def _on_view(runs: RunsTab) -> Callable[..., Any]:
    """Return what shows a run, a comparison or the list, whichever is asked for first."""

    def on_view(run_id: str, ids: str, side: str, *values: object) -> Updates:
        if run_id:
            store.paths_of(run_id)  # deleted elsewhere: the page goes back to what it showed
            return {
                **listing.hidden_updates(runs.history),
                **compare.hidden_updates(runs.comparison),
            }
        if ids:
            compared = compare.compare_updates(runs.comparison, listing.ids_of(ids), side)
            empty = {runs.empty: gr.HTML(visible=False)}
            return {**listing.hidden_updates(runs.history), **empty, **(compared or {})}
        listed = listing.list_updates(runs.history, runs.empty, values)
        return {**compare.hidden_updates(runs.comparison), **(listed or {})}

    return guarded(runs.card, on_view, {runs.picker: ""}, keeps_card=True)


def _wire_own_fields(runs: RunsTab) -> None:
    """Fill what a person may edit of a run once, when it is picked: never over what they type."""

    def on_pick(run_id: str) -> Updates | None:
        if not run_id:
            return None
        run = store.read_run(store.paths_of(run_id))
        offered = sweep_panel.offered_text(run.config.lambda_)
        return {**run_files.label_updates(runs.files, run), runs.sweep.values: offered}

    own = [runs.card, *runs.files.label_outputs, runs.sweep.values]
    runs.picker.change(guarded(runs.card, on_pick), runs.picker, own, **QUIET)


def _wire_tick(runs: RunsTab, ticked: Any, inputs: list[Any]) -> None:  # noqa: ANN401
    def on_tick(
        list_seen: str, compare_seen: str, run_id: str, ids: str, side: str, *values: object
    ) -> Updates | None:
        if run_id:
            return None
        if ids:
            asked = listing.ids_of(ids)
            return compare.compare_updates(runs.comparison, asked, side, compare_seen)
        return listing.list_updates(runs.history, runs.empty, values, list_seen)

    seen = [runs.history.seen, runs.comparison.seen]
    handler = guarded(runs.card, on_tick, keeps_card=True)
    ticked.then(handler, [*seen, *inputs], _view_outputs(runs), **QUIET)


def wire_restore(runs: RunsTab, page: gr.Blocks, address: gr.Textbox) -> Any:  # noqa: ANN401
    """Show again what the page's address says of the list and of a comparison; return the event."""
    part = runs.history

    def on_load(text: str) -> Updates:
        parameters = parameters_of(text)
        wanted = {name: parameters.get(key, "") for name, key in IN_ADDRESS.items()}
        filters = listing.filters_of(list(wanted.values()))
        number = parameters.get("page", "")
        ids = parameters.get("compare", "")
        found = all_runs.read_history()
        values = (*wanted.values(), number, "")
        run_id, updates = "", Updates()
        try:
            run_id = runs_tab.opened_run(parameters)
        except UnknownRun as error:
            updates[runs.card] = card_of(error)
        if not run_id and not ids:
            updates |= listing.list_updates(part, runs.empty, values) or {}
        return {
            **updates,
            **listing.filter_updates(part, found, filters),
            part.page: number,
            runs.comparison.ids: ids,
            runs.comparison.side: compare.side_of(parameters.get("side", "")),
        }

    parts = [runs.card, runs.empty, *part.outputs, *part.filters.values(), part.page]
    outputs = list(dict.fromkeys([*parts, runs.comparison.ids, runs.comparison.side]))
    restored = page.load(guarded(runs.card, on_load), address, outputs, **READING)
    remembered = [(IN_ADDRESS[name], component) for name, component in part.filters.items()]
    for key, component in (*remembered, ("page", part.page), ("compare", runs.comparison.ids)):
        component.change(None, component, None, js=theme.remember(key))
    side = runs.comparison.side
    side.change(None, side, None, js=theme.remember_soon("side", compare.HELD_OUT))
    return restored


def _wire_filters(runs: RunsTab) -> None:
    part = runs.history

    def on_list(*values: object) -> Updates:
        return listing.list_updates(part, runs.empty, values) or {}

    def on_filter(*values: object) -> Updates:
        *filters, _, chosen = values
        return {part.page: "", **on_list(*filters, "", chosen)}

    def on_find(*values: object) -> Updates:
        return {part.page: values[-2], **on_list(*values)}

    def on_clear(*values: object) -> Updates:
        cleared = listing.cleared_values()
        fresh = dict(zip(part.filters.values(), cleared, strict=True))
        return {**on_filter(*cleared, *values[len(cleared) :]), **fresh}

    drawn = [runs.card, runs.empty, *part.outputs]
    filtered = [*drawn, part.page]
    handler = guarded(runs.card, on_filter)
    text, *lists = part.filters.values()
    edits = [component.input for component in lists]
    gr.on(edits, handler, part.inputs, filtered, trigger_mode="always_last", **QUIET)
    # Not its input event, which does not come with a text that was pasted.
    finding: dict[str, Any] = {"js": history_table.FOUND, "trigger_mode": "always_last", **QUIET}
    text.change(guarded(runs.card, on_find), part.inputs, filtered, **finding)
    cleared = list(dict.fromkeys([*filtered, *part.filters.values()]))
    part.clear.click(guarded(runs.card, on_clear), part.inputs, cleared, **QUIET)
    tag = part.filters["tag"]
    part.table.click(None, None, tag, js=history_table.TAKE).then(
        handler, part.inputs, filtered, **QUIET
    )
    part.table.select(None, None, runs.picker, js=history_table.TAKE)
    part.table.submit(None, None, part.page, js=history_table.TAKE)
    part.page.change(guarded(runs.card, on_list), part.inputs, drawn, **QUIET)
    part.table.input(None, None, part.chosen, js=history_table.CHOSEN)
    part.chosen.change(None, part.chosen, None, js=history_table.FORGET)
    left = [runs.picker, runs.card]
    runs.files.head.back.click(None, None, left, js="() => ['', '']")


def _wire_several(runs: RunsTab) -> None:
    """Join what can be done with the ticked runs."""
    part = runs.history

    def on_choose(chosen: str) -> Updates:
        return listing.bar_updates(part, chosen)

    def on_compare(chosen: str) -> Updates:
        return {runs.comparison.ids: compare.check(listing.ids_of(chosen))}

    def on_tag(tag: str, *values: object) -> Updates:
        run_files.add_tag(listing.ids_of(values[-1]), tag)
        listed = listing.list_updates(part, runs.empty, values) or {}
        return {part.tag: "", **listed}

    def on_list(*values: object) -> Updates:
        return listing.list_updates(part, runs.empty, values) or {}

    drawn = [runs.card, runs.empty, *part.outputs]
    bar = [runs.card, *part.bar_outputs]
    part.chosen.change(guarded(runs.card, on_choose), part.chosen, bar, **QUIET)
    compared = [runs.card, runs.comparison.ids]
    part.compare.click(guarded(runs.card, on_compare), part.chosen, compared, **QUIET)
    handler = guarded(runs.card, on_tag)
    tagged = [part.tag, *part.inputs]
    part.add_tag.click(handler, tagged, [*drawn, part.tag], trigger_mode="once", **QUIET)
    deleted = wire_deletion(part.deletion, part.chosen, runs.card)
    deleted.success(guarded(runs.card, on_list), part.inputs, drawn, **QUIET)


def _wire_comparison(runs: RunsTab) -> None:
    part = runs.comparison

    def on_side(ids: str, side: str) -> Updates | None:
        return compare.compare_updates(part, listing.ids_of(ids), side)

    def on_tick(ids: str, side: str, seen: str) -> Updates | None:
        return compare.compare_updates(part, listing.ids_of(ids), side, seen) if ids else None

    part.back.click(None, None, [part.ids, runs.card], js="() => ['', '']")
    part.head.select(None, None, runs.picker, js=history_table.TAKE)
    drawn = [runs.card, *part.outputs]
    part.side.input(guarded(runs.card, on_side), [part.ids, part.side], drawn, **QUIET)
    asked = [part.ids, part.side, part.seen]
    part.timer.tick(guarded(runs.card, on_tick, keeps_card=True), asked, drawn, **QUIET)


def wire_run_files(runs: RunsTab) -> None:
    """Join a run's name, tags, files and deletion to the page."""
    part = runs.files

    def on_save(run_id: str, name: str, tags: str, *chosen: object) -> Updates:
        run = run_files.save_label(run_id, name, tags)
        shown = runs_tab.show_updates(runs, run_id, chosen=Choices.of(chosen)) or {}
        return {**shown, **run_files.label_updates(part, run)}

    def on_download(kind: run_files.Kind, run_id: str) -> Updates:
        return {part.file: str(run_files.make_file(run_id, kind))}

    saved = [*runs.outputs, part.name, part.tags]
    gr.on(
        [part.save.click, part.name.submit, part.tags.submit],
        guarded(runs.card, on_save),
        [runs.picker, part.name, part.tags, *runs.live.choices],
        saved,
        trigger_mode="once",
        **QUIET,
    )
    for kind, button in part.buttons.items():
        # A million lines take a while: queued, with Gradio's own spinner.
        handler = guarded(runs.card, partial(on_download, kind))
        parts = [runs.card, part.file]
        event = button.click(handler, runs.picker, parts, trigger_mode="once", **UNCHECKED)
        event.success(None, part.file, None, js=downloads.SAVE, **QUIET)
    wire_deletion(part.head.deletion, runs.picker, runs.card)
    # A question about one run is not asked on the page of another.
    closed = deletion.closed_updates(part.head.deletion)
    runs.picker.change(lambda: closed, None, list(closed), **QUIET)


def wire_again(runs: RunsTab, data: DataTab, train: TrainTab, tabs: gr.Tabs) -> Any:  # noqa: ANN401
    """Fill data and settings from the run that is shown; return the event, which changes both."""

    def on_again(run_id: str) -> Updates:
        paths = store.paths_of(run_id)
        run = store.read_run(paths)
        config = run.config.model_copy(update={"name": run.name})
        filled = dict(zip(train.form.inputs, form.values_of(config), strict=True))
        shown = data_tab.dataset_updates(data, run_files.dataset_of(paths))
        return {**shown, **filled, tabs: gr.Tabs(selected="train")}

    parts = [runs.card, tabs, *data.outputs, *train.form.inputs]
    handler = guarded(runs.card, on_again)
    return runs.files.head.again.click(handler, runs.picker, parts, trigger_mode="once", **QUIET)


def wire_sweeps(runs: RunsTab, data: DataTab, train: TrainTab, tabs: gr.Tabs) -> list[Any]:
    """Join “Try λ” beside the settings and below a run; return the events that queue runs."""

    def queued(ids: list[str]) -> Updates:
        return {
            runs.card: "",
            runs.comparison.ids: ",".join(ids),
            runs.picker: "",
            tabs: gr.Tabs(selected="runs"),
        }

    def on_form(text: str, ticket: str, dataset_id: str, *values: object) -> Updates:
        ids = sweep_panel.start_from_form(dataset_id, text, values, ticket)
        return {**queued(ids), train.ticket: train_tab.new_ticket()}

    def on_run(text: str, run_id: str) -> Updates:
        return queued(sweep_panel.start_from_run(run_id, text))

    sweep_panel.wire_offer(train.sweep, train.form.components["lambda"])
    shown = [runs.card, runs.comparison.ids, runs.picker, tabs]
    once: dict[str, Any] = {"trigger_mode": "once", **QUIET}
    inputs = [train.sweep.values, train.ticket, data.dataset_id, *train.form.inputs]
    from_form = guarded(train.card, on_form)
    from_run = guarded(runs.card, on_run)
    return [
        train.sweep.start.click(from_form, inputs, [train.card, train.ticket, *shown], **once),
        runs.sweep.start.click(from_run, [runs.sweep.values, runs.picker], shown, **once),
    ]
