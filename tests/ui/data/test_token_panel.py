"""The panel's handlers on a real file and a real tokenize job, without a browser."""

import dataclasses
import time

import gradio as gr
import pytest

from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.jobs import token_counts
from orpo_qlora.ui.data import token_panel, uploads
from orpo_qlora.ui.data.token_panel import TokenPanel

WAIT_SECONDS = 240.0
LONG = "because it is so and so it is " * 4


@pytest.fixture
def panel():
    """A panel whose components only stand for themselves: a page would open event loops."""
    names = [field.name for field in dataclasses.fields(TokenPanel)]
    parts = {name: gr.HTML() for name in names}
    return TokenPanel(**{**parts, "histograms": tuple(gr.HTML() for _ in token_panel.HISTOGRAMS)})


@pytest.fixture
def dataset_id(tmp_path):
    path = tmp_path / "pairs.csv"
    rows = ["hi,yes,no", "empty,,x", f"why?,{LONG},what", "who?,me,you"]
    path.write_text("prompt,chosen,rejected\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return uploads.store_upload(path, "pairs.csv")


def question(dataset_id, model, row=1, **changes):
    settings = {"model": str(model), "revision": "", "max_length": 1024, "over_length": "drop"}
    settings |= {"nll_on": "sequence", "lambda": 0.1, **changes}
    return token_panel.question_of(dataset_id, row, settings)


def test_local_tokenizer_is_counted_without_being_asked(panel, dataset_id, tiny_model):
    asked = question(dataset_id, tiny_model, max_length=40)
    updates = token_panel.look(panel, asked)
    assert "Starting" in updates[panel.status]
    assert updates[panel.timer].active
    seen, deadline = updates[panel.seen], time.monotonic() + WAIT_SECONDS
    while updates is None or updates[panel.timer].active:
        assert time.monotonic() < deadline, token_counts.paths_of(asked.request).log.read_text()
        time.sleep(0.1)
        updates = token_panel.look(panel, asked, seen)
        seen = updates[panel.seen] if updates else seen
    assert updates[panel.status] == ""
    assert "Row 1" in updates[panel.tokens]
    assert "will be left out: row 3" in updates[panel.summary]
    assert all("<svg" in updates[histogram] for histogram in panel.histograms)
    assert token_panel.longest_row(asked) == 3
    # Nothing changed since: nothing is sent.
    assert token_panel.look(panel, asked, seen) is None
    # Another setting of the length is a new account without a new count.
    wider = token_panel.look(panel, question(dataset_id, tiny_model), seen)
    assert "Every pair fits" in wider[panel.summary]
    assert not wider[panel.timer].active


def test_another_file_ends_the_count_of_the_first(panel, dataset_id, tiny_model, tmp_path):
    first = question(dataset_id, tiny_model)
    seen = token_panel.look(panel, first)[panel.seen]
    assert token_counts.read_answer(first.request).state.is_busy
    path = tmp_path / "other.csv"
    path.write_text("prompt,chosen,rejected\nhi,no,yes\n", encoding="utf-8")
    second = question(uploads.store_upload(path, "other.csv"), tiny_model)
    seen = token_panel.look(panel, second, seen)[panel.seen]
    assert token_counts.read_answer(first.request).state.status == "new"
    assert token_counts.read_answer(second.request).state.is_busy
    assert token_panel.nothing(panel, seen)[panel.seen] == ""
    assert token_counts.read_answer(second.request).state.status == "new"


def test_hub_tokenizer_waits_for_a_click_and_failure_for_another(panel, dataset_id):
    asked = question(dataset_id, "nobody/nothing")
    updates = token_panel.look(panel, asked)
    assert "not on this disk" in updates[panel.status]
    assert updates[panel.count].value == "Download tokenizer"
    assert updates[panel.count].visible
    assert not token_counts.paths_of(asked.request).folder.exists()
    token_panel.count(panel, asked)
    deadline = time.monotonic() + WAIT_SECONDS
    while token_counts.read_answer(asked.request).state.is_busy:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    updates = token_panel.look(panel, asked)
    assert "hub cannot be reached" in updates[panel.status]
    assert updates[panel.count].value == "Try again"
    assert not updates[panel.timer].active


def test_wrong_setting_is_an_error_with_its_name(dataset_id, tiny_model):
    with pytest.raises(ConfigError, match="max_length"):
        question(dataset_id, tiny_model, max_length=3)


@pytest.mark.parametrize(
    ("row", "step", "found"),
    [(1, 0, 1), (2, 0, 3), (2, 1, 4), (2, -1, 1), (3, 1, 4), (4, 1, 4), (1, -1, 1), (99, 0, 4)],
)
def test_rows_without_a_pair_are_stepped_over(dataset_id, row, step, found):
    assert token_panel.nearest_row(uploads.open_upload(dataset_id), row, step) == found


def test_no_row_given_means_the_first_pair(dataset_id):
    assert token_panel.nearest_row(uploads.open_upload(dataset_id), None) == 1


@pytest.mark.parametrize("choice", ["", "over_length:shrink", "max_length:many", "lambda:0"])
def test_only_remedies_that_exist_are_taken(choice):
    with pytest.raises(InputError):
        token_panel.remedy_of(choice)


def test_remedies_are_settings():
    assert token_panel.remedy_of("over_length:cut_answers") == {"over_length": "cut_answers"}
    assert token_panel.remedy_of("max_length:1310") == {"max_length": 1310}
