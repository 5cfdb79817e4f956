"""Perplexity and KL equal plain loops; the guard sees damage; lm-eval gets the right command."""

import math

import numpy as np
import pytest
import torch
from policies import VOCABULARY, make_policy, random_pairs

from orpo_qlora.cli import evaluate as evaluate_cli
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import guard, lm_eval
from orpo_qlora.models.generation.sampling import BASE
from orpo_qlora.models.templates import tokenizers

WINDOWS = [list(pair.prompt + pair.chosen) for pair in random_pairs(6, seed=5, longest=20)]


def plain_logits(policy, ids, adapter):
    with torch.no_grad():
        if adapter != BASE:
            return policy(input_ids=torch.tensor([ids])).logits[0].double()
        with policy.disable_adapter():
            return policy(input_ids=torch.tensor([ids])).logits[0].double()


def test_perplexity_is_that_of_a_plain_loop():
    policy = make_policy("llama-tied", torch.float32).eval()
    for adapter in (BASE, "default"):
        losses = guard.token_losses(policy, adapter, WINDOWS)
        total = 0.0
        for window in WINDOWS:
            logits = plain_logits(policy, window, adapter)
            for at, token in enumerate(window[1:]):
                total -= float(torch.log_softmax(logits[at], -1)[token])
        count = sum(len(window) - 1 for window in WINDOWS)
        found = guard.perplexity(losses)
        assert len(losses.nats) == count
        assert found.value == pytest.approx(math.exp(total / count), rel=1e-4)
        assert found.low < found.value < found.high


def test_kl_on_prompts_is_that_of_a_plain_loop():
    policy = make_policy("qwen3", torch.float32).eval()
    found = guard.divergences(policy, "default", WINDOWS)
    wanted = []
    for window in WINDOWS:
        tuned, base = (plain_logits(policy, window, one) for one in ("default", BASE))
        for at in range(len(window)):
            p, q = torch.softmax(tuned[at], -1), torch.softmax(base[at], -1)
            wanted.append(sum(float(p[v] * (p[v] / q[v]).log()) for v in range(VOCABULARY)))
    assert found.nats == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    assert list(np.bincount(found.prompts)) == [len(window) for window in WINDOWS]


def test_the_ratio_is_paired_by_window_and_1_for_the_same_losses():
    losses = guard.TokenLosses(np.array([1.0, 5.0, 2.0, 9.0]), np.array([0, 0, 1, 1]))
    worse = guard.TokenLosses(losses.nats + 0.1, losses.windows)
    assert guard.perplexity_ratio(losses, losses).value == 1
    # Every window changed alike, so resampling windows changes nothing.
    ratio = guard.perplexity_ratio(losses, worse)
    assert [ratio.low, ratio.high] == pytest.approx([math.exp(0.1)] * 2)


def test_the_shipped_text_makes_several_windows(tiny_model):

    tokenizer = tokenizers.load_tokenizer(tiny_model)
    windows = guard.windows_of(tokenizer, guard.shipped_text())
    assert len(windows) > 5
    assert max(map(len, windows)) == guard.WINDOW
    with pytest.raises(InputError, match="no two tokens"):
        guard.windows_of(tokenizer, "a")


def test_lm_eval_gets_base_and_adapter(copied_run, tmp_path):
    command = lm_eval.command_of(copied_run.paths, copied_run.config, tmp_path, "arc_easy")
    arguments = dict(zip(command[4::2], command[5::2], strict=True))
    assert arguments["--tasks"] == "arc_easy"
    model = arguments["--model_args"]
    assert f"pretrained={tmp_path},peft={copied_run.paths.adapter}" in model
    assert "load_in_4bit=True" in model


def test_without_lm_eval_the_package_is_named(copied_run, monkeypatch):
    monkeypatch.setattr(evaluate_cli, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="lm-eval is not installed") as caught:
        evaluate_cli.run_lm_eval([copied_run], "arc_easy")
    assert "pip install lm-eval" in caught.value.hint
