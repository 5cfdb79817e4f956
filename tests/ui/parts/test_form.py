import gradio as gr
import pytest
from form_values import values_of

from orpo_qlora.config import build_config, setting_fields
from orpo_qlora.errors import ConfigError
from orpo_qlora.shipped_presets import preset_names
from orpo_qlora.ui.parts import form


@pytest.fixture
def components():
    return {name: form.build_component(name) for name in form.setting_names()}


def defaults():
    return values_of(build_config({}))


def changed(**settings):
    values = dict(zip(form.setting_names(), defaults(), strict=True))
    values.update({name.rstrip("_"): value for name, value in settings.items()})
    return list(values.values())


def test_every_setting_is_on_the_page_once():
    folded = [name for names in form.folded_settings().values() for name in names]
    assert sorted([*form.basic_settings(), *folded]) == sorted(setting_fields())


def test_labels_and_help_are_the_settings_own(components):
    for name, info in setting_fields().items():
        assert components[name].label == info.title
        assert components[name].info == info.description
        assert components[name].elem_id == f"setting-{name}"


def test_lambda_is_a_slider_from_0_to_2(components):
    slider = components["lambda"]
    assert isinstance(slider, gr.Slider)
    assert (slider.minimum, slider.maximum, slider.step, slider.value) == (0, 2, 0.05, 0.1)


def test_settings_of_other_methods_are_hidden():
    def shown(name, method):
        return form.build_component(name, method=method).visible is True

    assert shown("lambda", "orpo")
    assert not shown("lambda", "dpo")
    assert shown("beta", "dpo")
    assert not shown("gamma", "dpo")
    assert shown("gamma", "simpo")
    assert shown("learning_rate", "kto")


def test_an_empty_number_is_the_methods_own():
    for empty in (None, "", " ", "auto"):
        config = form.config_from(changed(method="simpo", beta=empty))
        assert (config.method, config.beta) == ("simpo", None)
        assert form.config_from(values_of(config)) == config
    assert form.config_from(changed(method="simpo", beta="2.5")).beta == 2.5
    assert form.changed_settings(changed(beta=""), build_config({})) == []
    assert form.changed_settings(changed(beta="0.1"), build_config({"beta": 0.1})) == []


def test_choices_are_the_settings_own(components):
    assert [value for _, value in components["nll_on"].choices] == ["sequence", "answer"]
    assert len(components["scheduler"].choices) == 4


def test_base_model_takes_a_name_of_the_list_or_anything_typed(components):
    assert components["model"].allow_custom_value
    assert ("smollm2-135m-instruct") in [value for _, value in components["model"].choices]


def test_untouched_form_gives_the_default_settings():
    assert form.config_from(defaults()) == build_config({})


def test_the_text_of_a_template_is_a_choice_with_a_short_label_and_keeps_every_character():
    text = "\n{% for m in messages %}{{ m.content }}\n{% endfor %}\n\n"
    config = build_config({"chat_template": text})
    assert form.config_from(values_of(config)).chat_template == text
    shown = dict(zip(form.setting_names(), form.updates_of(config), strict=True))
    assert shown["chat_template"].choices[-1][0].startswith("custom (54 characters")
    assert shown["chat_template"].choices[-1][1] == shown["chat_template"].value == text
    built = form.build_component("chat_template")
    assert [value for _, value in built.choices][:3] == ["auto", "chatml", "zephyr"]
    assert built.allow_custom_value


def test_values_of_a_form_survive_the_way_there_and_back():
    config = build_config({"lambda": 0.35, "sample_prompts": ["one", "two"], "name": "mine"})
    assert form.config_from(values_of(config)) == config


def test_sample_prompts_are_one_per_line():
    config = form.config_from(changed(sample_prompts="Why?\n\n  What is it?  \n"))
    assert config.sample_prompts == ("Why?", "What is it?")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 7.0),
        ("learning_rate", float("nan")),
        ("learning_rate", None),
        ("pairs_per_step", 0),
        ("beta", 0),
        ("beta", "-0.1"),
        ("beta", "much"),
        ("method", "ppo"),
        ("pairs_per_step", 1.5),
        ("lambda", float("inf")),
        ("model", "  "),
        ("nll_on", "elsewhere"),
        ("sample_prompts", "\n".join("123456789")),
    ],
)
def test_wrong_value_is_an_error_that_names_the_setting(setting, value):
    with pytest.raises(ConfigError, match=setting):
        form.config_from(changed(**{setting: value}))


def test_all_wrong_values_are_named_at_once():
    with pytest.raises(ConfigError, match=r"learning_rate.*epochs"):
        form.config_from(changed(learning_rate=-1, epochs=0))


@pytest.mark.parametrize("preset", preset_names())
def test_preset_fills_the_form(preset):
    assert form.config_from(values_of(form.config_of_preset(preset))).model
