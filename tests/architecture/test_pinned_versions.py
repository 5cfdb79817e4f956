"""No dependency is older than a release that fixed a known vulnerability; see docs/security.md."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FLOORS = re.findall(
    r"^\| (\w+) \| ([\d.]+) \|", (ROOT / "docs" / "security.md").read_text("utf-8"), re.MULTILINE
)
PINS = dict(
    re.findall(r"^([\w-]+)==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
)


def test_the_list_is_read():
    assert {"gradio", "torch", "transformers", "jinja2", "brotli"} <= {name for name, _ in FLOORS}


@pytest.mark.parametrize(("name", "floor"), FLOORS)
def test_installed_and_pinned_versions_hold_the_security_fixes(name, floor):
    assert Version(metadata.version(name)) >= Version(floor)
    pins = {pin.lower(): version for pin, version in PINS.items()}
    assert Version(pins.get(name, floor)) >= Version(floor)


def test_versions_installed_without_the_pins_hold_them_too():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    asked = dict(re.findall(r'^  "([\w-]+)>=([\d.]+)', text, re.MULTILINE))
    for name, floor in FLOORS:
        if name in asked:
            assert Version(asked[name]) >= Version(floor), name
