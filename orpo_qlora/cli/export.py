"""`export`: adapter, report, merged model, GGUF, or an upload of a run. Floor 6; no torch."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orpo_qlora.cli.console import job_progress, out, plain
from orpo_qlora.cli.options import AsJson, RunName
from orpo_qlora.errors import InputError
from orpo_qlora.export import bundle
from orpo_qlora.export import push as hub
from orpo_qlora.export import request as export_request
from orpo_qlora.export.gguf.types import TYPES
from orpo_qlora.export.reports import html_report
from orpo_qlora.export.request import ExportRequest
from orpo_qlora.export.vllm import write_vllm
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run


class Dtype(StrEnum):
    """Number types of a merged model."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class Onto(StrEnum):
    """The weights to merge into."""

    trained = "trained"
    original = "original"


Zip = Annotated[
    Path | None,
    typer.Option("--out", help="The zip to write; without, it goes to the home's exports/."),
]
ReportFile = Annotated[
    Path | None, typer.Option(help="Write a report of one page to this .html or .md file instead.")
]
MergedFolder = Annotated[
    Path | None,
    typer.Option(help="Merge base and adapter into this new folder of safetensors instead."),
]
GgufFile = Annotated[
    Path | None,
    typer.Option(help="Write the merged model as this GGUF file, for llama.cpp or LM Studio."),
]
GgufAdapter = Annotated[
    Path | None,
    typer.Option(help="Write the adapter alone as this GGUF file; --gguf is the first choice."),
]
OllamaFolder = Annotated[
    Path | None, typer.Option(help="Write GGUF file and Modelfile into this new folder.")
]
VllmFolder = Annotated[
    Path | None, typer.Option(help="Write the adapter for vLLM and SGLang into this new folder.")
]
Quantize = Annotated[str, typer.Option(help=f"Number type of a GGUF file: {', '.join(TYPES)}.")]
MergedDtype = Annotated[Dtype, typer.Option(help="Number type of the merged weights.")]
MergedOnto = Annotated[
    Onto, typer.Option(help="Merge into the 4-bit weights trained on, or the original ones.")
]
Checkout = Annotated[Path | None, typer.Option(help="A llama.cpp checkout whose converter to use.")]
Repo = Annotated[
    str,
    typer.Option(
        "--push",
        help="Upload the adapter, or the model in --merged DIR, to this owner/name on the Hub.",
    ),
]
Public = Annotated[bool, typer.Option("--public", help="Upload to a public repository.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a file that exists; never a folder.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what --push would upload; nothing is sent.")
]


def export(
    run: RunName,
    target: Zip = None,
    report: ReportFile = None,
    merged: MergedFolder = None,
    dtype: MergedDtype = Dtype.bfloat16,
    onto: MergedOnto = Onto.trained,
    gguf: GgufFile = None,
    quantize: Quantize = "f16",
    gguf_adapter: GgufAdapter = None,
    ollama: OllamaFolder = None,
    llama_cpp: Checkout = None,
    vllm: VllmFolder = None,
    push: Repo = "",
    public: Public = False,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export a run: its adapter as one zip, or what an option names."""
    found = store.find_run(run)
    models: dict[export_request.Kind, Path | None] = {
        **{"gguf": gguf, "gguf-adapter": gguf_adapter, "ollama": ollama},
        **{"merged": None if push else merged},
    }
    chosen = [kind for kind, path in models.items() if path is not None]
    others = {"vllm": vllm, "report": report}
    _refuse_several([*chosen, *(name for name, path in others.items() if path is not None)])
    for file in (target, report, gguf, gguf_adapter):
        if file is not None and not overwrite:
            _refuse_existing(file.expanduser())
    if report is not None:
        html_report.write_report(found, report.expanduser())
    elif push:
        folder = merged.expanduser() if merged is not None else None
        pushed = hub.push(found, push, merged=folder, public=public, dry_run=dry_run)
        lines = [*pushed.lines(), pushed.url or "Nothing was sent."]
        _print(lines, dataclasses.asdict(pushed) if as_json else None)
    elif vllm is not None:
        made = write_vllm(found, vllm.expanduser())
        about = dataclasses.asdict(made) | {"folder": str(made.folder)}
        _print([str(made.folder), *made.notes, *made.commands], about if as_json else None)
    elif chosen:
        request = ExportRequest(
            run=found.id,
            kind=chosen[0],
            target=str((models[chosen[0]] or Path()).expanduser().absolute()),
            type=quantize.lower(),
            dtype=dtype.value,
            onto=onto.value,
            llama_cpp=str(llama_cpp.expanduser().resolve()) if llama_cpp else "",
        )
        _export_model(request, as_json=as_json)
    else:
        _export_adapter(found, target.expanduser() if target else None, as_json=as_json)


def _refuse_several(kinds: list[str]) -> None:
    if len(kinds) > 1:
        raise InputError(
            f"--{' and --'.join(kinds)} are different exports.", hint="Name one at a time."
        )


def _refuse_existing(file: Path) -> None:
    if file.is_file():
        raise InputError(
            f"{file} exists already.", hint="Add --overwrite to replace it, or name another file."
        )


def _print(lines: list[str], about: dict[str, object] | None = None) -> None:
    """Print lines, or what they are about as JSON."""
    if about is not None:
        out.print_json(json.dumps(about))
        return
    for line in lines:
        out.print(plain(line), soft_wrap=True)


def _export_model(request: ExportRequest, *, as_json: bool) -> None:
    with job_progress(quiet=as_json) as on_progress:
        made = export_request.wait_for(request, on_progress)
    if as_json:
        out.print_json(made.model_dump_json())
        return
    _print([made.target, *made.checks, *made.commands])


def _export_adapter(run: Run, target: Path | None, *, as_json: bool) -> None:
    made = bundle.export_adapter(run, target)
    if as_json:
        about = {"file": str(made.path), "sha256": made.sha256, "bytes": made.size_bytes}
        out.print_json(json.dumps(about | {"files": made.files}))
        return
    out.print(f"{made.path}\nSHA-256 {made.sha256}", soft_wrap=True, markup=False)
