import pytest

from orpo_qlora.config import build_config
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences, split_pairs
from orpo_qlora.runs import store
from orpo_qlora.runs.state import RunState
from orpo_qlora.ui.runs.samples_view import awaited_sentence, samples_table, step_choices

SAMPLES = [
    {"step": 0, "prompt": "a", "answer": "first", "when": "start"},
    {"step": 0, "prompt": "b", "answer": "only", "when": "start"},
    {"step": 5, "prompt": "a", "answer": "middle", "when": "evaluation"},
    {"step": 9, "prompt": "a", "answer": "newest", "when": "end"},
    {"step": 9, "prompt": "b", "answer": "only", "when": "end"},
]


def test_the_latest_answers_stand_beside_the_base_models():
    table = samples_table(SAMPLES, "later")
    assert "first" in table
    assert "newest" in table
    assert "After step 9" in table
    assert "middle" not in table
    assert table.count("the same as the base model") == 1


def test_earlier_answers_can_be_chosen():
    assert step_choices(SAMPLES) == [
        ("the latest", "latest"),
        ("after step 9", "9"),
        ("after step 5", "5"),
    ]
    table = samples_table(SAMPLES, "later", 5)
    assert "middle" in table
    assert "newest" not in table
    assert "No answer of this step." in table


def test_a_step_of_another_run_shows_the_latest():
    assert "After step 9" in samples_table(SAMPLES, "later", 77)


def test_expected_answers_have_a_placeholder():
    table = samples_table(SAMPLES[:2], "Comes <soon>.")
    assert table.count("Comes &lt;soon&gt;.") == 2
    assert "No answers yet" in samples_table([], "later")


def run_of(held_out, state, **settings):
    dataset = load_preferences(example_path("short_answers"))
    split = split_pairs(dataset.pairs, held_out, 1)
    paths = store.create_run(build_config(settings), split, dataset.report)
    store.write_state(paths, state)
    return store.read_run(paths)


@pytest.mark.parametrize(
    ("held_out", "total", "every", "sentence"),
    [
        (0.2, 40, 0, "Comes with the first evaluation, after step 10."),
        (0.2, 40, 7, "Comes with the first evaluation, after step 7."),
        (0.2, 40, 50, "Comes at the end of the run, after step 40."),
        (0.2, 0, 0, "Comes with the first evaluation."),
        (0, 40, 7, "after step 40: without held-out pairs nothing is measured before."),
    ],
)
def test_the_time_of_the_next_answers_is_right(held_out, total, every, sentence):
    # Queued, so that it is active without a worker.
    run = run_of(held_out, RunState(total_steps=total), eval_every=every)
    assert awaited_sentence(run).endswith(sentence)


def test_a_run_that_is_over_promises_nothing():
    run = run_of(0.2, RunState(status="stopped", total_steps=40))
    assert awaited_sentence(run) == "The run ended before the prompts were answered again."
