"""The pairs of each step: an order that depends on seed and epoch alone."""

import random
from collections import Counter

import pytest

from orpo_qlora.config import TrainConfig
from orpo_qlora.orpo.rows.batches import epoch_order, training_batches
from orpo_qlora.orpo.rows.tokens import TokenizedPair


def steps_of(prompts, per_step, epoch=0, seed=7, grouped=True):
    order = epoch_order(prompts, per_step, seed, epoch, group_by_prompt=grouped)
    return [order[at : at + per_step] for at in range(0, len(order), per_step)]


def rows_of(prompts, steps):
    """How many rows the steps have: prompts, once in each step."""
    return sum(len({prompts[index] for index in step}) for step in steps)


def test_pairs_of_a_prompt_are_in_one_step():
    prompts = [number % 20 for number in range(120)]  # six pairs of each
    steps = steps_of(prompts, 12)
    assert sorted(index for step in steps for index in step) == list(range(120))
    assert rows_of(prompts, steps) == 20
    assert rows_of(prompts, steps_of(prompts, 12, grouped=False)) > 60


def test_steps_are_full_where_groups_do_not_fit():
    prompts = [number // 6 for number in range(62)]
    steps = steps_of(prompts, 8)
    assert [len(step) for step in steps] == [8] * 7 + [6]
    assert sorted(index for step in steps for index in step) == list(range(62))
    assert rows_of(prompts, steps) <= 2 * len(steps) + 1


def test_single_prompts_fill_the_gaps():
    prompts = [*(number // 6 for number in range(60)), *range(100, 120)]
    steps = steps_of(prompts, 8)
    assert rows_of(prompts, steps) == 10 + 20  # no group is split


def test_odd_groups_do_not_split_the_others():
    prompts = [number // 6 for number in range(60)] + ["a"] * 5 + ["b"] * 5 + ["c", "d"]
    for epoch in range(5):
        assert rows_of(prompts, steps_of(prompts, 12, epoch=epoch)) == 14


def test_a_group_larger_than_a_step_is_split():
    prompts = ["a"] * 21 + ["b", "c", "d"]
    steps = steps_of(prompts, 8)
    assert [len(step) for step in steps] == [8, 8, 8]
    assert rows_of(prompts, steps) == 3 + 3


def test_it_depends_on_seed_and_epoch_alone():
    prompts = [number // 3 for number in range(60)]
    first = steps_of(prompts, 6)
    assert steps_of(prompts, 6) == first
    assert steps_of(prompts, 6, epoch=1) != first
    assert steps_of(prompts, 6, seed=8) != first


@pytest.mark.parametrize("grouped", [False, True])
def test_without_repeated_prompts_the_order_is_that_of_a_plain_shuffle(grouped):
    wanted = list(range(30))
    random.Random("7-2").shuffle(wanted)
    steps = steps_of(range(30), 4, epoch=2, grouped=grouped)
    assert [index for step in steps for index in step] == wanted


def test_many_sizes_keep_every_pair_once():
    source = random.Random(1)
    prompts = [source.randrange(40) for _ in range(301)]
    for per_step in (1, 2, 7, 64, 500):
        steps = steps_of(prompts, per_step)
        assert Counter(index for step in steps for index in step) == Counter(range(301))


def test_a_resumed_epoch_continues_after_its_last_step():
    pairs = [TokenizedPair((row // 4,), (row,), (99,), row) for row in range(22)]
    config = TrainConfig(pairs_per_step=4, group_by_prompt=True)
    whole = list(training_batches(pairs, config, lambda: 6))  # the second epoch of six steps
    assert [len(step) for step in whole] == [4, 4, 4, 4, 4, 2]
    assert sum(len({pair.prompt for pair in step}) for step in whole) == 6
    for taken in (7, 10):
        assert list(training_batches(pairs, config, lambda at=taken: at)) == whole[taken - 6 :]
