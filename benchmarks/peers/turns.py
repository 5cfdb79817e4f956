"""Protocol between driver and trainer, one JSON object per line: a trainer steps on request.

The driver keeps all trainers of a comparison loaded and lets them step in turn, so a machine that
slows down for a while slows all of them. Standard library only: LLaMA-Factory runs in an
environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spec:
    """Task of a trainer, the same for every trainer of a comparison."""

    model: str
    adapter: str
    pairs: str
    """JSON list of {prompt, chosen, rejected}, lists of token ids."""
    texts: str
    """JSON list of {prompt, chosen, rejected} in words, for a trainer that tokenises itself."""
    pairs_per_step: int
    lambda_: float = 0.1
    method: str = "orpo"
    beta: float = 0.1
    """Of DPO."""
    live_reference: bool = False
    """Whether DPO's reference is measured in every step instead of before training."""
    learning_rate: float = 1e-4
    batch: int = 1
    """Pairs per forward, for trainers where the user sets it."""
    without: str = ""
    """The technique left out, in an ablation."""

    def write(self, path: Path) -> None:
        """Write the spec for a trainer to read."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def of_arguments(cls) -> Spec:
        """Read the spec whose path is the program's only argument."""
        return cls(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def resident_bytes() -> int:
    """Return the memory this process holds now: allocated on the GPU, else resident."""
    cuda = _cuda()
    return cuda.memory_allocated() if cuda else _status("VmRSS")


def peak_bytes() -> int:
    """Return the most memory held since `forget_peak`."""
    cuda = _cuda()
    return cuda.max_memory_allocated() if cuda else _status("VmHWM")


def forget_peak() -> None:
    """Reset the peak."""
    cuda = _cuda()
    if cuda:
        cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _cuda():
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024


class Turns:
    """A trainer's side of the protocol. Everything else it prints goes to stderr."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._weights = 0
        self._started = 0.0
        self._processor_started = 0.0

    def ready(self) -> None:
        """Report that weights and adapter are loaded; memory is counted from here."""
        self._weights = resident_bytes()
        self._send(ready=True)

    def wait(self) -> None:
        """Block until the driver requests a step; exit when it requests no more."""
        forget_peak()
        if sys.stdin.readline().strip() != "step":
            self._answers.close()
            os._exit(0)  # in the middle of some trainer's loop
        self._started = time.perf_counter()
        self._processor_started = time.process_time()

    def done(self, **values: float) -> None:
        """Report the step."""
        self._send(
            seconds=time.perf_counter() - self._started,
            processor_seconds=time.process_time() - self._processor_started,
            bytes_above_weights=peak_bytes() - self._weights,
            **values,
        )

    def _send(self, **values: float) -> None:
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()
