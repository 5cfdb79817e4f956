"""The merged model of a real run, as anybody would load it."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from orpo_qlora import storage
from orpo_qlora.cli import main
from orpo_qlora.errors import InputError
from orpo_qlora.export import merge
from orpo_qlora.export import request as export_request
from orpo_qlora.export.request import ExportRequest, check_request
from orpo_qlora.models import loading
from orpo_qlora.models.weights import find
from orpo_qlora.runs import store
from orpo_qlora.runs.process import training_setup


def export_merged(run, folder, *options):
    """Run `export --merged` as a user does."""
    arguments = [run.id, "--merged", str(folder), "--dtype", "float32", *options]
    return subprocess.run(
        [sys.executable, "-m", "orpo_qlora.cli.main", "export", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_merged_model_gives_the_numbers_of_base_and_adapter(copied_run, tmp_path):
    folder = tmp_path / "merged"
    done = export_merged(copied_run, folder, "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["target"] == str(folder)
    assert made["commands"][0] == f"vllm serve {folder}"
    about = json.loads((folder / "manifest.json").read_text())
    assert about["largest_difference_nats"] == made["largest_difference_nats"] < 1e-4
    assert "nats a token from base and adapter" in (folder / "README.md").read_text()

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = training_setup.tokenize(
        copied_run.config, tokenizer, store.held_out_pairs(copied_run.paths)
    )
    total = []
    for pair in pairs.pairs:
        ids = torch.tensor([pair.prompt + pair.chosen])
        with torch.no_grad():
            logps = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
        total.append(logps.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :].mean())
    logged = store.metrics_of(copied_run.paths).series("logps/chosen", held_out=True)
    assert float(torch.stack(total).mean()) == pytest.approx(logged[-1][1], abs=1e-3)
    assert abs(logged[-1][1] - logged[0][1]) > 0.01
    assert find.find_weights(str(folder)) == folder.resolve()

    with pytest.raises(InputError, match="exists already"):
        merge.merge_run(copied_run, folder, "float32")


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_loaded(
    copied_run, tmp_path, monkeypatch
):
    def loaded(*_, **__):
        raise AssertionError("minutes are over by now")

    monkeypatch.setattr(loading, "load_base", loaded)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\)"):
        merge.merge_run(copied_run, tmp_path / "file" / "merged", "float32")
    with pytest.raises(AssertionError):
        merge.merge_run(copied_run, tmp_path / "new" / "merged", "float32")
    assert list((tmp_path / "new").iterdir()) == []


def test_the_command_exits_with_2_for_the_users_error_and_with_1_for_a_failure(
    copied_run, tmp_path
):
    (tmp_path / "file").write_text("no folder")
    # Both are found by the background program.
    refused = export_merged(copied_run, tmp_path / "file" / "merged")
    assert refused.returncode == 2
    assert "merged cannot be written (Not a directory)" in " ".join(refused.stderr.split())
    assert "Choose a folder you may write to" in refused.stderr
    (copied_run.paths.adapter / "adapter_model.safetensors").write_bytes(b"damaged")
    failed = export_merged(copied_run, tmp_path / "merged")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "merged").exists()


def test_ctrl_c_ends_the_background_program(copied_run, tmp_path):
    request = ExportRequest(run=copied_run.id, kind="merged", target=str(tmp_path / "merged"))
    drafts = [storage.draft_of(tmp_path / "merged"), tmp_path / ".orpo-qlora-merged-1"]

    def interrupt(state):
        for draft in drafts:
            draft.mkdir(exist_ok=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_request.wait_for(request, interrupt)
    assert not storage.is_locked(export_request.JOB.paths(request).lock)
    assert export_request.JOB.read(request).state.status == "new"
    assert not any(draft.exists() for draft in drafts)


@pytest.mark.parametrize("option", ["--out", "--gguf", "--gguf-adapter", "--report"])
def test_a_file_that_exists_is_replaced_only_on_request(copied_run, tmp_path, option):
    target = tmp_path / "mine.html"
    target.write_text("old")
    command = ["export", copied_run.id, option, str(target)]
    refused = CliRunner().invoke(main.app, command)
    assert isinstance(refused.exception, InputError)
    assert "--overwrite" in refused.exception.hint
    assert target.read_text() == "old"
    if option == "--report":
        assert CliRunner().invoke(main.app, [*command, "--overwrite"]).exit_code == 0
        assert "<html" in target.read_text()


def test_merging_into_the_original_weights_is_measured_against_the_run(copied_run, tmp_path):
    phases = []
    folder = tmp_path / "original"
    difference = merge.merge_run(copied_run, folder, "float32", merge.ORIGINAL, phases.append)
    about = json.loads((folder / "manifest.json").read_text())
    assert about["merged_onto"] == "original"
    assert about["largest_difference_nats"] == difference.largest > 1e-3
    assert 0 < about["mean_difference_nats"] < difference.largest
    assert "chosen preferred in" in difference.sentence()
    card = (folder / "README.md").read_text()
    assert "Merged into the original base weights; the adapter was trained on their 4-bit" in card
    assert "rounded once, to float32" in card
    assert phases[0] == "loading base and adapter"


@pytest.mark.parametrize("kind", ["merged", "gguf"])
def test_a_place_among_the_runs_is_refused(copied_run, kind):
    target = copied_run.paths.folder / "metrics.jsonl"
    request = ExportRequest(run=copied_run.id, kind=kind, target=str(target))
    with pytest.raises(InputError, match="is in the folder of the runs"):
        check_request(request)
