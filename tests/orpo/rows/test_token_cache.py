"""Kept token ids are those a fresh tokenisation gives, and only for what they were made of."""

import os
from dataclasses import replace

import pytest
from tiny import make_tiny_tokenizer

from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.errors import DataError
from orpo_qlora.orpo.rows import token_cache
from orpo_qlora.orpo.rows.token_cache import tokenize_once
from orpo_qlora.orpo.rows.tokens import tokenize_pairs

PAIRS = [
    PreferencePair("Hi?", "Hello 🙂", "No", 3),
    PreferencePair("And?", "So", "Or", 7, (Message("user", "One"), Message("assistant", "Two"))),
    PreferencePair("A" * 200, "long", "longer", 9),
]


@pytest.fixture
def counted(monkeypatch):
    calls = []
    to_tokens = token_cache.to_tokens

    def counting(tokenizer, pairs):
        calls.append(len(pairs))
        return to_tokens(tokenizer, pairs)

    monkeypatch.setattr(token_cache, "to_tokens", counting)
    return calls


@pytest.mark.parametrize("limit", [60, 10_000])
def test_kept_ids_equal_fresh_ones(tmp_path, counted, limit):
    tokenizer = make_tiny_tokenizer()
    wanted = tokenize_pairs(tokenizer, PAIRS, limit, "drop")
    assert tokenize_once(tmp_path, tokenizer, PAIRS, 10_000, "drop").pairs
    assert tokenize_once(tmp_path, tokenizer, PAIRS, limit, "drop") == wanted
    assert counted == [3]  # another length limit needs no new tokens


def test_anything_that_changes_the_ids_tokenizes_again(tmp_path, counted):
    tokenizer = make_tiny_tokenizer()
    tokenize_once(tmp_path, tokenizer, PAIRS, 999, "drop")
    tokenize_once(tmp_path, tokenizer, PAIRS[:2], 999, "drop")
    tokenize_once(tmp_path, tokenizer, [replace(PAIRS[1], earlier=()), PAIRS[0]], 999, "drop")
    tokenizer.chat_template = "Q:" + tokenizer.chat_template
    again = tokenize_once(tmp_path, tokenizer, PAIRS, 999, "drop")
    assert counted == [3, 2, 2, 3]
    assert again == tokenize_pairs(tokenizer, PAIRS, 999, "drop")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_made_again(tmp_path, counted, content):
    tokenizer = make_tiny_tokenizer()
    wanted = tokenize_once(tmp_path, tokenizer, PAIRS, 999, "drop")
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(content)
    assert tokenize_once(tmp_path, tokenizer, PAIRS, 999, "drop") == wanted
    assert counted == [3, 3]
    assert tokenize_once(tmp_path, tokenizer, PAIRS, 999, "drop") == wanted
    assert counted == [3, 3]


def test_a_folder_that_cannot_be_written_fails_no_run(tmp_path):
    tokenizer = make_tiny_tokenizer()
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    assert len(tokenize_once(blocked / "cache", tokenizer, PAIRS, 999, "drop").pairs) == 3


def test_only_the_newest_files_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "KEPT_FILES", 2)
    tokenizer = make_tiny_tokenizer()
    for row in range(4):
        tokenize_once(tmp_path, tokenizer, [replace(PAIRS[0], row=row)], 999, "drop")
        for age, file in enumerate(sorted(tmp_path.glob("*.npz"), key=os.path.getmtime)):
            os.utime(file, (row * 10 + age, row * 10 + age))
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_what_a_killed_writer_left_is_written_over(tmp_path):
    (tmp_path / token_cache.DRAFT).write_bytes(b"half")
    tokenize_once(tmp_path, make_tiny_tokenizer(), PAIRS, 999, "drop")
    assert not list(tmp_path.glob(".*"))


def test_no_pairs_are_no_file(tmp_path):
    assert tokenize_once(tmp_path, make_tiny_tokenizer(), [], 999, "drop").pairs == ()
    assert not list(tmp_path.iterdir())


def test_pairs_that_fit_are_not_reported(tmp_path):
    with pytest.raises(DataError, match="longer than 2 tokens"):
        tokenize_once(tmp_path, make_tiny_tokenizer(), PAIRS, 2, "drop")
