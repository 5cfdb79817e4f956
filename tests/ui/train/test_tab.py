from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.parts import form
from orpo_qlora.ui.train import tab as train_tab

VALUES = form.values_of(build_config({}))


def test_training_waits_for_data():
    assert "Data tab" in train_tab.reason_against("", VALUES)


def test_training_waits_for_correct_settings():
    dataset_id = uploads.store_upload(example_path("hello"), "hello.csv")
    wrong = [-1 if value == 0.0002 else value for value in VALUES]
    assert "learning_rate" in train_tab.reason_against(dataset_id, wrong)
    assert train_tab.reason_against(dataset_id, VALUES) == ""
