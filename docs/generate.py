"""Write the generated parts of the docs: `python -m docs.generate`."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from orpo_qlora.config import build_config, choices_of, setting_fields
from orpo_qlora.data.doctor.findings import KINDS
from orpo_qlora.presets import read_recipe, recipe_names
from orpo_qlora.runs.curves.insight import RULES
from orpo_qlora.runs.curves.metrics import METRICS
from orpo_qlora.setting import methods_of
from orpo_qlora.shipped_presets import read_preset

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "orpo_qlora"
COMMANDS = (
    *("check", "estimate", "train", "runs", "queue", "stop", "resume"),
    *("label", "log", "sweep", "delete"),
    *("chat", "votes", "evaluate", "export", "serve", "verify", "doctor", "ui"),
    "prepare-demo-model",
)


def metrics_table() -> str:
    """Return every metric with unit, meaning and TRL's name."""
    rows = ["| name | unit | meaning | TRL's name |", "| --- | --- | --- | --- |"]
    rows += [f"| `{m.name}` | {m.unit} | {m.meaning} | {m.trl_name} |" for m in METRICS]
    return "\n".join(rows)


def findings_table() -> str:
    """Return everything the pair doctor can find, with its fix."""
    rows = ["| id | severity | finding | fix |", "| --- | --- | --- | --- |"]
    for kind in KINDS:
        fix = f"{kind.fix} ({'drops' if kind.drops else 'edits'})" if kind.fix else ""
        label = kind.label.replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{kind.id}` | {kind.severity} | {label} | {fix} |")
    return "\n".join(rows)


def rules_table() -> str:
    """Return everything the run insight can say."""
    rows = ["| rule | level | when | what to do |", "| --- | --- | --- | --- |"]
    rows += [f"| `{r.id}` | {r.level} | {r.when} | {r.advice} |" for r in RULES]
    return "\n".join(rows)


def settings_table() -> str:
    """Return every setting with default, range and help."""
    rows = ["| name | default | range | what it does |", "| --- | --- | --- | --- |"]
    for name, info in setting_fields().items():
        bounds = []
        for bound in info.metadata:
            for sign, key in ((">", "gt"), ("≥", "ge"), ("<", "lt"), ("≤", "le")):
                if getattr(bound, key, None) is not None:
                    bounds.append(f"{sign} {getattr(bound, key):g}")
        allowed = ", ".join(choices_of(info)) or " and ".join(bounds)
        default = "" if info.default in ("", (), None) else f"`{info.default}`"
        methods = ", ".join(methods_of(info))
        only = f" Only with {methods}." if methods else ""
        rows.append(f"| `{name}` | {default} | {allowed} | {info.description}{only} |")
    return "\n".join(rows)


def recipes_table() -> str:
    """Return every recipe with its data, its most important settings and its source."""
    rows = ["| preset | base model | λ | learning rate | epochs | pairs per step | data | source |"]
    rows.append("| --- " * 8 + "|")
    for name in recipe_names():
        recipe, settings = read_recipe(name), build_config(read_preset(name))
        data = recipe.data
        if data is None:
            continue
        of = ", ".join(part for part in (data.config, data.split) if part)
        rows.append(
            f"| `{name}` | {settings.model} | {settings.lambda_:g} | {settings.learning_rate:g} "
            f"| {settings.epochs:g} | {settings.pairs_per_step} | {data.id} ({of}) "
            f"| [{recipe.about.title}]({recipe.about.source}) |"
        )
    return "\n".join(rows)


# One program for all: each start of the command line imports for a second.
HELP = """
import json, sys
from typer.testing import CliRunner
from orpo_qlora.cli.main import app
runner = CliRunner()
answers = [runner.invoke(app, [name, "--help"], prog_name="orpo-qlora") for name in sys.argv[1:]]
assert not any(answer.exit_code for answer in answers)
print(json.dumps([answer.stdout for answer in answers]))
"""


def cli_help() -> str:
    """Return `--help` of every command, as plain text."""
    plain = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "90", "TERMINAL_WIDTH": "90"}
    call = [sys.executable, "-c", HELP, *COMMANDS]
    done = subprocess.run(
        call, capture_output=True, text=True, check=True, env={**os.environ, **plain}
    )
    parts = []
    for command, text in zip(COMMANDS, json.loads(done.stdout), strict=True):
        lines = [line.rstrip() for line in text.splitlines()]
        parts.append(f"## {command}\n\n```text\n" + "\n".join(lines).strip("\n") + "\n```")
    return "\n\n".join(parts)


def package_tree() -> str:
    """Return every package and module with the first sentence of its docstring."""
    lines = ["```text"]
    folders = sorted(
        (path.parent for path in PACKAGE.rglob("__init__.py")), key=lambda path: path.parts
    )
    for folder in folders:
        name = folder.relative_to(PACKAGE.parent).as_posix() + "/"
        lines.append(f"{name:<32} {_purpose(folder / '__init__.py')}")
        modules = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
        lines += [f"    {path.name:<28} {_purpose(path)}" for path in modules]
    return "\n".join([*lines, "```"])


def _purpose(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.sub(r"\s+", " ", text.partition("\n\n")[0])
    sentence = re.split(r"(?<=[.!?])\s", re.sub(r":? `python -m [^`]+`", "", first))[0]
    return sentence.rstrip(".")


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "architecture.md": ("tree", package_tree),
    "run-folder.md": ("metrics", metrics_table),
    "settings.md": ("settings", settings_table),
    "cli.md": ("cli", cli_help),
    "data.md": ("findings", findings_table),
    "insight.md": ("rules", rules_table),
    "recipes.md": ("recipes", recipes_table),
}


def filled(name: str) -> str:
    """Return a page with its generated part refreshed."""
    mark, make = PARTS[name]
    page = (DOCS / name).read_text(encoding="utf-8")
    before, _, rest = page.partition(f"<!-- {mark} -->")
    _, _, after = rest.partition(f"<!-- /{mark} -->")
    return f"{before}<!-- {mark} -->\n\n{make()}\n\n<!-- /{mark} -->{after}"


def main() -> None:
    """Write every page that has a generated part."""
    for name in PARTS:
        (DOCS / name).write_text(filled(name), encoding="utf-8")


if __name__ == "__main__":
    main()
