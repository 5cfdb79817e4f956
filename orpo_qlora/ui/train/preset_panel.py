"""Presets: fill in the form, save, import and export, and list what differs from the preset.

The settings that the form was filled from are kept as YAML in a hidden input, so that an imported
file can be compared with as well.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora import presets
from orpo_qlora.config import TrainConfig, build_config, setting_fields
from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.models.devices.machine import Machine
from orpo_qlora.runs import present
from orpo_qlora.shipped_presets import preset_names
from orpo_qlora.ui.parts import cards, downloads, form, theme
from orpo_qlora.ui.parts.buttons import CHOICE_SCRIPT, choice_button, choice_of
from orpo_qlora.ui.parts.events import QUIET, UNMARKED
from orpo_qlora.ui.parts.form import Form
from orpo_qlora.ui.parts.guard import Updates, guarded

EVERYTHING = "*"
"""All settings, in the choice of a reset button."""
OWN_PREFIX = "Your own"


@dataclass(frozen=True)
class PresetPanel:
    """The components of the panel."""

    picker: gr.Dropdown
    origin: gr.Textbox
    """YAML of the settings that the form was filled from; changes are relative to it."""
    title: gr.Textbox
    """Name of the origin in a sentence: “preset demo-cpu”."""
    card: gr.HTML
    name: gr.Textbox
    save: gr.Button
    delete: gr.Button
    export: gr.Button
    import_: gr.UploadButton
    file: gr.File
    note: gr.HTML
    changed: gr.HTML
    marked: gr.Textbox
    """Names of the changed settings, separated by spaces; a script highlights their labels."""

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with another origin."""
        return [*(self.picker, self.origin, self.title, self.card, self.delete, self.note)]


def build(machine: Machine) -> PresetPanel:
    """Return the panel's components, with the preset for this machine selected."""
    preset = machine.preset
    gr.HTML(machine_line(machine), elem_id="train-machine")
    with gr.Row(elem_classes="actions"):
        picker = gr.Dropdown(
            _choices(),
            value=preset,
            label="Preset",
            info="Fills in all settings below except the run name.",
            elem_id="train-preset",
            interactive=True,
            min_width=280,
        )
    card = gr.HTML(elem_id="preset-error")
    with gr.Accordion("Save or share settings", open=False, elem_id="preset-fold"):
        name = gr.Textbox(
            label="Preset name",
            info="Saved in the home folder; use it on the command line as --preset NAME.",
            max_length=60,
            elem_id="preset-name",
            interactive=True,
        )
        with gr.Row(elem_classes="actions"):
            save = _small_button("Save as preset", "preset-save")
            export = _small_button("Export as YAML", "preset-export")
            import_ = gr.UploadButton(
                "Import YAML",
                file_types=[".yaml", ".yml"],
                type="filepath",
                size="md",
                scale=0,
                min_width=150,
                elem_id="preset-import",
            )
            delete = _small_button("Delete preset", "preset-delete", visible=False)
        note = gr.HTML(elem_id="preset-note")
    changed = gr.HTML(elem_id="train-changed", js_on_load=CHOICE_SCRIPT)
    return PresetPanel(
        picker=picker,
        origin=_hidden_text("preset-origin", "Origin", _text_of(preset)),
        title=_hidden_text("preset-title", "Origin name", _title_of(preset)),
        card=card,
        name=name,
        save=save,
        delete=delete,
        export=export,
        import_=import_,
        file=gr.File(visible="hidden", label="Preset", interactive=False),
        note=note,
        changed=changed,
        marked=_hidden_text("preset-marked", "Changed settings"),
    )


def _hidden_text(elem_id: str, label: str, value: str = "") -> gr.Textbox:
    return gr.Textbox(value, visible="hidden", elem_id=elem_id, label=label)


def _small_button(title: str, elem_id: str, *, visible: bool = True) -> gr.Button:
    return gr.Button(title, size="md", scale=0, min_width=150, elem_id=elem_id, visible=visible)


def machine_line(machine: Machine) -> str:
    """Return the hardware found, its preset and that preset's model, in one sentence."""
    model = present.model_title(form.config_of_preset(machine.preset).model)
    found = f"This machine: {machine.words}. Suggested preset: {machine.preset}, with {model}."
    return cards.reason(f"{found} {machine.note}".strip())


def _choices() -> list[tuple[str, str]]:
    shipped = [(name, name) for name in preset_names()]
    return [*shipped, *((f"{OWN_PREFIX}: {name}", name) for name in presets.own_names())]


def refresh(panel: PresetPanel) -> Updates:
    """Return the list of presets as it is now; a preset may have been saved since."""
    return {panel.picker: gr.Dropdown(_choices())}


def _title_of(name: str) -> str:
    return f"preset {name}"


def _text_of(name: str) -> str:
    return presets.preset_text(form.config_of_preset(name))


def choose(panel: PresetPanel, settings: Form, name: str | None) -> Updates:
    """Fill in the form from a preset; the run name stays as it is.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if not name:
        return {}
    presets.check_known(name)
    config = form.config_of_preset(name)
    return _filled(panel, settings, config, _title_of(name)) | {
        panel.delete: gr.Button(visible=name in presets.own_names()),
        panel.note: "",
    }


def import_file(panel: PresetPanel, settings: Form, path: str | None) -> Updates:
    """Fill in the form from a YAML file.

    Raises:
        ConfigError: the file is not a preset; the form stays as it is.
    """
    if not path:
        return {}
    source = Path(path).name
    config = build_config(presets.read_file(Path(path), source), source=source)
    return _filled(panel, settings, config, f"the file {source}") | {
        panel.picker: gr.Dropdown(_choices(), value=None),
        panel.delete: gr.Button(visible=False),
        panel.note: cards.reason(f"Filled in from {source}. Save it as a preset to keep it."),
    }


def _filled(panel: PresetPanel, settings: Form, config: TrainConfig, title: str) -> Updates:
    values = form.named_values(config)
    return {
        **{
            component: form.update_of(name, values[name])
            for name, component in settings.components.items()
            if name != "name"
        },
        panel.origin: presets.preset_text(config),
        panel.title: title,
        panel.changed: "",
        panel.marked: "",
    }


def save(panel: PresetPanel, name: str, values: Sequence[object]) -> Updates:
    """Save the form's settings as a preset of the user.

    Raises:
        ConfigError: a setting or the name is wrong; nothing is saved.
    """
    config = form.config_from(values)
    is_replaced = name.strip() in presets.own_names()
    saved = presets.save_preset(name, config)
    verb = "Replaced" if is_replaced else "Saved as"
    return {
        panel.picker: gr.Dropdown(_choices(), value=saved),
        panel.origin: presets.preset_text(config),
        panel.title: _title_of(saved),
        panel.delete: gr.Button(visible=True),
        panel.note: cards.reason(f"{verb} “{saved}”. On the command line: --preset '{saved}'."),
    }


def delete(panel: PresetPanel, name: str | None) -> Updates:
    """Delete one of the user's presets; the form keeps its settings.

    Raises:
        ConfigError: it is not a preset of the user.
    """
    presets.delete_preset(name or "")
    text = f"Deleted “{name}”. Its settings are still in the form; save again to undo."
    return {
        panel.picker: gr.Dropdown(_choices(), value=None),
        panel.delete: gr.Button(visible=False),
        panel.note: cards.reason(text),
    }


def export(panel: PresetPanel, name: str, picked: str | None, values: Sequence[object]) -> Updates:
    """Return the form's settings as a YAML file for the browser to save.

    Raises:
        ConfigError: a setting is wrong.
    """
    text = presets.preset_text(form.config_from(values))
    # The final dot keeps all of “llama-3.2”: plain_name drops what follows the last dot.
    stem = downloads.plain_name(f"{name or picked or 'preset'}.")
    path = downloads.fresh_folder() / f"{stem}.yaml"
    path.write_text(text, encoding="utf-8")
    return {panel.file: str(path)}


def mark(panel: PresetPanel, origin: str, title: str, values: Sequence[object]) -> Updates:
    """Return which settings differ from the origin, as a list and as names to highlight.

    Args:
        panel: the panel's components.
        origin: YAML of the settings the form was filled from.
        title: the origin's name in a sentence.
        values: the values of the form's inputs.
    """
    before = _config_of(origin)
    changed = form.changed_settings(values, before)
    now = dict(zip(form.setting_names(), values, strict=True))
    return {
        panel.changed: draw_changes(changed, before, now, title),
        panel.marked: " ".join(changed),
    }


def _config_of(text: str) -> TrainConfig:
    try:
        return build_config(presets.read_text(text, "the preset"))
    except ConfigError:
        return TrainConfig()  # the hidden input comes from the browser and may hold anything


def draw_changes(
    changed: Sequence[str], origin: TrainConfig, now: dict[str, object], title: str
) -> str:
    """Return the list of changed settings, each with a button that resets it."""
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
    reset_all = choice_button(f"reset:{EVERYTHING}", "Reset all", "quiet-button")
    return (
        f'<section class="changes"><p class="label">Changed from {html.escape(title)}</p>'
        f"<ul>{items}</ul>{reset_all if len(changed) > 1 else ''}</section>"
    )


def reset(settings: Form, choice: str, origin: str) -> Updates:
    """Return the form with one setting reset to the origin, or all of them.

    Raises:
        InputError: no button carries this choice.
    """
    wanted = choice.removeprefix("reset:")
    names = [name for name in settings.components if wanted in {name, EVERYTHING}]
    if not choice.startswith("reset:") or not names:
        raise InputError(
            f"“{choice}” is not a setting to reset.", hint="Reload the page and try again."
        )
    before = form.named_values(_config_of(origin))
    return {
        settings.components[name]: form.update_of(name, before[name])
        for name in names
        if name != "name"
    }


def connect(panel: PresetPanel, settings: Form, edited: Any) -> list[Any]:  # noqa: ANN401 - gradio's dependency
    """Connect the panel to its handlers.

    Args:
        panel: the panel's components.
        settings: the form that presets fill in.
        edited: the event after which a setting may differ from the preset.

    Returns:
        The Gradio events that fill in the form without an edit.
    """
    filled = [*_connect_filling(panel, settings), _connect_resetting(panel, settings)]
    _connect_files(panel, settings)

    def on_edit(origin: str, title: str, *values: object) -> Updates:
        return mark(panel, origin, title, values)

    def on_load() -> Updates:
        return refresh(panel)

    inputs = [panel.origin, panel.title, *settings.inputs]
    # Not the form itself: Gradio would take even an empty update of it for another edit.
    outputs = [panel.changed, panel.marked]
    handler = guarded(panel.changed, on_edit)
    edited.then(handler, inputs, outputs, **QUIET)
    filled[-1].then(handler, inputs, outputs, **QUIET)
    panel.origin.change(handler, inputs, outputs, **QUIET)
    panel.marked.change(None, panel.marked, None, js=theme.MARK, **QUIET)
    gr.on(None, guarded(panel.card, on_load), None, [panel.card, panel.picker], **QUIET)
    return filled


def _connect_filling(panel: PresetPanel, settings: Form) -> list[Any]:
    def on_choose(name: str | None) -> Updates:
        return choose(panel, settings, name)

    def on_import(path: str | None) -> Updates:
        return import_file(panel, settings, path)

    outputs = [*panel.outputs, panel.changed, panel.marked, *settings.inputs]
    chosen = panel.picker.input(guarded(panel.card, on_choose), panel.picker, outputs, **QUIET)
    # With Gradio's preprocessing, which accepts only the path of a file that was uploaded.
    checked = {"queue": False, "api_visibility": "private", **UNMARKED}
    handler = guarded(panel.card, on_import)
    return [chosen, panel.import_.upload(handler, panel.import_, outputs, **checked)]


def _connect_resetting(panel: PresetPanel, settings: Form) -> Any:  # noqa: ANN401 - gradio's dependency
    def on_reset(event: gr.EventData, origin: str) -> Updates:
        return reset(settings, choice_of(event), origin)

    handler = guarded(panel.card, on_reset)
    return panel.changed.click(handler, panel.origin, [panel.card, *settings.inputs], **QUIET)


def _connect_files(panel: PresetPanel, settings: Form) -> None:
    """Connect saving, deleting and exporting."""

    def on_save(name: str, *values: object) -> Updates:
        return save(panel, name, values)

    def on_delete(name: str | None) -> Updates:
        return delete(panel, name)

    def on_export(name: str, picked: str | None, *values: object) -> Updates:
        return export(panel, name, picked, values)

    once: dict[str, Any] = {"trigger_mode": "once", **QUIET}
    inputs = [panel.name, *settings.inputs]
    panel.save.click(guarded(panel.card, on_save), inputs, panel.outputs, **once)
    panel.delete.click(guarded(panel.card, on_delete), panel.picker, panel.outputs, **once)
    inputs = [panel.name, panel.picker, *settings.inputs]
    handler = guarded(panel.card, on_export)
    exported = panel.export.click(handler, inputs, [panel.card, panel.file], **once)
    exported.success(None, panel.file, None, js=downloads.SAVE, **QUIET)
