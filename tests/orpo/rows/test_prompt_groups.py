"""Pairs of one prompt share a row and get the numbers that each pair alone gets."""

from dataclasses import replace

import pytest
import torch
from policies import make_policy, random_pairs

from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import METHODS
from orpo_qlora.orpo.drift import mean_kl
from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.kernels import attention
from orpo_qlora.orpo.loss import loss_for, needs_of
from orpo_qlora.orpo.objectives.base import CHOSEN, PROMPT, REJECTED
from orpo_qlora.orpo.rows.packing import (
    LAYOUTS,
    Needs,
    Segment,
    cost_in_tokens,
    cut_into_micro_steps,
    lay_out,
)
from orpo_qlora.orpo.rows.prompt_groups import by_prompt
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.step import accumulate_step
from orpo_qlora.orpo.verify.parity import relative_l2, take_gradients, with_reference

BOTH = Needs(prompt=True, rejected=True)
POLICY = make_policy("llama-tied")
PROMPT_TOKENS, *ANSWERS = (random_pairs(5, seed=2)[at].prompt for at in range(5))
RANKED = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
"""Which of the four answers is preferred to which: all six pairs."""
SIX_PAIRS = [
    TokenizedPair(PROMPT_TOKENS, ANSWERS[good], ANSWERS[bad], 10 + number)
    for number, (good, bad) in enumerate(RANKED)
]
OTHERS = random_pairs(3, seed=5)
STEP = [OTHERS[0], *SIX_PAIRS[:3], OTHERS[1], *SIX_PAIRS[3:], OTHERS[2]]
ROW = len(PROMPT_TOKENS) + sum(len(answer) - 1 for answer in ANSWERS)


def pair_rows(engine: Engine) -> Engine:
    return replace(engine, shares=False)


def with_layout(engine: Engine, layout: str) -> Engine:
    name = "sdpa" if layout == "padded" else attention.NAME
    engine.policy.get_base_model().set_attn_implementation(name)
    return replace(engine, layout=layout)


def step_of(engine, pairs, loss, budget):
    record = accumulate_step(engine, pairs, loss, budget, torch.Tensor.backward)
    return record, take_gradients(POLICY)


def same_step(found, wanted):
    records = [
        {n: v for n, v in record.items() if n not in ("seconds", "peak_memory_bytes", "tokens")}
        for record, _ in (found, wanted)
    ]
    assert records[0].pop("forwards") < records[1].pop("forwards")
    assert found[0]["tokens"] < wanted[0]["tokens"]
    assert records[0] == pytest.approx(records[1], rel=1e-10, abs=1e-12)
    assert found[1].keys() == wanted[1].keys()
    assert all(relative_l2(found[1][n], wanted[1][n]) < 1e-10 for n in wanted[1])


@pytest.mark.parametrize(
    "case",
    [*({"method": method} for method in METHODS), {"nll_reduction": "pair", "nll_on": "answer"}],
    ids=str,
)
def test_every_method_gets_the_step_of_pair_rows(whole_float64, case):
    config = TrainConfig(**case)
    built = build_engine(POLICY, needs_of(config), STEP)
    loss = with_reference(loss_for(config), built, STEP)
    wanted = step_of(pair_rows(built), STEP, loss, 60)
    same_step(step_of(built, STEP, loss, 10_000), wanted)
    same_step(step_of(built, STEP[::-1], loss, ROW - 3), wanted)  # the group is split


@pytest.mark.parametrize("layout", LAYOUTS)
def test_single_responses_share_their_prompt_in_every_layout(whole_float64, layout):
    config = TrainConfig(method="kto")
    singles = [replace(SIX_PAIRS[0], rejected=()), replace(SIX_PAIRS[5], chosen=())]
    pairs = [*singles, *SIX_PAIRS[:3], *OTHERS]
    built = build_engine(POLICY, needs_of(config), pairs)
    loss = with_reference(loss_for(config), built, pairs)
    wanted = step_of(pair_rows(built), pairs, loss, 60)
    same_step(step_of(with_layout(built, layout), pairs[::-1], loss, 70), wanted)


def test_the_reference_and_the_drift_are_those_of_pair_rows(whole_float64):
    config = TrainConfig(method="dpo")
    built = build_engine(POLICY, needs_of(config), STEP)
    known, wanted = (
        with_reference(loss_for(config), engine, STEP).reference.known
        for engine in (built, pair_rows(built))
    )
    assert known.keys() == wanted.keys()
    assert all(known[pair] == pytest.approx(wanted[pair], rel=1e-12) for pair in wanted)
    drift = mean_kl(pair_rows(built), STEP, 60)
    assert mean_kl(built, STEP, 60) == pytest.approx(drift, rel=1e-12)
    assert mean_kl(built, STEP, ROW - 3) == pytest.approx(drift, rel=1e-12)


def test_a_prompt_and_each_distinct_response_are_sent_once():
    batch = lay_out(SIX_PAIRS, "shared", BOTH)
    assert batch.tokens == ROW
    assert len(batch.targets) == len(PROMPT_TOKENS) - 1 + sum(map(len, ANSWERS))
    first, *branches = batch.segments
    assert all((s.prefix_start, s.prefix_end) == (0, len(PROMPT_TOKENS)) for s in branches)
    assert first.end == len(PROMPT_TOKENS) + len(ANSWERS[0]) - 1
    assert batch.counts.tolist() == [
        [len(PROMPT_TOKENS) - 1, len(pair.chosen), len(pair.rejected)] for pair in SIX_PAIRS
    ]
    packed = lay_out(SIX_PAIRS, "packed", BOTH)
    assert packed.tokens == ROW + 3 * len(PROMPT_TOKENS)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("budget", [20, 40, 90])
def test_micro_steps_stay_within_the_budget(layout, budget):
    pairs = [*SIX_PAIRS, *random_pairs(9, seed=5)]
    steps = cut_into_micro_steps(pairs, layout, BOTH, budget)
    assert sorted(p.row for step in steps for p in step) == sorted(p.row for p in pairs)
    for step in steps:
        assert lay_out(step, layout, BOTH).tokens <= budget or len(step) == 1
    places = [number for number, step in enumerate(steps) for p in step if p in SIX_PAIRS]
    assert places == sorted(places)
    if layout == "shared" and budget > ROW:
        assert len(set(places)) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_longer_pairs_after_the_end_of_a_split_group_count_in_full(layout):
    answers = [tuple(range(3, 3 + length)) for length in (40, 38, 4, 5, 30, 31)]
    prompt, other = (3, 4, 5), (6, 7, 8)
    pairs = [
        TokenizedPair(prompt, answers[0], answers[1], 0),
        TokenizedPair(prompt, answers[2], answers[3], 1),
        TokenizedPair(other, answers[4], answers[5], 2),
    ]
    steps = cut_into_micro_steps(pairs, layout, BOTH, 100)
    assert sum(map(len, steps)) == len(pairs)
    assert all(lay_out(step, layout, BOTH).tokens <= 100 for step in steps)


def test_the_keys_of_many_branches_count_against_the_budget():
    """Every branch gathers the prompt's keys: 30 of them take more memory than their tokens."""
    prompt = tuple(range(3, 63))
    pairs = [TokenizedPair(prompt, (3 + n, 4), (40 + n, 5), n) for n in range(15)]
    tokens = lay_out(pairs, "shared", BOTH).tokens
    assert tokens == 60 + 30
    assert len(cut_into_micro_steps(pairs, "shared", BOTH, tokens)) > 1
    keys = 30 * 60 + 30
    assert len(cut_into_micro_steps(pairs, "shared", BOTH, tokens + keys // 8)) == 1


def test_the_units_of_a_step_are_the_pairs_of_each_prompt():
    assert [[p.row for p in unit] for unit in by_prompt(STEP)] == [
        [1],
        [10, 11, 12, 13, 14, 15],
        [2],
        [3],
    ]


def old_row(pairs, needs):
    """One row a pair, as it was before prompts were shared between pairs."""
    ids, positions, segments, sources, targets, slots = [], [], [], [], [], []

    def want(first, after, tokens, slot):
        places = [first, *range(after, after + len(tokens) - 1)]
        sources.extend(places[: len(tokens)])
        targets.extend(tokens)
        slots.extend([slot] * len(tokens))

    for index, pair in enumerate(pairs):
        start, prompt = len(ids), pair.prompt
        end = start + len(prompt)
        ids += [*prompt, *pair.chosen[:-1]]
        positions += range(len(prompt) + len(pair.chosen) - 1)
        segments.append(Segment(start, len(ids)))
        want(end - 1, end, pair.chosen, 3 * index + CHOSEN)
        if needs.prompt:
            want(start, start + 1, prompt[1:], 3 * index + PROMPT)
        if needs.rejected:
            branch = len(ids)
            ids += pair.rejected[:-1]
            positions += range(len(prompt), len(prompt) + len(pair.rejected) - 1)
            if len(ids) > branch:
                segments.append(Segment(branch, len(ids), start, end))
            want(end - 1, branch, pair.rejected, 3 * index + REJECTED)
    return ids, positions, tuple(segments), sources, targets, slots


def old_micro_steps(pairs, needs, budget):
    steps, filled = [], 0
    for pair in sorted(pairs, key=lambda pair: (-pair.longest, pair.row)):
        cost = cost_in_tokens(pair, "shared", needs)
        if not steps or filled + cost > budget:
            steps.append([])
            filled = 0
        steps[-1].append(pair)
        filled += cost
    return steps


@pytest.mark.parametrize("needs", [BOTH, Needs(False, True), Needs(True, False)], ids=str)
def test_without_repeated_prompts_every_row_is_as_before(needs):
    equal = TokenizedPair((90, 91, 92), (5, 6), (5, 6), 99)  # both are computed, as before
    pairs = [*random_pairs(30, seed=8), equal]
    pairs = list({pair.prompt: pair for pair in pairs}.values())
    for budget in (1, 50, 90, 10_000):
        steps = cut_into_micro_steps(pairs, "shared", needs, budget)
        assert steps == old_micro_steps(pairs, needs, budget)
        for step in steps:
            batch = lay_out(step, "shared", needs)
            found = (
                batch.input_ids[0].tolist(),
                batch.position_ids[0].tolist(),
                batch.segments,
                *(part.tolist() for part in (batch.sources, batch.targets, batch.slots)),
            )
            assert found == old_row(step, needs)
            assert batch.origins is None


def test_without_repeated_prompts_the_step_is_bit_for_bit_that_of_pair_rows():
    config = TrainConfig()
    built = build_engine(POLICY, BOTH, OTHERS)
    for layout in LAYOUTS:
        engine = with_layout(built, layout)
        found, wanted = (
            step_of(one, OTHERS, loss_for(config), 40) for one in (engine, pair_rows(engine))
        )
        clocks = {"seconds": 0, "peak_memory_bytes": 0}
        assert found[0] | clocks == wanted[0] | clocks
        assert all(torch.equal(found[1][name], wanted[1][name]) for name in wanted[1])


def test_with_dropout_every_pair_draws_for_itself():
    built = build_engine(make_policy("llama-tied", lora_dropout=0.1), BOTH, STEP)
    assert not built.shares
    assert built.units(STEP) == [[pair] for pair in STEP]
    assert built.tokens(SIX_PAIRS) == sum(cost_in_tokens(p, "shared", BOTH) for p in SIX_PAIRS)


def test_branches_that_see_each_other_are_caught_at_the_start(monkeypatch):
    """Right for the two responses of a pair, wrong for a third."""
    original = attention.segment_attention

    def joins_branches(*args, segments=None, **kwargs):
        joined: list[Segment] = []
        for segment in segments or ():
            if joined and segment.prefix_end and joined[-1].prefix_end:
                joined[-1] = replace(joined[-1], end=segment.end)
            else:
                joined.append(segment)
        return original(*args, segments=tuple(joined) or None, **kwargs)

    monkeypatch.setattr(attention, "segment_attention", joins_branches)
    policy = make_policy("llama-tied")
    assert build_engine(policy, BOTH, OTHERS).layout == "packed"
    monkeypatch.undo()
    attention.register()
