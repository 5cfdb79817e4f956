"""`doctor` prints the program's report, or which check crashed it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orpo_qlora.cli import doctor
from orpo_qlora.cli.main import app

CHECKS = [
    {"name": "Device", "ok": True, "detail": "bfloat16 on NVIDIA L4", "hint": "", "seconds": 1}
]
DEVICE = {
    **{"index": 0, "name": "NVIDIA L4", "memory_bytes": 24 * 1024**3, "free_bytes": 20 * 1024**3},
    **{"capability": "8.9", "has_bfloat16": True},
}
READY = {
    "ok": True,
    "machine": {"summary": "NVIDIA L4 (22 GB)", "driver": "580.65", "preset": "gpu-24gb"},
    "devices": [DEVICE],
    "checks": CHECKS,
}


@pytest.fixture
def ends(monkeypatch):
    """Let the program leave a report, or none, and end with a code."""

    def program(report, code):
        def run(module, arguments):
            assert module == doctor.PROGRAM
            if report:
                Path(*arguments, "report.json").write_text(json.dumps(report), encoding="utf-8")
            return code

        monkeypatch.setattr(doctor.program, "run_foreground", run)

    return program


def test_a_ready_machine_exits_0_with_its_preset(ends):
    ends(READY, 0)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "driver 580.65" in done.stdout
    assert "GPU 0: NVIDIA L4, 24 GB, 20.0 GB free, compute capability 8.9, bfloat16" in done.stdout
    assert "gpu-24gb" in done.stdout


def test_json_is_the_report(ends):
    ends(READY, 0)
    assert json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout) == READY


def test_a_failed_check_exits_1_with_its_way_out(ends):
    failed = {"name": "PyTorch", "ok": False, "detail": "d", "hint": "Update the driver."}
    ends({**READY, "ok": False, "checks": [*CHECKS, failed]}, 1)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "PyTorch: Update the driver." in done.stderr
    assert "ready" not in done.stdout


@pytest.mark.parametrize(
    ("left", "code", "name", "text"),
    [
        (
            {"ok": False, "checks": CHECKS, "running": "bitsandbytes"},
            -11,
            "bitsandbytes",
            "SIGSEGV",
        ),
        (None, 1, "start-up", "ended with code 1"),
    ],
    ids=["segmentation-fault", "no-report"],
)
def test_a_crash_is_a_failed_check(ends, left, code, name, text):
    ends(left, code)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    last = json.loads(done.stdout)["checks"][-1]
    assert done.exit_code == 1
    assert (last["name"], last["ok"]) == (name, False)
    assert text in last["detail"]
    assert last["hint"]
