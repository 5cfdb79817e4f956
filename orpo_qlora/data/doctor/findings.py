"""The data checks: id, text and fix of each finding, in report order. Floor 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.data.summary import Severity


@dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    id: str
    severity: Severity
    label: str
    """Finding text, completing “In 3 rows …”."""
    advice: str = ""
    """The consequence for training."""
    fix: str = ""
    """Button label of the fix; empty if there is none."""
    drops: bool = False
    """Whether the fix drops rows; otherwise it edits their text."""


DROPS = (
    Kind("broken-rows", "error", "the row cannot be read", fix="Drop these rows", drops=True),
    Kind("no-text", "error", "a cell that should be text is something else"),
    Kind("no-messages", "error", "a cell that should be a list of messages is not"),
    Kind(
        "bad-turns",
        "error",
        "the turns do not alternate between user and assistant and end with an answer",
    ),
    Kind(
        "unknown-role",
        "error",
        "a message has a role that is neither user, assistant, system nor tool",
        advice="Known roles: system, user, human, assistant, gpt, model, chatbot, bot, tool, "
        "function.",
    ),
    Kind(
        "tool-calls",
        "error",
        "the tools or a tool call cannot be read",
        advice="A call needs a name, and its arguments as a JSON object.",
    ),
    Kind(
        "media",
        "error",
        "the row has an image, audio or video",
        advice="Only text is trained.",
    ),
    Kind("bad-history", "error", "the history is not a list of [question, answer] pairs"),
    Kind(
        "tie",
        "error",
        "no response is better than another",
        advice="A tie carries no preference.",
    ),
    Kind("unclear-verdict", "error", "the verdict names neither response"),
    Kind("no-ranking", "error", "the responses have no scores to rank them by"),
    Kind(
        "unpaired-label",
        "error",
        "the prompt has no response with the opposite label",
        advice="The method kto trains on such responses; the others need one with the opposite "
        "label.",
    ),
    Kind("no-common-prefix", "error", "chosen and rejected do not begin with the same sentence"),
    Kind("different-prompts", "error", "chosen and rejected answer different prompts"),
    Kind("empty-prompt", "error", "the prompt is empty"),
    Kind(
        "empty-chosen",
        "error",
        "the chosen response is empty",
        advice="An empty answer has no log-prob; one of them would ruin the run.",
    ),
    Kind("empty-rejected", "error", "the rejected response is empty"),
    Kind(
        "identical",
        "error",
        "chosen and rejected are the same",
        advice="Two equal responses carry no preference.",
    ),
)
"""Reasons that drop a row in any case. A row is counted under the first that applies."""

KINDS = (
    *DROPS,
    Kind(
        "same-but-for-form",
        "warning",
        "the answers differ only in white space or in how letters are encoded",
        advice="The adapter can learn only spacing from them.",
        fix="Drop these pairs",
        drops=True,
    ),
    Kind(
        "duplicate",
        "warning",
        "the pair occurs more than once in the file",
        advice="Repeated pairs weigh more in training.",
        fix="Keep the first only",
        drops=True,
    ),
    Kind(
        "contradiction",
        "warning",
        "another pair prefers the opposite",
        advice="The two gradients cancel out.",
        fix="Drop the later pair",
        drops=True,
    ),
    Kind(
        "repeated-prompt",
        "note",
        "the prompt has occurred ten times before",
        advice="A few prompts with very many pairs weigh more than all others.",
        fix="Keep ten per prompt",
        drops=True,
    ),
    Kind(
        "media-placeholder",
        "warning",
        "the text contains a placeholder for an image, audio or video, such as <image>",
        advice="The response refers to something that the model does not see.",
        fix="Drop these pairs",
        drops=True,
    ),
    Kind(
        "templated",
        "warning",
        "the text is written in a chat template already",
        advice="The base model's template would be applied on top of it.",
        fix="Drop these pairs",
        drops=True,
    ),
    Kind(
        "special-tokens",
        "warning",
        "the text contains control tokens of language models, such as <|im_end|> or [INST]",
        advice="The tokenizer treats them as control tokens, so an answer may end early.",
        fix="Remove the tokens",
    ),
    Kind(
        "prompt-in-answer",
        "warning",
        "an answer begins by repeating the prompt",
        advice="The adapter would learn to repeat the prompt.",
        fix="Remove the prompt",
    ),
    Kind(
        "truncated",
        "warning",
        "the chosen response stops in the middle of a sentence",
        advice="The adapter would learn to stop there too.",
        fix="Drop these pairs",
        drops=True,
    ),
    Kind(
        "excel-cut",
        "warning",
        "a cell has exactly 32,767 characters, where Excel cuts",
        advice="The rest of the text is lost; export from the original.",
        fix="Drop these pairs",
        drops=True,
    ),
    Kind(
        "near-identical",
        "note",
        "the two answers differ in one short place only",
        advice="Useful for a precise correction, useless if the difference is accidental.",
        fix="Drop these pairs",
        drops=True,
    ),
    Kind(
        "language-mix",
        "note",
        "an answer is written in another language than its prompt",
        advice="Expected for translations; otherwise the adapter learns to switch languages.",
        fix="Drop these pairs",
        drops=True,
    ),
    Kind(
        "hidden-characters",
        "warning",
        "the text contains control, zero-width or direction characters",
        advice="They become invisible tokens.",
        fix="Remove these characters",
    ),
    Kind(
        "tool-use",
        "note",
        "the pair has tools or tool calls",
        advice="The base model's chat template renders them; it must know tools.",
        fix="Drop these pairs",
        drops=True,
    ),
    Kind(
        "reasoning",
        "note",
        "an answer contains reasoning between <think> and </think>",
        advice="It is left as it is, and trained as part of the answer.",
    ),
    Kind(
        "letter-forms",
        "note",
        "accented letters are written in two parts (not Unicode NFC)",
        advice="The same word is tokenized differently than in ordinary text.",
        fix="Normalise to NFC",
    ),
    Kind(
        "secret",
        "warning",
        "the text contains a likely API key or password",
        advice="A trained adapter can repeat it.",
        fix="Drop these pairs",
        drops=True,
    ),
    Kind(
        "e-mail",
        "note",
        "the text contains an e-mail address",
        advice="Personal data: a trained adapter can repeat it.",
        fix="Drop these pairs",
        drops=True,
    ),
    Kind(
        "length-bias",
        "warning",
        "the chosen response is the longer one",
        advice="Length is the easiest feature to learn from these pairs.",
    ),
    Kind(
        "few-pairs",
        "warning",
        "there are very few pairs",
        advice="Enough to see a run, too few to teach a style.",
    ),
    Kind(
        "python-lists",
        "note",
        "messages are written as Python lists, not as JSON",
        advice="They are read here; other programs may refuse them.",
    ),
)
"""All findings, in report order."""

BY_ID = {kind.id: kind for kind in KINDS}
FIXES = tuple(kind.id for kind in KINDS if kind.fix)
"""Ids that `ReadChoices.fixes` may hold."""
EDITS = tuple(kind.id for kind in KINDS if kind.fix and not kind.drops)
"""Fixes that edit texts, in the order in which they are applied."""
