"""The folder for vLLM and SGLang, and what these programs would refuse."""

import json

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from orpo_qlora.errors import InputError, UnsupportedModel
from orpo_qlora.export.vllm import write_vllm
from orpo_qlora.runs import store


def test_the_folder_loads_and_the_command_names_it(copied_run, tiny_model, tmp_path):
    made = write_vllm(copied_run, tmp_path / "my adapter")
    assert {"adapter_config.json", "chat_template.jinja"} <= {p.name for p in made.folder.iterdir()}
    assert made.max_rank == next(r for r in (8, 16, 32, 64) if r >= made.rank)
    vllm, sglang = made.commands
    assert f"--max-lora-rank {made.max_rank} --lora-modules" in vllm
    assert f"='{made.folder}'" in vllm
    assert "--enable-lora" in sglang
    assert any("4-bit" in note for note in made.notes)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert PeftModel.from_pretrained(base, made.folder).peft_config["default"].r == made.rank
    with pytest.raises(InputError, match="exists already"):
        write_vllm(copied_run, made.folder)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"r": 1024}, "rank 1,024; vLLM takes 512 at most"),
        ({"use_dora": True}, "does not take an adapter with use_dora"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "fused expert weights"),
    ],
    ids=["rank", "dora", "experts"],
)
def test_what_vllm_does_not_take_is_refused_before_writing(copied_run, tmp_path, setting, text):
    file = copied_run.paths.adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | setting))
    with pytest.raises(UnsupportedModel, match=text) as caught:
        write_vllm(store.read_run(copied_run.paths), tmp_path / "folder")
    assert "--merged DIR" in caught.value.hint
    assert not list(tmp_path.glob("*folder*"))
