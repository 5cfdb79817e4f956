"""The model files on a run's page: before, during and after."""

from pathlib import Path

import gradio as gr
import pytest

from orpo_qlora.errors import InputError
from orpo_qlora.export import formats
from orpo_qlora.export import request as export_request
from orpo_qlora.export.formats import FORMATS
from orpo_qlora.export.gguf import llama_cpp
from orpo_qlora.export.request import ExportResult
from orpo_qlora.jobs.job import JobState
from orpo_qlora.runs import store
from orpo_qlora.ui.runs import model_export
from orpo_qlora.ui.runs.model_export import ModelExport
from orpo_qlora.ui.runs.snapshot import changed_parts, seen_token, take_snapshot


@pytest.fixture
def parts():
    return ModelExport(gr.HTML(), tuple(gr.HTML() for _ in FORMATS), gr.HTML())


def store_job(request, **state):
    paths = export_request.JOB.paths(request)
    paths.folder.mkdir(parents=True, exist_ok=True)
    paths.state.write_text(JobState(**state).model_dump_json())
    return paths


def test_size_and_time_come_first_then_checks_and_commands(copied_run, parts):
    before = take_snapshot(copied_run.id)
    shown = model_export.model_export_updates(parts, before)
    assert shown[parts.table].count("not made") == len(FORMATS)
    assert "about 1 min" in shown[parts.table]
    assert not shown[parts.commands].visible
    assert all(shown[button].interactive for button in parts.buttons)

    request = FORMATS[0].request(copied_run)
    target = Path(request.target)
    target.write_bytes(b"GGUF")
    paths = store_job(request, status="done")
    result = ExportResult(
        target=str(target),
        size_bytes=2_000_000,
        checks=("at most 0.001 <nats>",),
        commands=("llama-server -m file",),
    )
    (paths.folder / "result.json").write_text(result.model_dump_json())
    after = take_snapshot(copied_run.id)
    assert "around" in changed_parts(after, seen_token(before))
    shown = model_export.model_export_updates(parts, after)
    assert "at most 0.001 &lt;nats&gt;" in shown[parts.table]
    assert shown[parts.commands].value == "llama-server -m file"
    assert [shown[button].interactive for button in parts.buttons] == [False] + 4 * [True]
    target.unlink()
    assert formats.exports_of(copied_run)["gguf-f16"].result is None


def test_a_download_is_announced(copied_run, parts, own_home):
    now = take_snapshot(copied_run.id)
    assert "77 MB" in model_export.model_export_updates(parts, now)[parts.table]
    (llama_cpp.tools_folder() / f"llama.cpp-{llama_cpp.VERSION}").mkdir()
    assert "77 MB" not in model_export.model_export_updates(parts, now)[parts.table]


def test_one_export_at_a_time_shows_its_progress(copied_run, parts):
    request = FORMATS[1].request(copied_run)
    state = {"phase": "converting", "done": 3, "total": 9, "status": "starting"}
    store_job(request, **state, started_at=2**31)
    shown = model_export.model_export_updates(parts, take_snapshot(copied_run.id))
    assert "converting (3 of 9) …" in shown[parts.table]
    assert not any(shown[button].interactive for button in parts.buttons)


def test_a_run_without_a_final_adapter_is_refused(copied_run, parts):
    waiting = copied_run.state.model_copy(update={"status": "queued"})
    store.write_state(copied_run.paths, waiting)
    now = take_snapshot(copied_run.id)
    assert model_export.model_export_updates(parts, now)[parts.table] == ""
    with pytest.raises(InputError, match="adapter is not final"):
        model_export.make(FORMATS[0], copied_run.paths)


def test_a_base_that_is_gone_leaves_the_size_unknown(copied_run, parts, monkeypatch):
    monkeypatch.setattr(formats, "loaded_folder", lambda _: "")
    now = take_snapshot(copied_run.id)
    assert "unknown" in model_export.model_export_updates(parts, now)[parts.table]
