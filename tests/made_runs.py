"""Runs on disk as the real store writes them, without a training."""

import os
import time
from dataclasses import fields

from orpo_qlora import storage
from orpo_qlora.config import build_config
from orpo_qlora.data.pairs import PreferencePair, Split
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.runs import labels, store
from orpo_qlora.runs.state import RunState

REPORT = DataSummary(source="pairs.csv", sha256="ab" * 32, rows_read=20, pairs=20)
PAIRS = tuple(PreferencePair(f"q{i}", f"good {i}", f"bad {i}", i) for i in range(1, 21))
SPLIT = Split(PAIRS[:15], PAIRS[15:])


def step_record(step, lambda_, loss):
    return {
        **{"step": step, "loss": loss, "nll_loss": loss - lambda_ * 0.5, "or_loss": 0.5},
        **{"logps/chosen": -loss / 2, "logps/rejected": -loss, "log_odds_ratio": loss / 2},
        **{"rewards/margins": lambda_ * loss / 2, "rewards/accuracies": 0.5, "pairs": 4},
    }


def evaluation(step, lambda_, accuracy, loss, pairs=5):
    record = step_record(step, lambda_, loss) | {"rewards/accuracies": accuracy, "pairs": pairs}
    return {"step": step, **{f"eval/{name}": value for name, value in record.items()}}


def make_run(*, status="finished", accuracy=None, tags=(), varied=(), age_seconds=0, **settings):
    """Write a run; with an accuracy it has ten steps and two evaluations."""
    config = build_config(settings)
    label = labels.RunLabel(tags=tuple(tags), varied=tuple(varied))
    paths = store.create_run(config, SPLIT, REPORT, label=label)
    created = time.time() - age_seconds
    done = {"created_at": created, "started_at": created + 5, "ended_at": created + 65}
    steps = {"step": 10, "total_steps": 10, "seconds_per_step": 0.5}
    store.write_state(paths, RunState(status=status, **done, **steps))
    if accuracy is not None:
        write_metrics(paths, config.lambda_, accuracy)
    return paths


def write_metrics(paths, lambda_, accuracy):
    lines = storage.JsonLines(paths.metrics)
    for step in range(1, 11):
        lines.append(step_record(step, lambda_, 3.0 - step * 0.1))
        if step % 5 == 0:
            lines.append(evaluation(step, lambda_, accuracy, 2.8 - step * 0.08))
    lines.close()


def leave_adapter(paths, content=b"not weights"):
    paths.adapter.mkdir()
    (paths.adapter / "adapter_model.safetensors").write_bytes(content)


def let_settle(paths):
    """Make a run's files as old as they are for somebody who comes back later."""
    before = time.time() - 60
    for path in (paths.config, paths.report, paths.state, paths.label):
        if path.exists():
            os.utime(path, (before, before))


def rename(paths, name, tags=()):
    labels.write_label(paths.label, labels.label_of(name, tags))


def named_parts(kind, **others):
    """Return a set of components with names for components: outside a page there are none."""
    names = {field.name: field.name for field in fields(kind)}
    return kind(**(names | others))
