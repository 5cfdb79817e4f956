"""Chat templates by name or from a file, for models without one of their own. Floor 1; no torch.

The built-in ones are made of words that the tokenizer has: nothing is added to its vocabulary, so
the model needs no new embedding rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.summary import ROWS_KEPT, row_list
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import ConfigError
from orpo_qlora.program import PROGRAM_ENVIRONMENT
from orpo_qlora.setting import CHAT_TEMPLATES, TEMPLATE_CHARACTERS, is_template_text

IM_END = "<|im_end|>"
PROPOSED = "chatml"
"""What `auto` uses for a model without a template."""
CHECK = "orpo_qlora.models.templates.check"
CHECK_SECONDS = 60.0
"""Longest time of the check, the start of its process included."""
SMALL_LAMBDA = "0.1 to 0.25"

_CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + END + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# As in the alignment handbook of Zephyr.
_ZEPHYR = """\
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- endif %}
"""
_ALTERNATION = """\
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate user/assistant/user/assistant') }}
{%- endif %}
"""
# As Llama-2-chat's; answers are not stripped.
_LLAMA2 = f"""\
{{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else none %}}
{{%- set turns = messages if system is none else messages[1:] %}}
{{%- for message in turns %}}
{_ALTERNATION}\
{{%- if message['role'] == 'user' %}}
{{{{- BOS + '[INST] ' }}}}
{{%- if loop.first and system is not none %}}
{{{{- '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}}}
{{%- endif %}}
{{{{- message['content'] + ' [/INST]' }}}}
{{%- else %}}
{{{{- ' ' + message['content'] + ' ' + eos_token }}}}
{{%- endif %}}
{{%- endfor %}}
"""
# As Mistral-7B-Instruct's first ones, which know no system message.
_MISTRAL = f"""\
{{%- for message in messages %}}
{_ALTERNATION}\
{{%- if message['role'] == 'user' %}}
{{{{- '[INST] ' + message['content'] + ' [/INST]' }}}}
{{%- else %}}
{{{{- ' ' + message['content'] + eos_token }}}}
{{%- endif %}}
{{%- endfor %}}
"""
_ALPACA = """\
{%- if messages[0]['role'] == 'system' %}
{{- messages[0]['content'] + '\\n\\n' }}
{%- else %}
{{- 'Below is an instruction that describes a task. Write a response that appropriately ' }}
{{- 'completes the request.\\n\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{{- '### Instruction:\\n' + message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'assistant' %}
{{- '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '### Response:\\n' }}
{%- endif %}
"""
_BUILT_IN = {
    "chatml": _CHATML,
    "zephyr": _ZEPHYR,
    "llama2": _LLAMA2,
    "mistral": _MISTRAL,
    "alpaca": _ALPACA,
}


@dataclass(frozen=True)
class Words:
    """What a built-in template needs to know about a tokenizer."""

    adds_bos: bool
    """Whether the tokenizer begins a text with its beginning-of-sequence token."""
    has_im_end: bool
    """Whether `<|im_end|>` is one token."""


def built_in(name: str, words: Words) -> str:
    """Return the text of a built-in template for a tokenizer.

    Each turn ends with the tokenizer's end of sequence; in chatml with `<|im_end|>` where that is
    one token. The text begins as the tokenizer would begin it.
    """
    end = f"'{IM_END}'" if words.has_im_end else "eos_token"
    text = _BUILT_IN[name].replace("END", end)
    if name == "llama2":
        return text.replace("BOS + ", "bos_token + " if words.adds_bos else "")
    return "{{- bos_token }}\n" + text if words.adds_bos else text


class TemplateChanges(BaseModel):
    """Pairs whose conversation was changed or dropped because the template refuses it as it is."""

    model_config = ConfigDict(frozen=True)

    system_moved: int = 0
    turns_joined: int = 0
    refused: int = 0
    """Pairs that are dropped: no change helps."""
    refused_rows: tuple[int, ...] = ()
    """The first `ROWS_KEPT`."""
    refusal: str = ""
    """What the template says about the first of them."""

    def __add__(self, other: TemplateChanges) -> TemplateChanges:
        """Return the counts of both."""
        return TemplateChanges(
            system_moved=self.system_moved + other.system_moved,
            turns_joined=self.turns_joined + other.turns_joined,
            refused=self.refused + other.refused,
            refused_rows=(self.refused_rows + other.refused_rows)[:ROWS_KEPT],
            refusal=self.refusal or other.refusal,
        )

    def sentences(self) -> list[str]:
        """Return a sentence for each kind of change."""
        found = []
        if self.system_moved:
            found.append(
                "The chat template takes no system message: it is put in front of the first user "
                f"turn in {plural(self.system_moved, 'pair')}."
            )
        if self.turns_joined:
            found.append(
                "The chat template demands alternating roles: consecutive turns of one role are "
                f"joined in {plural(self.turns_joined, 'pair')}."
            )
        if self.refused:
            found.append(
                f"The chat template refuses {plural(self.refused, 'conversation')}, which "
                f"{'is' if self.refused == 1 else 'are'} left out: "
                f"{row_list(self.refused_rows, self.refused)} ({self.refusal})."
            )
        return found


UNCHANGED = TemplateChanges()


class TemplateInUse(BaseModel):
    """Which chat template a model is trained and prompted with."""

    model_config = ConfigDict(frozen=True)

    name: str
    """A built-in name, or the label of a template of the user; empty for the model's own."""
    is_base: bool
    """Whether the model has no template of its own."""
    end: str = ""
    """Token that ends a turn; empty if unknown."""

    def sentences(self, model: str) -> list[str]:
        """Return what the user should know about it; nothing about a model's own template."""
        if not self.name:
            return []
        if not self.is_base:
            return [f"Chat template: {self.name} instead of the model's own{self._ending()}."]
        return [
            f"{model} is a base model without a chat template: {self.name} is used"
            f"{self._ending()}.",
            "The NLL term has to teach the model this format too, so a small λ fits "
            f"({SMALL_LAMBDA} in the paper).",
        ]

    def note(self) -> str:
        """Return it as a note of a run."""
        why = ", since the model has none" if self.is_base else ""
        name = f"{self.name}{why}" if self.name else "the model's own"
        return f"Chat template: {name}{self._ending()}."

    def _ending(self) -> str:
        return f"; “{self.end}” ends each turn" if self.end else ""


def label_of(chat_template: str) -> str:
    """Return a value of the setting as a short text."""
    if not is_template_text(chat_template):
        return chat_template
    digest = hashlib.sha256(chat_template.encode()).hexdigest()[:8]
    return f"custom ({len(chat_template):,} characters, SHA-256 {digest}…)"


def recorded(config: TrainConfig) -> TrainConfig:
    """Return the settings with the text of a template file in place of its path, checked.

    Raises:
        ConfigError: the file is missing, too large, no template, or unfit for a chat.
    """
    text = text_of(config.chat_template)
    return config.model_copy(update={"chat_template": text}) if text else config


def text_of(chat_template: str) -> str:
    """Return the checked text of a template given by path or as text; empty for a name.

    Raises:
        ConfigError: see `recorded`.
    """
    if chat_template in CHAT_TEMPLATES:
        return ""
    if is_template_text(chat_template):
        return _checked(chat_template, "The chat template")
    path = Path(chat_template).expanduser()
    return _checked(_read(path), path.name)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > TEMPLATE_CHARACTERS:
            raise ConfigError(
                f"{path.name} is too large for a chat template: more than "
                f"{TEMPLATE_CHARACTERS // 1024} KiB.",
                where=str(path),
                hint="Choose the .jinja file of a chat template.",
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{path.name} is not UTF-8 text.", where=str(path), hint="Save it as UTF-8."
        ) from exc
    except OSError as exc:
        raise ConfigError(
            f"The chat template {path} cannot be read ({exc.strerror}).",
            where=str(path),
            hint=f"Correct the path, or choose one of {', '.join(CHAT_TEMPLATES)}.",
        ) from exc


def _checked(text: str, name: str) -> str:
    problem, hint = _problem_of(text)
    if problem:
        raise ConfigError(f"{name} {problem}.", where=name, hint=hint)
    return text


@lru_cache(maxsize=32)
def _problem_of(text: str) -> tuple[str, str]:
    """Return why a template cannot be used and what to do, tried in a process with limits."""
    environment = {**PROGRAM_ENVIRONMENT, **os.environ, "USE_TORCH": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", CHECK],
            input=text.encode(),
            capture_output=True,
            timeout=CHECK_SECONDS,
            check=False,
            env=environment,
        )
        problem, hint = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        problem = "takes too much time or memory to render two short messages"
        hint = "Take the long loops out of it."
    return str(problem), str(hint)
