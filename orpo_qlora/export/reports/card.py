"""The model card of an adapter: what it is, how it was trained, how to load it. Floor 5; no torch.

The same run gives the same card, byte for byte: it describes the run, not its export.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from orpo_qlora import __version__
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.summary import DataSummary, Finding
from orpo_qlora.evaluation.report_card import ReportCard, read_card
from orpo_qlora.export.origin import Origin, portable_config
from orpo_qlora.export.reports.markdown import plain, table
from orpo_qlora.export.reports.passport import loss_passport
from orpo_qlora.export.reports.snippet import loading_code
from orpo_qlora.methods import method_with_strength, settings_read
from orpo_qlora.models.templates.chat_templates import label_of
from orpo_qlora.runs import store
from orpo_qlora.runs.curves.metrics import METRICS
from orpo_qlora.runs.lineage import parent_title
from orpo_qlora.runs.store import Run

CURVES = (
    *("loss", "nll_loss", "or_loss", "preference_loss", "log_odds_ratio"),
    *("logps/chosen", "logps/rejected"),
    *("logps/accuracies", "rewards/margins", "rewards/accuracies"),
)
"""The metrics that a card lists."""


def model_card(run: Run, origin: Origin, folder: str, hashes: Mapping[str, str]) -> str:
    """Return the README of an exported adapter.

    Args:
        run: whose adapter it is.
        origin: its base model.
        folder: the adapter's folder as unpacked by the recipient.
        hashes: SHA-256 of the other files, by name.
    """
    lines = [
        *_front_matter(run, origin),
        f"# {plain(run.title)}",
        "",
        f"A LoRA adapter for {plain(origin.sentence)}, tuned to preferences with "
        f"{method_with_strength(run.config)} by orpo-qlora, run `{run.id}`.",
        *(["", plain(origin.remark)] if origin.remark else []),
        *("", "## Load it", "", "```python"),
        *loading_code(origin, run.config, folder, run.saved_template).splitlines(),
        *("```", "", "## What training did", ""),
        *final_numbers(run),
        *_report_card(run),
        *("", "## Loss passport", "", "What exactly was optimised:", ""),
        *table(("", ""), [(fact.label, fact.value) for fact in loss_passport(run, origin)]),
        *("", "## Data", ""),
        *_data(run.report),
        *("", "## Settings", ""),
        *table(("setting", "value"), settings_of(portable_config(run.config, origin))),
        *("", "## Versions", ""),
        *table(("package", "version while training"), _versions(run)),
        *("", "## Files", ""),
        *table(("file", "SHA-256"), sorted(hashes.items())),
        *("", "## Licence of the base model", "", plain(origin.licence_sentence), ""),
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class MergeFacts:
    """How an adapter was merged."""

    dtype: str
    onto: str
    """`trained` or `original`: the weights it was merged into."""
    difference: str
    """A sentence on the difference from base and adapter."""


def merged_card(run: Run, origin: Origin, facts: MergeFacts) -> str:
    """Return the README of a merged model."""
    about = (
        f"{plain(origin.sentence)} with the adapter of run `{run.id}` merged in, tuned to "
        f"preferences with {method_with_strength(run.config)} by orpo-qlora."
    )
    lines = [
        *_front_matter(run, origin, library="transformers"),
        *(f"# {plain(run.title)}", "", about, ""),
        f"{_merged_into(run, facts)} The sum is rounded once, to {facts.dtype}. Read back: "
        f"{facts.difference}",
        *("", "## What training did", ""),
        *final_numbers(run),
        *_report_card(run),
        *("", "## Loss passport", ""),
        *table(("", ""), [(fact.label, fact.value) for fact in loss_passport(run, origin)]),
        *("", "## Licence of the base model", "", plain(origin.licence_sentence), ""),
    ]
    return "\n".join(lines)


def _merged_into(run: Run, facts: MergeFacts) -> str:
    if run.config.quantization != "nf4":
        return "Merged into the base, which is what was trained on."
    if facts.onto == "original":
        return "Merged into the original base weights; the adapter was trained on their 4-bit copy."
    return "Merged into the 4-bit base weights unpacked, which is what was trained on."


def _front_matter(run: Run, origin: Origin, library: str = "peft") -> list[str]:
    report = run.report
    about: dict[str, object] = {} if origin.is_local else {"base_model": origin.name}
    about |= {"datasets": [report.hub.id]} if report.hub else {}
    about |= {"library_name": library, "pipeline_tag": "text-generation"}
    about |= {"license": origin.hub_licence} if origin.hub_licence else {}
    about |= {"tags": [run.config.method, "qlora", "lora", "preference-tuning"]}
    return ["---", *yaml.safe_dump(about, sort_keys=False).splitlines(), "---", ""]


def final_numbers(run: Run) -> list[str]:
    """Return how the metrics ended and, on held-out pairs, how they began, as Markdown."""
    metrics = store.metrics_of(run.paths)
    units = {metric.name: metric.unit for metric in METRICS}
    rows = []
    for name in CURVES:
        train, held_out = metrics.series(name), metrics.series(name, held_out=True)
        if train or held_out:
            before = metrics.before(name)
            first = f"{before:.4g}" if before is not None and len(held_out) > 1 else ""
            ended = [f"{points[-1][1]:.4g}" if points else "" for points in (held_out, train)]
            rows.append((name, units[name], first, *ended))
    if not rows:
        return ["Nothing was measured."]
    steps = [metrics.series("loss", held_out=side) for side in (True, False)]
    held_out_step, last_step = (points[-1][0] if points else 0 for points in steps)
    parent = parent_title(run.paths.start)
    head = (
        *("metric", "unit", f"held-out, {parent or 'base'}"),
        *(f"held-out, step {held_out_step:,}", f"training, step {last_step:,}"),
    )
    return table(head, rows)


def _report_card(run: Run) -> list[str]:
    card = read_card(run)
    if card is None:
        return []
    lines = [f"- {plain(sentence)}" for sentence in card.sentences()]
    return ["", "## Report card", "", *lines, "", *report_figures(card)]


def report_figures(card: ReportCard) -> list[str]:
    """Return a report card's numbers, and how they were measured, as Markdown."""
    head = ("on held-out pairs, with 95 % intervals", "base", "tuned")
    return [*table(head, card.figures()), "", *(f"- {plain(how)}" for how in card.how)]


def _label(finding: Finding) -> str:
    return f"{finding.file}: {finding.label}" if finding.file else finding.label


def _data(report: DataSummary) -> list[str]:
    lines = [f"- {plain(sentence)}" for sentence in report.sentences()]
    if report.findings:
        rows = [
            (
                f.id,
                _label(f),
                f.severity,
                f"{f.count:,}",
                f"{f.share:.1%}",
                "yes" if f.fixed else "",
            )
            for f in report.findings
        ]
        lines += ["", *table(("finding", "what", "severity", "rows", "share", "fixed"), rows)]
    if not report.files:
        return [*lines, "", f"SHA-256 of the file {plain(report.source)}: `{report.sha256}`"]
    return [*lines, "", *(f"- {plain(what)}: `{value}`" for what, value in report.hashes())]


def settings_of(config: TrainConfig) -> list[tuple[str, str]]:
    """Return every setting that the method reads, with its value as text."""
    values = config.model_dump(mode="json", by_alias=True)
    return [(name, _setting_text(values[name])) for name in settings_read(config)]


def _setting_text(value: object) -> str:
    if isinstance(value, str):
        return label_of(value)  # the text of a chat template is a file of its own
    return json.dumps(value, ensure_ascii=False)


def _versions(run: Run) -> list[tuple[str, str]]:
    versions = store.about_run(run.paths).get("versions")
    known = versions if isinstance(versions, dict) else {}
    return [("orpo-qlora, at the export", __version__)] + [
        (str(name), str(version)) for name, version in known.items()
    ]
