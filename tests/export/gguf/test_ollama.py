"""The folder for Ollama: its Go template against the run's own template."""

import re
import stat

import pytest
from tiny import TEMPLATE, make_tiny_tokenizer

from orpo_qlora.data.messages import Message
from orpo_qlora.errors import UnsupportedModel
from orpo_qlora.export.checks import Checks
from orpo_qlora.export.gguf import ollama
from orpo_qlora.models.templates import rendering

DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}"
    "{% endif %}"
)
LONGER_AT_THE_END = TEMPLATE.replace(
    "{{ '<|im_start|>'", "{% if loop.last %}!{% endif %}{{ '<|im_start|>'"
)
TALK = [
    Message("system", "Be brief."),
    Message("user", "Hi"),
    Message("assistant", "Hello"),
    Message("user", "Bye"),
]


def tokenizer_with(template):
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def go(template, turns):
    """Render the parts of Go's template language that a Modelfile of ours uses."""
    system, rest = re.fullmatch(
        r"\{\{ if \.System \}\}(.*?)\{\{ end \}\}\{\{ range \.Messages \}\}(.*)\{\{ end \}\}",
        template,
        re.DOTALL,
    ).groups()
    kinds = [r'if eq \.Role "user"', r'else if eq \.Role "assistant"']
    pattern = "".join(rf"\{{\{{ {kind} \}}\}}(.*)" for kind in kinds) + r"\{\{ end \}\}"
    user, answer = re.fullmatch(pattern, rest, re.DOTALL).groups()
    spoken = "".join(turn.text for turn in turns if turn.role == "system")
    given, default = system.split("{{ else }}")
    text = given.replace("{{ .System }}", spoken) if spoken else default
    for turn in turns:
        if turn.role != "system":
            part = user if turn.role == "user" else answer
            text += part.replace("{{ .Content }}", turn.text)
    return text


@pytest.mark.parametrize(
    "template", [TEMPLATE, DEFAULT_SYSTEM + TEMPLATE], ids=["plain", "default-system"]
)
@pytest.mark.parametrize("turns", [TALK, TALK[1:], TALK[1:2]], ids=["system", "talk", "question"])
def test_the_go_template_renders_as_the_runs_own(template, turns):
    tokenizer = tokenizer_with(template)
    modelfile = ollama.modelfile_of(tokenizer)
    written = re.search(r'TEMPLATE """(.*?)"""', modelfile, re.DOTALL)[1]
    own = rendering.render(tokenizer, turns, is_open=True)
    assert go(written, turns) == own
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert modelfile.startswith("FROM ./model.gguf\n")


def test_a_template_that_depends_on_the_place_is_refused():
    with pytest.raises(UnsupportedModel, match="cannot be written for Ollama") as caught:
        ollama.modelfile_of(tokenizer_with(LONGER_AT_THE_END))
    assert "--gguf FILE" in caught.value.hint


def test_the_folder_appears_whole_and_ollama_creates_the_model(
    tuned, options, tmp_path, monkeypatch
):
    def writes(run, target, *_):
        target.write_bytes(b"GGUF")
        numbers = {"largest_difference_nats": 0.001, "mean_difference_nats": 0.0005}
        return Checks(
            read_with="", pairs=4, tolerance_nats=0.005, prompts=3, same_answers=3, **numbers
        )

    program = tmp_path / "bin" / "ollama"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/created\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(ollama, "write_gguf", writes)
    folder = tmp_path / "My model"
    ollama.write_ollama(tuned, folder, options, lambda *_, **__: None)
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", "model.gguf"]
    created = (tmp_path / "created").read_text().strip()
    assert created == f"create my-model -f {folder}/Modelfile"
