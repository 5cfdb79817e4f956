"""Pairs keep their texts, are split by prompt and survive the disk."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_qlora.data.pairs import (
    PROMPTS_TO_SPLIT,
    Message,
    PreferencePair,
    load_preferences,
    read_pairs,
    split_pairs,
    write_pairs,
)
from orpo_qlora.errors import DataError

HEADER = "prompt,chosen,rejected"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TURNS = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXTS)
PAIRS = st.builds(
    PreferencePair,
    TEXTS,
    TEXTS,
    TEXTS,
    st.integers(1, 2**40),
    st.lists(TURNS, max_size=3).map(tuple),
)
# Few distinct prompts among many pairs, some apart by whitespace only.
GROUPED = st.lists(
    st.builds(
        PreferencePair,
        st.sampled_from([*"abcdefghi", " a", "b\n"]),
        TEXTS,
        TEXTS,
        st.integers(1, 10**6),
    ),
    max_size=40,
)
SHARES = st.floats(0, 1, allow_nan=False)
SEEDS = st.integers(0, 2**31 - 1)


def numbered(count, per_prompt=1):
    return [
        PreferencePair(f"prompt {index // per_prompt}", "good", "bad", index + 1)
        for index in range(count)
    ]


def write(tmp_path, text):
    path = tmp_path / "pairs.csv"
    path.write_bytes(text.encode())
    return path


def test_pairs_keep_their_texts_and_their_row_in_the_file(tmp_path):
    path = write(
        tmp_path,
        f'id,{HEADER}\n1," a ","b\nc",d\n\n2,x,,y\n3,e,f,\u2028g\n',
    )
    dataset = load_preferences(path, "mine.csv")
    assert dataset.pairs == (
        PreferencePair(" a ", "b\nc", "d", row=1),
        PreferencePair("e", "f", "\u2028g", row=3),
    )
    report = dataset.report
    assert (report.source, report.rows_read, report.pairs) == ("mine.csv", 3, 2)
    assert report.rows_read == report.pairs + report.rows_dropped
    assert report.ignored_columns == ("id",)
    assert len(report.sha256) == 64


def test_columns_may_stand_in_any_order(tmp_path):
    path = write(tmp_path, "REJECTED;Chosen; prompt\nbad;good;why\n")
    assert load_preferences(path).pairs == (PreferencePair("why", "good", "bad", 1),)


def test_file_without_a_usable_pair_is_refused_with_its_counts(tmp_path):
    path = write(tmp_path, f"{HEADER}\na,b,b\na,,c\n,b,c\na,b,b\n")
    with pytest.raises(DataError) as caught:
        load_preferences(path)
    assert caught.value.message == (
        "pairs.csv has 4 rows and no usable pair: the prompt is empty in 1, "
        "the chosen response is empty in 1, chosen and rejected are the same in 2."
    )
    assert caught.value.hint


def test_missing_column_names_the_file(tmp_path):
    with pytest.raises(DataError, match=r"^mine\.csv has no column “rejected”"):
        load_preferences(write(tmp_path, "prompt,chosen\na,b\n"), "mine.csv")


@given(pairs=GROUPED, held_out=SHARES, seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_split_is_a_partition_by_prompt(pairs, held_out, seed):
    split = split_pairs(pairs, held_out, seed)
    assert Counter([*split.train, *split.held_out]) == Counter(pairs)
    train_prompts = {pair.prompt.strip() for pair in split.train}
    held_out_prompts = {pair.prompt.strip() for pair in split.held_out}
    assert not train_prompts & held_out_prompts
    assert bool(split.train) == bool(pairs)
    prompts = len(train_prompts | held_out_prompts)
    assert bool(split.held_out) == (held_out > 0 and prompts >= PROMPTS_TO_SPLIT)
    assert split == split_pairs(pairs, held_out, seed)


@given(pairs=GROUPED, held_out=SHARES, seed=SEEDS)
@settings(deadline=None)
def test_both_sides_keep_the_order_of_the_file(pairs, held_out, seed):
    pairs = [
        PreferencePair(pair.prompt, pair.chosen, pair.rejected, row)
        for row, pair in enumerate(pairs, start=1)
    ]
    split = split_pairs(pairs, held_out, seed)
    for side in (split.train, split.held_out):
        assert [pair.row for pair in side] == sorted(pair.row for pair in side)


@pytest.mark.parametrize(
    ("count", "per_prompt", "held_out", "expected"),
    [
        (100, 1, 0.1, 10),
        (100, 1, 0.25, 25),
        (100, 4, 0.1, 8),  # groups of four; a third one would overshoot ten
        (100, 1, 0.0, 0),
        (100, 1, 0.001, 1),  # never nothing when a share was asked for
        (5, 1, 0.1, 1),
        (4, 1, 0.5, 0),  # too few prompts to give one away
        (40, 10, 0.5, 0),
        (10, 1, 1.0, 9),  # training keeps one
    ],
)
def test_held_out_share_is_met_from_below(count, per_prompt, held_out, expected):
    split = split_pairs(numbered(count, per_prompt), held_out, seed=42)
    assert (len(split.train), len(split.held_out)) == (count - expected, expected)


@pytest.mark.parametrize("seed", range(10))
def test_prompt_with_most_of_the_pairs_stays_in_training(seed):
    pairs = numbered(10) + [PreferencePair("big", "good", "bad", 11 + i) for i in range(90)]
    split = split_pairs(pairs, 0.1, seed)
    assert len(split.held_out) in {9, 10}
    assert "big" not in {pair.prompt for pair in split.held_out}


@pytest.mark.parametrize("seed", range(10))
def test_smallest_prompt_is_held_out_when_none_fits_the_share(seed):
    pairs = numbered(40, per_prompt=10)
    pairs += [PreferencePair("small", "good", "bad", 41 + i) for i in range(3)]
    assert {pair.prompt for pair in split_pairs(pairs, 0.01, seed).held_out} == {"small"}


def test_split_is_random_in_the_prompts_and_decided_by_the_seed():
    pairs = numbered(200)
    held_out = [frozenset(split_pairs(pairs, 0.1, seed).held_out) for seed in range(20)]
    assert len(set(held_out)) == 20
    # Twenty draws of one tenth leave (0.9 ** 20) about an eighth of the prompts never drawn.
    assert len(frozenset.union(*held_out)) > 150


def test_split_of_a_seed_never_changes_between_releases():
    split = split_pairs(numbered(20), 0.2, seed=42)
    assert [pair.row for pair in split.held_out] == [5, 6, 10, 15]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "pairs.jsonl"


@given(st.lists(PAIRS, max_size=6))
@settings(deadline=None, max_examples=60)
def test_pairs_written_are_read_back(scratch, pairs):
    write_pairs(scratch, pairs)
    assert read_pairs(scratch) == tuple(pairs)


def test_same_words_after_other_turns_are_another_prompt():
    pairs = [
        PreferencePair("go on", "good", "bad", 2 * i + j, (Message("user", f"story {i}"),))
        for i in range(10)
        for j in (1, 2)
    ]
    split = split_pairs(pairs, 0.2, seed=1)
    assert len(split.held_out) == 4
    train = {pair.earlier for pair in split.train}
    assert not train & {pair.earlier for pair in split.held_out}


def test_pairs_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt":"a","chosen":"b","rejected":"c","row":1}\n')
    assert read_pairs(path) == (PreferencePair("a", "b", "c", 1),)


def test_every_kind_of_line_break_stays_inside_its_pair(tmp_path):
    pair = PreferencePair("a\r\nb\rc\nd", "e\u2028f\u2029g\x85h", "\x0b\x0c\x1c\0", 7)
    write_pairs(tmp_path / "pairs.jsonl", [pair, pair])
    assert read_pairs(tmp_path / "pairs.jsonl") == (pair, pair)
    assert (tmp_path / "pairs.jsonl").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    "damage",
    [
        b'{"prompt": "a"',
        b"\n",
        b"[]\n",
        b'{"prompt":1,"chosen":"b","rejected":"c","row":1}\n',
        b'{"prompt":"a","chosen":"b","rejected":"c","row":"1"}\n',
        b"\xff",
    ],
)
def test_damaged_pair_file_names_its_line(tmp_path, damage):
    path = tmp_path / "train.jsonl"
    write_pairs(path, numbered(2))
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(DataError, match=r"Line 3 of train\.jsonl is damaged"):
        read_pairs(path)


def test_missing_pair_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train\.jsonl cannot be opened"):
        read_pairs(tmp_path / "train.jsonl")
