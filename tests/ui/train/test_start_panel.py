"""The choice of an adapter to start from."""

import pytest
from tuned import make_finished_run

from orpo_qlora.data.examples import example_path
from orpo_qlora.errors import UnknownRun
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.parts import form
from orpo_qlora.ui.parts.form import Form
from orpo_qlora.ui.train import start_panel
from orpo_qlora.ui.train.tab import reason_against


@pytest.fixture
def settings():
    return Form({name: form.build_component(name) for name in form.setting_names()})


def test_runs_with_an_adapter_are_offered_newest_first(copied_run, tiny_model):
    make_finished_run(tiny_model, has_adapter=False, name="bare")
    tuned = make_finished_run(tiny_model, name="tuned")
    assert start_panel.choices() == [
        ("A new adapter", ""),
        (f"tuned ({tuned.id})", tuned.id),
        (f"{copied_run.title} ({copied_run.id})", copied_run.id),
    ]


def test_a_chosen_run_fills_in_what_its_adapter_decides(settings, copied_run):
    filled = start_panel.fill(settings, copied_run.id)
    names = {component: name for name, component in settings.components.items()}
    config = copied_run.config
    assert {names[component]: value for component, value in filled.items()} == {
        name: getattr(config, name) for name in start_panel.DECIDED
    }
    assert start_panel.fill(settings, "") == {}
    with pytest.raises(UnknownRun):
        start_panel.fill(settings, "nobody")


def test_a_contradiction_is_the_reason_against_a_start(copied_run):
    run, dataset = copied_run, uploads.store_upload(example_path("hello"), "hello.csv")
    values = form.named_values(run.config) | {"start_from": run.id, "lora_r": 5}
    shown = [form.shown_value(name, values[name]) for name in form.setting_names()]
    reason = reason_against(dataset, shown)
    assert reason == "The adapter that the run starts from has other settings: lora_r is 5, not 16."
    shown = [form.shown_value(n, (values | {"lora_r": 16})[n]) for n in form.setting_names()]
    assert reason_against(dataset, shown) == ""
