"""Cells to texts and messages: JSON, Python and numpy reprs, content parts, roles. Floor 1."""

from __future__ import annotations

import ast
import json
import re

from orpo_qlora.data.messages import Message, Role
from orpo_qlora.data.shapes.base import RowFaultError
from orpo_qlora.data.shapes.content.rounds import messages_of_rounds
from orpo_qlora.data.shapes.content.tools import calls_of

CELL_LITERAL_CHARACTERS = 1_000_000
"""Longest Python literal that is parsed; `ast` needs a multiple of it in memory."""
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "instruction": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatbot": "assistant",
    "bot": "assistant", "ai": "assistant", "output": "assistant", "chatgpt": "assistant",
}  # fmt: skip
RESULT_ROLES = {"tool", "function", "observation", "tool_response", "function_response", "ipython"}
"""Roles of what a tool returned."""
CALL_ROLES = {"function_call", "tool_call"}
"""ShareGPT's roles of an assistant's message that is a call."""
TOOL_ROLES = RESULT_ROLES | CALL_ROLES
ROLE_KEYS = ("role", "from", "speaker", "author")
_NAME_KEYS = {"author"}
"""Keys that as often hold a name: a role only if it is a known one."""
CONTENT_KEYS = ("content", "value", "text", "message", "parts")
ANSWER_KEYS = (
    "text", "content", "answer", "response", "completion", "output", "generated_text", "value",
    "generation", "message", "full_text", "post", "article", "question", "prompt", "instruction",
)  # fmt: skip
"""Keys of a response or prompt written as an object, such as `{"text": …, "score": …}`."""
_ABOUT_ANSWER = {"score", "rating", "rank", "reward", "model", "overall_score"}
_MEDIA = re.compile(r"image|audio|video")
_SERIALISED = re.compile(
    r"""\s*(?:(?:np\.|numpy\.)?array\()?\s*(?:\[\s*)?\{\s*['"](?:role|from|content|value|messages)['"]\s*:"""
)
_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
# A numpy repr has no commas between elements, and wraps them in array(…, dtype=…) or np.str_(…).
_NUMPY = re.compile(
    rf"(?P<dtype>,\s*dtype=(?:{_STRING}|\w+))"
    rf"|(?P<item>{_STRING}|[}}\]]|[\d.]+)(?P<gap>\s+(?=['\"{{\[\d-]))?"
    r"|(?P<call>(?:np|numpy)\.\w+(?=\()|array(?=\())",
    re.DOTALL,
)


def looks_like_messages(cell: object) -> bool:
    """Return whether a text begins like a serialised message or list of messages."""
    return isinstance(cell, str) and bool(_SERIALISED.match(cell))


def parse(text: str) -> object:
    """Return the value of a JSON text, a Python literal or a numpy repr.

    Raises:
        RowFaultError: it is none of them.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > CELL_LITERAL_CHARACTERS:
        raise RowFaultError("no-messages", "the list is too long to be parsed")
    try:
        return ast.literal_eval(_NUMPY.sub(_with_comma, text.strip()))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as exc:
        raise RowFaultError("no-messages", text) from exc


def _with_comma(found: re.Match[str]) -> str:
    if found["item"] is None:
        return ""
    return found["item"] + ("," + found["gap"] if found["gap"] else "")


def unpacked(cell: object) -> object:
    """Return the list or object that a text serialises; any other cell unchanged."""
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[", "{", "array(", "np.array(")):
        return records_of(cell)
    try:
        value = parse(cell)
    except RowFaultError:
        return cell
    return records_of(value) if isinstance(value, list | dict) else cell


def records_of(cell: object) -> object:
    """Return a struct of parallel lists, as `datasets` writes a list of structs, as objects."""
    if not isinstance(cell, dict) or len(cell) < 2:
        return cell
    lists = [value for value in cell.values() if isinstance(value, list)]
    if len(lists) < len(cell) or not lists[0] or len({len(one) for one in lists}) > 1:
        return cell
    return [dict(zip(cell, row, strict=True)) for row in zip(*lists, strict=True)]


def text_of(cell: object) -> str:
    """Return a cell as text, empty for None.

    Raises:
        RowFaultError: it is something else, or a serialised list of messages.
    """
    if looks_like_messages(cell):
        raise RowFaultError("no-messages", str(cell))
    if isinstance(cell, str):
        return cell
    if cell is None:
        return ""
    raise RowFaultError("no-text", f"{cell!r}"[:200])


def is_message(value: object) -> bool:
    """Return whether an object is one message: it has a role."""
    return isinstance(value, dict) and bool(_role_of(value))


def _role_of(entry: dict[str, object]) -> str:
    for key in ROLE_KEYS:
        role = entry.get(key)
        if isinstance(role, str):
            name = role.strip().casefold()
            if key not in _NAME_KEYS or name in ROLES or name in TOOL_ROLES:
                return role
    return ""


def is_message_list(cell: object) -> bool:
    """Return whether a cell holds messages, as a list, an object or serialised text."""
    if isinstance(cell, str) and not cell.lstrip().startswith(("[", "{", "array(", "np.array(")):
        return False
    if looks_like_messages(cell):
        return True
    value = unpacked(cell)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    values = value if isinstance(value, list) else [value]
    are_messages = bool(values) and all(map(is_message, values))
    return are_messages or messages_of_rounds(value) is not None


def messages_of(cell: object) -> list[Message]:
    """Return the messages of a cell: a list, one object, `{"messages": […]}` or serialised text.

    Raises:
        RowFaultError: it holds something else, media or an unknown role.
    """
    value = records_of(parse(cell) if isinstance(cell, str) else cell)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    values = messages_of_rounds(value) or ([value] if isinstance(value, dict) else value)
    if not isinstance(values, list):
        raise RowFaultError("no-messages", f"{cell!r}"[:200])
    return [_message(entry) for entry in values]


def _message(entry: object) -> Message:
    if not isinstance(entry, dict):
        raise RowFaultError("no-messages", f"{entry!r}"[:200])
    role = _role_of(entry)
    content = next((entry[key] for key in CONTENT_KEYS if entry.get(key) is not None), None)
    if not role:
        raise RowFaultError("no-messages", f"{entry!r}"[:200])
    name = role.strip().casefold()
    if name in CALL_ROLES:
        return Message("assistant", "", calls_of(content))
    calls = entry.get("tool_calls") or entry.get("function_call")
    if calls and ROLES.get(name) == "assistant":
        return Message("assistant", content_of(content or ""), calls_of(calls))
    if name in RESULT_ROLES:
        return _result(entry, content)
    if name not in ROLES:
        raise RowFaultError("unknown-role", f"role “{role}”")
    return Message(ROLES[name], content_of(content))


def _result(entry: dict[str, object], content: object) -> Message:
    """Return what a tool returned; an object is written as JSON."""
    if isinstance(content, dict) or (isinstance(content, list) and not is_part_list(content)):
        content = json.dumps(content, ensure_ascii=False)
    name, call = (str(entry.get(key) or "") for key in ("name", "tool_call_id"))
    return Message("tool", content_of(content or ""), name=name, tool_call_id=call)


def content_of(content: object) -> str:
    """Return the text of a message: a text, or a list of content parts.

    Raises:
        RowFaultError: a part is an image or a recording, or there is no text.
    """
    if isinstance(content, list):
        return "".join(_part(part) for part in content)
    if not isinstance(content, str):
        raise RowFaultError("no-messages", f"content {content!r}"[:200])
    return content


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        kind = str(part.get("type", ""))
        if _MEDIA.search(kind):
            raise RowFaultError("media", f"a content part of type “{kind}”")
        if isinstance(part.get("text"), str):
            return str(part["text"])
    raise RowFaultError("no-messages", f"{part!r}"[:200])


def is_part_list(cell: object) -> bool:
    """Return whether a cell is a list of content parts, such as `[{"type": "text", …}]`."""
    return isinstance(cell, list) and bool(cell) and all(map(_is_part, cell))


def _is_part(value: object) -> bool:
    if not isinstance(value, dict) or "role" in value:
        return False
    return "type" in value or value.keys() == {"text"}


def answer_object_key(cell: object) -> str:
    """Return the key that holds the text of a response written as an object, or an empty text."""
    if not isinstance(cell, dict) or is_message(cell):
        return ""
    return next(
        (
            key
            for key in ANSWER_KEYS
            if isinstance(cell.get(key), str | list) or is_message(cell.get(key))
        ),
        "",
    )


def is_object_text(cell: object) -> bool:
    """Return whether a text is an object with a text, as Python prints it: pandas writes it so.

    JSON needs a score, a rank or a model beside the text: an answer or a prompt may well be JSON.
    """
    if not isinstance(cell, str) or not cell.startswith("{"):
        return False
    value = unpacked(cell)
    is_python = cell.startswith("{'")
    is_rated = isinstance(value, dict) and bool(_ABOUT_ANSWER & value.keys())
    return (is_python or is_rated) and bool(answer_object_key(value))


def turns_of(cell: object, role: Role) -> list[Message]:
    """Return a prompt or a response as turns; a plain text is one turn of this role.

    Raises:
        RowFaultError: the cell is neither text nor messages.
    """
    value = unpacked(cell) if looks_like_messages(cell) else records_of(cell)
    if is_part_list(value):
        return [Message(role, content_of(value))]
    if isinstance(value, dict) and not is_message(value) and "messages" not in value:
        key = answer_object_key(value)
        if not key:
            raise RowFaultError("no-text", f"{value!r}"[:200])
        return turns_of(value[key], role)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return [Message(role, value[0])]
    if isinstance(value, list | dict):
        return messages_of(value)
    return [Message(role, text_of(value))]
