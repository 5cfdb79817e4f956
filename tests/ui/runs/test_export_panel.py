"""What the run's page hands out, and the report card's panel, without a browser."""

import dataclasses
import re
import tempfile
import time
import zipfile
from html import unescape
from html.parser import HTMLParser

import gradio as gr
import pytest
from safetensors.numpy import load_file, save_file

from orpo_qlora import storage
from orpo_qlora.charts import plots
from orpo_qlora.data.pairs import write_pairs
from orpo_qlora.errors import InputError, UnknownRun
from orpo_qlora.evaluation import report_card as cards
from orpo_qlora.export.formats import FORMATS
from orpo_qlora.export.reports import html_report
from orpo_qlora.runs import store
from orpo_qlora.ui.runs import export_panel, report_card
from orpo_qlora.ui.runs import tab as runs_tab
from orpo_qlora.ui.runs.export_panel import KINDS, ExportPanel
from orpo_qlora.ui.runs.model_export import ModelExport
from orpo_qlora.ui.runs.report_card import ReportPanel, ReportRow
from orpo_qlora.ui.runs.snapshot import take_snapshot

WAIT_SECONDS = 240.0
FETCHES = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def panel():
    """A panel whose components only stand for themselves: a page would open event loops."""
    line = ReportRow(*(gr.HTML() for _ in dataclasses.fields(ReportRow)))
    return ReportPanel(line, gr.HTML(), gr.HTML())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id)
def test_every_button_makes_its_file(copied_run, kind):
    path = export_panel.make_file(copied_run.id, kind)
    assert path.name.endswith(f"{copied_run.id}{kind.ending}")
    if kind.ending == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert any(name.endswith("adapter_model.safetensors") for name in archive.namelist())
    else:
        assert cards.read_card(copied_run).flip_sentence() in path.read_text("utf-8")


def test_only_runs_can_be_exported(copied_run):
    with pytest.raises(UnknownRun):
        export_panel.make_file("../../etc", KINDS[0])


def test_there_is_nothing_to_export_before_the_end(copied_run):
    column = gr.HTML()
    buttons = tuple(gr.HTML() for _ in FORMATS)
    model = ModelExport(gr.HTML(), buttons, gr.HTML())
    parts = ExportPanel(column, (), column, model)
    updates = export_panel.export_updates(parts, take_snapshot(copied_run.id))
    assert updates[column].visible
    store.write_state(copied_run.paths, copied_run.state.model_copy(update={"status": "queued"}))
    waiting = take_snapshot(copied_run.id)
    assert not export_panel.export_updates(parts, waiting)[column].visible
    with pytest.raises(InputError):
        export_panel.make_file(copied_run.id, KINDS[0])


class Reader(HTMLParser):
    """Collects what a page would fetch or run, and its texts."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in FETCHES]
        self.fetched += [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_html_report_is_whole_in_itself_and_shows_texts_as_texts(copied_run):
    pairs = store.held_out_pairs(copied_run.paths)
    hostile = "<img src=x onerror=alert(1)></p>`|"
    changed = [dataclasses.replace(pair, chosen=hostile) for pair in pairs]
    write_pairs(copied_run.paths.held_out, changed)
    page = html_report.html_report(copied_run)
    reader = Reader()
    reader.feed(page)
    assert reader.fetched == []
    assert {"script", "img", "link", "iframe"}.isdisjoint(reader.tags)
    assert not re.search(r"url\((?!#)|@import", page)
    shown = " ".join(reader.texts)
    card = cards.read_card(copied_run)
    assert card.difference.gained + card.difference.lost >= 1
    for words in (
        *(
            hostile,
            "ours <b>|` λ",
            card.accuracy_sentence(),
            "prompt and chosen response",
            "cd" * 32,
        ),
        *(
            "Log-probs",
            "Margins of the held-out pairs",
            "learning_rate",
            "Arithmetic: ",
        ),
    ):
        assert words in shown, words
    assert reader.tags.count("svg") == len(plots.PLOTS) + 1
    assert " data-curves=" not in page


def test_the_markdown_report_says_the_same(copied_run):
    text = export_panel.make_file(copied_run.id, KINDS[2]).read_text("utf-8")
    card = cards.read_card(copied_run)
    flips = cards.flips(copied_run, card, gained=card.difference.gained > 0, most=10)
    assert flips[0].pair.chosen in text
    for words in (r"# ours \<b\>\|\` λ", "Loss passport", "cd" * 32, "seed 42", "learning\\_rate"):
        assert words in text
    # Every row of a table has as many cells as its head.
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_a_report_without_a_card_says_how_to_get_one(copied_run):
    cards.file_of(copied_run.paths).unlink()
    assert "Not evaluated yet" in html_report.html_report(copied_run)


def test_a_report_needs_an_ending_it_knows(copied_run, tmp_path):
    with pytest.raises(InputError, match=r"neither .html nor .md"):
        html_report.write_report(copied_run, tmp_path / "x.pdf")
    with pytest.raises(InputError, match="cannot be written"):
        html_report.write_report(copied_run, tmp_path / "no" / "x.html")
    html_report.write_report(copied_run, tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text("utf-8") == html_report.html_report(copied_run)


def test_the_panel_shows_a_kept_card_and_measures_another_adapter_when_asked(panel, copied_run):
    shown = report_card.report_updates(panel, take_snapshot(copied_run.id))
    kept = cards.read_card(copied_run)
    assert kept.flip_sentence() in shown[panel.view]
    assert shown[panel.line.button].value == report_card.AGAIN
    path = copied_run.paths.adapter / "adapter_model.safetensors"
    save_file({name: 2 * values for name, values in load_file(path).items()}, path)
    bare = report_card.report_updates(panel, take_snapshot(copied_run.id))
    assert (bare[panel.view], bare[panel.line.button].value) == ("", report_card.EVALUATE)
    report_card.evaluate(copied_run.paths)
    deadline = time.monotonic() + WAIT_SECONDS
    while (now := take_snapshot(copied_run.id)).outcome.evaluation.state.is_busy:
        shown = report_card.report_updates(panel, now)
        assert "Evaluating: " in shown[panel.line.message]
        assert panel.view not in shown
        assert runs_tab.awaits_more(copied_run.id)
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    now = report_card.report_updates(panel, now)
    measured = cards.read_card(copied_run)
    assert measured.flip_sentence() in now[panel.view]
    assert measured.sentences()[0] in unescape(now[panel.line.message])
    assert measured.adapter_sha256 == storage.sha256_of(path) != kept.adapter_sha256
    assert (measured.base, measured.pairs) == (kept.base, kept.pairs)
    assert measured.tuned != kept.tuned


def test_the_panel_says_why_a_run_cannot_be_evaluated(panel, copied_run):
    write_pairs(copied_run.paths.held_out, ())
    shown = report_card.report_updates(panel, take_snapshot(copied_run.id))
    assert not shown[panel.line.button].visible
    assert "Held-out share" in shown[panel.line.message]
