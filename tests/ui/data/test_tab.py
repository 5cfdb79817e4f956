"""The Data tab's components from one file to the next, without a browser."""

import subprocess
import sys
from types import SimpleNamespace

import gradio as gr
import pytest
from files import json_lines

from orpo_qlora.ui.data import column_row, corrections, uploads
from orpo_qlora.ui.data import tab as data_tab
from orpo_qlora.ui.data.files_table import FilesTable

PARTS = ("dataset_id", "card", "summary", "go_on", "findings", "preview")

CONNECTED = """
import gradio as gr
from orpo_qlora.ui.data import tab as data_tab
with gr.Blocks() as page:
    settings = {"model": gr.Textbox()}
    with gr.Tabs() as tabs:
        tab = data_tab.build()
    built = set(page.blocks)
    data_tab.connect(tab, tabs, settings, lambda event: None)
    print([type(page.blocks[number]).__name__ for number in set(page.blocks) - built])
"""


@pytest.fixture
def tab():
    """Names stand for the components: handlers only say what each is to show."""
    parts = {part: part for part in column_row.PART_LABELS}
    names = ("fold", "note", "shape", "is_reversed", "has_header", "apply", "ranking", "labelled")
    values = {field: field for field in column_row.VALUE_LABELS}
    columns = column_row.ColumnRow(**{name: name for name in names}, parts=parts, values=values)
    downloads = SimpleNamespace(row="downloads")
    files = FilesTable("files", "table", "seed", "shown")
    named = {part: part for part in PARTS}
    return SimpleNamespace(columns=columns, downloads=downloads, files=files, **named)


@pytest.fixture
def shown(tab, tmp_path):
    """Return a function that shows one file after the other and returns what the page has then."""
    state = {}

    def show(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        updates = data_tab.dataset_updates(tab, uploads.store_upload(path, name))
        for part, update in updates.items():
            props = update.constructor_args if isinstance(update, gr.blocks.Block) else update
            state.setdefault(part, {}).update(
                props if isinstance(props, dict) else {"value": props}
            )
        return state

    return show


def test_connecting_the_tab_adds_no_component_to_the_page():
    """A component made while a page is built becomes part of it."""
    # A program of its own: gradio leaves the event loops of a page that is never opened unclosed.
    command = [sys.executable, "-c", CONNECTED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_header_box_that_the_hint_names_is_visible_after_any_file(shown):
    state = shown("a.jsonl", b'{"prompt": "why?", "chosen": "so", "rejected": "not so"}\n')
    assert state["has_header"]["visible"] is False
    assert "prompt" in state["fold"]["label"]
    state = shown("b.csv", b"what?,this,that\nhow?,well,badly\n")
    assert "untick" in state["card"]["value"]
    assert state["has_header"]["visible"] is True
    assert state["fold"] == {"label": "Columns", "visible": True, "open": True}


def test_columns_of_the_previous_file_are_hidden_under_an_encoding_question(shown):
    state = shown("a.csv", b"prompt,chosen,rejected\nwhy?,so,not so\n")
    assert state["fold"]["visible"] is True
    state = shown("b.csv", "prompt,chosen,rejected\nça ?,là,où\n".encode("cp1252"))
    assert 'data-choice="encoding:' in state["card"]["value"]
    assert state["fold"]["visible"] is False


RANKED = json_lines(
    [("q?", ["mid", "best", "worst"], [2, 9, 1])], ("prompt", "responses", "scores")
)


def test_ranked_files_show_the_pair_count_of_each_setting(shown, tab):
    state = shown("a.jsonl", RANKED.encode())
    assert state["ranking"]["visible"] is True
    assert state["ranking"]["value"] == "best_worst"
    assert [label for label, _ in state["ranking"]["choices"]] == [
        "Best against worst: 1 pair",
        "Best against rest: 2 pairs",
        "Each against all worse: 3 pairs",
    ]
    assert state["fold"]["open"] is True
    assert "“responses” with “scores”, the highest is the best" in state["note"]["value"]
    assert "Undo my choices" not in state["summary"]["value"]
    corrections.choose_ranking(state["dataset_id"]["value"], "all")
    reloaded = data_tab.dataset_updates(tab, state["dataset_id"]["value"])
    assert reloaded["ranking"].constructor_args["value"] == "all"
    assert "3 pairs usable" in reloaded["summary"].constructor_args["value"]
    assert "pairs from ranking: all" in reloaded["summary"].constructor_args["value"]
    assert (
        "1 rows with 3 preferences = 3 pairs kept" in reloaded["findings"].constructor_args["value"]
    )
    assert [row[2:] for row in reloaded["preview"].constructor_args["value"]] == [
        ["best", "mid"],
        ["best", "worst"],
        ["mid", "worst"],
    ]


@pytest.mark.parametrize(
    "content", [b"prompt,chosen,rejected\nwhy?,so,not so\n", b"what?,this,that\nhow?,well,badly\n"]
)
def test_the_ranking_is_hidden_for_files_without_ranks(shown, content):
    shown("a.jsonl", RANKED.encode())
    assert shown("b.csv", content)["ranking"]["visible"] is False


def test_several_files_show_a_table_and_each_of_them_its_own_columns(tab, tmp_path):
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nwhy?,so,not so\n")
    (tmp_path / "b.jsonl").write_text(
        '{"prompt": "how?", "responses": ["x", "y"], "scores": [2, 1]}\n'
    )
    dataset_id = uploads.store_files([tmp_path / "a.csv", tmp_path / "b.jsonl"])
    updates = data_tab.dataset_updates(tab, dataset_id)
    assert updates["table"]["value"] == [
        ["a.csv", "1", "", "", "1"],
        ["b.jsonl", "1", "", "", "1"],
    ]
    first, second = (file.id for file in uploads.set_of(dataset_id).files)
    assert updates["shown"]["choices"] == [("All files", ""), ("a.csv", first), ("b.jsonl", second)]
    assert "a.csv + b.jsonl" in updates["summary"].value
    assert updates["fold"].visible is False
    updates = data_tab.dataset_updates(tab, dataset_id, None, second)
    assert updates["shown"]["value"] == second
    assert updates["fold"].visible is True
    assert updates["ranking"].visible is True
    assert updates["preview"].value["data"] == [["2 · b.jsonl, row 1", "how?", "x", "y"]]


def test_a_question_about_one_of_several_files_shows_that_file(tab, tmp_path):
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nwhy?,so,not so\n")
    (tmp_path / "b.csv").write_text("what,this,that\nhow?,well,badly\n")
    dataset_id = uploads.store_files([tmp_path / "a.csv", tmp_path / "b.csv"])
    asking = uploads.set_of(dataset_id).files[1].id
    updates = data_tab.dataset_updates(tab, dataset_id)
    assert updates["shown"]["value"] == asking
    assert updates["dataset_id"] == dataset_id
    assert "b.csv" in updates["card"]
    assert updates["table"]["value"] == [
        ["a.csv", "1", "", "", "1"],
        ["b.csv", "not readable yet", "", "", ""],
    ]
    corrections.choose_columns(asking, ["what", "this", "that", "", ""], has_header=True)
    updates = data_tab.dataset_updates(tab, dataset_id, None, asking)
    assert [row[1] for row in updates["table"]["value"]] == ["1", "1"]


def test_a_single_file_can_be_capped_and_keeps_its_columns(tab, tmp_path):
    lines = "".join(f"why {n}?,so,not so\n" for n in range(9))
    (tmp_path / "a.csv").write_text(f"prompt,chosen,rejected\n{lines}")
    file_id = uploads.store_files([tmp_path / "a.csv"])
    updates = data_tab.dataset_updates(tab, file_id)
    assert updates["table"]["value"] == [["a.csv", "9", "", "", "9"]]
    assert (updates["files"]["open"], updates["shown"]["visible"]) == (False, False)
    dataset_id = corrections.choose_quotas(file_id, [["", "4"]], 3)
    updates = data_tab.dataset_updates(tab, dataset_id)
    assert updates["table"]["value"] == [["a.csv", "9", "", "4", "4"]]
    assert (updates["files"]["open"], updates["seed"]["value"]) == (True, 3)
    assert updates["dataset_id"] == dataset_id
    assert updates["fold"].visible is True
    assert updates["preview"].label == "First 4 of 4 pairs"
    assert updates["preview"].value["data"][0][0].isdecimal()
    assert "a.csv: 9 pairs found, 4 taken (cap 4)." in updates["summary"].value
