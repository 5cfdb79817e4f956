"""Metrics that also go to a tracker: a real run's TensorBoard file against its metrics.jsonl."""

import json
import struct

import pytest
from ended import TOKEN, made_pairs
from tensorboardX.proto.event_pb2 import Event

from orpo_qlora.config import build_config
from orpo_qlora.data.pairs import Split
from orpo_qlora.errors import ConfigError
from orpo_qlora.runs import store, trackers
from orpo_qlora.runs.labels import RunLabel
from orpo_qlora.runs.process import launch


def scalars(folder):
    """Return every (name, step) with its value; a record is its length, a sum, bytes, a sum."""
    found = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found[value.tag, event.step] = value.simple_value
            content = content[16 + length :]
    return found


def test_tensorboard_gets_what_the_run_logs_on_both_sides(ended_run):
    found = scalars(ended_run.paths.folder / "tensorboard")
    records = [json.loads(line) for line in ended_run.paths.metrics.read_text().splitlines()]
    assert len(records) > 6
    for record in records:
        step = record.pop("step")
        for name, value in record.items():
            if name in {"epoch", "eval/epoch"}:
                continue
            tag = name if name.startswith("eval/") else f"train/{name}"
            if tag.startswith("train/") and "eval/loss" in record:
                continue
            assert found[tag, step] == pytest.approx(value, rel=1e-5), (tag, step)
    assert "Metrics also go to tensorboard, on this disk." in ended_run.state.notes


def test_no_file_of_a_run_holds_the_token_that_was_in_the_environment(ended_run):
    files = [path for path in ended_run.paths.folder.rglob("*") if path.is_file()]
    assert any("tfevents" in path.name for path in files)
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


@pytest.fixture
def without_wandb(monkeypatch):
    find = trackers.find_spec
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "wandb" else find(name))


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_made(without_wandb):
    with pytest.raises(ConfigError, match="wandb, which is not installed") as caught:
        launch.start_run(build_config({"report_to": "wandb"}), made_pairs())
    assert "pip install wandb" in caught.value.hint
    several = [build_config({"report_to": "wandb", "lambda": value}) for value in (0.1, 0.2)]
    made, label = made_pairs(), RunLabel(tags=("sweep",), varied=("lambda",))
    with pytest.raises(ConfigError, match="wandb, which is not installed"):
        launch.queue_group(several, Split(made.pairs, ()), made.report, label)
    assert store.list_runs() == []


def test_only_what_is_installed_is_offered(without_wandb):
    offered = [
        choice
        for choice in ("none", "tensorboard", "wandb")
        if trackers.is_offered("report_to", choice)
    ]
    assert offered == ["none", "tensorboard"]
    assert trackers.is_offered("optimizer", "wandb")
