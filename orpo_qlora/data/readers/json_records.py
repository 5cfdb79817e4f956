"""JSON lines and JSON arrays: one object per preference, read piece by piece. Floor 1; no torch.

A list inside one object is read by `wrapped.py`. Stricter than Python's own decoder, which accepts
NaN and the last of two equal keys. Streamed by hand: ijson 3.6 reports no line numbers, keeps the
last of two equal keys, turns a lone surrogate into “?” and reads nothing after one bad byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice

from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.readers.source import Source
from orpo_qlora.data.wording import brief, listed
from orpo_qlora.errors import DataError

HEAD_OBJECTS = 1000
"""Objects whose keys become the columns; later keys are ignored."""
CHUNK_CHARACTERS = 1 << 20
OBJECT_CHARACTERS = 64_000_000
"""Longest element of an array accepted."""
# Only these four are white space in JSON; Python's \s knows many more.
_SPACE = re.compile(r"[ \t\n\r]*")
_START = re.compile(r'[ \t\n\r]*(?:(\{)[ \t\n\r]*(?:["}]|$)|(\[)[ \t\n\r]*(?:[\[{\]]|$))')
_OTHER_ARRAY = re.compile(r"\ufeff?[ \t\n\r]*\[")
_NAMES = (".json", ".jsonl", ".ndjson")
_ONE_PER_LINE = "Write one JSON object per line, or one array of objects."
_STRAY_COMMA = "A comma before } or ] is not allowed in JSON: take it out."


class _NotStrictError(ValueError):
    """Something Python's reader accepts and JSON does not."""


def _object_of(members: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(members)
    if len(values) < len(members):
        names = [name for name, _ in members]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise _NotStrictError(f"names {listed(twice)} more than once")
    return values


def _refuse_constant(constant: str) -> object:
    raise _NotStrictError(f"holds {constant}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object_of, parse_constant=_refuse_constant)


def json_format(head: str) -> str:
    """Return “JSON lines” or “JSON array” if a file begins like that, else an empty text."""
    start = _START.match(head)
    if start is None:
        return ""
    return "JSON lines" if start[1] else "JSON array"


def read_objects(source: Source, kind: str) -> Iterator[Row]:
    """Yield one row per object; its only cell is the object, until `spread` knows the columns."""
    return _read_lines(source) if kind == "JSON lines" else _read_array(source)


def columns_of(rows: Iterator[Row]) -> tuple[str, ...]:
    """Return the keys of the first objects, in the order in which they come."""
    keys: dict[str, None] = {}
    for row in islice(rows, HEAD_OBJECTS):
        if row.cells and isinstance(row.cells[0], dict):
            keys.update(dict.fromkeys(row.cells[0]))
    return tuple(keys)


def spread(row: Row, columns: tuple[str, ...]) -> Row:
    """Return a row with one cell per column, None where the object lacks it."""
    if row.fault:
        return row
    values = row.cells[0]
    if not isinstance(values, dict):
        fault = f"is {_kind_of(values)} where an object is needed"
        return Row((), row.number, row.line, fault, _ONE_PER_LINE)
    return Row(tuple(values.get(column) for column in columns), row.number, row.line)


def _kind_of(value: object) -> str:
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return f"the text {brief(value)}"
    return "nothing" if value is None else f"the value {brief(str(value))}"


def _read_lines(source: Source) -> Iterator[Row]:
    number = 0
    for line_number, line in enumerate(source.lines(), start=1):
        text = line.strip(" \t\r\n\ufeff")
        if not text:
            continue
        number += 1
        try:
            value = _DECODER.decode(text)
        except (ValueError, RecursionError) as exc:
            fault, hint = _explain(exc, text)
            yield Row((), number, line_number, fault, hint)
            continue
        yield Row((value,), number, line_number)


def _read_array(source: Source) -> Iterator[Row]:
    with source.text() as file:
        window = Window(file.read)
        window.skip_space()
        window.take("[")
        yield from read_elements(window)


def read_elements(window: Window) -> Iterator[Row]:
    """Yield one row per element of a list whose bracket was taken, and take the last bracket."""
    number = 0
    while True:
        window.skip_space()
        if window.peek() == "]" and not number:
            window.take("]")
            return
        number += 1
        line = window.line
        try:
            value = window.value()
            yield Row((value,), number, line)
            window.skip_space()
            if window.peek() == "]":
                window.take("]")
                return
            window.take(",")
        except (ValueError, RecursionError) as exc:
            fault, hint = _explain(exc, window.rest())
            yield Row((), number, line, fault, hint, is_end=True)
            return


_Read = Callable[[int], str]


class Window:
    """A moving part of a long text, from which values are taken one by one."""

    def __init__(self, read: _Read) -> None:
        self._read = read
        self._text = ""
        self._at = 0
        self._is_end = False
        self.line = 1

    def rest(self) -> str:
        """Return the buffered text that is not consumed yet."""
        return self._text[self._at :]

    def peek(self) -> str:
        """Return the next character, empty at the end."""
        if self._at >= len(self._text):
            self._more(CHUNK_CHARACTERS)
        return self._text[self._at : self._at + 1]

    def take(self, character: str) -> None:
        """Take one character; any other is an error."""
        if self.peek() != character:
            raise json.JSONDecodeError(f"Expecting '{character}'", self._text, self._at)
        self._at += 1

    def skip_space(self) -> None:
        """Take the white space that comes next."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._move(space.end() if space else self._at)
            if self.peek() not in {" ", "\t", "\n", "\r"} or self.peek() == "":
                return

    def object_keys(self) -> Iterator[str]:
        """Yield the keys of the next object; the caller takes the value of each key."""
        self.skip_space()
        self.take("{")
        self.skip_space()
        while self.peek() != "}":
            key = self.value()
            if not isinstance(key, str):
                raise ValueError("a key that is not a text")
            self.skip_space()
            self.take(":")
            self.skip_space()
            yield key
            self.skip_space()
            if self.peek() != "}":
                self.take(",")
                self.skip_space()
        self.take("}")
        self.skip_space()

    def value(self) -> object:
        """Take the next JSON value, reading on until it is whole."""
        size = CHUNK_CHARACTERS
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                # Twice as much each time: one long object must not be parsed from its start
                # for every piece of it.
                if len(self._text) - self._at > OBJECT_CHARACTERS or not self._more(size):
                    raise
                size *= 2
                continue
            # A number at the end of the buffer may continue in the next piece.
            if end < len(self._text) or not self._more(CHUNK_CHARACTERS):
                self._move(end)
                return value

    def _more(self, characters: int) -> bool:
        if self._is_end:
            return False
        piece = self._read(characters)
        self._is_end = not piece
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)

    def _move(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end


def _explain(exc: ValueError | RecursionError, text: str) -> tuple[str, str]:
    """Return what is wrong with a JSON text, and a hint."""
    if isinstance(exc, _NotStrictError):
        return str(exc), "Export the file again with a strict JSON writer."
    if isinstance(exc, RecursionError):
        return "is nested too deeply", "A preference needs no more than lists of messages."
    if not isinstance(exc, json.JSONDecodeError):
        return "holds a number that is too long", "Write it as text, in quotes."
    if text.strip() in {"{", "["}:
        fault = "is one JSON value spread over lines, in a file that begins with an object"
        return fault, _ONE_PER_LINE
    before = exc.doc[: exc.pos].rstrip()
    if before.endswith(",") and exc.doc[exc.pos : exc.pos + 1] in {"}", "]"}:
        return f"is not valid JSON at {_place_in(exc)}", _STRAY_COMMA
    return f"is not valid JSON: {exc.msg.lower()} at {_place_in(exc)}", _ONE_PER_LINE


def _place_in(exc: json.JSONDecodeError) -> str:
    return f"{brief(exc.doc[max(0, exc.pos - 10) : exc.pos + 10])}"


def refuse_keyless(columns: tuple[str, ...], name: str) -> None:
    """Make sure that the objects have keys.

    Raises:
        DataError: not one of the first objects has any.
    """
    if not columns:
        raise DataError(f"{name} holds no JSON objects with keys.", where=name, hint=_ONE_PER_LINE)


def refuse_other_array(head: str, name: str) -> None:
    """Make sure that a file is not a JSON array of texts or numbers, or one of them alone.

    Raises:
        DataError: by its name and first character it is one.
    """
    if name.lower().endswith(_NAMES) and (_OTHER_ARRAY.match(head) or _is_scalar(head)):
        raise DataError(f"{name} holds no JSON objects with keys.", where=name, hint=_ONE_PER_LINE)


def _is_scalar(text: str) -> bool:
    try:
        return not isinstance(json.loads(text), list | dict)
    except (ValueError, RecursionError):
        return False
