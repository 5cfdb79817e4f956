"""A worker without a model: the real run folder, lock, checkpoints and metrics; quick steps.

A run called “wait at 12” takes no step after the 12th until its folder holds a file `go`, a stop is
asked for or it is killed: what a test does in between cannot come too late. With
`FAKE_WORKER_REST` every run does so after that step.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.errors import OrpoQloraError
from orpo_qlora.runs import checkpoints, store
from orpo_qlora.runs.curves import metrics
from orpo_qlora.runs.identity import identity_of
from orpo_qlora.runs.state import ErrorCard
from orpo_qlora.runs.store import RunPaths

STEP_SECONDS = 0.02
REST = int(os.environ.get("FAKE_WORKER_REST", sys.maxsize))


def train(paths):
    config = store.read_run(paths).config
    identity = identity_of(config, paths.train.parent)
    steps, every = config.max_steps, config.checkpoint_every or 5
    checkpoints.sweep(paths.checkpoints)
    found = checkpoints.find_checkpoint(paths.checkpoints)
    checkpoints.refuse_foreign(found, identity)
    step = found.newest.step if found.newest else 0
    value = json.loads((found.newest.folder / "value.json").read_text()) if found.newest else 0
    metrics.rewind(paths.metrics, lambda record: metrics.is_of_step(record, step))
    lines = storage.JsonLines(paths.metrics)
    state = (
        store.stored_state(paths)
        .moved_to("running")
        .model_copy(
            update={
                "step": step,
                "total_steps": steps,
                "phase": "training",
                "started_at": time.time(),
            }
        )
    )
    store.write_state(paths, state)
    saved = step
    while step < steps and (config.name == "deaf" or not paths.stop.exists()):
        time.sleep(STEP_SECONDS)
        rests = step >= REST or config.name == f"wait at {step}"
        if rests and not (paths.folder / "go").exists():
            continue
        step, value = step + 1, value * 31 % 1009 + step
        if config.name == f"crash at {step}":
            os.kill(os.getpid(), signal.SIGSEGV)
        if config.name == f"fail at {step}":
            raise OrpoQloraError("It failed.", hint="As asked.")
        lines.append({"step": step, "loss": value})
        state = state.model_copy(update={"step": step, "progressed_at": time.monotonic()})
        store.write_state(paths, state)
        if step % every == 0 or paths.stop.exists():
            lines.sync()
            save(paths, step, identity, value)
            saved = step
    if step > saved:
        save(paths, step, identity, value)
    end = "stopped" if paths.stop.exists() else "finished"
    store.write_state(paths, state.moved_to(end).model_copy(update={"ended_at": time.time()}))


def save(paths, step, identity, value):
    def write(folder):
        (folder / "value.json").write_text(json.dumps(value))
        (folder / "more.bin").write_bytes(bytes(5000))

    checkpoints.save_checkpoint(paths.checkpoints, step, identity, write)


def main():
    paths = RunPaths(Path(sys.argv[1]))
    lock = storage.FileLock.adopt(paths.lock, int(sys.argv[2]))
    signal.signal(signal.SIGTERM, lambda *_: paths.stop.touch())
    try:
        train(paths)
    except OrpoQloraError as error:
        failed = store.stored_state(paths).moved_to("failed")
        store.write_state(paths, failed.model_copy(update={"error": ErrorCard.of(error)}))
        os._exit(error.exit_code)
    finally:
        lock.release()
    os._exit(0)


if __name__ == "__main__":
    main()
