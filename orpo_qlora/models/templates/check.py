"""The program that tries a chat template: `python -m orpo_qlora.models.templates.check`. Floor 1.

Reads the template from stdin and prints a problem and a remedy as JSON, both empty if it can be
used. It renders in transformers' sandbox, in a process whose time and memory are limited: a
template may loop. Without torch.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template

SECONDS = 3
MEMORY_BYTES = 512 * 2**20
TEXT_CHARACTERS = 1_000_000
QUESTION, ANSWER = "USERGOESHERE", "ANSWERGOESHERE"
CORRECT = "Correct the template, or choose a built-in one."


def problem_of(template: str) -> tuple[str, str]:
    """Return why a template cannot be used, to complete “FILE …”, and what to do about it."""
    if not template.strip():
        return "is empty", CORRECT
    user = {"role": "user", "content": QUESTION}
    try:
        opened = _render(template, [user], is_open=True)
        whole = _render(template, [user, {"role": "assistant", "content": ANSWER}], is_open=False)
    except TemplateSyntaxError as exc:
        return f"is no Jinja template: {exc.message} (line {exc.lineno})", CORRECT
    except TemplateError as exc:
        return f"cannot render a question and an answer: {exc.message}", CORRECT
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as exc:
        return f"cannot render a question and an answer: {exc}", CORRECT
    return _problem_of_texts(opened, whole)


def _problem_of_texts(opened: str, whole: str) -> tuple[str, str]:
    if max(len(opened), len(whole)) > TEXT_CHARACTERS:
        return "makes millions of characters from two short messages", CORRECT
    if QUESTION not in opened:
        return (
            "does not render the user's message",
            "Render message['content'] of every message in messages.",
        )
    if ANSWER not in whole:
        return (
            "does not render the assistant's message",
            "Render messages whose role is assistant, with their content.",
        )
    if whole.index(ANSWER) < whole.rindex(QUESTION):
        return "renders the answer before the question", "Render the messages in their order."
    return "", ""


def _render(template: str, messages: list[dict[str, str]], *, is_open: bool) -> str:
    rendered, _ = render_jinja_template(
        [messages],
        chat_template=template,
        add_generation_prompt=is_open,
        enable_thinking=False,
        bos_token="<s>",
        eos_token="</s>",
    )
    return str(rendered[0])


def _limit() -> None:
    """Limit processor time and memory beyond what the imports took."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    size = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> int:
    """Check the template on stdin; a crash or a kill counts as one that takes too much."""
    template = sys.stdin.buffer.read().decode("utf-8")
    _limit()
    sys.stdout.write(json.dumps(problem_of(template)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
