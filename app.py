"""Open the page: `python app.py [--host HOST] [--port PORT]`."""

from __future__ import annotations

import argparse

from orpo_qlora.errors import OrpoQloraError
from orpo_qlora.ui.studio import DEFAULT_PORT, serve


def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Open the orpo-qlora page in your browser.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (this machine)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free port")
    arguments = parser.parse_args()
    try:
        serve(arguments.host, arguments.port)
    except OrpoQloraError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
