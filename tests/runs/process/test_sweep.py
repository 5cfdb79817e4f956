import pytest
from made_runs import PAIRS, REPORT, SPLIT, make_run

from orpo_qlora.config import build_config
from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.runs import store
from orpo_qlora.runs.intervals import wilson
from orpo_qlora.runs.process import launch, sweep
from orpo_qlora.runs.process import queue as run_queue


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    """Runs stay in the queue: what is tested is what was queued."""
    monkeypatch.setattr(launch, "_start_next", lambda: None)


def test_a_sweep_is_runs_that_differ_in_lambda_alone():
    config = build_config({"name": "mine", "lambda": 0.1, "max_steps": 3, "seed": 7})
    ids = sweep.start_sweep(config, (0.05, 0.1, 0.2), SPLIT, REPORT)
    runs = [store.read_run(store.paths_of(id_)) for id_ in ids]
    assert [run.config.lambda_ for run in runs] == [0.05, 0.1, 0.2]
    assert [run.title for run in runs] == ["mine λ = 0.05", "mine λ = 0.1", "mine λ = 0.2"]
    (tag,) = {run.label.tags for run in runs}
    assert tag[0].startswith("λ-sweep-")
    others = [run.config.model_copy(update={"lambda_": 0, "name": ""}) for run in runs]
    assert others[0] == others[1] == others[2]
    assert {store.held_out_pairs(run.paths) for run in runs} == {PAIRS[15:]}
    assert [run.id for run in run_queue.queued_runs()] == ids


def test_a_sweep_from_a_run_has_its_pairs_and_counts_it_in():
    paths = make_run(name="mine", accuracy=0.5, tags=("night",), **{"lambda": 0.1})
    first, *rest = sweep.sweep_from(store.read_run(paths), (0.05, 0.1, 0.2))
    assert first == paths.id
    runs = [store.read_run(store.paths_of(id_)) for id_ in rest]
    assert [run.config.lambda_ for run in runs] == [0.05, 0.2]
    assert [run.state.status for run in runs] == ["queued", "queued"]
    assert {store.training_pairs(run.paths) for run in runs} == {PAIRS[:15]}
    tags = store.read_run(paths).label.tags
    assert tags[0] == "night"
    assert {run.label.tags for run in runs} == {tags[1:]}
    # More values later join the same sweep.
    _, more, *before = sweep.sweep_from(store.read_run(paths), (1.0,))
    assert before == rest
    assert store.read_run(store.paths_of(more)).label.tags == tags[1:]
    assert store.read_run(store.paths_of(more)).title == "mine λ = 1"


def test_a_sweep_ordered_twice_is_one():
    paths = make_run(**{"lambda": 0.1})
    twice = [sweep.sweep_from(store.read_run(paths), (0.2, 0.3)) for _ in range(2)]
    assert twice[0] == twice[1]
    config = build_config({})
    ordered = [sweep.start_sweep(config, (0.5, 1), SPLIT, REPORT, "abcdef12") for _ in range(2)]
    assert ordered[0] == ordered[1]
    assert len(store.list_runs()) == 3 + 2


def test_a_sweep_needs_another_value():
    paths = make_run(**{"lambda": 0.1})
    with pytest.raises(InputError, match=r"λ = 0\.1 already"):
        sweep.sweep_from(store.read_run(paths), (0.1,))
    assert len(store.list_runs()) == 1


@pytest.mark.parametrize(
    ("text", "values"),
    [("0.05, 0.1, 0.5", (0.05, 0.1, 0.5)), ("1 0.5;0.5", (0.5, 1.0)), ("0", (0.0,))],
)
def test_values_are_read_as_typed(text, values):
    assert sweep.parse_values(text) == values


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", InputError, "1 to 5"),
        ("0.1 0.2 0.3 0.4 0.5 0.6", InputError, "these are 6"),
        ("0.1, 3", ConfigError, "less than or equal to 2"),
        ("0.1, much", ConfigError, "much"),
        ("nan", ConfigError, "finite"),
    ],
)
def test_wrong_values_are_told(text, error, words):
    with pytest.raises(error, match=words):
        sweep.parse_values(text)


@pytest.mark.parametrize(
    ("lambda_", "values"),
    [(0.1, (0.05, 0.1, 0.2)), (0.0, (0.05, 0.1, 0.5)), (2.0, (1.0, 2.0)), (1.5, (0.75, 1.5, 2.0))],
)
def test_values_around_one_are_offered(lambda_, values):
    assert sweep.offered_values(lambda_) == values


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [
        # Worked by hand: z² = 3.8415; 8 of 10: middle (0.8 + 0.19207) / 1.38415 = 0.71674,
        # half 1.95996 · √(0.016 + 0.0096037) / 1.38415 = 0.22657.
        (0.8, 10, 0.49016, 0.94331),
        # Newcombe (1998), table I: 81 of 263, and 0 of 20.
        (81 / 263, 263, 0.2553, 0.3662),
        (0.0, 20, 0.0, 0.1611),
        (1.0, 5, 0.56552, 1.0),
        (0.5, 0, 0.0, 1.0),
    ],
)
def test_interval_of_a_share(share, count, low, high):
    found = wilson(share, count)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)
