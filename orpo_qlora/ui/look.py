"""Colours, type and the few lines of script the page needs. Floor 5; page process."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

STYLES = Path(__file__).with_name("look.css")

SCRIPT = Path(__file__).with_name("look.js")

READ_ADDRESS = "() => [window.orpoAddress]"
"""Script that gives a handler the parameters the page was opened with, as a JSON object."""


def remember(name: str) -> str:
    """Return the script that puts an input's value into the page's address."""
    return f"(value) => {{ window.orpoRemember('{name}', value); }}"


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
    return theme.set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#101418",
        body_text_color="#1b2430",
        body_text_color_dark="#e4e9ef",
        body_text_color_subdued="#566270",
        body_text_color_subdued_dark="#9aa7b5",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#181e24",
        background_fill_secondary="#f1f3f6",
        background_fill_secondary_dark="#141a1f",
        block_background_fill="#ffffff",
        block_background_fill_dark="#181e24",
        block_border_color="#dfe4ea",
        block_border_color_dark="#2b343d",
        border_color_primary="#dfe4ea",
        border_color_primary_dark="#2b343d",
        border_color_accent="#0f766e",
        border_color_accent_dark="#2dd4bf",
        color_accent="#0f766e",
        color_accent_soft="#e3f4f1",
        color_accent_soft_dark="#12302d",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="600",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_shadow="none",
        input_shadow_focus="0 0 0 2px #0f766e33",
        input_shadow_focus_dark="0 0 0 2px #2dd4bf33",
        button_large_text_weight="600",
        button_medium_text_weight="600",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        input_background_fill="#ffffff",
        input_background_fill_dark="#11171c",
        input_border_color="#c3cbd5",
        input_border_color_dark="#3a4550",
        input_border_color_focus="#0f766e",
        input_border_color_focus_dark="#2dd4bf",
        slider_color="#0f766e",
        slider_color_dark="#2dd4bf",
        checkbox_background_color_selected="#0f766e",
        checkbox_background_color_selected_dark="#0f766e",
        checkbox_border_color_selected="#0f766e",
        checkbox_border_color_selected_dark="#2dd4bf",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#0b5f58",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#14897f",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="#eef1f4",
        button_secondary_background_fill_dark="#1f262d",
        button_secondary_background_fill_hover_dark="#2a333c",
        button_secondary_border_color="#c3cbd5",
        button_secondary_border_color_dark="#3a4550",
        button_secondary_text_color="*body_text_color",
        button_secondary_text_color_dark="*body_text_color",
        button_border_width="1px",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_cancel_background_fill="#ffffff",
        button_cancel_background_fill_hover="#fdf0ee",
        button_cancel_background_fill_dark="#1f262d",
        button_cancel_background_fill_hover_dark="#3a2220",
        button_cancel_border_color="#b3382c",
        button_cancel_border_color_dark="#f08a7d",
        button_cancel_text_color="#a3281d",
        button_cancel_text_color_dark="#f6a79c",
    )
