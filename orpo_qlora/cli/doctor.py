"""Check this machine and the engine on it. Floor 6; no torch."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from orpo_qlora import program
from orpo_qlora.cli.console import err, out, plain
from orpo_qlora.cli.options import AsJson

PROGRAM = "orpo_qlora.orpo.doctor.program"
UNKNOWN_CRASH = "start-up"


def doctor(as_json: AsJson = False) -> None:
    """Check GPU, driver, libraries and the engine on this machine; exit 1 if something fails.

    Needs no model and no data: the engine trains a tiny random model and is compared with PEFT's
    own path. Takes under a minute. The JSON names no user, host or path and can be published.
    """
    with tempfile.TemporaryDirectory(prefix="orpo-qlora-doctor-") as name:
        os.environ |= program.PROGRAM_ENVIRONMENT
        code = program.run_foreground(PROGRAM, [name])
        report = read_report(Path(name) / "report.json", code)
    if as_json:
        out.print_json(json.dumps(report))
    else:
        _print_report(report)
    raise typer.Exit(0 if report["ok"] else 1)


def read_report(file: Path, code: int) -> dict[str, Any]:
    """Return the program's report; where it crashed, with a failed check that says so.

    Args:
        file: the report.
        code: exit code of the program, negative for a signal.
    """
    report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"checks": []}
    running = report.pop("running", "" if file.is_file() else UNKNOWN_CRASH)
    if running:
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        crash = {
            "name": running,
            "ok": False,
            "detail": f"The program was {ended} during this check.",
            "hint": "Native code failed, most often a driver or bitsandbytes that does not fit "
            "torch. Update the driver, then reinstall torch and bitsandbytes.",
            "seconds": 0.0,
        }
        report |= {"ok": False, "checks": [*report["checks"], crash]}
    return report


def _print_report(report: Mapping[str, Any]) -> None:
    machine = report.get("machine", {})
    if machine:
        driver = f", driver {machine['driver']}" if machine["driver"] else ""
        out.print(plain(f"{machine['summary']}{driver}"), soft_wrap=True)
        if machine.get("note"):
            out.print(plain(machine["note"]), soft_wrap=True)
    for device in report.get("devices", []):
        out.print(plain(_device_line(device)), soft_wrap=True)
    table = Table("check", "", "result")
    for check in report["checks"]:
        table.add_row(check["name"], "ok" if check["ok"] else "failed", plain(check["detail"]))
    out.print(table)
    for check in report["checks"]:
        if not check["ok"]:
            err.print(f"[red]{plain(check['name'])}:[/] {plain(check['hint'])}", soft_wrap=True)
    if report["ok"]:
        out.print(f"This machine is ready. Preset that fits it: {machine['preset']}")


def _device_line(device: Mapping[str, Any]) -> str:
    has = "bfloat16" if device["has_bfloat16"] else "no bfloat16"
    memory, free = device["memory_bytes"] / 1024**3, device["free_bytes"] / 1024**3
    return (
        f"GPU {device['index']}: {device['name']}, {memory:.0f} GB, {free:.1f} GB free, compute "
        f"capability {device['capability']}, {has}"
    )
