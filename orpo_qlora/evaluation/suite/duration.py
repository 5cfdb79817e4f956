"""How long an evaluation of answers takes, before it starts. Floor 5; no torch.

Computed from the speed of the run's training: the same model, adapter and machine. Judges elsewhere
are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from orpo_qlora.evaluation.answers.kept import AnswerSampling, KeptAnswers
from orpo_qlora.evaluation.answers.prompts import Prompt
from orpo_qlora.evaluation.suite.request import JOB, KEY, SuiteRequest
from orpo_qlora.evaluation.suite.results import Answering, SuitePaths, read_answering
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
        request: what is measured; answers that are kept already are not generated again.
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
    prompts, limit = request.prompts.prompts, request.sampling.max_tokens
    models = len(request.adapters) + 1
    read, answers = _tokens_of(prompts)
    left_read, left_answers = _tokens_of(_left(request))
    trained = DECODING * left_answers * limit + READING * left_read
    if "guard" in request.parts:
        trained += READING * models * (GUARD_TOKENS + read)
    if "reward" in request.parts:
        trained += READING * models * request.sampling.samples * (answers * limit + read)
        trained += READING * 2 * len(store.held_out_pairs(run.paths)) * tokens / pairs
        if not request.reward_model:
            fewest, most = REWARD_PAIRS
            count = min(most, max(fewest, len(store.training_pairs(run.paths))))
            trained += REWARD_TRAINING * count * tokens / pairs
    return START_SECONDS + trained * seconds / tokens


def _tokens_of(prompts: Sequence[Prompt]) -> tuple[float, int]:
    """Return about how many tokens prompts have, and how many answers they ask for."""
    characters = sum(len(prompt.whole_text) for prompt in prompts)
    return characters / CHARACTERS_A_TOKEN, sum(len(prompt.questions) for prompt in prompts)


def _left(request: SuiteRequest) -> list[Prompt]:
    """Return the prompt of every answer that is not kept, of the base and every run."""
    keyed = [(prompt.key, prompt) for prompt in request.prompts.prompts]
    kept = [KeptAnswers(key).read() if key else {} for key in _answer_keys(request)]
    return [
        prompt
        for known in kept
        for sample in range(request.sampling.samples)
        for key, prompt in keyed
        if (key, sample) not in known
    ]


def _answer_keys(request: SuiteRequest) -> list[str]:
    """Return the keys of the kept answers of base and runs, as earlier evaluations noted them.

    Empty where a model has not answered in this way yet.
    """
    wanted = _without_samples(request.sampling)
    folders = [path for path in JOB.folder().iterdir() if KEY.fullmatch(path.name)]
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    found = [one for one in map(_answering_in, folders) if one is not None]
    known = [one for one in found if _without_samples(one.sampling) == wanted]

    def newest(keys: Iterable[str]) -> str:
        return next(filter(None, keys), "")

    base = newest(one.base_key_of(request.adapters[0].run) for one in known)
    return [
        base,
        *(
            newest(one.key_of(adapter.run, adapter.sha256) for one in known)
            for adapter in request.adapters
        ),
    ]


def _answering_in(folder: Path) -> Answering | None:
    return read_answering(SuitePaths(folder))


def _without_samples(sampling: AnswerSampling) -> dict[str, object]:
    return sampling.model_dump(exclude={"samples"})
