from dataclasses import dataclass, fields

import pytest
from form_values import values_of

from orpo_qlora import presets
from orpo_qlora.config import TrainConfig, build_config, setting_fields
from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.models.devices.machine import Gpu, Machine
from orpo_qlora.ui.parts import form
from orpo_qlora.ui.parts.form import Form
from orpo_qlora.ui.train import preset_panel
from orpo_qlora.ui.train.preset_panel import PresetPanel

ORIGIN = presets.preset_text(form.config_of_preset("demo-cpu"))


@dataclass(frozen=True)
class Tab:
    """Names stand for the components: handlers only say what each is to show."""

    presets: PresetPanel
    form: Form


@pytest.fixture
def tab():
    parts = [field.name for field in fields(PresetPanel)]
    return Tab(PresetPanel(*parts), Form({name: f"<{name}>" for name in form.setting_names()}))


def values_after(tab, updates):
    """Return what the form holds once a handler's answer is shown, beginning with the demo."""
    values = values_of(form.config_of_preset("demo-cpu"))
    shown = dict(zip(form.setting_names(), values, strict=True))
    shown |= {n: updates[c] for n, c in tab.form.components.items() if c in updates}
    return list(shown.values())


def test_the_machine_and_its_preset_are_named():
    line = preset_panel.machine_line(Machine(2, 8 * 1024**3))
    assert "2 CPU cores, no GPU. Suggested preset: demo-cpu, with SmolLM2 135M Instruct." in line
    card = Machine(8, 64 * 1024**3, Gpu("NVIDIA <L4>", 23034 * 1024**2))
    line = preset_panel.machine_line(card)
    assert "NVIDIA &lt;L4&gt; (22 GB), 8 CPU cores. Suggested preset: gpu-24gb" in line


def test_inputs_can_begin_with_a_preset():
    for name, value in form.named_values(form.config_of_preset("gpu-24gb")).items():
        shown = form.build_component(name, value).value
        assert shown == form.shown_value(name, value), name


def test_nothing_is_changed_in_a_form_that_was_just_filled(tab):
    for name in ("demo-cpu", "gpu-24gb"):
        updates = preset_panel.choose(tab.presets, tab.form, name)
        values = values_after(tab, updates)
        assert form.changed_settings(values, form.config_of_preset(name)) == []
        marked = preset_panel.mark(tab.presets, updates["origin"], name, values)
        assert marked == {tab.presets.changed: "", tab.presets.marked: ""}


@pytest.mark.parametrize("name", [name for name in setting_fields() if name != "name"])
def test_every_setting_is_marked_once_it_differs(name):
    origin = TrainConfig()
    values = dict(zip(form.setting_names(), values_of(origin), strict=True))
    old = values[name]
    values[name] = (not old) if isinstance(old, bool) else f"{old}x" if isinstance(old, str) else 7
    assert form.changed_settings(list(values.values()), origin) == [name]


def test_changes_are_listed_with_what_was_and_what_is(tab):
    values = values_after(tab, {tab.form.components["epochs"]: None})
    values[form.setting_names().index("model")] = "<b>mine</b>"
    shown = preset_panel.mark(tab.presets, ORIGIN, "preset demo-cpu", values)
    text = shown[tab.presets.changed]
    assert shown[tab.presets.marked] == "model epochs"
    assert "Changed from preset demo-cpu" in text
    assert "&lt;b&gt;mine" in text
    assert "Epochs: 2 → " in text
    assert 'data-choice="reset:epochs"' in text


def test_one_change_or_all_can_be_taken_back(tab):
    components = tab.form.components
    assert preset_panel.reset(tab.form, "reset:epochs", ORIGIN) == {components["epochs"]: 2.0}
    everything = preset_panel.reset(tab.form, "reset:*", ORIGIN)
    assert set(everything) == set(components.values()) - {components["name"]}
    for choice in ("reset:name ", "epochs", "reset:", "reset:nothing"):
        with pytest.raises(InputError, match="not a setting to reset"):
            preset_panel.reset(tab.form, choice, ORIGIN)


def test_saved_preset_can_be_chosen_and_deleted(tab):
    panel = tab.presets
    values = values_after(tab, {tab.form.components["lambda"]: 0.9})
    saved = preset_panel.save(panel, "mine", values)
    assert saved[panel.picker].value == "mine"
    assert ("Your own: mine", "mine") in saved[panel.picker].choices
    assert "--preset &#x27;mine&#x27;" in saved[panel.note]
    assert preset_panel.choose(panel, tab.form, "mine")[tab.form.components["lambda"]] == 0.9
    deleted = preset_panel.delete(panel, "mine")
    assert deleted[panel.picker].value is None
    assert presets.own_names() == []


def test_only_names_of_presets_are_chosen_never_files(tab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text("lambda: 0.77\n")
    for name in ("settings.yaml", str(tmp_path / "settings.yaml"), "../x", "demo-cpu\n", "x" * 999):
        with pytest.raises(ConfigError, match="no preset") as caught:
            preset_panel.choose(tab.presets, tab.form, name)
        assert "demo-cpu" in caught.value.hint
    assert preset_panel.choose(tab.presets, tab.form, None) == {}


def test_wrong_settings_are_not_saved(tab):
    values = values_after(tab, {tab.form.components["epochs"]: -1})
    with pytest.raises(ConfigError, match="epochs"):
        preset_panel.save(tab.presets, "mine", values)
    assert presets.own_names() == []


def test_exported_preset_is_taken_in_again(tab, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    values = values_after(tab, {tab.form.components["lambda"]: 0.9})
    made = preset_panel.export(tab.presets, "my <b>", None, values)[tab.presets.file]
    assert made.endswith("/my-b.yaml")
    updates = preset_panel.import_file(tab.presets, tab.form, made)
    assert form.config_from(values_after(tab, updates)) == form.config_from(values)
    assert "Filled in from my-b.yaml" in updates[tab.presets.note]


def test_an_exported_preset_keeps_all_of_its_name(tab, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    values = values_after(tab, {})
    for name, picked in (("llama-3.2", None), ("", "llama-3.2")):
        made = preset_panel.export(tab.presets, name, picked, values)[tab.presets.file]
        assert made.endswith("/llama-3-2.yaml")


def test_a_file_that_is_no_preset_leaves_the_form_alone(tab, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("lamda: 0.3\n")
    with pytest.raises(ConfigError, match=r"“lamda” is not a setting \(did you mean lambda\?\)"):
        preset_panel.import_file(tab.presets, tab.form, str(path))


def test_a_damaged_origin_counts_as_the_default(tab):
    values = values_of(build_config({}))
    for text in ("", "[", "lambda: much", "- 1", "[" * 5000, "a: &a [1]\nb: *a"):
        assert preset_panel.mark(tab.presets, text, "", values)[tab.presets.marked] == ""
