"""Rows shared by the pairs of one prompt, against a row for every pair.

`python -m benchmarks.shared_prompts [FILE ...]` writes benchmarks/results/shared_prompts.md: the
tokens of whole files, and the time of steps on the demo model. Pair rows and shared rows step in
turn in one process, forward, backward and optimizer. `ranked:PxA` are random prompts of P tokens
with four answers of about A tokens and all six pairs of them; `single:PxA` have one pair a prompt.
Ranked rows of a file give all their pairs.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from benchmarks.cells import FIRST_WORD_TOKEN, LONGEST, RANK
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.loading import (
    attach_new_adapter,
    load_base,
)
from orpo_qlora.models.templates.tokenizers import load_tokenizer
from orpo_qlora.models.weights.find import find_weights
from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.loss import loss_for, needs_of
from orpo_qlora.orpo.rows.batches import epoch_order
from orpo_qlora.orpo.rows.packing import cost_in_tokens, tokens_of
from orpo_qlora.orpo.rows.tokens import TokenizedPair, tokenize_pairs
from orpo_qlora.orpo.step import accumulate_step
from orpo_qlora.orpo.verify.parity import fill_adapter, relative_l2, take_gradients

RESULTS = Path(__file__).parent / "results" / "shared_prompts.md"
SYNTHETIC = ("ranked:64x96", "single:64x96")
ANSWERS = 4
TOKENS_A_FORWARD = 1024
COUNTED_STEPS = 8
"""Of random pairs, at least."""
CONFIG = TrainConfig(lora_r=RANK, lora_alpha=2 * RANK)
WAYS = ("pair rows", "shared rows", "group_by_prompt")
PACKAGES = ("torch", "transformers", "peft")
TARGET = 2.5


@dataclass(frozen=True)
class Data:
    """Pairs of a file or random ones."""

    name: str
    pairs: list[TokenizedPair]

    def steps(self, per_step: int, *, grouped: bool) -> list[list[TokenizedPair]]:
        """Return the steps of the first epoch."""
        prompts = [pair.prompt for pair in self.pairs]
        order = epoch_order(prompts, per_step, CONFIG.seed, 0, group_by_prompt=grouped)
        return [
            [self.pairs[index] for index in order[at : at + per_step]]
            for at in range(0, len(order), per_step)
        ]


@dataclass
class Timing:
    """Seconds of every step, by way, and how far apart the numbers are."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    loss_difference: float = 0.0
    """Relative, of one step computed in both ways."""
    gradient_difference: float = 0.0
    """Relative L2, the largest of all adapter matrices."""

    def gain(self, way: str) -> float:
        """Return the median ratio of a round."""
        rounds = zip(self.seconds[WAYS[0]], self.seconds[way], strict=True)
        return statistics.median(before / after for before, after in rounds)


def random_data(name: str, count: int, vocabulary: int) -> Data:
    """Return at least `count` pairs for `ranked:PxA` or `single:PxA`."""
    kind, _, sizes = name.partition(":")
    prompt_tokens, answer_tokens = (int(number) for number in sizes.split("x"))
    source = random.Random(0)

    def tokens(length: int) -> tuple[int, ...]:
        first = min(FIRST_WORD_TOKEN, vocabulary // 2)
        return tuple(source.randrange(first, vocabulary) for _ in range(length))

    answers = ANSWERS if kind == "ranked" else 2
    pairs: list[TokenizedPair] = []
    while len(pairs) < count:
        prompt = tokens(prompt_tokens)
        ranked = [
            tokens(source.randint(answer_tokens // 2, answer_tokens * 3 // 2))
            for _ in range(answers)
        ]
        for good, bad in combinations(ranked, 2):
            pairs.append(TokenizedPair(prompt, good, bad, len(pairs) + 1))
    return Data(f"`{name}`", pairs)


def file_data(path: Path, tokenizer: PreTrainedTokenizerBase) -> Data:
    """Return the pairs of a preference file, all pairs of ranked rows."""
    found = load_preferences(path, choices=ReadChoices(pairs_from_ranking="all"))
    pairs = tokenize_pairs(tokenizer, list(found.pairs), LONGEST, "drop").pairs
    return Data(f"{path.name}", list(pairs))


def time_steps(engine: Engine, data: Data, per_step: int, rounds: int) -> Timing:
    """Step in turn: pair rows and shared rows in the default order, then grouped pairs."""
    parameters = [p for p in engine.policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)
    loss, timing = loss_for(CONFIG), Timing()

    def step(way: str, pairs: Sequence[TokenizedPair]) -> float:
        used = replace(engine, shares=way != WAYS[0])
        record = accumulate_step(used, pairs, loss, TOKENS_A_FORWARD, torch.Tensor.backward)
        return record["loss"]

    plain, grouped = (data.steps(per_step, grouped=way) for way in (False, True))
    before, wanted = step(WAYS[0], grouped[0]), take_gradients(engine.policy)
    after, found = step(WAYS[2], grouped[0]), take_gradients(engine.policy)
    timing.loss_difference = abs(after - before) / abs(before)
    timing.gradient_difference = max(relative_l2(found[n], wanted[n]) for n in wanted)
    for number in range(min(rounds, len(plain))):
        for way in WAYS:
            pairs = (grouped if way == WAYS[2] else plain)[number]
            started = time.perf_counter()
            step(way, pairs)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            timing.seconds[way].append(time.perf_counter() - started)
    return timing


def count_row(data: Data, per_step: int) -> str:
    """Return a line of the table of tokens."""
    needs = needs_of(CONFIG)
    alone = sum(cost_in_tokens(pair, "shared", needs) for pair in data.pairs)
    met, grouped = (
        sum(tokens_of(step, "shared", needs) for step in data.steps(per_step, grouped=way))
        for way in (False, True)
    )
    prompts = len({pair.prompt for pair in data.pairs})
    return (
        f"| {data.name} | {len(data.pairs):,} | {prompts:,} | {alone:,} | {met:,} | {grouped:,} | "
        f"{alone / grouped:.2f} |"
    )


def time_row(data: Data, per_step: int, timing: Timing) -> str:
    """Return a line of the table of times."""
    speeds = [per_step / statistics.median(timing.seconds[way]) for way in WAYS]
    gains = [timing.gain(way) for way in WAYS[1:]]
    return (
        f"| {data.name} | {per_step} | {len(timing.seconds[WAYS[0]])} | "
        + " | ".join(f"{speed:.2f}" for speed in speeds)
        + " | "
        + " | ".join(f"{gain:.2f}" for gain in gains)
        + f" | {timing.loss_difference:.0e} | {timing.gradient_difference:.0e} |"
    )


def report(counts: Sequence[str], times: Sequence[str], model: str) -> str:
    """Return the page of results."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return "\n".join(
        [
            "# Rows shared by the pairs of one prompt",
            "",
            "**Tokens of an epoch**, prompt with two responses: a row for every pair; shared by "
            "pairs that meet in a step of the default order; with `group_by_prompt`.",
            "",
            "| data | pairs | prompts | pair rows | shared | `group_by_prompt` | fewer by |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *counts,
            "",
            f"**Steps** of {model}, forward, backward and optimizer, at most "
            f"{TOKENS_A_FORWARD:,} tokens a forward. Every way steps once a round; speeds are from "
            "the median step, gains the median ratio of a round to pair rows. Loss and gradient: "
            "the difference between pair rows and shared rows of one grouped step, the gradient's "
            "the largest relative L2 of all adapter matrices.",
            "",
            "| data | pairs a step | rounds | pair rows, pairs/s | shared, pairs/s | "
            "`group_by_prompt`, pairs/s | gain, shared | gain, `group_by_prompt` | loss | "
            "gradient |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *(times or ["| not measured |" + " |" * 9]),
            "",
            f"Target: {TARGET} times the pairs a second on `ranked`, none lost elsewhere. "
            f"{torch.get_num_threads()} threads, {platform.machine()}; {versions}.",
            "",
            "Rerun: `python -m benchmarks.shared_prompts --help`.",
            "",
        ]
    )


def main() -> None:
    """Count, time and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="preference files to count and time")
    parser.add_argument("--model", default=CONFIG.model)
    parser.add_argument("--pairs-per-step", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=8, help="0 counts only")
    parser.add_argument("--timed-files", type=int, default=1, help="time the first files only")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    hardware.use_all_cores()
    tokenizer = load_tokenizer(find_weights(options.model))
    wanted = options.pairs_per_step * max(COUNTED_STEPS, options.rounds)
    made = [random_data(name, wanted, len(tokenizer)) for name in SYNTHETIC]
    read = [file_data(path, tokenizer) for path in options.files]
    counts = [count_row(data, options.pairs_per_step) for data in [*made, *read]]
    times: list[str] = []
    options.out.write_text(report(counts, times, Path(options.model).name), encoding="utf-8")
    if not options.rounds:
        return
    base = load_base(options.model)
    torch.manual_seed(0)
    policy = attach_new_adapter(base, CONFIG)
    fill_adapter(policy)
    engine = build_engine(policy, needs_of(CONFIG), made[0].pairs[:6])
    for data in [*made, *read[: options.timed_files]]:
        timing = time_steps(engine, data, options.pairs_per_step, options.rounds)
        times.append(time_row(data, options.pairs_per_step, timing))
        options.out.write_text(report(counts, times, Path(options.model).name), encoding="utf-8")
        print(times[-1], flush=True)


if __name__ == "__main__":
    main()
