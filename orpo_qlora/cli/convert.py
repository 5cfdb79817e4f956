"""`convert-weights`: a safetensors copy of pickled weights. Floor 6; no torch."""

from __future__ import annotations

from typing import Annotated

import typer

from orpo_qlora.program import run_foreground


def convert_weights(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id or folder.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of a hub model.")] = "",
) -> None:
    """Convert pickled weights (pytorch_model.bin) to safetensors, once; no code in them is run."""
    raise typer.Exit(run_foreground("orpo_qlora.models.weights.pickled", [model, revision]))
