"""A whole run on the example set learns the preference, and the adapter carries it."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.models.templates.tokenizers import load_tokenizer
from orpo_qlora.orpo.engine import plain_sums
from orpo_qlora.orpo.rows.tokens import tokenize_pairs
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch

WAIT_SECONDS = 240.0


def plain_peft(folder, adapter):
    """Load base and adapter as any user of PEFT would."""
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=nf4
    )
    for module in base.modules():
        module.support_avx512bf16_for_cpu = False  # its kernel computes in bfloat16
    return PeftModel.from_pretrained(base, adapter)


def test_held_out_accuracy_rises_and_the_reloaded_adapter_gives_the_same_numbers(tiny_model):
    """A random model prefers no side (measured: 0.38); 40 steps teach it (measured: 1.00)."""
    settings = {"lambda": 1.0, "learning_rate": 1e-2, "max_steps": 40, "held_out": 0.15}
    config = build_config({"model": str(tiny_model), "lora_r": 32, "lora_alpha": 64} | settings)
    paths = launch.start_run(config, load_preferences(example_path("short_answers")))
    run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.status == "finished", store.log_tail(paths)
    tail = store.metrics_of(paths)
    accuracies = [value for _, value in tail.series("rewards/accuracies", held_out=True)]
    assert accuracies[0] < 0.7
    assert accuracies[-1] > 0.9

    policy = plain_peft(tiny_model, paths.adapter)
    pairs = store.held_out_pairs(paths)
    tokenized = tokenize_pairs(load_tokenizer(tiny_model), pairs, 1024, "drop").pairs
    with torch.no_grad():
        sums = [plain_sums(policy, pair) for pair in tokenized]
    for part, name in ((1, "chosen"), (2, "rejected")):
        lengths = [len(getattr(pair, name)) for pair in tokenized]
        means = [float(s[part]) / n for s, n in zip(sums, lengths, strict=True)]
        logged = tail.series(f"logps/{name}", held_out=True)[-1][1]
        assert sum(means) / len(means) == pytest.approx(logged, rel=1e-5)
