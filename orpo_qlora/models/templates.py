"""What a chat template puts around messages, and where an answer ends. Floor 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from orpo_qlora.data.messages import Message
from orpo_qlora.errors import InputError

_MARK = "ANSWERGOESHERE"


@dataclass(frozen=True)
class AnswerEnd:
    """What the template puts after an answer."""

    tail: str
    """Text from the answer's last character to the end of the conversation; empty if it has no
    end-of-turn token."""
    end_ids: tuple[int, ...]
    """Ids up to and including the end-of-turn token."""
    rest: int
    """Number of ids of the tail after the end-of-turn token, usually one newline."""

    @property
    def token(self) -> int:
        """Id of the end-of-turn token; of end-of-sequence if the template has none."""
        return self.end_ids[-1]


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, is_open: bool
) -> str:
    """Return a conversation as text.

    Args:
        tokenizer: with a chat template.
        messages: the conversation.
        is_open: append the generation prompt, after which an answer begins.

    Raises:
        InputError: the template refuses the conversation, for example its system message.
    """
    try:
        return tokenizer.apply_chat_template(
            [asdict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=is_open,
            enable_thinking=False,
        )
    except TemplateError as exc:
        raise InputError(
            f"The model's chat template refuses the conversation: {exc}.",
            hint="Remove the system message, and alternate user and assistant messages.",
        ) from exc


def end_of_answer(tokenizer: PreTrainedTokenizerBase) -> AnswerEnd:
    """Return how the template ends an answer: the first special token after it, and what follows.

    Raises:
        InputError: the template refuses a plain question and answer.
    """
    messages = [Message("user", "hi"), Message("assistant", _MARK)]
    tail = render(tokenizer, messages, is_open=False).rpartition(_MARK)[2]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for index, token in enumerate(ids):
        if token in special:
            return AnswerEnd(tail, tuple(ids[: index + 1]), len(ids) - index - 1)
    return AnswerEnd("", (tokenizer.eos_token_id,), 0)
