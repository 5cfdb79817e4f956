"""How far a policy has moved from its base: KL over the tokens of chosen responses. Floor 2.

For a pair with prompt x and chosen response y of n tokens, the sum is over t = 1 … n of
KL(π(· | x, y₁ … yₜ₋₁) ‖ π_base(· | x, y₁ … yₜ₋₁)), each over the whole vocabulary; the mean
divides by the tokens of all pairs. The base is the policy with its adapter disabled. This is the
drift along given responses, not along sampled ones: it needs no generation and repeats exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from orpo_qlora.orpo.engine import Engine
from orpo_qlora.orpo.logps import TILE_BYTES, logits_of
from orpo_qlora.orpo.processes.ranks import ALONE, Ranks
from orpo_qlora.orpo.rows.packing import Needs, lay_out
from orpo_qlora.orpo.rows.tokens import TokenizedPair

NEEDS = Needs(prompt=False, rejected=False)
TENSORS = 4
"""Tensors of the size of a tile that are held at once."""


def mean_kl(
    engine: Engine,
    pairs: Sequence[TokenizedPair],
    tokens_per_forward: int,
    pause: Callable[[], object] | None = None,
    ranks: Ranks = ALONE,
) -> float:
    """Return KL(policy ‖ base) in nats, mean over all tokens of the chosen responses.

    Args:
        engine: of the policy; its dropout is off during the measurement.
        pairs: at least one with a chosen response.
        tokens_per_forward: cuts the pairs into forwards; changes no result.
        pause: called before each forward.
        ranks: the processes that share the measurement.
    """
    pairs = [pair for pair in pairs if pair.chosen]  # without single rejected responses
    tokens = sum(len(pair.chosen) for pair in pairs)
    policy = engine.policy
    was_training = policy.training
    policy.eval()
    chosen = replace(engine, needs=NEEDS)

    def measure_share() -> float:
        total = 0.0
        groups, idle = chosen.portion(pairs, tokens_per_forward, ranks)
        for group in groups:
            if pause is not None:
                pause()
            total += _kl_sum(chosen, group)
        for group in idle:
            _kl_sum(chosen, group)
        return total

    try:
        return sum(ranks.gather(measure_share)) / tokens
    finally:
        policy.train(was_training)


@torch.no_grad()
def _kl_sum(engine: Engine, pairs: Sequence[TokenizedPair]) -> float:
    """Return the KL summed over the tokens of the chosen responses of one forward."""
    policy = engine.policy
    batch = lay_out(pairs, engine.layout, engine.needs, policy.device)
    tuned = engine.hidden_states(batch)
    with policy.disable_adapter():
        base = engine.hidden_states(batch)
    wide = torch.float64 if tuned.dtype == torch.float64 else torch.float32
    vocabulary = policy.get_base_model().get_input_embeddings().weight.shape[0]
    rows = max(1, TILE_BYTES // (TENSORS * vocabulary * wide.itemsize))
    total = torch.zeros((), dtype=torch.float64, device=tuned.device)
    for start in range(0, len(tuned), rows):
        tile = slice(start, start + rows)
        p = _log_probs(engine, tuned[tile], wide)
        with policy.disable_adapter():  # where the output layer itself is adapted
            q = _log_probs(engine, base[tile], wide)
        divergence = p.exp() * (p - q)
        if batch.origins is not None:  # a response of several pairs counts once for each
            divergence *= batch.uses[tile, None]
        total += divergence.sum(dtype=torch.float64)
    return float(total)


def _log_probs(engine: Engine, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the log-probs of all tokens after N hidden states, shape (N, V)."""
    if engine.head is not None:
        return torch.log_softmax(logits_of(hidden, engine.head), -1)
    output = engine.policy.get_base_model().get_output_embeddings()
    return torch.log_softmax(output(hidden).to(dtype), -1)
