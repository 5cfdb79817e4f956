"""Tools and tool calls as chat templates take them. Floor 1; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orpo_qlora.data.column_names import plain_name
from orpo_qlora.data.shapes.base import Candidate, Preference, RowFaultError

_COLUMNS = {"tools", "functions"}
FAULT = "tool-calls"


def calls_of(value: object) -> str:
    """Return tool calls as JSON, with arguments as objects: templates write them out themselves.

    Args:
        value: a list of calls, one call, or either as text: OpenAI's `{"function": {"name": …}}`,
            or `{"name": …, "arguments": …}`.

    Raises:
        RowFaultError: it is no tool call.
    """
    calls = _parsed(value)
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list):
        raise RowFaultError(FAULT, f"{value!r}"[:200])
    return json.dumps([_call(call) for call in calls], ensure_ascii=False) if calls else ""


def _call(call: object) -> dict[str, object]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not function.get("name"):
        raise RowFaultError(FAULT, f"{call!r}"[:200])
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        arguments = _parsed(arguments)
    filled = _filled(arguments) if arguments else {}
    known = {"id": call.get("id"), "type": "function"}
    named = {key: text for key, text in known.items() if text}
    return {**named, "function": {"name": function["name"], "arguments": filled}}


def tools_of(value: object) -> str:
    """Return a list of tools as JSON, empty where there are none.

    Raises:
        RowFaultError: it is no list of tools.
    """
    tools = _parsed(value)
    if tools is None or tools in ("", [], {}):
        return ""
    tools = [tools] if isinstance(tools, dict) else tools
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowFaultError(FAULT, f"tools {value!r}"[:200])
    return json.dumps([_filled(tool) for tool in tools], ensure_ascii=False)


def _parsed(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return ""
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as exc:
        raise RowFaultError(FAULT, value[:200]) from exc


def _filled(value: object) -> object:
    """Return objects without keys whose value is None: Parquet gives all rows the same keys."""
    if isinstance(value, dict):
        return {str(key): _filled(one) for key, one in value.items() if one is not None}
    return [_filled(one) for one in value] if isinstance(value, list) else value


def with_tools(candidates: Iterator[Candidate], columns: Sequence[str]) -> Iterator[Candidate]:
    """Add the tools that a column of a file holds to the preferences of its rows."""
    place = next((at for at, name in enumerate(columns) if plain_name(name) in _COLUMNS), None)
    if place is None:
        yield from candidates
        return
    for candidate in candidates:
        found, cells = candidate.found, candidate.row.cells
        if not isinstance(found, Preference) or place >= len(cells):
            yield candidate
            continue
        try:
            tools = tools_of(cells[place])
        except RowFaultError as exc:
            yield Candidate(candidate.row, exc.reason, exc.detail)
            continue
        use = replace(found.tool_use, tools=tools or found.tool_use.tools)
        yield candidate._replace(found=found._replace(tool_use=use))


def tools_column(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the column of tools, if there is one."""
    return tuple(name for name in columns if plain_name(name) in _COLUMNS)[:1]
