"""Limits on the size and number of uploads. Floor 6; page process.

Gradio limits a single file only; a request may hold a thousand files. The page keeps uploads for a
day, so their total is limited here.
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
from orpo_qlora.data.wording import in_bytes

UPLOAD_PATH = "/gradio_api/upload"
UPLOADS = "uploads"
"""Subfolder of the page's private folder: each upload in its own, unfinished ones as tmp*."""
UPLOAD_BYTES = FILE_BYTES
"""Per file."""
REQUEST_BYTES = UPLOAD_BYTES + 1024**2
"""One file and the rest of its form."""
FOLDER_BYTES = 8 * 1024**3
FOLDER_FILES = 5000
FREE_BYTES = 1024**3
"""Space on the disk that is left to runs."""


class UploadLimit:
    """Refuses uploads that are too large, too many, or would fill the disk."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self.app = app
        self._folder = folder
        self._expected_bytes = 0
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on an upload within the limits; answer 411, 413 or 507 otherwise."""
        if scope["type"] != "http" or scope["path"].rstrip("/") != UPLOAD_PATH:
            await self.app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "")
        count = int(stated) if _is_number(stated) else 0
        # Counted before the check, so that concurrent uploads count together.
        self._expected_bytes += count
        self._active += 1
        try:
            refusal = await self._refusal(scope["method"], stated, self._expected_bytes)
            await (refusal or self.app)(scope, receive, send)
        finally:
            self._expected_bytes -= count
            self._active -= 1
            if not self._active:
                _remove_unfinished(self._folder / UPLOADS)

    async def _refusal(self, method: str, stated: str, expected: int) -> PlainTextResponse | None:
        if method != "POST":
            return None
        if not _is_number(stated):
            return PlainTextResponse("An upload must state its length.", status_code=411)
        if int(stated) > REQUEST_BYTES:
            text = f"The file is too large. The limit is {in_bytes(UPLOAD_BYTES)}."
            return PlainTextResponse(text, status_code=413)
        size, files = await asyncio.to_thread(_total_size, self._folder)
        free = shutil.disk_usage(self._folder).free
        is_full = size + expected > FOLDER_BYTES or files >= FOLDER_FILES
        if is_full or free - expected < FREE_BYTES:
            text = "The upload folder is full. Close the page and open it again."
            return PlainTextResponse(text, status_code=507)
        return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _remove_unfinished(folder: Path) -> None:
    """Remove the files of aborted uploads, which Gradio leaves behind."""
    for path in folder.glob("tmp*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _total_size(folder: Path) -> tuple[int, int]:
    sizes = list(_file_sizes(folder))
    return sum(sizes), len(sizes)


def _file_sizes(folder: Path) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                yield (Path(parent) / name).lstat().st_size
            except FileNotFoundError:
                continue  # moved or removed in the meantime
