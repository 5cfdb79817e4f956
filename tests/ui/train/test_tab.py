from form_values import values_of
from tiny import make_base_model

from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.train import tab as train_tab

VALUES = values_of(build_config({}))


def test_training_waits_for_data():
    assert "Data tab" in train_tab.reason_against("", VALUES)


def test_training_waits_for_correct_settings():
    dataset_id = uploads.store_upload(example_path("hello"), "hello.csv")
    wrong = [-1 if value == 0.0002 else value for value in VALUES]
    assert "learning_rate" in train_tab.reason_against(dataset_id, wrong)
    assert train_tab.reason_against(dataset_id, VALUES) == ""


def test_a_method_that_needs_pairs_names_the_one_that_does_not(tmp_path):
    path = tmp_path / "labelled.jsonl"
    rows = [f'{{"prompt": "q{i}", "completion": "a{i}", "label": {i % 2}}}' for i in range(6)]
    path.write_text("\n".join(rows))
    dataset_id = uploads.store_upload(path, path.name)
    reason = train_tab.reason_against(dataset_id, VALUES)
    assert "the method orpo needs pairs of responses. Choose the method “kto”" in reason
    kto = values_of(build_config({"method": "kto"}))
    assert train_tab.reason_against(dataset_id, kto) == ""
    assert "6 responses (3 chosen, 3 rejected) usable" in train_tab._data_line(dataset_id, kto)


def test_a_base_model_is_said_to_be_one_and_an_unusable_template_keeps_from_starting(tmp_path):
    base = make_base_model(tmp_path / "tiny-base", is_sentencepiece=True)
    card = train_tab.template_card(values_of(build_config({"model": str(base)})))
    assert "Base model" in card
    assert "is a base model without a chat template: chatml is used; “" in card
    assert "a small λ fits" in card
    assert "“Chat template” under Model below" in card
    assert train_tab.template_card(VALUES) == ""
    unknown = values_of(build_config({"model": "owner/not-here"}))
    assert "is known once its tokenizer is on this disk" in train_tab.template_card(unknown)
    broken = tmp_path / "broken.jinja"
    broken.write_text("{{ messages[0].content }}")
    dataset_id = uploads.store_upload(example_path("hello"), "hello.csv")
    values = values_of(build_config({"chat_template": str(broken)}))
    reason = train_tab.reason_against(dataset_id, values)
    assert reason == "broken.jinja does not render the assistant's message."
