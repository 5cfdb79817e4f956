import json
import math
import random

import pytest

from orpo_qlora.runs import metrics
from orpo_qlora.runs.metrics import MetricsTail, Series


def filled(values):
    series = Series()
    for step, value in enumerate(values, start=1):
        series.add(step, value)
    return series


@pytest.mark.parametrize("count", [0, 1, 2, 100, metrics.MOST_POINTS - 1])
def test_few_points_are_all_kept(count):
    values = [math.sin(step) for step in range(count)]
    assert filled(values).points() == list(enumerate(values, start=1))


@pytest.mark.parametrize("count", [metrics.MOST_POINTS, 5000, 50_001])
def test_many_points_keep_ends_spikes_and_order_in_bounded_room(count):
    dice = random.Random(count)
    values = [dice.random() for _ in range(count)]
    spikes = {count // 3: 9.0, count // 2: -9.0, count - 2: 7.0}
    for index, value in spikes.items():
        values[index] = value
    points = filled(values).points()
    assert len(points) <= metrics.MOST_POINTS + 4
    assert len(points) > metrics.MOST_POINTS // 4
    assert points[0] == (1, values[0])
    assert points[-1] == (count, values[-1])
    assert [step for step, _ in points] == sorted({step for step, _ in points})
    assert all(values[step - 1] == value for step, value in points)
    assert {(index + 1, value) for index, value in spikes.items()} <= set(points)


def test_a_long_file_is_read_in_pieces_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "PIECE_BYTES", 200)
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 101)]
    path.write_text("\n".join(lines) + "\n")
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
