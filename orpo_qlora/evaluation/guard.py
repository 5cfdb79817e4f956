"""Regression guard: perplexity on a plain text and KL to the base on prompts. Floor 5; torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import statistics
from orpo_qlora.evaluation.statistics import Labels, Values
from orpo_qlora.models.generation.sampling import BASE
from orpo_qlora.runs.curves.intervals import Interval

WINDOW = 128
"""Tokens of the text that are read together; the first one of each window is not predicted."""
PROMPT_TOKENS = 512
"""Tokens of a prompt, from its start, over which the KL is measured."""
SHIPPED = Path(__file__).parent / "texts" / "plain.txt"


@dataclass(frozen=True)
class TokenLosses:
    """Negative log-probs of the tokens of a text in nats, with the window of each."""

    nats: Values
    windows: Labels


@dataclass(frozen=True)
class Divergences:
    """KL(adapter ‖ base) after each prompt token in nats, with the prompt of each."""

    nats: Values
    prompts: Labels


def shipped_text() -> str:
    """Return the plain text that is used where the user gives none."""
    return SHIPPED.read_text(encoding="utf-8")


def windows_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[list[int]]:
    """Return the tokens of a text in windows.

    Raises:
        InputError: the text has fewer than two tokens.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    windows = [ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW)]
    usable = [window for window in windows if len(window) > 1]
    if not usable:
        raise InputError(
            "The plain text has no two tokens to measure the perplexity on.",
            hint="Give a text of at least a few paragraphs with --text.",
        )
    return usable


def token_losses(
    policy: PeftModel,
    adapter: str,
    windows: Sequence[Sequence[int]],
    on_window: Callable[[], object] = lambda: None,
) -> TokenLosses:
    """Return the loss of every token but the first of each window.

    Args:
        policy: a base with adapters.
        adapter: name of one, or `BASE`.
        windows: token ids.
        on_window: called after each.
    """
    losses: list[NDArray[np.float64]] = []
    for window in windows:
        log_probs = next_log_probs(policy, adapter, window[:-1])
        targets = torch.tensor(window[1:], device=log_probs.device).unsqueeze(1)
        losses.append(-log_probs.gather(1, targets).squeeze(1).double().cpu().numpy())
        on_window()
    labels = np.repeat(np.arange(len(losses)), [len(one) for one in losses])
    return TokenLosses(np.concatenate(losses), labels)


def divergences(
    policy: PeftModel,
    adapter: str,
    prompts: Sequence[Sequence[int]],
    on_prompt: Callable[[], object] = lambda: None,
) -> Divergences:
    """Return KL(adapter ‖ base) of the next token after each token of each prompt."""
    found: list[NDArray[np.float64]] = []
    for prompt in prompts:
        ids = prompt[:PROMPT_TOKENS]
        p, q = (next_log_probs(policy, name, ids) for name in (adapter, BASE))
        found.append((p.exp() * (p - q)).sum(-1).double().cpu().numpy())
        on_prompt()
    labels = np.repeat(np.arange(len(found)), [len(one) for one in found])
    return Divergences(np.concatenate(found), labels)


@torch.no_grad()
def next_log_probs(policy: PeftModel, adapter: str, ids: Sequence[int]) -> Tensor:
    """Return the log-probs of all tokens after each of T tokens in float32, shape (T, V)."""
    inputs = torch.tensor([list(ids)], device=policy.device)
    if adapter != BASE:
        policy.set_adapter(adapter)
    with policy.disable_adapter() if adapter == BASE else nullcontext():
        logits = policy(input_ids=inputs).logits[0]
    return torch.log_softmax(logits.float(), -1)


def perplexity(losses: TokenLosses) -> Interval:
    """Return exp of the mean loss with its interval, windows resampled."""
    return _exponential(statistics.mean_interval(losses.nats, losses.windows))


def perplexity_ratio(base: TokenLosses, tuned: TokenLosses) -> Interval:
    """Return the perplexity of the tuned model over that of its base, window by window."""
    return _exponential(statistics.mean_interval(tuned.nats - base.nats, base.windows))


def _exponential(interval: Interval) -> Interval:
    return Interval(math.exp(interval.value), math.exp(interval.low), math.exp(interval.high))
