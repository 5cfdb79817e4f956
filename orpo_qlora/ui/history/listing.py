"""The list of all runs: filters, the table, and what can be done with several at once. Floor 5.

No state lives on the server: filters, page, ticked rows and what is compared are in the page's
address and in hidden inputs, so a reload or another server shows the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import gradio as gr

from orpo_qlora.runs import history, present
from orpo_qlora.runs.history import Filters, History, Order
from orpo_qlora.ui.history import deletion, history_table
from orpo_qlora.ui.history.deletion import Deletion
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.guard import Updates

ANY = ("any", "")
ORDER_LABELS: dict[Order, str] = {
    "newest": "Newest first",
    "oldest": "Oldest first",
    "accuracy": "Held-out accuracy",
    "loss": "Held-out loss",
    "name": "Name",
}
FILTER_NAMES = tuple(field.name for field in fields(Filters))
NO_RUNS = cards.empty_card(
    "No run yet",
    "Choose preference pairs on the Data tab, then press “Start training” on the Train tab. The "
    "run appears here, step by step.",
)
NO_MATCH = cards.empty_card("No run matches", "Change or clear the filters above.")


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
    """Ids of the ticked runs, separated by commas."""
    seen: gr.Textbox
    bar: gr.Column
    told: gr.HTML
    compare: gr.Button
    tag: gr.Textbox
    add_tag: gr.Button
    deletion: Deletion

    @property
    def inputs(self) -> list[Any]:
        """What decides what the table shows."""
        return [*self.filters.values(), self.page, self.chosen]

    @property
    def outputs(self) -> list[Any]:
        """What changes when the table is drawn."""
        lists = [self.filters["model"], self.filters["tag"]]
        return [self.view, *lists, self.table, self.note, self.seen]

    @property
    def bar_outputs(self) -> list[Any]:
        """What changes with the ticked rows."""
        return [self.bar, self.told, self.compare]


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
        hidden = {
            name: gr.Textbox(visible="hidden", elem_id=f"history-{name}", label=label)
            for name, label in (("page", "Page"), ("chosen", "Chosen runs"), ("seen", "Drawn"))
        }
        bar_parts = _build_bar()
    return HistoryList(view, filters, clear, table, note, *hidden.values(), *bar_parts)


def _dropdown(label: str, name: str, values: Sequence[str]) -> gr.Dropdown:
    return gr.Dropdown(
        [ANY, *((value, value) for value in values)],
        value="",
        label=label,
        elem_id=f"history-{name}",
        interactive=True,
        min_width=130,
    )


def _build_bar() -> tuple[Any, ...]:
    """Return the bar of what can be done with the ticked runs; it sticks to the page's end."""
    with gr.Column(visible=False, elem_id="history-bar", elem_classes="sticky-bar") as bar:
        with gr.Row(elem_classes="actions"):
            told = gr.HTML(elem_id="history-told")
            compare = gr.Button(
                "Compare",
                variant="primary",
                size="md",
                scale=0,
                min_width=130,
                elem_id="history-compare",
            )
            tag = gr.Textbox(
                placeholder="a tag for them",
                label="Tag for the chosen runs",
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
            ask = deletion.build_ask("history-delete")
        parts = deletion.build_deletion(ask, "history-delete")
    return bar, told, compare, tag, add_tag, parts


def filters_of(values: Sequence[object]) -> Filters:
    """Return the filters that the inputs hold; what is no filter is none."""
    found = {
        name: str(value or "").strip() for name, value in zip(FILTER_NAMES, values, strict=True)
    }
    order = found.pop("order")
    return Filters(**found, order=_order(order))


def _order(text: str) -> Order:
    return next((order for order in get_args(Order) if order == text), "newest")


def ids_of(text: object) -> list[str]:
    """Return the ids in a hidden input or in the address, each once."""
    return list(dict.fromkeys(part for part in str(text or "").split(",") if part))


def cleared_values() -> list[str]:
    """Return what the filters' inputs hold while nothing is looked for."""
    return ["newest" if name == "order" else "" for name in FILTER_NAMES]


def filter_updates(part: HistoryList, found: History, filters: Filters) -> Updates:
    """Return the filters' inputs as an address says.

    What it does not say is left alone: somebody may be typing it this moment.
    """
    shown = {name: getattr(filters, name) for name in FILTER_NAMES}
    asked = {name: value for name, value in shown.items() if value != getattr(Filters(), name)}
    updates: Updates = {part.filters[name]: value for name, value in asked.items()}
    models = [ANY, *map(_model_choice, found.models)]
    tags = [ANY, *((tag, tag) for tag in found.tags)]
    # One that no run has any more would match nothing without being seen.
    for name, choices in (("model", models), ("tag", tags)):
        known = shown[name] in {value for _, value in choices}
        value = {"value": shown[name] if known else ""} if name in asked else {}
        updates[part.filters[name]] = gr.Dropdown(choices, **value)
    return updates


def hidden_updates(part: HistoryList) -> Updates:
    """Return the page without the list, because a run or a comparison is shown."""
    return {part.view: gr.Column(visible=False), part.seen: ""}


def list_updates(
    part: HistoryList, empty: gr.HTML, values: Sequence[object], seen: str = ""
) -> Updates | None:
    """Return what changed of the list since the page drew it; None when nothing did.

    Args:
        part: the list's components.
        empty: what is shown instead while there is no run at all.
        values: what `inputs` hold.
        seen: the mark of what the page shows; empty draws everything.
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
    """Return what can be done with the ticked runs."""
    count = len(ids_of(chosen))
    noun = "run is" if count == 1 else "runs are"
    return {
        part.bar: gr.Column(visible=count > 0),
        part.told: cards.reason(f"{count} {noun} chosen."),
        part.compare: gr.Button(interactive=count > 1),
    }
