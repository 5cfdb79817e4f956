import json
import math

import pytest

from orpo_qlora import storage
from orpo_qlora.runs.curves import metrics
from orpo_qlora.runs.curves.metrics import MetricsTail, as_json, shared_tail


def write_steps(path, first, last, mode="a"):
    with path.open(mode) as file:
        file.writelines(
            json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(first, last + 1)
        )


def test_a_long_file_is_read_in_pieces_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "PIECE_BYTES", 200)
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 100)
    tail = MetricsTail(path)
    assert tail.refresh()
    assert tail.count == 100
    assert not tail.refresh()
    with path.open("a") as file:
        file.write('{"step": 100, "eval/loss": 0.5}\n')
    before = tail.snapshot()
    assert tail.refresh()
    assert tail.series("loss") == [(step, 1 / step) for step in range(1, 101)]
    assert tail.series("loss", held_out=True) == [(100, 0.5)]
    assert before.series("loss", held_out=True) == []


def test_a_read_out_of_time_reads_a_part_and_the_next_continues(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "PIECE_BYTES", 500)
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 200)
    tail = MetricsTail(path)
    shares = []
    while tail.refresh(most_seconds=0.0):
        shares.append(tail.snapshot().share_read)
    assert len(shares) > 10
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.2
    assert tail.snapshot().share_read == 1.0
    assert tail.count == 200


def test_nothing_is_opened_while_nothing_changes(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 3)
    tail = MetricsTail(path)
    tail.refresh()
    monkeypatch.setattr(storage, "read_json_lines", None)
    assert not tail.refresh()


def test_another_file_in_the_same_place_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 50)
    tail = MetricsTail(path)
    tail.refresh()
    held = tail.snapshot()
    # Of the same number and not shorter: only its content tells.
    number = path.stat().st_ino
    write_steps(path, 101, 200, mode="w")
    assert path.stat().st_ino == number
    tail.refresh()
    assert [step for step, _ in tail.series("loss")] == list(range(101, 201))
    assert len(held.series("loss")) == 50


def test_a_file_that_goes_away_leaves_what_was_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 3)
    tail = MetricsTail(path)
    tail.refresh()
    path.unlink()
    assert not tail.refresh()
    assert len(tail.series("loss")) == 3
    write_steps(path, 1, 1)
    tail.refresh()
    assert len(tail.series("loss")) == 1


def test_what_is_not_finite_is_written_as_a_word_and_read_as_a_mark(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = storage.JsonLines(path)
    for step, value in enumerate((1.0, math.nan, math.inf, -math.inf, 2.0), start=1):
        lines.append(as_json({"step": step, "eval/loss": value}))
    lines.close()
    tail = MetricsTail(path)
    tail.refresh()
    now = tail.snapshot()
    assert now.series("loss", held_out=True) == [(1, 1.0), (5, 2.0)]
    assert now.broken("loss", held_out=True) == [2, 3, 4]
    assert now.broken("loss") == []


def test_pace_is_derived_from_tokens_and_seconds(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "tokens": 300, "seconds": 2.0}\n'
        '{"step": 1, "eval/tokens": 90, "eval/seconds": 3.0}\n'
        '{"step": 2, "tokens": 300, "seconds": 0}\n'
    )
    tail = MetricsTail(path)
    tail.refresh()
    assert tail.series(metrics.TOKENS_PER_SECOND) == [(1, 150.0)]
    assert tail.series(metrics.TOKENS_PER_SECOND, held_out=True) == [(1, 30.0)]


def test_runs_not_asked_for_longest_are_forgotten_first(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "_tails", type(metrics._tails)())
    monkeypatch.setattr(metrics, "MOST_HELD", 100)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        write_steps(path, 1, 30)  # of step and loss
        shared_tail(path).refresh()
    kept = shared_tail(paths[2])
    assert set(metrics._tails) == {paths[2]}
    assert kept.count == 30


def test_readers_share_a_tail(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 5)
    one, other = shared_tail(path), shared_tail(path)
    one.refresh()
    assert one is other
    assert other.count == 5


@pytest.mark.parametrize("at_once", [True, False])
def test_points_are_in_the_order_of_steps_wherever_step_0_was_written(tmp_path, at_once):
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    records = [{"step": step, "epoch": step / 4, "loss": 1.0 / step} for step in (1, 2, 3)]
    records.append({"step": 3, "epoch": 0.75, "eval/loss": 0.5})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    if not at_once:
        tail.refresh()
    before = tail.snapshot()
    with path.open("a") as file:
        file.write(json.dumps({"step": 0, "epoch": 0.0, "eval/loss": 2.0}) + "\n")
    assert tail.refresh()
    assert tail.series("loss", held_out=True) == [(0, 2.0), (3, 0.5)]
    assert [step for step, _ in tail.series("epoch")] == [0, 1, 2, 3, 3]
    assert tail.series("loss") == [(step, 1.0 / step) for step in (1, 2, 3)]
    assert len(before.series("loss", held_out=True)) == (0 if at_once else 1)
