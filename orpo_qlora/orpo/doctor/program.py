"""The program behind `orpo-qlora doctor`: `python -m orpo_qlora.orpo.doctor.program`. Floor 2.

Checks this machine from the bottom up and writes a report after each check, so that a crash in
native code still leaves the name of the check that crashed. torch and what needs it are imported
inside the checks: that an import fails is a finding.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orpo_qlora import storage
from orpo_qlora.data.wording import in_bytes
from orpo_qlora.errors import OrpoQloraError
from orpo_qlora.models.devices.machine import this_machine
from orpo_qlora.program import without_paths, without_secrets

if TYPE_CHECKING:
    from orpo_qlora.models.devices.hardware import Arithmetic

log = logging.getLogger(__name__)

REPORT = "report.json"
LONGEST_DETAIL = 600
"""Characters of an error text in the report."""
REINSTALL = "Install this project's requirements again: pip install --force-reinstall orpo-qlora"
REPORT_IT = "Please report it with the output of: orpo-qlora doctor --json"


class CheckFailed(Exception):
    """A check found something wrong; the message says what, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Check:
    """One finished check."""

    name: str
    ok: bool
    detail: str
    """What was found; without secrets and paths."""
    hint: str = ""
    """What to do; empty where nothing is wrong."""
    seconds: float = 0.0


@dataclass
class Examination:
    """Runs the checks in order and keeps the report."""

    folder: Path
    """Receives the report."""
    facts: dict[str, object] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    running: str = ""
    arithmetic: Arithmetic | None = None

    @property
    def ok(self) -> bool:
        """Whether every check so far has passed."""
        return all(check.ok for check in self.checks)

    def run(self, name: str, check: Callable[[], str], hint: str = REPORT_IT) -> bool:
        """Run one check and write the report; return whether it passed.

        Args:
            name: of the check.
            check: returns what it found; raises anything if something is wrong.
            hint: the way out where the exception has none of its own.
        """
        self.running = name
        self.write()
        started = time.perf_counter()
        try:
            found = Check(name, True, check())
        except Exception as exc:  # whatever fails here is the finding; the traceback is logged
            log.info("%s", name, exc_info=True)
            hint = getattr(exc, "hint", "") or hint
            message = exc.message if isinstance(exc, OrpoQloraError) else _described(exc)
            found = Check(name, False, publishable(message)[:LONGEST_DETAIL], publishable(hint))
        seconds = round(time.perf_counter() - started, 2)
        self.checks.append(Check(**asdict(found) | {"seconds": seconds}))
        self.running = ""
        self.write()
        return found.ok

    def write(self) -> None:
        """Write the report."""
        report = {
            "ok": self.ok and not self.running,
            **self.facts,
            "checks": [asdict(check) for check in self.checks],
        }
        if self.running:
            report["running"] = self.running
        storage.write_whole(self.folder / REPORT, json.dumps(report))


def publishable(text: str) -> str:
    """Return a text without secrets and without paths that name a user."""
    return without_paths(without_secrets(text))


def _described(exc: Exception) -> str:
    if isinstance(exc, CheckFailed):
        return str(exc)
    return f"{type(exc).__name__}: {exc}"


def examine(folder: Path) -> Examination:
    """Check this machine and write the report into a folder."""
    examination = Examination(folder)
    examination.facts = {"machine": _machine()}
    if not examination.run("PyTorch", lambda: _torch(examination), REINSTALL):
        return examination
    examination.run("Device", lambda: _device(examination))
    if examination.arithmetic is None:
        return examination
    if examination.run("bitsandbytes", lambda: _bitsandbytes(examination), REINSTALL):
        with tempfile.TemporaryDirectory(prefix="orpo-qlora-doctor-") as work:
            _engine_checks(examination, Path(work))
    return examination


def _machine() -> dict[str, object]:
    machine = this_machine()
    return {
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "summary": machine.words,
        "driver": machine.driver,
        "preset": machine.preset,
        "note": publishable(machine.note),
    }


def _torch(examination: Examination) -> str:
    import torch

    from orpo_qlora.orpo.doctor import facts

    build = facts.torch_build()
    examination.facts |= {
        "system": facts.system(),
        "packages": facts.packages(),
        "environment": {name: publishable(value) for name, value in facts.environment().items()},
        "torch_build": build,
        "devices": facts.devices(),
    }
    machine = this_machine()
    if machine.gpu is not None and not torch.cuda.is_available():
        raise CheckFailed(
            f"torch {torch.__version__}, built for {build}, cannot use {machine.gpu.words}.",
            _no_cuda_hint(build, machine.driver),
        )
    return f"torch {torch.__version__}, built for {build}"


def _no_cuda_hint(build: str, driver: str) -> str:
    if build == "CPU":
        return "Install torch built for this GPU; pytorch.org/get-started has the command."
    has = f"Driver {driver} is installed. " if driver else ""
    return (
        f"{has}Update the GPU driver to one for {build}, or install torch for the CUDA version "
        "that nvidia-smi prints; then run this again."
    )


def _device(examination: Examination) -> str:
    import torch

    from orpo_qlora.models.devices import hardware
    from orpo_qlora.orpo.doctor import facts

    threads = hardware.use_all_cores()
    arithmetic = hardware.choose_arithmetic()
    source = torch.Generator().manual_seed(0)
    left, right = (torch.randn(64, 64, generator=source) for _ in range(2))
    there = [matrix.to(arithmetic.device, arithmetic.dtype) for matrix in (left, right)]
    product = (there[0] @ there[1]).float().cpu()
    off = float((product - left @ right).norm() / (left @ right).norm())
    examination.facts["compute"] = {
        "device": arithmetic.device,
        "dtype": str(arithmetic.dtype).removeprefix("torch."),
        "reason": arithmetic.reason,
        "threads": threads,
        "free_memory_bytes": hardware.free_memory_bytes(),
        "attention": facts.attention_kernels(arithmetic),
    }
    if not off <= torch.finfo(arithmetic.dtype).eps * 4:
        raise CheckFailed(
            f"A matrix product on the {arithmetic.device} is off by {off:.2g}.",
            "The device or its driver computes wrong numbers: update the driver, and test the "
            "card for faults.",
        )
    examination.arithmetic = arithmetic
    return f"{arithmetic.reason}; {in_bytes(hardware.free_memory_bytes())} free"


def _bitsandbytes(examination: Examination) -> str:
    from orpo_qlora.orpo.doctor import self_check

    error = self_check.check_bitsandbytes(_chosen(examination))
    return f"4-bit weights and products on the {_chosen(examination).device}, error {error:.3f}"


def _engine_checks(examination: Examination, work: Path) -> None:
    import torch

    from orpo_qlora.models.devices.hardware import Arithmetic
    from orpo_qlora.orpo.doctor import self_check, tiny

    torch.set_num_threads(1)  # on busy cores, threads of such small products wait for each other
    chosen = _chosen(examination)
    model = work / "model"
    if not examination.run("Tiny model", lambda: _written(tiny.write_model(model))):
        return
    exact = Arithmetic(chosen.device, torch.float32, "float32 for exact comparison")
    for arithmetic in [exact] if chosen.dtype == torch.float32 else [exact, chosen]:
        dtype = str(arithmetic.dtype).removeprefix("torch.")
        check = functools.partial(_engine, examination, model, arithmetic, dtype)
        examination.run(f"Engine in {dtype}", check)
    examination.run("Resume", lambda: _resume(self_check.check_resume(model, chosen, work), chosen))
    examination.run("Throughput", lambda: _throughput(examination, model))


def _written(model: Path) -> str:
    size = sum(path.stat().st_size for path in model.iterdir())
    return f"random Llama of {in_bytes(size)}"


def _engine(examination: Examination, model: Path, arithmetic: Arithmetic, dtype: str) -> str:
    from orpo_qlora.orpo.doctor import self_check

    compared = self_check.compare_with_plain(model, arithmetic)
    fused = self_check.fused_modules(compared.engine)
    differences = {
        one.name: {"plain": one.trl, "engine": one.engine, "difference": one.difference}
        for one in compared.differences
    }
    examination.facts[f"engine_{dtype}"] = {
        "layout": compared.engine.layout,
        "fused": fused,
        "rows": compared.engine.rows,
        "rows_problem": compared.engine.rows_problem,
        "differences": differences,
    }
    worst = [one for one in compared.differences if not one.is_within]
    if worst:
        names = ", ".join(f"{one.name} by {one.difference:.1e}" for one in worst)
        raise CheckFailed(f"The engine differs from PEFT's own path: {names}.", REPORT_IT)
    if compared.engine.falls_back:
        raise CheckFailed(
            "The fused kernels compute other numbers than PEFT's own path, which trainings use "
            "instead: their results are correct, but take longer.",
            REPORT_IT,
        )
    loss, gradient = compared.differences[0], compared.differences[-1]
    return (
        f"layout {compared.engine.layout}, {fused['lora_linear']} fused linears; loss differs by "
        f"{loss.difference:.1g}, gradients by at most {gradient.difference:.1g}"
        f"{compared.engine.describe_rows}"
    )


def _resume(difference: float, arithmetic: Arithmetic) -> str:
    from orpo_qlora.orpo.doctor.self_check import RESUMED_ERROR

    allowed = 0.0 if arithmetic.device == "cpu" else RESUMED_ERROR
    if not difference <= allowed:
        raise CheckFailed(
            f"A resumed training differs by {difference:.1e} from one that was not interrupted.",
            REPORT_IT,
        )
    return "bit for bit" if difference == 0 else f"differs by {difference:.1g}, rounding of the GPU"


def _throughput(examination: Examination, model: Path) -> str:
    from orpo_qlora.orpo.doctor import self_check

    measured = self_check.measure_throughput(model, _chosen(examination))
    examination.facts["throughput"] = measured
    return (
        f"{measured['tokens_per_second']:,.0f} tokens/s in a step of {measured['pairs']} pairs of "
        "the tiny model"
    )


def _chosen(examination: Examination) -> Arithmetic:
    assert examination.arithmetic is not None  # the device check passed
    return examination.arithmetic


def _silence_libraries() -> None:
    """Keep progress bars and warnings of libraries out of the terminal."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    # PEFT 0.21 still reads the old name of a property that transformers 5.23 renamed.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)


def main(arguments: Sequence[str]) -> int:
    """Write `report.json` into a folder; return the exit code: 0, or 1 if a check failed."""
    _silence_libraries()
    with Console(stderr=True, highlight=False).status("checking this machine"):
        examination = examine(Path(*arguments))
    return 0 if examination.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
