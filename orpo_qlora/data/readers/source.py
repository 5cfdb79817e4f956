"""One scan over the bytes of a file: SHA-256, encoding, damage. Floor 1; no torch.

Nothing is kept in memory, so a file may be larger than RAM.
"""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.readers.encodings import candidates_for, codec_of
from orpo_qlora.data.readers.foreign import foreign_kind, save_as_utf8
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import BrokenRows, DataError, NeedsEncoding

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FILE_BYTES = 4_000_000_000
"""Largest file accepted."""
CHUNK_BYTES = 1 << 20
LINE_CHARACTERS = 64_000_000
"""Longest line accepted; a file without line ends must not be read as one."""
END_BYTES = 1 << 16
SAMPLE_LINES = 40
SAMPLE_BYTES = 400
SCAN_SHARE = 0.15
"""Share of the whole read that the scan takes, for the progress bar."""

_BINARY = ((b"PAR1", "Parquet"), (b"ARROW1", "Arrow"), (b"\xff\xff\xff\xff", "Arrow"))
"""First bytes of formats that are no text; an Arrow stream begins with a continuation mark."""

Progress = Callable[[float], None]
"""Called now and then with the share of the work done, 0 to 1."""


def forward_only(progress: Progress | None) -> Progress:
    """Return a callback that never goes back: the beginning of a file is read several times."""
    furthest = 0.0

    def report(done: float) -> None:
        nonlocal furthest
        if progress and done > furthest:
            furthest = done
            progress(done)

    return report


@dataclass(frozen=True)
class Source:
    """A readable text, Parquet or Arrow file, and how to decode it."""

    path: Path
    name: str
    """File name as shown to the user."""
    size: int
    sha256: str
    codec: str
    encoding: str
    """The encoding in words for the report; empty if it is no text."""
    errors: str
    """What becomes of undecodable bytes, if there are any: see `_errors_for`."""
    progress: Progress
    binary: str = ""
    """What the file is, if it is no text: “Parquet” or “Arrow”."""

    def text(self) -> io.TextIOWrapper:
        """Open the file as text after its byte order mark; line ends are kept."""
        raw = io.BufferedReader(_Reported(self.path, self.size, self.progress), CHUNK_BYTES)
        file = io.TextIOWrapper(raw, encoding=self.codec, errors=self.errors, newline="")
        try:
            # A codec chosen by the user, such as UTF-16-LE, keeps the byte order mark.
            if file.read(1) != "\ufeff":
                file.seek(0)
        except ValueError:
            file.close()
            raise
        return file

    def lines(self) -> Iterator[str]:
        """Yield the lines, ended by CR, LF or both; unlike str.splitlines not by U+2028.

        Raises:
            DataError: a line is too long to be one.
        """
        with self.text() as file:
            number = 0
            while line := file.readline(LINE_CHARACTERS + 1):
                number += 1
                if len(line) > LINE_CHARACTERS:
                    raise DataError(
                        f"{self.name}: line {number:,} has more than {LINE_CHARACTERS:,} "
                        "characters.",
                        where=f"{self.name}, line {number}",
                        hint="The file may be damaged, or not text: export it again.",
                    )
                yield line


class _Reported(io.FileIO):
    """A file that reports how far it was read."""

    def __init__(self, path: Path, size: int, progress: Progress) -> None:
        super().__init__(path)
        self._size = max(1, size)
        self._progress = progress
        self._read = 0

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = super().readinto(buffer)
        self._read += count
        self._progress(SCAN_SHARE + (1 - SCAN_SHARE) * min(1.0, self._read / self._size))
        return count


def open_source(
    path: Path,
    name: str,
    choices: ReadChoices,
    progress: Progress | None = None,
    *,
    is_whole: bool = True,
) -> Source:
    """Scan a file once, from end to end, or only its beginning.

    Raises:
        NeedsEncoding: it is text, but not Unicode, and no encoding was chosen.
        BrokenRows: some lines of a Unicode file are not, and dropping them was not chosen.
        DataError: it is missing, too large, or something that cannot be read.
    """
    on_progress = forward_only(progress)
    size = _size_of(path, name)
    try:
        with path.open("rb") as file:
            head = file.read(END_BYTES)
            file.seek(max(0, size - END_BYTES))
            tail = file.read(END_BYTES)
    except OSError as exc:
        raise _unopened(name, exc) from exc
    kind, hint = foreign_kind(head, tail)
    if kind:
        raise DataError(f"{name} is {kind}, not a file of preferences.", where=name, hint=hint)
    binary = next((found for start, found in _BINARY if head.startswith(start)), "")
    codec, encoding = ("", "") if binary else _codec_for(head, name, choices)
    scan = _Scan(path, name, size if is_whole else min(size, CHUNK_BYTES), on_progress)
    sha256, error = scan.run(codec)
    lets_through = codec == "utf-8-sig" and BrokenRows.fix in choices.fixes
    if error is not None and not lets_through:
        scan.refuse(error, codec, encoding, save_as_utf8(head))
    errors = _errors_for(codec, lets_through=lets_through, is_whole=is_whole)
    return Source(path, name, size, sha256, codec, encoding, errors, on_progress, binary)


def _errors_for(codec: str, *, lets_through: bool, is_whole: bool) -> str:
    if lets_through or (codec == "utf-8-sig" and not is_whole):
        # Kept as lone surrogates, by which their rows are recognised and dropped.
        return "surrogateescape"
    # Bytes after the scanned part are unchecked; a preview replaces what it cannot decode.
    return "strict" if is_whole else "replace"


def _size_of(path: Path, name: str) -> int:
    try:
        # A device or a pipe has no size and might never end.
        if path.exists() and not path.is_file():
            raise DataError(f"{name} is not a file.", where=name, hint="Choose a file.")
        size = path.stat().st_size
    except (OSError, ValueError) as exc:
        raise _unopened(name, exc) from exc
    if size > FILE_BYTES:
        raise DataError(
            f"{name} has {size:,} bytes; at most {FILE_BYTES:,} can be read.",
            where=name,
            hint="Split it, or keep a random part of its rows.",
        )
    return size


def _unopened(name: str, exc: OSError | ValueError) -> DataError:
    reason = getattr(exc, "strerror", None) or type(exc).__name__
    return DataError(
        f"{name} cannot be opened ({reason}).",
        where=name,
        hint="Check the name and that you may read the file.",
    )


def _codec_for(head: bytes, name: str, choices: ReadChoices) -> tuple[str, str]:
    """Return the codec of a text file and its name in words."""
    if choices.encoding:
        codec = codec_of(choices.encoding)
        return ("utf-8-sig" if codec == "utf-8" else codec), choices.encoding
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", "UTF-16"
    start = head[:1000]
    if start.count(0) * 3 > len(start):
        raise DataError(
            f"{name} is text that looks like UTF-16 without its mark, or no text at all.",
            where=name,
            hint=save_as_utf8(head),
        )
    return "utf-8-sig", "UTF-8"


@dataclass(frozen=True)
class _Fault:
    """The first place where the bytes are not what they should be."""

    offset: int
    is_nul: bool = False


class _Scan:
    """One scan over every byte."""

    def __init__(self, path: Path, name: str, size: int, progress: Progress) -> None:
        self._path, self._name, self._size, self._progress = path, name, size, progress
        self._full_size = path.stat().st_size

    def run(self, codec: str) -> tuple[str, _Fault | None]:
        """Return the SHA-256 and the first fault."""
        digest = hashlib.sha256()
        # The byte order mark is a character too; without “-sig” offsets include it.
        decoder = codecs.getincrementaldecoder(codec.removesuffix("-sig") or "latin-1")()
        fault: _Fault | None = None
        done = 0
        for chunk in self._chunks():
            digest.update(chunk)
            is_last = done + len(chunk) >= self._full_size
            if codec and (fault is None or not fault.is_nul):
                found = _fault_in(decoder, chunk, done, is_last=is_last)
                # Undecodable bytes may be dropped row by row; a NUL is never text.
                if found is not None and (fault is None or found.is_nul):
                    fault = found
            done += len(chunk)
            self._progress(SCAN_SHARE * done / max(1, self._size))
        return digest.hexdigest(), fault

    def _chunks(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb", buffering=0) as file:
                done = 0
                while done < self._size and (chunk := file.read(CHUNK_BYTES)):
                    yield chunk
                    done += len(chunk)
        except OSError as exc:
            raise _unopened(self._name, exc) from exc

    def refuse(self, fault: _Fault, codec: str, encoding: str, way_out: str) -> None:
        """Raise the error for a fault, with what the user can do about it.

        Args:
            fault: the first one.
            codec: with which the text was decoded.
            encoding: the same in words.
            way_out: how such a file is saved as UTF-8.
        """
        line, byte = self._place(fault.offset)
        where = f"{self._name}, line {line}"
        place = f"line {line:,}, byte offset {fault.offset:,}"
        if fault.is_nul:
            raise DataError(
                f"{self._name} holds a NUL byte on line {line:,} (byte offset {fault.offset:,}).",
                where=where,
                hint="The file is damaged or not text: export it again as UTF-8.",
            )
        if codec != "utf-8-sig":
            raise NeedsEncoding(
                f"{self._name} cannot be read as {encoding}: {place} (0x{byte:02X}).",
                where=where,
                hint="Choose another encoding, or save the file again as UTF-8.",
            )
        fact = f"{self._name} is not UTF-8: {place} (0x{byte:02X})"
        broken, sound, sample = self._lines_by_kind()
        if sound > broken:
            verb = "is" if broken == 1 else "are"
            raise BrokenRows(
                f"{fact}; {plural(broken, 'line')} {verb} damaged, the others are UTF-8.",
                where=where,
                hint="Repair the place, or drop the damaged rows.",
            )
        raise NeedsEncoding(
            f"{fact}.",
            where=where,
            hint=f"Choose the encoding in which the text reads right. {way_out}",
            candidates=candidates_for(sample),
        )

    def _place(self, offset: int) -> tuple[int, int]:
        """Return the line of a byte, the first being 1, and the byte."""
        line, done, last = 1, 0, b""
        for chunk in self._chunks():
            part = chunk[: max(0, offset - done)]
            # A CR LF split across two chunks is one line end.
            line += part.count(b"\n") + part.count(b"\r") - (last + part).count(b"\r\n")
            last = part[-1:] if part[-1:] == b"\r" else b""
            if done + len(chunk) > offset:
                return line, chunk[offset - done]
            done += len(chunk)
        return line, 0

    def _lines_by_kind(self) -> tuple[int, int, bytes]:
        """Count lines that are not UTF-8 and those with other letters that are; sample the first.

        A file with more of the latter is UTF-8 with damage; else it is written otherwise.
        """
        broken = sound = 0
        sample: list[bytes] = []
        with self._path.open("rb") as file:
            for line in iter(lambda: file.readline(CHUNK_BYTES), b""):
                if line.isascii():
                    continue
                try:
                    line.decode("utf-8")
                    sound += 1
                except UnicodeDecodeError:
                    broken += 1
                    if len(sample) < SAMPLE_LINES:
                        sample.append(_around_first_letter(line))
        return broken, sound, b"\n".join(sample)


def _around_first_letter(line: bytes) -> bytes:
    """Return the part of a line where its first bytes beyond ASCII are."""
    first = next(place for place, byte in enumerate(line) if byte > 0x7F)
    return line[max(0, first - SAMPLE_BYTES // 4) : first + SAMPLE_BYTES].rstrip(b"\r\n")


def _fault_in(
    decoder: codecs.IncrementalDecoder, chunk: bytes, done: int, *, is_last: bool
) -> _Fault | None:
    state = decoder.getstate()
    pending = len(state[0])
    try:
        text = decoder.decode(chunk, is_last)
    except UnicodeDecodeError as exc:
        decoder.reset()
        nul = chunk.find(0)
        if nul >= 0 and exc.encoding == "utf-8":
            return _Fault(done + nul, is_nul=True)
        return _Fault(max(0, done + exc.start - pending))
    if "\0" not in text:
        return None
    # Where letters contain zero bytes themselves the place is approximate.
    nul = chunk.find(0) if chunk.count(0) == text.count("\0") else chunk.find(b"\0\0")
    return _Fault(done + max(0, nul), is_nul=True)
