"""Where the settings come from: the presets, one's own among them, and what was changed since.

Floor 5; page process. The origin, which everything is compared with, is kept as YAML in a hidden
input, so that an imported preset is one as well.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora import presets
from orpo_qlora.config import TrainConfig, build_config, preset_names, setting_fields
from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.models.machine import Machine
from orpo_qlora.runs import present
from orpo_qlora.ui.data.findings_view import CHOOSING, choice_button
from orpo_qlora.ui.parts import cards, downloads
from orpo_qlora.ui.parts.guard import Updates
from orpo_qlora.ui.train import form
from orpo_qlora.ui.train.form import Form

EVERYTHING = "*"
"""Stands for all settings in the choice of a reset button."""
OWN_FIRST = "Your own"


@dataclass(frozen=True)
class PresetPanel:
    """The components; `origin` is what a setting is compared with."""

    picker: gr.Dropdown
    origin: gr.Textbox
    title: gr.Textbox
    """What the origin is called, in words."""
    card: gr.HTML
    name: gr.Textbox
    save: gr.Button
    delete: gr.Button
    export: gr.Button
    take_in: gr.UploadButton
    file: gr.File
    note: gr.HTML
    changed: gr.HTML
    marked: gr.Textbox
    """Names of the changed settings, separated by spaces; a script marks their labels."""

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with another origin."""
        return [*(self.picker, self.origin, self.title, self.card, self.delete, self.note)]


def build_preset_panel(machine: Machine) -> PresetPanel:
    """Return the components, with the preset that fits this machine chosen."""
    fitting = machine.preset
    gr.HTML(machine_line(machine), elem_id="train-machine")
    with gr.Row(elem_classes="actions"):
        picker = gr.Dropdown(
            _choices(),
            value=fitting,
            label="Preset",
            info="Fills in every setting below except the run's name.",
            elem_id="train-preset",
            interactive=True,
            min_width=280,
        )
    card = gr.HTML(elem_id="preset-error")
    with gr.Accordion("Keep or share these settings", open=False, elem_id="preset-fold"):
        name = gr.Textbox(
            label="Name of your preset",
            info="Kept in the home folder; the command line takes it as --preset NAME.",
            max_length=60,
            elem_id="preset-name",
            interactive=True,
        )
        with gr.Row(elem_classes="actions"):
            save = _small_button("Save as preset", "preset-save")
            export = _small_button("Export as YAML", "preset-export")
            take_in = gr.UploadButton(
                "Import YAML",
                file_types=[".yaml", ".yml"],
                type="filepath",
                size="md",
                scale=0,
                min_width=150,
                elem_id="preset-import",
            )
            delete = _small_button("Delete this preset", "preset-delete", visible=False)
        note = gr.HTML(elem_id="preset-note")
    changed = gr.HTML(elem_id="train-changed", js_on_load=CHOOSING)
    return PresetPanel(
        picker,
        gr.Textbox(_text_of(fitting), visible="hidden", elem_id="preset-origin", label="Origin"),
        gr.Textbox(_words(fitting), visible="hidden", elem_id="preset-title", label="Origin name"),
        *(card, name, save, delete, export, take_in),
        gr.File(visible="hidden", label="Preset", interactive=False),
        *(note, changed),
        gr.Textbox(visible="hidden", elem_id="preset-marked", label="Changed settings"),
    )


def _small_button(title: str, elem_id: str, *, visible: bool = True) -> gr.Button:
    return gr.Button(title, size="md", scale=0, min_width=150, elem_id=elem_id, visible=visible)


def machine_line(machine: Machine) -> str:
    """Return what was found and what follows from it, in a sentence."""
    model = present.model_title(form.config_of_preset(machine.preset).model)
    return cards.reason(
        f"This machine: {machine.words}. Preset {machine.preset} fits it, with {model}."
    )


def _choices() -> list[tuple[str, str]]:
    shipped = [(name, name) for name in preset_names()]
    return [*shipped, *((f"{OWN_FIRST}: {name}", name) for name in presets.own_names())]


def known(panel: PresetPanel) -> Updates:
    """Return the presets there are now: one's own may be newer than the page."""
    return {panel.picker: gr.Dropdown(_choices())}


def _words(name: str) -> str:
    return f"preset {name}"


def _text_of(name: str) -> str:
    return presets.preset_text(form.config_of_preset(name))


def choose(panel: PresetPanel, settings: Form, name: str | None) -> Updates:
    """Fill the form from a preset; the run's name stays, somebody may be typing it this moment.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if not name:
        return {}
    presets.check_known(name)
    config = form.config_of_preset(name)
    return _filled(panel, settings, config, _words(name)) | {
        panel.delete: gr.Button(visible=name in presets.own_names()),
        panel.note: "",
    }


def take_in(panel: PresetPanel, settings: Form, path: str | None) -> Updates:
    """Fill the form from a YAML file somebody handed on.

    Raises:
        ConfigError: it is no preset; the form stays as it is.
    """
    if not path:
        return {}
    source = Path(path).name
    config = build_config(presets.read_file(Path(path), source), source=source)
    return _filled(panel, settings, config, f"the file {source}") | {
        panel.picker: gr.Dropdown(_choices(), value=None),
        panel.delete: gr.Button(visible=False),
        panel.note: _told(f"Filled in from {source}. Save it under a name to keep it here."),
    }


def _filled(panel: PresetPanel, settings: Form, config: TrainConfig, title: str) -> Updates:
    values = form.named_values(config)
    return {
        **{
            component: form.shown_value(name, values[name])
            for name, component in settings.components.items()
            if name != "name"
        },
        panel.origin: presets.preset_text(config),
        panel.title: title,
        panel.changed: "",
        panel.marked: "",
    }


def save(panel: PresetPanel, name: str, values: Sequence[object]) -> Updates:
    """Keep the form's settings as a preset of one's own.

    Raises:
        ConfigError: a setting or the name is wrong; nothing is kept.
    """
    config = form.config_from(values)
    is_replaced = name.strip() in presets.own_names()
    kept = presets.save_preset(name, config)
    done = "Replaced" if is_replaced else "Saved as"
    return {
        panel.picker: gr.Dropdown(_choices(), value=kept),
        panel.origin: presets.preset_text(config),
        panel.title: _words(kept),
        panel.delete: gr.Button(visible=True),
        panel.note: _told(f"{done} “{kept}”. On the command line: --preset '{kept}'."),
    }


def delete(panel: PresetPanel, name: str | None) -> Updates:
    """Forget one of one's own presets; the form keeps its settings.

    Raises:
        ConfigError: it is not one's own.
    """
    presets.delete_preset(name or "")
    told = f"Deleted “{name}”. Its settings still stand below; save them again to undo this."
    return {
        panel.picker: gr.Dropdown(_choices(), value=None),
        panel.delete: gr.Button(visible=False),
        panel.note: _told(told),
    }


def export(panel: PresetPanel, name: str, picked: str | None, values: Sequence[object]) -> Updates:
    """Return the form's settings as a file, which the browser saves next.

    Raises:
        ConfigError: a setting is wrong.
    """
    text = presets.preset_text(form.config_from(values))
    # A name has no ending: of “llama-3.2” all is kept.
    stem = downloads.plain_name(f"{name or picked or 'preset'}.")
    path = downloads.fresh_folder() / f"{stem}.yaml"
    path.write_text(text, encoding="utf-8")
    return {panel.file: str(path)}


def _told(text: str) -> str:
    return cards.reason(text)


def mark(panel: PresetPanel, known: Sequence[str], values: Sequence[object]) -> Updates:
    """Say which settings were changed, in one list and, by a script, beside each of them.

    Args:
        panel: the components.
        known: what the hidden inputs hold: the origin and its title.
        values: what the form's inputs hold.
    """
    origin, title = _origin_of(known[0]), known[1]
    changed = form.changed_settings(values, origin)
    now = dict(zip(form.setting_names(), values, strict=True))
    return {
        panel.changed: draw_changes(changed, origin, now, title),
        panel.marked: " ".join(changed),
    }


def _origin_of(text: str) -> TrainConfig:
    try:
        return build_config(presets.read_text(text, "the preset"))
    except ConfigError:
        return TrainConfig()  # a browser may put anything there


def draw_changes(
    changed: Sequence[str], origin: TrainConfig, now: dict[str, object], title: str
) -> str:
    """Return the list of changed settings, each with a button that takes the change back."""
    if not changed:
        return ""
    before, fields = form.named_values(origin), setting_fields()
    items = "".join(
        f"<li><span>{html.escape(str(fields[name].title))}: "
        f"{html.escape(present.setting_value(before[name]))} → "
        f"<strong>{html.escape(present.setting_value(now[name]))}</strong></span> "
        f"{choice_button(f'reset:{name}', 'Reset', 'quiet-button')}</li>"
        for name in changed
    )
    everything = choice_button(f"reset:{EVERYTHING}", "Reset all", "quiet-button")
    return (
        f'<section class="changes"><p class="label">Changed from {html.escape(title)}</p>'
        f"<ul>{items}</ul>{everything if len(changed) > 1 else ''}</section>"
    )


def reset(settings: Form, choice: str, origin: str) -> Updates:
    """Take one change back, or all of them.

    Raises:
        InputError: there is no such button.
    """
    wanted = choice.removeprefix("reset:")
    names = [name for name in settings.components if wanted in {name, EVERYTHING}]
    if not choice.startswith("reset:") or not names:
        raise InputError(f"There is nothing to reset as “{choice}”.")
    before = form.named_values(_origin_of(origin))
    return {
        settings.components[name]: form.shown_value(name, before[name])
        for name in names
        if name != "name"
    }
