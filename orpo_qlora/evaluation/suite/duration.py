"""How long an evaluation of answers takes, before it starts. Floor 5; no torch.

Computed from the speed of the run's training: the same model, adapter and machine. Judges elsewhere
are not counted.
"""

from __future__ import annotations

from orpo_qlora.evaluation.suite.request import SuiteRequest
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run

DECODING = 4.0
"""Seconds of an answer's token in those of a trained one. 5.0 on two busy cores with short answers,
which leave batches half empty."""
READING = 0.6
"""Seconds of a token that is only read, in those of a trained one; measured there too."""
REWARD_TRAINING = 2.0
"""Seconds of a pair in a reward model's training, in those of the run's; measured there too."""
START_SECONDS = 30.0
"""Imports, and loading the models."""
CHARACTERS_A_TOKEN = 4
GUARD_TOKENS = 1500
"""Tokens of the shipped text, with a reserve."""
REWARD_PAIRS = (128, 800)
"""Fewest and most pairs that a reward model is trained on."""
LATEST_STEPS = 50


def expected_seconds(request: SuiteRequest, run: Run) -> float:
    """Return about how long the parts of a request take, with answers of full length.

    Args:
        request: what is measured; answers that are kept already are counted too.
        run: its first run.

    Returns:
        Seconds; 0 where the run has no steps to compute it from.
    """
    metrics = store.metrics_of(run.paths)
    seconds, tokens, pairs = (
        sum(value for _, value in metrics.series(name)[-LATEST_STEPS:])
        for name in ("seconds", "tokens", "pairs")
    )
    if not tokens or not pairs:
        return 0.0
    models = len(request.adapters) + 1
    prompts, sampling = request.prompts.prompts, request.sampling
    read = sum(len(prompt.whole_text) for prompt in prompts) / CHARACTERS_A_TOKEN
    turns = sum(len(prompt.questions) for prompt in prompts)
    written = models * sampling.samples * turns * sampling.max_tokens
    trained = DECODING * written + READING * models * sampling.samples * read
    if "guard" in request.parts:
        trained += READING * models * (GUARD_TOKENS + read)
    if "reward" in request.parts:
        trained += READING * (written + models * sampling.samples * read)
        trained += READING * 2 * len(store.held_out_pairs(run.paths)) * tokens / pairs
        if not request.reward_model:
            fewest, most = REWARD_PAIRS
            count = min(most, max(fewest, len(store.training_pairs(run.paths))))
            trained += REWARD_TRAINING * count * tokens / pairs
    return START_SECONDS + trained * seconds / tokens
