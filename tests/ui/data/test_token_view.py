"""The colours of a pair: which token counts for which part of the loss."""

import re

import pytest

from orpo_qlora.config import build_config
from orpo_qlora.jobs.token_counts import PairTokens, Token
from orpo_qlora.ui.data.token_view import TOKENS_SHOWN, draw_tokens, visible_text


def tokens(*texts, first=100):
    return tuple(Token(id=first + index, text=text) for index, text in enumerate(texts))


PAIR = PairTokens(
    row=7,
    prompt=tokens("<s>", "why", " is", " it", "\n"),
    chosen=tokens("so", " it", " is"),
    rejected=tokens("so", " what", first=200),
)


def roles(drawn):
    """Return the role of every token, part by part."""
    parts = re.findall(r'<div class="tokens".*?</div>', drawn, re.DOTALL)
    return [re.findall(r'class="token token-(\w+)', part) for part in parts]


@pytest.mark.parametrize(
    ("settings", "prompt", "chosen", "rejected"),
    [
        ({}, ["read", *["nll"] * 4], ["both"] * 3, ["odds"] * 2),
        ({"nll_on": "answer"}, ["read"] * 5, ["both"] * 3, ["odds"] * 2),
        ({"lambda": 0}, ["read", *["nll"] * 4], ["nll"] * 3, ["read"] * 2),
    ],
)
def test_role_of_a_token_follows_the_objective(settings, prompt, chosen, rejected):
    assert roles(draw_tokens(PAIR, build_config(settings))) == [prompt, chosen, rejected]


LONG = PairTokens(
    row=7,
    prompt=tokens(*"abcdefghij"),
    chosen=tokens(*"klmnopqrst"),
    rejected=tokens(*"kuvwxyz", first=200),
)


@pytest.mark.parametrize(
    ("policy", "prompt", "chosen", "rejected", "words"),
    [
        ("drop", ["cut"] * 10, ["cut"] * 10, ["cut"] * 7, "is dropped"),
        ("cut_prompt", ["cut"] * 4 + ["read"] + ["nll"] * 5, ["both"] * 10, ["odds"] * 7, "is cut"),
        (
            "cut_answers",
            ["read"] + ["nll"] * 9,
            ["both"] * 6 + ["cut"] * 4,
            ["odds"] * 6 + ["cut"],
            "is cut",
        ),
    ],
)
def test_what_the_length_policy_cuts_is_shown_cut(policy, prompt, chosen, rejected, words):
    config = build_config({"max_length": 16, "over_length": policy})
    drawn = draw_tokens(LONG, config)
    assert roles(drawn) == [prompt, chosen, rejected]
    assert words in drawn


def test_text_of_a_file_stays_text():
    pair = PairTokens(row=1, prompt=tokens("<img src=x>"), chosen=tokens("a"), rejected=tokens("b"))
    drawn = draw_tokens(pair, build_config({}))
    assert "&lt;img src=x&gt;" in drawn
    assert "<img" not in drawn


def test_every_token_has_its_id_and_one_per_part_is_in_the_tab_order():
    drawn = draw_tokens(PAIR, build_config({}))
    assert 'title="id 102 · 3 of 5 · nll only"' in drawn
    assert drawn.count('tabindex="0"') == 3
    assert drawn.count('tabindex="-1"') == 7


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "·"),
        (" fox", " fox"),
        (".\n\n", ".↵↵\n\n"),
        ("\n  x", "↵\n  x"),
        ("\u202eevil\u200b", "⟨U+202E⟩evil⟨U+200B⟩"),
        ("\x00", "⟨U+0000⟩"),
        ("東京 🙂", "東京 🙂"),
    ],
)
def test_every_token_can_be_seen(text, shown):
    assert visible_text(text) == shown


def test_middle_of_a_huge_part_is_left_out_and_counted():
    many = tokens(*["x"] * (TOKENS_SHOWN + 5))
    pair = PairTokens(row=1, prompt=many, chosen=tokens("a"), rejected=tokens("b"))
    drawn = draw_tokens(pair, build_config({"max_length": 100_000}))
    assert len(roles(drawn)[0]) == TOKENS_SHOWN
    assert "5 tokens" in drawn
