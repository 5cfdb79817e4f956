"""File types without preferences, by signature: archives, documents, pictures. Floor 1; no torch.

Only the bytes at both ends are read and nothing is ever unpacked, so zip bombs are harmless.
"""

from __future__ import annotations

import re

SAVE_AS_UTF8 = (
    "Save it again as UTF-8: “CSV UTF-8” in Excel's Save As, "
    "character set “Unicode (UTF-8)” in LibreOffice."
)
_SAVE_JSON_AS_UTF8 = "Save it again as UTF-8, which JSON is always written in."
_JSON_START = re.compile(rb"\s*[\[{]")
_UNPACK = "Unpack it and choose the file inside."
_EXPORT = "Open it in its own program and export it as CSV (UTF-8)."
_PARQUET = "Save it as Parquet, JSON lines or CSV, for example with pandas."
_MARKUP = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
_YAML = re.compile(rb"(?:---[^\n]*\n)?- +[\w\"']+: ")
_LFS = b"version https://git-lfs.github.com/spec/"
# First bytes, what such a file is, the way out. UTF-32's mark begins with UTF-16's.
_SIGNATURES = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", SAVE_AS_UTF8),
    (b"\x00\x00\xfe\xff", "UTF-32 text", SAVE_AS_UTF8),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh91AY&SY", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "an lz4 archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (xls)", _EXPORT),
    (b"%PDF-", "a PDF document", _EXPORT),
    (b"{\\rtf", "a rich-text document", _EXPORT),
    (b"\x89PNG", "a picture", "Choose the file that holds the preferences."),
    (b"\xff\xd8\xff", "a picture", "Choose the file that holds the preferences."),
    (b"GIF8", "a picture", "Choose the file that holds the preferences."),
    (b"\x7fELF", "a program", "Choose the file that holds the preferences."),
    (b"MZ\x90\x00", "a program", "Choose the file that holds the preferences."),
    (b"SQLite format 3\x00", "an SQLite database", "Export the table as CSV (UTF-8)."),
    (b"FEA1", "a Feather file", _PARQUET),
    (b"ORC", "an ORC file", _PARQUET),
    (b"Obj\x01", "an Avro file", _PARQUET),
    (b"\x89HDF", "an HDF5 file", _PARQUET),
    (b"\x93NUMPY", "a NumPy array", _PARQUET),
    (b"\x80\x04\x95", "a Python pickle", _PARQUET),
    (b"\x80\x05\x95", "a Python pickle", _PARQUET),
    (
        _LFS,
        "a Git LFS pointer, not the data itself",
        "Fetch the data itself, with git lfs pull or from the site's download button.",
    ),
)
# Member names, stored uncompressed at both ends of a zip archive.
_ZIPPED = (
    (b"xl/workbook", "an Excel workbook", _EXPORT),
    (b"opendocument.spreadsheet", "a LibreOffice workbook", _EXPORT),
    (b"word/document", "a Word document", _EXPORT),
    (b"", "a zip archive", _UNPACK),
)


def save_as_utf8(head: bytes) -> str:
    """Return how a text in another encoding is saved again, for the format that it begins like."""
    start = head[:1000].removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"")
    return _SAVE_JSON_AS_UTF8 if _JSON_START.match(start) else SAVE_AS_UTF8


def foreign_kind(head: bytes, tail: bytes) -> tuple[str, str]:
    """Return what else a file is, from its two ends, and the way out; empty texts if it may do."""
    for signature, kind, hint in _SIGNATURES:
        if head.startswith(signature):
            return kind, hint
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        ends = head + tail
        return next((kind, hint) for member, kind, hint in _ZIPPED if member in ends)
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    start = head[:1000].removeprefix(b"\xef\xbb\xbf")
    if _MARKUP.match(start):
        return "a web page", "It may be a login or error page: download the data itself."
    if _YAML.match(start):
        return "a YAML file", "Save it as JSON lines, one JSON object per line."
    return "", ""
