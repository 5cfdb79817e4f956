"""The regression guard over a loaded group of models. Floor 5; torch."""

from __future__ import annotations

from collections.abc import Callable

from orpo_qlora.evaluation import guard
from orpo_qlora.evaluation.answers.prompts import PromptSet
from orpo_qlora.evaluation.suite.figures import Figure, PerAnswer
from orpo_qlora.evaluation.suite.systems import Loaded
from orpo_qlora.models.generation.generate import prompt_ids
from orpo_qlora.models.generation.sampling import BASE
from orpo_qlora.runs.curves.intervals import Interval

MOST_PROMPTS = 100
"""Prompts over which the KL is measured."""


def guard_steps(loaded: Loaded, prompts: PromptSet, text: str) -> int:
    """Return how often `guard_figures` calls `on_step`."""
    windows = len(guard.windows_of(loaded.base.tokenizer, text))
    runs = len(loaded.systems) - 1
    return windows * len(loaded.systems) + runs * len(prompts.prompts[:MOST_PROMPTS])


def guard_figures(
    loaded: Loaded, prompts: PromptSet, text: str, on_step: Callable[[], object]
) -> list[Figure]:
    """Return perplexity on the text and KL to the base on the prompts, of base and every run."""
    windows = guard.windows_of(loaded.base.tokenizer, text)
    base, *runs = loaded.systems
    plain = guard.token_losses(loaded.policy, BASE, windows, on_step)
    figures = [_figure("perplexity", base.name, guard.perplexity(plain), len(plain.nats))]
    measured = prompts.prompts[:MOST_PROMPTS]
    ids = [prompt_ids(loaded.base.tokenizer, one.opening, tools=one.tools) for one in measured]
    for system in runs:
        tuned = guard.token_losses(loaded.policy, system.run, windows, on_step)
        count = len(tuned.nats)
        ratio = guard.perplexity_ratio(plain, tuned)
        figures += [
            _figure("perplexity", system.name, guard.perplexity(tuned), count),
            _figure("perplexity_ratio", system.name, ratio, count, base.name),
        ]
        moved = guard.divergences(loaded.policy, system.run, ids, on_step)
        categories = [measured[number].category for number in moved.prompts]
        figures += PerAnswer(
            "kl_prompts", system.name, moved.nats, moved.prompts, categories, base.name
        ).figures()
    return figures


def _figure(
    measure: str, system: str, interval: Interval, count: int, opponent: str = ""
) -> Figure:
    return Figure(measure=measure, system=system, opponent=opponent, interval=interval, count=count)
