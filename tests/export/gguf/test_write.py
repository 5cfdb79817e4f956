"""GGUF files that llama.cpp's converter wrote, read back."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import gguf
import pytest

from orpo_qlora.errors import InputError, UnsupportedModel
from orpo_qlora.export.gguf import llama_cpp, write
from orpo_qlora.export.gguf.read_back import ReadBackError, read_back
from orpo_qlora.export.gguf.types import TYPES
from orpo_qlora.export.gguf.write import GgufOptions


def quiet(*_, **__):
    """Take progress."""


def test_a_gguf_file_gives_the_runs_numbers(made_gguf, ended_run):
    path, checks = made_gguf
    assert checks.largest_difference_nats < 0.005
    assert checks.pairs > 4
    assert checks.prompts == 3
    assert checks.same_answers >= 1  # rounding changes close decisions of a random model
    manifest = json.loads((path.parent / "model.gguf.manifest.json").read_text())
    assert manifest["run"] == ended_run.id
    assert manifest["checks"]["largest_difference_nats"] == checks.largest_difference_nats
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
    assert gguf.GGUFReader(path).tensors[0].name == "token_embd.weight"


def test_a_gguf_file_from_the_command_line(tuned, options, tmp_path):
    target = tmp_path / "model.gguf"
    arguments = ["--gguf", str(target), "--llama-cpp", options.checkout, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "orpo_qlora.cli.main", "export", tuned.id, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert 0 < made["largest_difference_nats"] < 0.005
    assert made["size_bytes"] == target.stat().st_size
    assert made["commands"][0] == f"llama-server -m {target} --jinja"


def test_q8_0_of_a_random_model_is_above_its_tolerance(tuned, options, own_numbers, tmp_path):
    lenient = replace(options, kind=replace(TYPES["q8_0"], tolerance=1.0))
    target = tmp_path / "model.gguf"
    checks = write.write_gguf(tuned, target, lenient, quiet)
    assert 0.005 < checks.largest_difference_nats < 1
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(target).tensors}
    assert kinds == {"Q8_0", "F32"}
    with pytest.raises(ReadBackError, match=r"q8_0 may differ by 0\.03"):
        read_back(target, own_numbers, TYPES["q8_0"], "cpu")


def changed(path, folder, change):
    """Copy a GGUF file with other bytes in one place."""
    copy = folder / "model.gguf"
    copy.write_bytes(change(path.read_bytes()))
    return copy


def test_a_damaged_tensor_is_caught(made_gguf, own_numbers, tmp_path):
    def damage(content):
        tensors = gguf.GGUFReader(made_gguf[0]).tensors
        tensor = next(t for t in tensors if t.name == "blk.1.ffn_down.weight")
        start = tensor.data_offset
        return content[:start] + bytes(tensor.n_bytes) + content[start + tensor.n_bytes :]

    damaged = changed(made_gguf[0], tmp_path, damage)
    with pytest.raises(ReadBackError, match="nats a token in the mean log-prob"):
        read_back(damaged, own_numbers, TYPES["f16"], "cpu")


def test_a_damaged_template_is_caught(made_gguf, own_numbers, tmp_path):
    damaged = changed(
        made_gguf[0],
        tmp_path,
        lambda content: content.replace(b"<|im_start|>as", b"<|im_end|>..as"),
    )
    with pytest.raises(ReadBackError, match="chat template is not the run's: from character"):
        read_back(damaged, own_numbers, TYPES["f16"], "cpu")


def test_a_damaged_end_token_is_caught(made_gguf, own_numbers, tmp_path):
    name = b"tokenizer.ggml.eos_token_id"

    def damage(content):
        place = content.index(name) + len(name) + 4
        return content[:place] + bytes(4) + content[place + 4 :]

    damaged = changed(made_gguf[0], tmp_path, damage)
    with pytest.raises(ReadBackError, match="ends a turn with “<|im_end|>”".replace("|", r"\|")):
        read_back(damaged, own_numbers, TYPES["f16"], "cpu")


def test_a_file_above_the_tolerance_is_not_kept(tuned, options, tmp_path, monkeypatch):
    def differs(*_):
        raise ReadBackError("too far")

    def converts(tool, model, draft, expected, report):
        draft.write_bytes(b"GGUF")

    monkeypatch.setattr(write, "_convert", converts)
    monkeypatch.setattr(write, "read_back", differs)
    with pytest.raises(ReadBackError):
        write.write_gguf(tuned, tmp_path / "m.gguf", options, quiet)
    assert not list(tmp_path.glob("*gguf*"))


def test_an_unknown_tokenizer_is_refused_before_the_merge(tuned, tmp_path, monkeypatch):
    def merges(*_, **__):
        raise AssertionError("minutes are over by now")

    monkeypatch.setattr(write, "merge_in_memory", merges)
    pinned = GgufOptions(TYPES["f16"], "trained")
    with pytest.raises(UnsupportedModel, match="does not know this model's tokenizer"):
        write.write_gguf(tuned, tmp_path / "m.gguf", pinned, quiet)
    assert not list(tmp_path.glob("*gguf*"))


def test_what_transformers_cannot_read_is_refused_before_the_merge(
    tuned, options, made_gguf, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        llama_cpp.LlamaCpp,
        "run",
        lambda _, script, arguments, on_wait: shutil.copy(made_gguf[0], arguments[2]),
    )
    monkeypatch.setattr(write, "GGUF_SUPPORTED_ARCHITECTURES", ["qwen2_moe"])
    other = replace(options, checkout=str(tmp_path / "other"))
    shutil.copytree(options.checkout, other.checkout)
    with pytest.raises(UnsupportedModel, match="of the architecture llama, so"):
        write.write_gguf(tuned, tmp_path / "m.gguf", other, quiet)
    assert write._is_readable("qwen2moe")


@pytest.mark.parametrize(
    ("printed", "kind", "text"),
    [
        ("ERROR:hf-to-gguf:Model OddForCausalLM is not supported", UnsupportedModel, "OddForC"),
        ("Traceback\nKeyError: 'x'", Exception, "converter failed: KeyError: 'x'"),
    ],
    ids=["architecture", "other"],
)
def test_what_the_converter_says_is_passed_on(printed, kind, text):
    error = llama_cpp._failure(printed)
    assert isinstance(error, kind)
    assert text in error.message
    assert "--llama-cpp DIR" in error.hint


def test_a_folder_without_converter_is_no_checkout(tmp_path):
    with pytest.raises(InputError, match="no checkout of llama"):
        llama_cpp.find_llama_cpp(str(tmp_path), quiet)


def test_without_network_the_way_out_is_a_checkout(own_home, monkeypatch):
    def fails(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no route to host\n")

    monkeypatch.setattr(llama_cpp.subprocess, "run", fails)
    with pytest.raises(Exception, match="could not be fetched: ERROR: no route") as caught:
        llama_cpp.find_llama_cpp("", quiet)
    assert "--llama-cpp DIR" in caught.value.hint
    assert not [p for p in (own_home / "tools").iterdir() if p.is_dir()]
