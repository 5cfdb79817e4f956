"""Agreement, controls and wins, worked out by hand."""

import numpy as np
import pytest

from orpo_qlora.charts.rewards import draw_rewards
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.evaluation import statistics
from orpo_qlora.evaluation.reward import verdicts
from orpo_qlora.evaluation.reward.verdicts import Example, LengthRule, RewardModelCheck
from orpo_qlora.runs.curves.intervals import Interval, wilson


def pair(row, prompt, chosen, rejected):
    return PreferencePair(prompt, chosen, rejected, row)


def check(agreement, length, topic, *, trained=True):
    return RewardModelCheck(
        reward_model="the model",
        is_trained_here=trained,
        pairs=30,
        agreement=agreement,
        length_rule=LengthRule(prefers_shorter=True, agreement=length),
        topic=topic,
    )


def test_outcomes_are_antisymmetric_and_equal_answers_tie():
    ours, theirs = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 1.0])
    assert verdicts.outcomes(ours, theirs).tolist() == [0, 0.5, 1]
    assert (verdicts.outcomes(ours, theirs) + verdicts.outcomes(theirs, ours) == 1).all()


def test_a_win_rate_has_the_bootstrap_s_interval_and_wilson_s_at_the_ends():
    prompts = np.arange(40)
    some = np.array([1.0] * 25 + [0.5] * 5 + [0.0] * 10)
    found = statistics.win_interval(some, prompts)
    assert found.value == pytest.approx(27.5 / 40)
    assert found.low < 27.5 / 40 < found.high < 0.85
    assert statistics.win_interval(np.ones(40), prompts).low == pytest.approx(
        wilson(1.0, 40).low, abs=1e-12
    )
    ties = statistics.win_interval(np.full(40, 0.5), prompts)
    assert ties.value == 0.5
    assert 0.4 < ties.low < 0.5 < ties.high < 0.6


def test_the_length_rule_takes_its_direction_from_the_training_pairs():
    training = [pair(1, "a", "short", "much longer"), pair(2, "b", "long enough", "no")]
    held_out = [pair(3, "c", "x", "xx"), pair(4, "d", "xxx", "x"), pair(5, "e", "xx", "yy")]
    rule = verdicts.length_rule([*training, training[0]], held_out, np.arange(3))
    assert rule.prefers_shorter
    assert rule.agreement.value == pytest.approx((1 + 0 + 0.5) / 3)
    other = verdicts.length_rule([training[1]], held_out, np.arange(3))
    assert not other.prefers_shorter
    assert other.agreement.value == pytest.approx(0.5)


def test_a_wrong_topic_is_another_prompt_s_response():
    pairs = [pair(i, f"q{i // 2}", f"a{i}", "b") for i in range(8)]
    places = verdicts.wrong_topics(pairs)
    assert [at for at, _ in places] == [0, 2, 4, 6]
    assert all(pairs[at].prompt != pairs[other].prompt for at, other in places)
    assert verdicts.wrong_topics(pairs[:2]) == []


def test_a_reward_model_near_chance_is_refused_only_if_it_was_trained_here():
    chance, good = Interval(0.55, 0.42, 0.66), Interval(1.0, 0.89, 1.0)
    assert check(chance, chance, None).is_refused
    assert not check(chance, chance, None, trained=False).is_refused
    assert not check(good, chance, None).is_refused
    assert any("is not used" in one for one in check(chance, chance, None).sentences())


def test_a_check_of_an_older_evaluation_is_read():
    now = check(Interval(1.0, 0.89, 1.0), Interval(0.5, 0.3, 0.7), None)
    older = now.model_dump()
    older["judge"] = older.pop("reward_model")
    assert RewardModelCheck.model_validate(older) == now


def test_the_sentences_say_which_control_explains_the_reward_model():
    good, weak = Interval(1.0, 0.89, 1.0), Interval(0.6, 0.45, 0.75)
    explained = " ".join(check(good, good, weak).sentences())
    assert "Agreement with your pairs, not quality" in explained
    assert "Length alone could explain every decision" in explained
    assert "an answer off the topic would win as easily" in explained
    clear = " ".join(check(good, weak, good).sentences())
    assert "Length alone does not explain" in clear
    assert "off the topic" not in clear


def test_the_clearest_wins_and_losses_come_first():
    examples = [
        Example(system="a", opponent="b", prompt=str(d), answer="", other="", difference=d)
        for d in (0.0, 3.0, -1.0, 1.0, -5.0)
    ]
    wins, losses = verdicts.clearest(examples)
    assert [one.difference for one in wins] == [3.0, 1.0]
    assert [one.difference for one in losses] == [-5.0, -1.0]


def test_length_wins_follow_the_rule():
    lengths = {"a": np.array([3.0, 9.0]), "b": np.array([5.0, 9.0])}
    rule = LengthRule(prefers_shorter=True, agreement=Interval(1, 1, 1))
    assert verdicts.length_wins(lengths, "a", "b", rule).tolist() == [1, 0.5]
    assert verdicts.length_wins(lengths, "b", "a", rule).tolist() == [0, 0.5]


def test_the_picture_has_a_series_a_model_and_escapes_names():
    shown = draw_rewards({"base": [0.1, 0.2, -1.0], "<run>": [0.5, 2.0, 1.0]})
    assert "&lt;run&gt;: median +1" in shown
    assert "<run>" not in shown
    assert 'data-histogram="rewards"' in shown
    draw_rewards({"base": [1.0]})
