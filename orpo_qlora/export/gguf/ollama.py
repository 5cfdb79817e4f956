"""A folder for Ollama: a GGUF file and a Modelfile with template, stop words, parameters. Floor 5.

Ollama renders conversations with a Go template of its own. It is derived from the run's template:
the texts around system prompt, messages and answers are found by rendering conversations of marks.
The result is compared with the run's template on templated conversations; one that differs is
refused, so that no template is guessed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from orpo_qlora import storage
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import InputError, OrpoQloraError, UnsupportedModel
from orpo_qlora.export.bundle import new_folder
from orpo_qlora.export.checks import Checks
from orpo_qlora.export.commands import ollama_name
from orpo_qlora.export.gguf.write import GgufOptions, Report, write_gguf
from orpo_qlora.models.generation.sampling import Sampling
from orpo_qlora.models.templates import rendering, tokenizers
from orpo_qlora.models.weights import find
from orpo_qlora.runs.store import Run

GGUF = "model.gguf"
_SYSTEM, _USER, _ANSWER, _NEXT = "\x02system\x02", "\x02one\x02", "\x02answer\x02", "\x02two\x02"
HINT = "Export --gguf FILE: llama.cpp and LM Studio use the template inside the file."


@dataclass(frozen=True)
class Pieces:
    """The texts of a chat template around what is said."""

    before_system: str
    after_system: str
    """Up to the first user message."""
    without_system: str
    """Before the first user message where there is no system prompt."""
    after_user: str
    """Up to where the answer begins."""
    after_answer: str
    """Up to the next user message."""

    def render(self, turns: Sequence[Message]) -> str:
        """Return a conversation as the Go template renders it."""
        system = "".join(turn.text for turn in turns if turn.role == "system")
        text = self.before_system + system + self.after_system if system else self.without_system
        for turn in turns:
            if turn.role != "system":
                end = self.after_user if turn.role == "user" else self.after_answer
                text += turn.text + end
        return text

    def go_template(self) -> str:
        """Return the template in Ollama's language."""
        return (
            f"{{{{ if .System }}}}{self.before_system}{{{{ .System }}}}{self.after_system}"
            f"{{{{ else }}}}{self.without_system}{{{{ end }}}}"
            '{{ range .Messages }}{{ if eq .Role "user" }}{{ .Content }}'
            f'{self.after_user}{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}'
            f"{self.after_answer}{{{{ end }}}}{{{{ end }}}}"
        )


def write_ollama(run: Run, folder: Path, options: GgufOptions, report: Report) -> Checks:
    """Write GGUF file and Modelfile into a new folder, and create the model if Ollama is there.

    Raises:
        UnsupportedModel: the template cannot be written for Ollama.
        OrpoQloraError: `ollama create` failed; and what `write_gguf` raises.
    """
    base = find.find_weights(run.config.model, run.config.revision)
    tokenizer = tokenizers.load_tokenizer(base, run.trained_config.chat_template)
    modelfile = modelfile_of(tokenizer)
    with new_folder(folder) as draft:
        checks = write_gguf(run, draft / GGUF, options, report)
        storage.write_whole(draft / "Modelfile", modelfile)
    if shutil.which("ollama"):
        report("creating the model in Ollama", done=0, total=0)
        _create(folder)
    return checks


def modelfile_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the Modelfile for a tokenizer with the run's template.

    Raises:
        UnsupportedModel: the template cannot be written for Ollama.
    """
    pieces = pieces_of(tokenizer)
    end = str(tokenizer.convert_ids_to_tokens(rendering.end_of_answer(tokenizer).token))
    stops = dict.fromkeys([end, str(tokenizer.eos_token or end)])
    settings = Sampling()
    lines = [
        f"FROM ./{GGUF}",
        f'TEMPLATE """{pieces.go_template()}"""',
        *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops),
        f"PARAMETER temperature {settings.temperature:g}",
        f"PARAMETER top_p {settings.top_p:g}",
    ]
    return "\n".join(lines) + "\n"


def pieces_of(tokenizer: PreTrainedTokenizerBase) -> Pieces:
    """Return the texts around messages, checked against the template itself.

    Raises:
        UnsupportedModel: the template is not of this form.
    """
    question, answer = Message("user", _USER), Message("assistant", _ANSWER)
    asked = [question, answer, Message("user", _NEXT)]
    system = Message("system", _SYSTEM)
    try:
        plain = _render(tokenizer, asked)
        pieces = _cut(plain, plain)
    except (ValueError, InputError) as exc:
        raise _unsuitable("it changes what is said") from exc
    try:
        pieces = _cut(plain, _render(tokenizer, [system, *asked]))
    except (ValueError, InputError):
        # No system prompt in the template: Ollama's is put before the first message.
        pieces = Pieces("", "\n\n", pieces.without_system, pieces.after_user, pieces.after_answer)
    else:
        _check(tokenizer, pieces, [system, question])
        _check(tokenizer, pieces, [system, *asked, answer, question])
    _check(tokenizer, pieces, [question])
    _check(tokenizer, pieces, [*asked, answer, question])
    texts = (pieces.before_system, pieces.after_system, pieces.without_system)
    if any(
        sign in text
        for text in (*texts, pieces.after_user, pieces.after_answer)
        for sign in ('"""', "{{", "}}")
    ):
        raise _unsuitable("its texts cannot be quoted in a Modelfile")
    return pieces


def _cut(plain: str, with_system: str) -> Pieces:
    """Cut two rendered conversations at their marks; ValueError where one is missing."""
    without, rest = _halves(plain, _USER)
    after_user, rest = _halves(rest, _ANSWER)
    after_answer, _ = _halves(rest, _NEXT)
    if with_system == plain:
        return Pieces("", "", without, after_user, after_answer)
    before, rest = _halves(with_system, _SYSTEM)
    after, _ = _halves(rest, _USER)
    return Pieces(before, after, without, after_user, after_answer)


def _halves(text: str, mark: str) -> tuple[str, str]:
    before, found, after = text.partition(mark)
    if not found:
        raise ValueError(mark)
    return before, after


def _render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message]) -> str:
    """Render an open conversation without the first token that llama.cpp adds by itself."""
    text = rendering.render(tokenizer, turns, is_open=True)
    first = str(tokenizer.bos_token or "")
    adds_first = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(first) if first and adds_first else text


def _check(tokenizer: PreTrainedTokenizerBase, pieces: Pieces, turns: Sequence[Message]) -> None:
    if pieces.render(turns) != _render(tokenizer, turns):
        raise _unsuitable("it treats messages differently by their place")


def _unsuitable(reason: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"The run's chat template cannot be written for Ollama: {reason}.", hint=HINT
    )


def _create(folder: Path) -> None:
    command = ["ollama", "create", ollama_name(folder), "-f", str(folder / "Modelfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise OrpoQloraError(
            f"ollama create failed: {lines[-1] if lines else 'it printed nothing.'}",
            hint=f"The folder is complete: {folder}. Start Ollama and create the model again.",
        )
