"""Colours, type and the few lines of script the page needs. Floor 6; page process."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
from gradio import routes
from jinja2 import ChoiceLoader, DictLoader

HERE = Path(__file__).parent
SCRIPTS = [HERE / "theme.js", HERE / "charts.js", HERE / "polling.js"]
FIRST_SCRIPT = HERE / "frames.js"
PAGE_TEMPLATE = "frontend/index.html"

FAVICON = str(HERE / "favicon.png")

READ_ADDRESS = "() => [window.orpoAddress]"
"""Script that gives a handler the parameters the page was opened with, as a JSON object."""
READ_VIEW = "(run, _, ...chosen) => [run, window.orpoView(run), ...chosen]"
"""Script that passes the view in the page's address to the first run shown."""
NEW_SELECTION = "(run) => [window.orpoNewSelection(run)]"
"""Script that passes a run once: Gradio may report one selection twice, and the second report must
not replace what was typed since."""
POLL = "(...values) => window.orpoPoll(...values)"
"""Script that updates the run on screen."""
MARK = "(names) => { window.orpoMark(names); }"
"""Script that marks the settings with these names as changed."""

COLOURS = {
    "body_background_fill": ("#f6f7f9", "#101418"),
    "body_text_color": ("#1b2430", "#e4e9ef"),
    "body_text_color_subdued": ("#566270", "#9aa7b5"),
    "background_fill_primary": ("#ffffff", "#181e24"),
    "background_fill_secondary": ("#f1f3f6", "#141a1f"),
    "block_background_fill": ("#ffffff", "#181e24"),
    "block_border_color": ("#dfe4ea", "#2b343d"),
    "border_color_primary": ("#dfe4ea", "#2b343d"),
    "border_color_accent": ("#0f766e", "#2dd4bf"),
    "color_accent_soft": ("#e3f4f1", "#12302d"),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_label_text_color": ("*body_text_color_subdued", "*body_text_color_subdued"),
    "block_title_text_color": ("*body_text_color", "*body_text_color"),
    "input_border_width": ("1px", "1px"),
    "input_shadow_focus": ("0 0 0 2px #0f766e33", "0 0 0 2px #2dd4bf33"),
    "block_info_text_color": ("*body_text_color_subdued", "*body_text_color_subdued"),
    "input_background_fill": ("#ffffff", "#11171c"),
    "input_border_color": ("#c3cbd5", "#3a4550"),
    "input_border_color_focus": ("#0f766e", "#2dd4bf"),
    "table_even_background_fill": ("#ffffff", "#181e24"),
    "table_odd_background_fill": ("#f8f9fb", "#141a1f"),
    "table_border_color": ("#dfe4ea", "#2b343d"),
    "slider_color": ("#0f766e", "#2dd4bf"),
    "checkbox_background_color_selected": ("#0f766e", "#0f766e"),
    "checkbox_border_color_selected": ("#0f766e", "#2dd4bf"),
    "button_primary_background_fill": ("#0f766e", "#0f766e"),
    "button_primary_background_fill_hover": ("#0b5f58", "#12827a"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "button_secondary_background_fill": ("#ffffff", "#1f262d"),
    "button_secondary_background_fill_hover": ("#eef1f4", "#2a333c"),
    "button_secondary_border_color": ("#c3cbd5", "#3a4550"),
    "button_secondary_text_color": ("*body_text_color", "*body_text_color"),
    "button_primary_border_color": ("transparent", "transparent"),
    "button_cancel_background_fill": ("#ffffff", "#1f262d"),
    "button_cancel_background_fill_hover": ("#fdf0ee", "#3a2220"),
    "button_cancel_border_color": ("#b3382c", "#f08a7d"),
    "button_cancel_text_color": ("#a3281d", "#f6a79c"),
}
"""Gradio's names for the parts of the page, each on the light and on the dark page."""
SHAPES = {
    "color_accent": "#0f766e",
    "block_shadow": "none",
    "block_label_border_width": "0px",
    "block_title_text_weight": "600",
    "input_shadow": "none",
    "button_large_text_weight": "600",
    "button_medium_text_weight": "600",
    "button_border_width": "1px",
}


def head() -> str:
    """Return the HTML head of the page: its scripts, inlined."""
    return "".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in SCRIPTS)


def insert_first_script() -> None:
    """Let each page run `FIRST_SCRIPT` before Gradio's own; those in `head` run after it."""
    environment = routes.templates.env
    source = environment.loader.get_source(environment, PAGE_TEMPLATE)[0]
    script = f"<script>{FIRST_SCRIPT.read_text(encoding='utf-8')}</script>"
    pages = {PAGE_TEMPLATE: source.replace("<head>", f"<head>{script}", 1)}
    environment.loader = ChoiceLoader([DictLoader(pages), environment.loader])


def remember(name: str) -> str:
    """Return the script that puts an input's value into the page's address."""
    return f"(value) => {{ window.orpoRemember('{name}', value); }}"


def remember_soon(name: str, at_first: object) -> str:
    """Return the same script, debounced; the default value is left out of the address.

    A dragged slider changes more often than browsers allow the address to change.
    """
    known = json.dumps(at_first)
    return f"(value) => {{ window.orpoRememberSoon('{name}', value === {known} ? '' : value); }}"


def hold(name: str) -> str:
    """Return the script by which a part of the page can be changed without Gradio's server."""
    return f"window.orpoHold('{name}', element, props);"


def build_theme() -> gr.themes.Base:
    """Return the page's theme: fonts served by the page itself, one accent, quiet borders."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        font=(
            # Gradio ships the 600 weight as a subset without most letters.
            gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)),
            "ui-sans-serif",
            "system-ui",
            "sans-serif",
        ),
        font_mono=(
            gr.themes.LocalFont("IBM Plex Mono", weights=(400,)),
            "ui-monospace",
            "monospace",
        ),
    )
    light = {name: colour for name, (colour, _) in COLOURS.items()}
    dark = {f"{name}_dark": colour for name, (_, colour) in COLOURS.items()}
    return theme.set(**light, **dark, **SHAPES)
