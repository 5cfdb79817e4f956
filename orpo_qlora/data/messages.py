"""Messages of conversations, their roles, tools and tool calls. Floor 1; no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, in a pair or in the chat."""

    role: Role
    content: str
    tool_calls: str = ""
    """JSON list of the calls of an assistant's message, as chat templates take them."""
    name: str = ""
    """Of the tool whose result this is."""
    tool_call_id: str = ""

    def record(self) -> dict[str, object]:
        """Return the message as chat templates and files take it; empty fields are left out."""
        found: dict[str, object] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            found["tool_calls"] = json.loads(self.tool_calls)
        named = {"name": self.name, "tool_call_id": self.tool_call_id}
        return found | {key: value for key, value in named.items() if value}

    def fields(self) -> dict[str, str]:
        """Return the fields that are not empty, to make the same message of."""
        calls = {
            "tool_calls": self.tool_calls,
            "name": self.name,
            "tool_call_id": self.tool_call_id,
        }
        named = {key: value for key, value in calls.items() if value}
        return {"role": self.role, "content": self.content, **named}

    @property
    def text(self) -> str:
        """The message as a reader sees it, its calls as `name({"city": "Rome"})`."""
        return with_calls(self.content, self.tool_calls)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a pair, and the calls in and before its responses; empty for most pairs."""

    tools: str = ""
    """JSON list of the tools that the model may call."""
    chosen_calls: str = ""
    """JSON list, as `Message.tool_calls`."""
    rejected_calls: str = ""
    steps: tuple[Message, ...] = ()
    """Calls and results between the prompt and the responses."""


NO_TOOLS = ToolUse()


def with_calls(content: str, tool_calls: str) -> str:
    """Return a text followed by its tool calls, one a line."""
    if not tool_calls:
        return content
    calls = [call.get("function", call) for call in json.loads(tool_calls)]
    lines = [
        f"{call.get('name', '')}({json.dumps(call.get('arguments', {}), ensure_ascii=False)})"
        for call in calls
    ]
    return "\n".join(filter(None, (content, *lines)))
