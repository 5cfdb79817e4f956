"""A whole run on a tiny model and its report card, for tests of what can be done with them."""

from __future__ import annotations

import shutil

from lesson import dataset_of, question, words_from

from orpo_qlora.config import build_config
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch

WAIT_SECONDS = 240.0
TOKEN = "hf_" + 4 * "SecretToken"


def made_pairs(count=24):
    """Return pairs whose answers differ in length and words, two to a prompt."""
    return dataset_of(
        *(
            (question(i // 2), words_from(i, 3 + i % 6), words_from(3 * i + 1, 6, step=2))
            for i in range(count)
        )
    )


def evaluated_run(model):
    """Train a run to its end in the present home and evaluate it."""
    values = {
        **{"model": str(model), "name": "ours <b>|` λ", "lambda": 0.5, "learning_rate": 0.01},
        **{"pairs_per_step": 4, "held_out": 0.3, "max_steps": 6, "report_to": "tensorboard"},
    }
    paths = launch.start_run(build_config(values), made_pairs())
    run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.status == "finished", store.log_tail(paths)
    evaluation_request.wait_for(run, lambda _: None)
    return run


def copy_run(run, home):
    """Copy a run into a new home."""
    folder = home / "runs" / run.id
    folder.parent.mkdir(parents=True, mode=0o700)
    shutil.copytree(run.paths.folder, folder)
    return store.read_run(store.RunPaths(folder))
