"""How much may be uploaded to the page before it is full. Floor 5; page process.

Gradio limits one file; a request may bring a thousand and there may be any number of requests. The
page keeps uploads for a day, so what they take together is limited here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from orpo_qlora.data.readers.source import FILE_BYTES

UPLOAD_PATH = "/gradio_api/upload"
UPLOADS = "uploads"
"""Folder in the page's private one: whole uploads in folders of their own, others beside them."""
UPLOAD_BYTES = FILE_BYTES
"""Of one file."""
REQUEST_BYTES = UPLOAD_BYTES + 1024**2
"""With what surrounds the file in its form."""
FOLDER_BYTES = 8 * 1024**3
FOLDER_FILES = 5000
FREE_BYTES = 1024**3
"""What the disk keeps for runs."""


class UploadLimit:
    """Refuse uploads that are too large, too many, or would fill the disk."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self.app = app
        self._folder = folder
        self._coming_bytes = 0
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what there is room for; else answer 411, 413 or 507."""
        if scope["type"] != "http" or scope["path"].rstrip("/") != UPLOAD_PATH:
            await self.app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "")
        count = int(stated) if _is_number(stated) else 0
        # Counted at once: of two that come together, the second sees the first.
        self._coming_bytes += count
        self._under_way += 1
        try:
            refusal = await self._refusal(scope["method"], stated, self._coming_bytes)
            await (refusal or self.app)(scope, receive, send)
        finally:
            self._coming_bytes -= count
            self._under_way -= 1
            if not self._under_way:
                _forget_halves(self._folder / UPLOADS)

    async def _refusal(self, method: str, stated: str, coming: int) -> PlainTextResponse | None:
        if method != "POST":
            return None
        if not _is_number(stated):
            return PlainTextResponse("An upload must state its length.", status_code=411)
        if int(stated) > REQUEST_BYTES:
            text = f"A file may have {UPLOAD_BYTES // 1024**2:,} MB."
            return PlainTextResponse(text, status_code=413)
        size, files = await asyncio.to_thread(_weigh, self._folder)
        free = shutil.disk_usage(self._folder).free
        is_full = size + coming > FOLDER_BYTES or files >= FOLDER_FILES
        if is_full or free - coming < FREE_BYTES:
            text = "There is no room for more uploads: close the page and open it again."
            return PlainTextResponse(text, status_code=507)
        return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _forget_halves(folder: Path) -> None:
    """Throw away what came of uploads that were broken off; Gradio leaves it where it was."""
    for path in folder.glob("tmp*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _weigh(folder: Path) -> tuple[int, int]:
    sizes = list(_file_sizes(folder))
    return sum(sizes), len(sizes)


def _file_sizes(folder: Path) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                yield (Path(parent) / name).lstat().st_size
            except FileNotFoundError:
                continue  # moved or thrown away meanwhile
