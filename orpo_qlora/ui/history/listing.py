"""The list of all runs: filters, table, and actions on several runs at once.

The server keeps no state: filters, page, selected rows and the comparison are in the page's address
and in hidden inputs, so a reload or another server shows the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import gradio as gr

from orpo_qlora.errors import InputError
from orpo_qlora.runs import history, labels, present, store
from orpo_qlora.runs.history import Filters, History, Order
from orpo_qlora.ui.history import compare, deletion, history_table
from orpo_qlora.ui.history.deletion import Deletion, connect_deletion
from orpo_qlora.ui.history.shown import Shown, ids_of
from orpo_qlora.ui.parts import cards, theme
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded

ANY = ("any", "")
ORDER_LABELS: dict[Order, str] = {
    "newest": "Newest first",
    "oldest": "Oldest first",
    "accuracy": "Held-out accuracy",
    "loss": "Held-out loss",
    "name": "Name",
}
FILTER_NAMES = tuple(field.name for field in fields(Filters))
IN_ADDRESS = {"text": "find", "status": "status", "model": "model", "tag": "tag", "order": "order"}
"""Filters by their names in the page's address."""
NO_RUNS = cards.empty_card(
    "No run yet",
    "Choose preference pairs on the Data tab, then press “Start training” on the Train tab. The "
    "run appears here, step by step.",
)
NO_MATCH = cards.empty_card("No run matches", "Change or clear the filters above.")


@dataclass(frozen=True)
class SelectionBar:
    """The actions on selected runs."""

    column: gr.Column
    count: gr.HTML
    compare: gr.Button
    tag: gr.Textbox
    add_tag: gr.Button
    deletion: Deletion

    @property
    def outputs(self) -> list[Any]:
        """What changes with the selection."""
        return [self.column, self.count, self.compare]


@dataclass(frozen=True)
class HistoryList:
    """The components of the list."""

    view: gr.Column
    filters: dict[str, Any]
    """By their names in `Filters`."""
    clear: gr.Button
    table: gr.HTML
    note: gr.HTML
    page: gr.Textbox
    chosen: gr.Textbox
    """Ids of the selected runs, separated by commas."""
    seen: gr.Textbox
    bar: SelectionBar

    @property
    def inputs(self) -> list[Any]:
        """The values the table depends on."""
        return [*self.filters.values(), self.page, self.chosen]

    @property
    def outputs(self) -> list[Any]:
        """What changes when the table is rendered."""
        lists = [self.filters["model"], self.filters["tag"]]
        return [self.view, *lists, self.table, self.note, self.seen]


def build_history() -> HistoryList:
    """Return the list's components, empty."""
    with gr.Column(visible=False, elem_id="history") as view:
        with gr.Row(elem_classes="history-filters"):
            filters: dict[str, Any] = {
                "text": gr.Textbox(
                    label="Find",
                    placeholder="name, data, λ=0.1",
                    elem_id="history-text",
                    interactive=True,
                    min_width=180,
                ),
                "status": _dropdown("Status", "status", history.STATUSES),
                "model": _dropdown("Base model", "model", ()),
                "tag": _dropdown("Tag", "tag", ()),
                "order": gr.Dropdown(
                    [(label, order) for order, label in ORDER_LABELS.items()],
                    value="newest",
                    label="Order",
                    elem_id="history-order",
                    interactive=True,
                    min_width=150,
                ),
            }
            clear = gr.Button(
                "Clear filters", size="md", scale=0, min_width=130, elem_id="history-clear"
            )
        note = gr.HTML(elem_id="history-note")
        table = gr.HTML(elem_id="history-table", js_on_load=history_table.PRESSED)
        return HistoryList(
            view=view,
            filters=filters,
            clear=clear,
            table=table,
            note=note,
            page=_hidden_text("page", "Page"),
            chosen=_hidden_text("chosen", "Selected runs"),
            seen=_hidden_text("seen", "List fingerprint"),
            bar=_build_bar(),
        )


def _hidden_text(name: str, label: str) -> gr.Textbox:
    return gr.Textbox(visible="hidden", elem_id=f"history-{name}", label=label)


def _dropdown(label: str, name: str, values: Sequence[str]) -> gr.Dropdown:
    return gr.Dropdown(
        [ANY, *((value, value) for value in values)],
        value="",
        label=label,
        elem_id=f"history-{name}",
        interactive=True,
        min_width=130,
    )


def _build_bar() -> SelectionBar:
    """Return the bar of actions on selected runs; it sticks to the bottom of the window."""
    with gr.Column(visible=False, elem_id="history-bar", elem_classes="sticky-bar") as column:
        with gr.Row(elem_classes="actions"):
            count = gr.HTML(elem_id="history-count")
            compare = gr.Button(
                "Compare",
                variant="primary",
                size="md",
                scale=0,
                min_width=130,
                elem_id="history-compare",
            )
            tag = gr.Textbox(
                placeholder="new tag",
                label="Tag for selected runs",
                interactive=True,
                show_label=False,
                container=False,
                scale=0,
                min_width=160,
                elem_id="history-new-tag",
            )
            add_tag = gr.Button(
                "Add tag", size="md", scale=0, min_width=110, elem_id="history-add-tag"
            )
            ask = deletion.build_delete_button("history-delete")
        removal = deletion.build_deletion(ask, "history-delete")
    return SelectionBar(
        column=column, count=count, compare=compare, tag=tag, add_tag=add_tag, deletion=removal
    )


def filters_of(values: Sequence[object]) -> Filters:
    """Parse filters; invalid values are ignored."""
    found = {
        name: str(value or "").strip() for name, value in zip(FILTER_NAMES, values, strict=True)
    }
    order = found.pop("order")
    return Filters(**found, order=_order(order))


def _order(text: str) -> Order:
    return next((order for order in get_args(Order) if order == text), "newest")


def cleared_values() -> list[str]:
    """Return the filters' values when nothing is filtered."""
    return ["newest" if name == "order" else "" for name in FILTER_NAMES]


def filter_updates(part: HistoryList, found: History, filters: Filters) -> Updates:
    """Return the filters' inputs from the page's address.

    Filters missing there are left alone: the user may be typing into them.
    """
    shown = {name: getattr(filters, name) for name in FILTER_NAMES}
    asked = {name: value for name, value in shown.items() if value != getattr(Filters(), name)}
    updates: Updates = {part.filters[name]: value for name, value in asked.items()}
    models = [ANY, *map(_model_choice, found.models)]
    tags = [ANY, *((tag, tag) for tag in found.tags)]
    # A model or tag that no run has any more would match nothing, invisibly.
    for name, choices in (("model", models), ("tag", tags)):
        known = shown[name] in {value for _, value in choices}
        value = {"value": shown[name] if known else ""} if name in asked else {}
        updates[part.filters[name]] = gr.Dropdown(choices, **value)
    return updates


def hidden_updates(part: HistoryList) -> Updates:
    """Hide the list, because a run or a comparison is shown."""
    return {part.view: gr.Column(visible=False), part.seen: ""}


def list_updates(
    part: HistoryList, empty: gr.HTML, values: Sequence[object], seen: str = ""
) -> Updates | None:
    """Return what changed since the page rendered the list; None if nothing did.

    Args:
        part: the list's components.
        empty: shown instead while there is no run at all.
        values: the values of `inputs`.
        seen: fingerprint of what the page shows; empty renders everything.
    """
    *filter_values, page, chosen = values
    found = history.read_history()
    table = _table(found, filters_of(filter_values), str(page or ""), ids_of(chosen))
    note = history_table.unreadable_note(found.unreadable)
    is_empty = not found.runs and not found.unreadable
    mark = _mark(table, note, found.models, found.tags, is_empty)
    if mark == seen:
        return None
    return {
        part.view: gr.Column(visible=not is_empty),
        empty: gr.HTML(NO_RUNS, visible=is_empty),
        part.filters["model"]: gr.Dropdown([ANY, *map(_model_choice, found.models)]),
        part.filters["tag"]: gr.Dropdown([ANY, *((tag, tag) for tag in found.tags)]),
        part.table: table,
        part.note: note,
        part.seen: mark,
    }


def _model_choice(model: str) -> tuple[str, str]:
    return present.model_title(model), model


def _table(found: History, filters: Filters, page: str, chosen: Sequence[str]) -> str:
    runs = history.matching(found.runs, filters)
    if not runs:
        return NO_MATCH
    return history_table.draw_table(runs, int(page) if page.isdecimal() else 0, chosen)


def _mark(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def bar_updates(part: HistoryList, chosen: object) -> Updates:
    """Return the bar of actions for the selected runs."""
    count = len(ids_of(chosen))
    noun = "run is" if count == 1 else "runs are"
    return {
        part.bar.column: gr.Column(visible=count > 0),
        part.bar.count: cards.reason(f"{count} {noun} selected."),
        part.bar.compare: gr.Button(interactive=count > 1),
    }


def add_tag(ids: Sequence[str], tag: str) -> None:
    """Add a tag to some runs.

    Raises:
        InputError: it is empty or too long, or a run has too many.
    """
    if not tag.strip():
        raise InputError("The tag is empty.", hint="Type one beside the button.")
    for run_id in ids:
        run = store.read_run(store.paths_of(run_id))
        label = labels.label_of(run.label.name, [*run.label.tags, *tag.split(",")])
        labels.write_label(run.paths.label, label)


def connect_history(part: HistoryList, shown: Shown) -> None:
    """Connect the list's filters, table and actions."""

    def on_list(*values: object) -> Updates:
        return list_updates(part, shown.empty, values) or {}

    drawn = [shown.card, shown.empty, *part.outputs]
    _connect_filters(part, shown, on_list, drawn)
    _connect_table(part, shown, on_list, drawn)
    _connect_bar(part, shown, on_list, drawn)
    remembered = [(IN_ADDRESS[name], component) for name, component in part.filters.items()]
    for key, component in (*remembered, ("page", part.page)):
        component.change(None, component, None, js=theme.remember(key))


def _connect_filters(
    part: HistoryList, shown: Shown, on_list: Callable[..., Updates], drawn: list[Any]
) -> None:
    def on_filter(*values: object) -> Updates:
        *filters, _, chosen = values
        return {part.page: "", **on_list(*filters, "", chosen)}

    def on_find(*values: object) -> Updates:
        return {part.page: values[-2], **on_list(*values)}

    def on_clear(*values: object) -> Updates:
        cleared = cleared_values()
        fresh = dict(zip(part.filters.values(), cleared, strict=True))
        return {**on_filter(*cleared, *values[len(cleared) :]), **fresh}

    filtered = [*drawn, part.page]
    handler = guarded(shown.card, on_filter)
    text, *lists = part.filters.values()
    edits = [component.input for component in lists]
    gr.on(edits, handler, part.inputs, filtered, trigger_mode="always_last", **QUIET)
    # Not its input event, which does not fire for pasted text.
    finding: dict[str, Any] = {"js": history_table.FOUND, "trigger_mode": "always_last", **QUIET}
    text.change(guarded(shown.card, on_find), part.inputs, filtered, **finding)
    cleared = list(dict.fromkeys([*filtered, *part.filters.values()]))
    part.clear.click(guarded(shown.card, on_clear), part.inputs, cleared, **QUIET)
    tag = part.filters["tag"]
    part.table.click(None, None, tag, js=history_table.TAKE).then(
        handler, part.inputs, filtered, **QUIET
    )


def _connect_table(
    part: HistoryList, shown: Shown, on_list: Callable[..., Updates], drawn: list[Any]
) -> None:
    part.table.select(None, None, shown.run, js=history_table.TAKE)
    part.table.submit(None, None, part.page, js=history_table.TAKE)
    part.page.change(guarded(shown.card, on_list), part.inputs, drawn, **QUIET)
    part.table.input(None, None, part.chosen, js=history_table.CHOSEN)
    part.chosen.change(None, part.chosen, None, js=history_table.FORGET)


def _connect_bar(
    part: HistoryList, shown: Shown, on_list: Callable[..., Updates], drawn: list[Any]
) -> None:
    """Connect the actions on selected runs."""

    def on_choose(chosen: str) -> Updates:
        return bar_updates(part, chosen)

    def on_compare(chosen: str) -> Updates:
        return {shown.compared: compare.check(ids_of(chosen))}

    def on_tag(tag: str, *values: object) -> Updates:
        add_tag(ids_of(values[-1]), tag)
        return {part.bar.tag: "", **on_list(*values)}

    bar = [shown.card, *part.bar.outputs]
    part.chosen.change(guarded(shown.card, on_choose), part.chosen, bar, **QUIET)
    compared = [shown.card, shown.compared]
    part.bar.compare.click(guarded(shown.card, on_compare), part.chosen, compared, **QUIET)
    tagged = [part.bar.tag, *part.inputs]
    handler = guarded(shown.card, on_tag)
    part.bar.add_tag.click(handler, tagged, [*drawn, part.bar.tag], trigger_mode="once", **QUIET)
    deleted = connect_deletion(part.bar.deletion, part.chosen, shown.card)
    deleted.success(guarded(shown.card, on_list), part.inputs, drawn, **QUIET)
