"""The card of a recipe: where its settings are from, what its model needs, and its data fetched.

Choosing a recipe in the list of presets fills in the form and starts to fetch its data. On a
machine that is too small the card says so first, and a button fetches all the same.
"""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from orpo_qlora.models.devices.machine import Machine, this_machine
from orpo_qlora.models.devices.needs import Needs, needs_of
from orpo_qlora.presets import Recipe, check_known, read_preset, read_recipe
from orpo_qlora.ui.data import hub_panel
from orpo_qlora.ui.data.hub_panel import HubPanel
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.buttons import CHOICE_SCRIPT, choice_button, choice_of
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded

FETCH = "fetch:"
"""Beginning of the choice of the button that fetches a recipe's data."""


def build() -> gr.HTML:
    """Return the card, empty."""
    return gr.HTML(elem_id="train-recipe", js_on_load=CHOICE_SCRIPT)


def choose(
    card: gr.HTML, panel: HubPanel, name: str | None, machine: Machine | None = None
) -> Updates:
    """Show the card of a preset and start to fetch its data unless the machine is too small.

    Args:
        card: the card.
        panel: the Data tab's Hub panel, which follows the fetch.
        name: the preset; the card stays empty for one without data.
        machine: None for this one.

    Raises:
        ConfigError: there is no preset of that name.
        DataError: its data cannot be fetched.
    """
    recipe = _recipe_of(name)
    if recipe is None or recipe.data is None or not name:
        return {card: ""}
    needs = _needs(name, recipe, machine or this_machine())
    if needs is not None and needs.warning:
        return {card: draw(name, recipe, needs, is_fetching=False)}
    started = hub_panel.start_data(panel, recipe.data)
    return {**started, card: draw(name, recipe, needs, is_fetching=True)}


def fetch(card: gr.HTML, panel: HubPanel, choice: str) -> Updates:
    """Fetch the data of a recipe because the user pressed its button.

    Raises:
        ConfigError: there is no preset of that name.
        DataError: its data cannot be fetched.
    """
    name = choice.removeprefix(FETCH)
    recipe = _recipe_of(name)
    if recipe is None or recipe.data is None:
        return {card: ""}
    needs = _needs(name, recipe, this_machine())
    started = hub_panel.start_data(panel, recipe.data)
    return {**started, card: draw(name, recipe, needs, is_fetching=True)}


def _recipe_of(name: str | None) -> Recipe | None:
    if not name:
        return None
    check_known(name)
    return read_recipe(name)


def _needs(name: str, recipe: Recipe, machine: Machine) -> Needs | None:
    model = str(read_preset(name).get("model", ""))
    return needs_of(model, recipe.about.parameters_billion, machine)


def draw(name: str, recipe: Recipe, needs: Needs | None, *, is_fetching: bool) -> str:
    """Return the card as HTML."""
    data = recipe.data
    if data is None:
        return ""
    of = ", ".join(part for part in (data.config, data.split) if part)
    where = f"{data.id} ({of})" if of else data.id
    sentences = [*((needs.sentence, needs.warning) if needs else ())]
    sentences.append(
        f"Its data {where} is being fetched: see the Data tab."
        if is_fetching
        else f"Its data is {where}."
    )
    source = html.escape(recipe.about.source)
    more = f'<p class="quiet">Source: {source}</p>' if source else ""
    if not is_fetching:
        button = choice_button(f"{FETCH}{name}", "Fetch its data")
        more += f'<p class="fix">{button}</p>'
    return cards.text_card(recipe.about.title or name, [*filter(None, sentences)], more)


def connect(card: gr.HTML, picker: gr.Dropdown, panel: HubPanel) -> None:
    """Connect the card to the list of presets and to the Hub panel."""

    def on_choose(name: str | None) -> Updates:
        return choose(card, panel, name)

    def on_fetch(event: gr.EventData) -> Updates:
        return fetch(card, panel, choice_of(event))

    fields: list[Any] = [panel.id, panel.revision, panel.max_rows]
    outputs = [card, *fields, *panel.outputs]
    picker.input(guarded(card, on_choose), picker, outputs, **QUIET)
    card.click(guarded(card, on_fetch), None, outputs, trigger_mode="once", **QUIET)
