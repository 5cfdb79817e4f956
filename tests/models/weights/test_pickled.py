"""Pickled weights become safetensors on request; a pickle that asks for code runs none."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from orpo_qlora.errors import DiskFull, InputError, UnsupportedModel
from orpo_qlora.models import loading
from orpo_qlora.models.trust import PICKLED_INDEX
from orpo_qlora.models.weights import find, pickled
from orpo_qlora.models.weights.converted import RECORD, converted_folder


def pickled_model(tiny_model, folder, *, shards=1, legacy=False):
    """Copy the tiny model with its weights in pickles, as older programs wrote them."""
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]  # tied: one tensor
    options = {"_use_new_zipfile_serialization": not legacy}
    if shards == 1:
        torch.save(weights, folder / "pytorch_model.bin", **options)
        return folder
    names = sorted(weights)
    tied = {"lm_head.weight", "model.embed_tokens.weight"}
    weight_map = {}
    for at in range(shards):
        of_shard = [name for name in names if name not in tied][at::shards]
        of_shard += sorted(tied) if at == 0 else []
        file = f"pytorch_model-{at + 1:05}-of-{shards:05}.bin"
        torch.save({name: weights[name] for name in of_shard}, folder / file, **options)
        weight_map |= dict.fromkeys(of_shard, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / PICKLED_INDEX).write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(("shards", "legacy"), [(1, False), (1, True), (3, False)])
def test_converted_weights_are_the_same_numbers(tiny_model, tmp_path, shards, legacy):
    folder = pickled_model(tiny_model, tmp_path / "old", shards=shards, legacy=legacy)
    with pytest.raises(UnsupportedModel, match="never loaded") as caught:
        find.find_weights(str(folder))
    assert f"orpo-qlora convert-weights {folder}" in caught.value.hint
    seen = []
    copy = pickled.convert_weights(str(folder), on_progress=lambda *step: seen.append(step))
    assert [step[:2] for step in seen] == [(at, shards) for at in range(shards + 1)]
    assert find.find_weights(str(folder)) == copy == converted_folder(folder.resolve())
    assert copy.name == "old"
    assert not list(copy.glob("*.bin"))
    assert len(list(copy.glob("*.safetensors"))) == shards
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        found = loading.load_base(str(folder), quantization="none").model(input_ids=ids).logits
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        assert torch.equal(found, model(input_ids=ids).logits)
    record = json.loads((copy / RECORD).read_text())
    assert len(record["source_sha256"]) == len(record["sha256"]) == shards
    # Once: the second call reads nothing.
    again = pickled.convert_weights(str(folder), on_progress=lambda *_: pytest.fail("again"))
    assert again == copy


def test_tied_weights_are_stored_once_and_independent_ones_twice(tiny_model, tmp_path):
    folder = pickled_model(tiny_model, tmp_path / "old")
    copy = pickled.convert_weights(str(folder))
    assert "lm_head.weight" not in load_file(copy / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(pickled.convert_weights(str(folder)) / "model.safetensors")
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])


def test_the_copy_of_a_hub_model_still_names_repository_and_commit(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "models--owner--old" / "snapshots" / commit
    found = converted_folder(snapshot)
    assert found.parts[-4:] == ("converted", "models--owner--old", "snapshots", commit)


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_asks_for_code_runs_none(tiny_model, tmp_path, legacy):
    folder = pickled_model(tiny_model, tmp_path / "old")
    mark = tmp_path / "it-ran"
    evil = {"model.norm.weight": Evil(mark)}
    torch.save(evil, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsupportedModel) as caught:
        pickled.convert_weights(str(folder))
    assert caught.value.message == (
        "pytorch_model.bin asks to run code (posix.system), which is never done."
    )
    assert not mark.exists()
    assert not converted_folder(folder.resolve()).exists()
    # The same file does run it elsewhere, so the test can fail.
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(evil))
    pickle.loads((tmp_path / "plain.pkl").read_bytes())  # noqa: S301
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "pytorch_model.bin is damaged, or no weight file of PyTorch."),
        (b"PK\x03\x04 half of it", "pytorch_model.bin is damaged, or no weight file of PyTorch."),
    ],
)
def test_a_damaged_file_is_refused(tiny_model, tmp_path, content, message):
    folder = pickled_model(tiny_model, tmp_path / "old")
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(UnsupportedModel) as caught:
        pickled.convert_weights(str(folder))
    assert caught.value.message == message


def test_something_but_tensors_is_refused(tiny_model, tmp_path):
    folder = pickled_model(tiny_model, tmp_path / "old")
    torch.save({"epoch": 3}, folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="holds 'epoch', no tensor"):
        pickled.convert_weights(str(folder))


@pytest.mark.parametrize("name", ["../elsewhere.bin", "/etc/passwd", "missing.bin"])
def test_an_index_cannot_lead_out_of_its_folder(tiny_model, tmp_path, name):
    folder = pickled_model(tiny_model, tmp_path / "old", shards=2)
    (tmp_path / "elsewhere.bin").touch()
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / PICKLED_INDEX).write_text(json.dumps(index))
    with pytest.raises(UnsupportedModel, match="no weight file of its folder"):
        pickled.convert_weights(str(folder))


def test_safetensors_need_no_conversion(tiny_model):
    with pytest.raises(InputError, match="nothing to convert"):
        pickled.convert_weights(str(tiny_model))


def test_a_changed_source_is_converted_again(tiny_model, tmp_path):
    folder = pickled_model(tiny_model, tmp_path / "old")
    copy = pickled.convert_weights(str(folder))
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="never loaded"):
        find.find_weights(str(folder))
    assert pickled.convert_weights(str(folder)) == copy
    found = load_file(copy / "model.safetensors")["model.norm.weight"]
    assert torch.equal(found, weights["model.norm.weight"])


def test_a_full_disk_is_named_and_the_next_call_continues(tiny_model, tmp_path, monkeypatch):
    folder = pickled_model(tiny_model, tmp_path / "old", shards=3)
    usage = SimpleNamespace(free=10_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(pickled.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(DiskFull, match=r"10 MB free, and the converted weights need \d+ MB"):
            pickled.convert_weights(str(folder))
    save, written = pickled.save_file, []

    def fills(weights, path, metadata):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path.name)
        save(weights, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr(pickled, "save_file", fills)
        with pytest.raises(DiskFull, match="The disk is full"):
            pickled.convert_weights(str(folder))
    assert not converted_folder(folder.resolve()).exists()
    rest = []
    monkeypatch.setattr(
        pickled, "save_file", lambda *a, **k: (rest.append(a[1].name), save(*a, **k))
    )
    pickled.convert_weights(str(folder))
    assert rest == [".model-00003-of-00003.safetensors.part"]


def test_a_killed_conversion_continues(tiny_model, tmp_path, own_home):
    """The program is stopped in front of its second file and killed there."""
    folder = pickled_model(tiny_model, tmp_path / "old", shards=2)
    code = (
        "import time, sys\n"
        "from orpo_qlora.models.weights import pickled\n"
        "def wait(done, of, name):\n"
        "    if done == 1:\n"
        "        print('half', flush=True)\n"
        "        time.sleep(600)\n"
        "pickled.convert_weights(sys.argv[1], on_progress=wait)\n"
    )
    script = tmp_path / "half_conversion.py"
    script.write_text(code)
    program = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert program.stdout.readline() == "half\n"
    program.send_signal(signal.SIGKILL)
    program.wait()
    program.stdout.close()
    draft = converted_folder(folder.resolve()).with_name(".old.draft")
    first = draft / "model-00001-of-00002.safetensors"
    changed = first.stat().st_mtime_ns
    time.sleep(0.01)
    copy = pickled.convert_weights(str(folder))
    assert (copy / first.name).stat().st_mtime_ns == changed
    assert not draft.exists()
    assert len(load_file(copy / "model-00002-of-00002.safetensors")) > 0


def test_the_command_converts_in_a_process_of_its_own(tiny_model, tmp_path, capfd):
    from typer.testing import CliRunner

    from orpo_qlora.cli.main import app

    folder = pickled_model(tiny_model, tmp_path / "old")
    assert CliRunner().invoke(app, ["convert-weights", str(folder)]).exit_code == 0
    assert find.find_weights(str(folder)).parent.parent.name == "converted"
    assert CliRunner().invoke(app, ["convert-weights", str(tiny_model)]).exit_code == 2
