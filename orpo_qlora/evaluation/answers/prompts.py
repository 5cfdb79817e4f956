"""Prompt sets: held-out prompts of a run, or a file of prompts. Floor 5; no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.data.readers.table import open_table
from orpo_qlora.data.shapes.base import RowFaultError
from orpo_qlora.data.shapes.content.cells import looks_like_messages, parse
from orpo_qlora.data.wording import listed, plural
from orpo_qlora.errors import DataError, InputError
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run

PROMPT_COLUMNS = ("prompt", "instruction", "question")
TURNS_COLUMN = "turns"
ID_COLUMNS = ("question_id", "id")
CATEGORY_COLUMN = "category"
INPUT_COLUMN = "input"
"""Alpaca's second part of an instruction."""
REFERENCE_COLUMN = "reference"
MOST_PROMPTS = 20_000
ROWS_SHOWN = 5
_MESSAGES = TypeAdapter(tuple[Message, ...])


class Prompt(BaseModel):
    """A conversation to be answered, and the user's further turns."""

    model_config = ConfigDict(frozen=True)

    id: str
    opening: tuple[Message, ...]
    """Messages before the first answer, the last one the user's or a tool's."""
    followups: tuple[str, ...] = ()
    """Further messages of the user, each sent after the answer before it."""
    category: str = ""
    references: tuple[str, ...] = ()
    """Reference answers by turn, for a judge; may be empty."""
    tools: str = ""
    """JSON list of the tools that the model may call; empty for none."""

    @property
    def key(self) -> str:
        """Hash of what the model reads: the same text in two files has the same answers."""
        about = [[message.fields() for message in self.opening], list(self.followups), self.tools]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def text(self) -> str:
        """The last message of the user before the first answer."""
        return next(one.content for one in reversed(self.opening) if one.role == "user")

    @property
    def whole_text(self) -> str:
        """All messages before the first answer; those before the last are named by their role."""
        if len(self.opening) == 1:
            return self.text
        return "\n\n".join(f"{one.role}: {one.text}" for one in self.opening)

    @property
    def questions(self) -> tuple[str, ...]:
        """The user's messages that are answered, by turn."""
        return (self.text, *self.followups)


class PromptSet(BaseModel):
    """Different prompts in file order."""

    model_config = ConfigDict(frozen=True)

    name: str
    prompts: tuple[Prompt, ...]
    repeated: int = 0
    """Rows left out because an earlier row has the same prompt."""

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories in the order of their first prompt; empty without any."""
        return tuple(dict.fromkeys(one.category for one in self.prompts if one.category))

    def first(self, count: int) -> PromptSet:
        """Return the first prompts, or all for 0, taking turns between categories."""
        if not 0 < count < len(self.prompts):
            return self
        groups = [[one for one in self.prompts if one.category == c] for c in self.categories]
        groups.append([one for one in self.prompts if not one.category])
        ordered = [
            group[place]
            for place in range(max(map(len, groups)))
            for group in groups
            if place < len(group)
        ]
        kept = {one.key for one in ordered[:count]}
        chosen = tuple(one for one in self.prompts if one.key in kept)
        return self.model_copy(update={"prompts": chosen})


def held_out_prompts(run: Run) -> PromptSet:
    """Return the different prompts of a run's held-out pairs.

    Raises:
        InputError: the run held no pairs out.
    """
    prompts = [_of_pair(pair) for pair in store.held_out_pairs(run.paths)]
    if not prompts:
        raise InputError(
            f"Run “{run.title}” has no held-out pairs, so it has no held-out prompts.",
            hint="Give a file of prompts, or train again with “Held-out share” above 0.",
        )
    return _prompt_set(f"held-out prompts of {run.title}", prompts)


def _of_pair(pair: PreferencePair) -> Prompt:
    return Prompt(id=str(pair.row), opening=pair.conversation, tools=pair.tool_use.tools)


def read_prompts(path: Path, source: str = "") -> PromptSet:
    """Return the prompts of a file.

    The file has a column `prompt`, `instruction` or `question` with a text or a list of messages,
    or a column `turns` with a list of texts (FastChat); `category`, `question_id` and `reference`
    are read where they are.

    Raises:
        DataError: the file cannot be read, has no such column, or a prompt is empty.
    """
    table = open_table(path, source)
    names = {name.strip().lower(): index for index, name in enumerate(table.columns)}
    column = next((name for name in (TURNS_COLUMN, *PROMPT_COLUMNS) if name in names), "")
    if not column:
        raise DataError(
            f"{table.source} has no column of prompts; its columns are {listed(table.columns)}.",
            where=table.source,
            hint=f"Name the column of prompts {', '.join(PROMPT_COLUMNS)} or {TURNS_COLUMN}.",
        )
    prompts: list[Prompt] = []
    unusable: list[str] = []
    for row in table.rows():
        cells = {name: row.cells[index] for name, index in names.items()}
        prompt = _of_cells(cells, column, row.number)
        if prompt is None:
            unusable.append(row.place)
        else:
            prompts.append(prompt)
        if len(prompts) > MOST_PROMPTS:
            raise DataError(
                f"{table.source} has more than {MOST_PROMPTS:,} prompts.",
                where=table.source,
                hint="Take a sample of them.",
            )
    if unusable:
        rest = len(unusable) - ROWS_SHOWN
        more = f" and {plural(rest, 'more row')}" if rest > 0 else ""
        raise DataError(
            f"{table.source}: no usable text in column “{column}” of "
            f"{', '.join(unusable[:ROWS_SHOWN])}{more}.",
            where=f"{table.source}, {unusable[0]}",
            hint="Fill in the prompt, or delete the row. A list of messages ends with the user's.",
        )
    return _prompt_set(table.source, prompts)


def _prompt_set(name: str, prompts: Iterable[Prompt]) -> PromptSet:
    listed_prompts = list(prompts)
    different = {prompt.key: prompt for prompt in reversed(listed_prompts)}
    ordered = tuple(reversed(different.values()))
    return PromptSet(name=name, prompts=ordered, repeated=len(listed_prompts) - len(ordered))


def _of_cells(cells: Mapping[str, object], column: str, number: int) -> Prompt | None:
    """Return the prompt of a row, None if it has no usable text."""
    is_turns = column == TURNS_COLUMN
    cells = {**cells, column: _parsed(cells[column], is_list=is_turns)}
    texts = _texts_of(cells[column]) if is_turns else ()
    opening = (Message("user", texts[0]),) if texts else _opening_of(cells, column)
    if not opening:
        return None
    given = next((cells[name] for name in ID_COLUMNS if cells.get(name) not in (None, "")), number)
    category, reference = cells.get(CATEGORY_COLUMN), cells.get(REFERENCE_COLUMN)
    return Prompt(
        id=str(given),
        opening=opening,
        followups=texts[1:],
        category=category.strip() if isinstance(category, str) else "",
        references=_texts_of(_parsed(reference, is_list=True) or reference),
    )


def _opening_of(cells: Mapping[str, object], column: str) -> tuple[Message, ...]:
    cell = cells[column]
    if isinstance(cell, str):
        more = cells.get(INPUT_COLUMN)
        text = f"{cell}\n\n{more}" if isinstance(more, str) and more.strip() else cell
        return (Message("user", text),) if cell.strip() else ()
    return _messages_of(cell) if isinstance(cell, list) else ()


def _messages_of(cell: Sequence[object]) -> tuple[Message, ...]:
    """Return a list of messages that ends with the user's; nothing if it is none."""
    try:
        messages = _MESSAGES.validate_python(cell)
    except ValueError:
        return ()
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        return ()
    return messages


def _texts_of(cell: object) -> tuple[str, ...]:
    """Return the texts of a list; nothing if one of them is empty or is no text."""
    found = list(_strings(cell))
    return tuple(found) if all(text.strip() for text in found) else ()


def _parsed(cell: object, *, is_list: bool) -> object:
    """Return what a text of a CSV file holds, as JSON or as Python writes it.

    Only of a list or of messages: any other text is a prompt, also one that begins with a bracket.
    An empty list is returned where it cannot be parsed.
    """
    looks_like_list = is_list and isinstance(cell, str) and cell.lstrip().startswith("[")
    if not isinstance(cell, str) or not (looks_like_list or looks_like_messages(cell)):
        return cell
    try:
        value = parse(cell)
    except RowFaultError:
        return []
    return value if isinstance(value, list) else [value]


def _strings(cell: object) -> Iterator[str]:
    if isinstance(cell, str) and cell:
        yield cell
    if isinstance(cell, list):
        yield from (one if isinstance(one, str) else "" for one in cell)
