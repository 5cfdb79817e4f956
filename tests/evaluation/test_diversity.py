"""Diversity against naive loops and values worked out by hand; embedders without a network."""

from itertools import combinations

import numpy as np
import pytest

from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import diversity, embeddings, statistics
from orpo_qlora.evaluation.answers.kept import Answer
from orpo_qlora.evaluation.answers.prompts import Prompt, PromptSet
from orpo_qlora.evaluation.embedding_models import load_embedder
from orpo_qlora.evaluation.suite.diversity_part import answered_texts, diversity_figures

ROWS = embeddings.normalised(np.random.default_rng(1).normal(size=(7, 5)))


def naive_similarity(rows):
    """Eq. 14 of 2403.07691 as a loop over pairs, as a mean."""
    pairs = list(combinations(rows, 2))
    return sum(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for a, b in pairs) / len(pairs)


def test_similarity_is_that_of_a_naive_loop():
    assert diversity.mean_similarity(ROWS) == pytest.approx(naive_similarity(ROWS), abs=1e-12)
    groups = [ROWS[:3], ROWS[3:]]
    wanted = [naive_similarity(group) for group in groups]
    assert diversity.per_input(groups) == pytest.approx(wanted, abs=1e-12)


def test_equal_answers_have_similarity_1_and_opposite_ones_minus_1():
    assert diversity.mean_similarity(np.tile(ROWS[:1], (5, 1))) == pytest.approx(1)
    assert diversity.mean_similarity(np.stack([ROWS[0], -ROWS[0]])) == pytest.approx(-1)


def test_the_bootstrap_across_inputs_never_compares_a_prompt_with_itself(monkeypatch):
    found = diversity.across_similarity(ROWS)
    assert found.value == pytest.approx(naive_similarity(ROWS))
    assert found.low < found.value < found.high
    # One resample, by a loop: each different pair as often as both were drawn.
    monkeypatch.setattr(statistics, "RESAMPLES", 1)
    count = len(ROWS)
    (drawn,) = np.random.default_rng(statistics.SEED).multinomial(
        count, np.full(count, 1 / count), size=1
    )
    pairs = [(drawn[i] * drawn[j], ROWS[i] @ ROWS[j]) for i, j in combinations(range(count), 2)]
    wanted = sum(w * cosine for w, cosine in pairs) / sum(w for w, _ in pairs)
    assert diversity.across_similarity(ROWS).low == pytest.approx(wanted)


def test_distinct_counts_ngrams_of_all_answers_together():
    # the cat / the dog: 3 of 4 words, 2 of 2 bigrams differ.
    assert diversity.distinct(["The cat", "the dog"], 1) == 3 / 4
    assert diversity.distinct(["The cat", "the dog"], 2) == 1
    assert diversity.distinct(["a"], 2) == 0


def test_bleu_of_a_sentence_worked_out_by_hand():
    """Candidate a b c d e against a b c x e: 4/5 · 2/4 · 1/3 · 0.1/2 as no 4-gram matches."""
    wanted = (4 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** (1 / 4)
    assert diversity.bleu(list("abcde"), [list("abcxe")]) == pytest.approx(wanted)
    # Half as long as its nearest reference: the penalty is exp(1 − 4/2).
    assert diversity.bleu(list("ab"), [list("abcd")]) == pytest.approx(np.exp(-1))


def test_self_bleu_is_1_for_equal_answers_and_low_for_different_ones():
    assert diversity.self_bleu(["a b c d e"] * 3) == pytest.approx(1)
    assert diversity.self_bleu(["a b c d e", "f g h i j"]) < 0.1


def prompt_set(count, categories=("",)):
    from orpo_qlora.data.messages import Message

    return PromptSet(
        name="made",
        prompts=tuple(
            Prompt(
                id=str(i),
                opening=(Message("user", f"q{i}"),),
                category=categories[i % len(categories)],
            )
            for i in range(count)
        ),
    )


def answers_to(prompts, text):
    return {
        (prompt.key, sample): Answer(
            prompt=prompt.key, sample=sample, texts=(text(i, sample),), tokens=(1,), ended=(True,)
        )
        for i, prompt in enumerate(prompts.prompts)
        for sample in range(3)
    }


def letters(texts):
    """An embedder: counts of five letters."""
    assert all(text.strip() for text in texts)
    return embeddings.normalised(
        np.array([[1 + text.count(letter) for letter in "abcde"] for text in texts], dtype=float)
    )


def test_empty_answers_are_left_out_and_categories_are_apart():
    prompts = prompt_set(6, ("math", "writing"))
    same = answers_to(prompts, lambda i, s: "abc" if i % 2 == 0 else "abcde"[s : s + 2])
    same[prompts.prompts[0].key, 1] = same[prompts.prompts[0].key, 1].model_copy(
        update={"texts": ("  ",)}
    )
    texts = answered_texts(prompts, same, 3)
    assert [len(found) for found in texts.values()] == [2, 3, 3, 3, 3, 3]
    figures = diversity_figures("run", prompts, texts, letters)
    by = {(one.measure, one.category): one.interval.value for one in figures}
    assert by["per_input", "math"] == pytest.approx(1)
    assert by["per_input", "writing"] < 0.99
    assert by["self_bleu", "math"] > by["self_bleu", "writing"]
    assert by["across_input", "math"] == pytest.approx(1)


def test_one_answer_a_prompt_has_only_the_similarity_across_inputs():
    prompts = prompt_set(3)
    texts = answered_texts(prompts, answers_to(prompts, lambda i, s: "ab"), 1)
    figures = diversity_figures("run", prompts, texts, letters)
    assert [one.measure for one in figures] == ["across_input"]


def test_a_missing_embedder_names_the_package(monkeypatch):
    monkeypatch.setattr(embeddings, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="wordllama") as caught:
        embeddings.check_embedder("wordllama")
    assert "orpo-qlora[eval]" in caught.value.hint


def test_wordllama_embeds_offline():
    embed = load_embedder("wordllama")
    rows = embed(["A cat sat on the mat.", "The cat sat on a mat.", "Interest rates fell."])
    assert rows.shape == (3, 256)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1)
    assert rows[0] @ rows[1] > 0.8 > rows[0] @ rows[2]


def test_a_model_by_folder_embeds_each_text_as_if_alone(tiny_model):
    embed = load_embedder(str(tiny_model))
    both = embed(["hello", "what is gravity, and why does it pull?"])
    assert both[0] == pytest.approx(embed(["hello"])[0], abs=1e-5)
    assert np.linalg.norm(both, axis=1) == pytest.approx(1)
