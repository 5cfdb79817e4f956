"""What a run's own model gives, to compare an export with. Floor 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.models.generation.generate import Policy, answer_all
from orpo_qlora.models.generation.sampling import BASE, Conversation, Sampling
from orpo_qlora.models.loading import ADAPTER
from orpo_qlora.models.templates import rendering
from orpo_qlora.orpo.rows.tokens import TokenizedPair, to_tokens
from orpo_qlora.runs import store
from orpo_qlora.runs.process import training_setup
from orpo_qlora.runs.store import Run

COMPARED_PAIRS = 16
"""Most pairs on which an export is compared with the run's own model."""
PROMPTS = 3
ANSWER_TOKENS = 48


@dataclass(frozen=True)
class RunNumbers:
    """Log-probs, tokens and answers of the run's own model, which an export has to give."""

    raw: Sequence[PreferencePair]
    """The compared pairs: held-out ones, or training pairs where none were held out."""
    pairs: Sequence[TokenizedPair]
    """The same, cut to the run's longest sequence."""
    whole: Sequence[TokenizedPair]
    """The same, uncut."""
    logps: torch.Tensor
    """Mean log-prob of every answer; of a pair the chosen one before the rejected one."""
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    """The likeliest answers to the prompts."""
    template: str
    end: int
    """The token that ends a turn."""
    end_text: str


def numbers_of(
    run: Run, policy: PeftModel, tokenizer: PreTrainedTokenizerBase, *, answering: bool
) -> RunNumbers:
    """Measure base and adapter on held-out pairs and, if `answering`, on three of their prompts.

    The tokenizer has the run's template.
    """
    pairs = store.held_out_pairs(run.paths) or store.training_pairs(run.paths)
    compared = pairs[:COMPARED_PAIRS]
    tokenized = training_setup.tokenize(run.config, tokenizer, compared).pairs
    prompts = training_setup.sample_prompts(run.config, compared)[: PROMPTS * answering]
    end = rendering.end_of_answer(tokenizer).token
    return RunNumbers(
        raw=compared,
        pairs=tokenized,
        whole=to_tokens(tokenizer, compared),
        logps=mean_logps(policy.get_base_model(), tokenized),
        prompts=tuple(prompts),
        answers=tuple(greedy(policy, tokenizer, prompts, ADAPTER)),
        template=str(tokenizer.chat_template or ""),
        end=end,
        end_text=str(tokenizer.convert_ids_to_tokens(end)),
    )


@torch.no_grad()
def mean_logps(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> torch.Tensor:
    """Return the mean log-prob of every answer, by one plain pass each."""
    means = []
    for pair in pairs:
        for answer in filter(None, (pair.chosen, pair.rejected)):
            ids = torch.tensor([pair.prompt + answer], device=model.device)
            logps = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), -1)
            chosen = logps.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :]
            means.append(chosen.mean().cpu())
    return torch.stack(means)


def greedy(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    adapter: str = BASE,
) -> list[str]:
    """Return the likeliest answers to single prompts."""
    sampling = Sampling(temperature=0.0, max_tokens=ANSWER_TOKENS)
    if not prompts:
        return []
    turns = [Conversation((Message("user", text),), adapter) for text in prompts]
    return answer_all(policy, tokenizer, turns, sampling)


def share_preferred(logps: torch.Tensor, pairs: Sequence[TokenizedPair]) -> float | None:
    """Return in how many pairs the chosen answer is likelier; None if no pair has both answers.

    Args:
        logps: what `mean_logps` returned for the pairs.
        pairs: pairs or single responses.
    """
    values = iter(logps.tolist())
    sides = [[next(values) for _ in filter(None, (p.chosen, p.rejected))] for p in pairs]
    won = [chosen > rejected for chosen, rejected in (two for two in sides if len(two) > 1)]
    return sum(won) / len(won) if won else None


def largest_difference(logps: torch.Tensor, own: torch.Tensor) -> float:
    """Return the largest absolute difference; infinite if a value is not a number."""
    difference = (logps - own).abs()
    return float("inf") if bool(difference.isnan().any()) else float(difference.max())
