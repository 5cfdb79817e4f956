"""`serve`: an OpenAI-compatible endpoint for a run's base and adapter. Floor 6; no torch."""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from orpo_qlora.chat import openai_api
from orpo_qlora.cli.console import out, plain
from orpo_qlora.cli.options import RunName
from orpo_qlora.errors import InputError
from orpo_qlora.export.bundle import check_exportable
from orpo_qlora.program import run_foreground
from orpo_qlora.runs import store

SERVER = "orpo_qlora.chat.openai_api"
MODELS = "Models: {base} and {run}. Stop with Ctrl-C."


def serve(
    run: RunName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
) -> None:
    """Serve base and tuned on loopback, as the OpenAI API."""
    found = store.find_run(run)
    check_exportable(found)
    port = _free_port(port)
    out.print(f"http://{openai_api.HOST}:{port}/v1", soft_wrap=True)
    out.print(plain(MODELS.format(base=openai_api.BASE, run=found.id)), soft_wrap=True)
    raise typer.Exit(run_foreground(SERVER, [found.id, str(port)]))


def _free_port(port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        InputError: another program listens there.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((openai_api.HOST, port))
        except OSError as exc:
            raise InputError(
                f"Port {port} is taken ({exc.strerror}).", hint="Name another: --port 0"
            ) from exc
        return int(listener.getsockname()[1])
