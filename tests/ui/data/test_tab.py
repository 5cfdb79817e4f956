"""The Data tab's components from one file to the next, without a browser."""

import subprocess
import sys
from types import SimpleNamespace

import gradio as gr
import pytest

from orpo_qlora.ui.data import tab as data_tab
from orpo_qlora.ui.data import uploads

PARTS = ("dataset_id", "card", "account", "go_on", "findings", "preview")

JOINED = """
import gradio as gr
from orpo_qlora.ui import data_tab, data_wiring
with gr.Blocks() as page:
    settings = {"model": gr.Textbox()}
    tab = data_tab.build_data_tab()
    built = set(page.blocks)
    data_wiring.wire_data_tab(tab, settings, lambda event: None)
    print([type(page.blocks[number]).__name__ for number in set(page.blocks) - built])
"""


@pytest.fixture
def tab():
    """Names stand for the components: handlers only say what each is to show."""
    parts = {part: part for part in data_tab.PART_LABELS}
    columns = data_tab.ColumnRow("fold", "note", parts, "has_header", "use")
    downloads = SimpleNamespace(row="downloads")
    return SimpleNamespace(columns=columns, downloads=downloads, **{part: part for part in PARTS})


@pytest.fixture
def shown(tab, tmp_path):
    """Return a function that shows one file after the other and returns what the page has then."""
    state = {}

    def show(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        updates = data_tab.dataset_updates(tab, uploads.keep_dataset(path, name))
        for part, update in updates.items():
            told = update.constructor_args if isinstance(update, gr.blocks.Block) else update
            state.setdefault(part, {}).update(told if isinstance(told, dict) else {"value": told})
        return state

    return show


def test_joining_the_tab_to_its_handlers_puts_nothing_on_the_page():
    """Whatever component is made while a page is built stands on it."""
    # A program of its own: gradio leaves the event loops of a page that is never opened unclosed.
    asked = [sys.executable, "-c", JOINED]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_the_card_says_to_untick_can_be_seen_after_any_file(shown):
    state = shown("a.jsonl", b'{"prompt": "why?", "chosen": "so", "rejected": "not so"}\n')
    assert state["has_header"]["visible"] is False
    assert "prompt" in state["fold"]["label"]
    state = shown("b.csv", b"what?,this,that\nhow?,well,badly\n")
    assert "untick" in state["card"]["value"]
    assert state["has_header"]["visible"] is True
    assert state["fold"] == {"label": "Columns", "visible": True, "open": True}


def test_columns_of_another_file_are_not_shown_under_a_question_about_the_encoding(shown):
    state = shown("a.csv", b"prompt,chosen,rejected\nwhy?,so,not so\n")
    assert state["fold"]["visible"] is True
    state = shown("b.csv", "prompt,chosen,rejected\nça ?,là,où\n".encode("cp1252"))
    assert 'data-choice="encoding:' in state["card"]["value"]
    assert state["fold"]["visible"] is False
