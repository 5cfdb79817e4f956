"""A trainer's program from the driver's side: start, step, end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.turns import Spec
from orpo_qlora.program import PROGRAM_ENVIRONMENT

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Reply:
    """What a trainer reports of one optimizer step; unknown values are NaN."""

    seconds: float
    bytes_above_weights: float
    processor_seconds: float = float("nan")
    """Of all threads; unlike `seconds` it does not count waiting for a busy machine."""
    loss: float = float("nan")
    logps_chosen: float = float("nan")
    logps_rejected: float = float("nan")
    tokens: float = float("nan")
    gflops: float = float("nan")


def _die_first() -> None:
    # When memory runs out, the kernel should kill this trainer and nothing else.
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


class TrainerDied(Exception):
    """The program exited by itself, usually out of memory."""


class Trainer:
    """One trainer's program, loaded and waiting."""

    def __init__(
        self, name: str, program: str, spec: Spec, folder: Path, python: str = sys.executable
    ) -> None:
        self.name = name
        number = len(list(folder.glob("spec-*.json")))
        path = folder / f"spec-{number}.json"
        spec.write(path)
        self._log = (folder / f"log-{number}.txt").open("w+", encoding="utf-8")
        # For all the same: what a run's worker has, where idle threads leave the cores to others.
        environment = os.environ | PROGRAM_ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [python, "-m", f"benchmarks.peers.{program}", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=environment,
            text=True,
            preexec_fn=_die_first,
        )
        self._receive()

    def step(self) -> Reply:
        """Let the trainer do one optimizer step."""
        self._send("step")
        values = self._receive()
        return Reply(**{key.replace("logps/", "logps_"): value for key, value in values.items()})

    def end(self) -> None:
        """End the program."""
        with suppress(BrokenPipeError):  # it has come to the end of its pairs
            self._send("end")
        self._process.wait(timeout=60)
        self._log.close()

    def _send(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise TrainerDied(
                f"{self.name} ended ({self._process.wait()}):\n{self._log.read()[-4000:]}"
            )
        return json.loads(line)
