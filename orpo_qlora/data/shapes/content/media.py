"""Rows with images or recordings are refused: only text is trained. Floor 1; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from orpo_qlora.data.column_names import plain_name
from orpo_qlora.data.shapes.base import Candidate, Head

_COLUMNS = {
    "image", "images", "img", "image_path", "image_url", "image_paths", "image_urls", "audio",
    "audios", "audio_path", "video", "videos", "video_path", "pixel_values", "picture", "pictures",
    "photo", "photos", "screenshot", "screenshots", "image_base64", "speech", "frames",
}  # fmt: skip
_DATA_URL = re.compile(r"data:(?:image|audio|video)/")
_MEDIA_KEYS = {"bytes", "path"}
"""Keys of an undecoded image or recording, as `datasets` writes it."""


def refuse_media(
    candidates: Iterator[Candidate], columns: Sequence[str], used: Sequence[str]
) -> Iterator[Candidate]:
    """Replace preferences of rows that have an image, audio or video column filled in."""
    unused = [(index, column) for index, column in enumerate(columns) if column not in used]
    named = {column for _, column in unused if plain_name(column) in _COLUMNS}
    if not unused:
        yield from candidates
        return
    for candidate in candidates:
        cells = candidate.row.cells
        filled = [
            column
            for index, column in unused
            if index < len(cells) and cells[index] and (column in named or _is_media(cells[index]))
        ]
        if filled and not isinstance(candidate.found, str):
            yield Candidate(candidate.row, "media", f"column “{filled[0]}”")
        else:
            yield candidate


def media_columns(head: Head) -> tuple[str, ...]:
    """Return the columns that hold images, audio or video in the first rows."""
    return tuple(
        column
        for index, column in enumerate(head.columns)
        if head.most(index, _is_media) or (plain_name(column) in _COLUMNS and head.cells(index))
    )


def _is_media(cell: object) -> bool:
    if isinstance(cell, str):
        return bool(_DATA_URL.match(cell))
    return isinstance(cell, bytes) or (isinstance(cell, dict) and cell.keys() == _MEDIA_KEYS)
