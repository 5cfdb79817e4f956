"""What the pair doctor can find: id, words and cure of each, in the order of a report. Floor 1."""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.data.summary import Severity


@dataclass(frozen=True)
class Kind:
    """One thing that may be wrong with preferences."""

    id: str
    severity: Severity
    label: str
    """What is so about the rows, as the end of “In 3 rows …”."""
    advice: str = ""
    """What it means for training."""
    fix: str = ""
    """What the fix does, as a button says it."""
    drops: bool = False
    """Whether the fix leaves rows out; else it changes their text."""


DROPS = (
    Kind("broken-rows", "error", "the row cannot be read", fix="Leave these rows out", drops=True),
    Kind("no-text", "error", "a cell that should be text is something else"),
    Kind("no-messages", "error", "a cell that should be a list of messages is not"),
    Kind(
        "bad-turns",
        "error",
        "the turns are not user and assistant in turn, ending with an answer",
    ),
    Kind("different-prompts", "error", "chosen and rejected answer different prompts"),
    Kind("empty-prompt", "error", "the prompt is empty"),
    Kind(
        "empty-chosen",
        "error",
        "the chosen answer is empty",
        advice="An empty answer has no log-prob; one of them would ruin the run.",
    ),
    Kind("empty-rejected", "error", "the rejected answer is empty"),
    Kind(
        "identical",
        "error",
        "chosen and rejected are the same",
        advice="Two equal answers hold no preference.",
    ),
)
"""Why a row becomes no pair, whatever is chosen. The first that holds is the row's only one."""

KINDS = (
    *DROPS,
    Kind(
        "same-but-for-form",
        "warning",
        "the answers differ only in white space or in how letters are encoded",
        advice="All they can teach is spacing.",
        fix="Leave these pairs out",
        drops=True,
    ),
    Kind(
        "duplicate",
        "warning",
        "the pair stands in the file more than once",
        advice="What is repeated counts more.",
        fix="Keep only the first of each",
        drops=True,
    ),
    Kind(
        "contradiction",
        "warning",
        "another pair prefers the opposite",
        advice="The two pull against each other and teach nothing.",
        fix="Leave out the later one of each two",
        drops=True,
    ),
    Kind(
        "repeated-prompt",
        "note",
        "the same prompt has come ten times before",
        advice="A few prompts with very many pairs weigh more than all others.",
        fix="Keep the first ten pairs of each prompt",
        drops=True,
    ),
    Kind(
        "templated",
        "warning",
        "the text is written in a chat template already",
        advice="The template of the base model is put around the text once more.",
        fix="Leave these pairs out",
        drops=True,
    ),
    Kind(
        "special-tokens",
        "warning",
        "the text holds control tokens of language models, such as <|im_end|> or [INST]",
        advice="A tokenizer takes them for the real thing: an answer may end in its middle.",
        fix="Take the tokens out of the text",
    ),
    Kind(
        "prompt-in-answer",
        "warning",
        "an answer begins by repeating the prompt",
        advice="The adapter would learn to repeat what it is asked.",
        fix="Cut the prompt from the beginning of the answers",
    ),
    Kind(
        "truncated",
        "warning",
        "the chosen answer stops in the middle of a sentence",
        advice="The adapter would learn to stop there too.",
        fix="Leave these pairs out",
        drops=True,
    ),
    Kind(
        "excel-cut",
        "warning",
        "a cell has exactly 32,767 characters, where Excel cuts",
        advice="The rest of the text is lost; export from the original.",
        fix="Leave these pairs out",
        drops=True,
    ),
    Kind(
        "near-identical",
        "note",
        "the two answers differ in one short place only",
        advice="Good for a precise correction, useless if the place means nothing.",
        fix="Leave these pairs out",
        drops=True,
    ),
    Kind(
        "language-mix",
        "note",
        "an answer is written in another language than its prompt",
        advice="Fine for translations; else the adapter learns to change the language.",
        fix="Leave these pairs out",
        drops=True,
    ),
    Kind(
        "hidden-characters",
        "warning",
        "the text holds control, zero-width or direction characters",
        advice="They become tokens of their own that nobody sees.",
        fix="Take these characters out",
    ),
    Kind(
        "letter-forms",
        "note",
        "accented letters are written in two parts (not Unicode NFC)",
        advice="The same word becomes other tokens than in ordinary text.",
        fix="Join the parts (NFC)",
    ),
    Kind(
        "secret",
        "warning",
        "the text holds what looks like a key or a password",
        advice="A trained adapter can repeat it.",
        fix="Leave these pairs out",
        drops=True,
    ),
    Kind(
        "e-mail",
        "note",
        "the text holds an e-mail address",
        advice="Personal data: a trained adapter can repeat it.",
        fix="Leave these pairs out",
        drops=True,
    ),
    Kind(
        "length-bias",
        "warning",
        "the chosen answer is the longer one",
        advice="Length is the easiest thing to learn from these pairs.",
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
        advice="They are read; other programs may not.",
    ),
)
"""Everything, in the order in which a report lists it."""

BY_ID = {kind.id: kind for kind in KINDS}
FIXES = tuple(kind.id for kind in KINDS if kind.fix)
"""Ids that `ReadChoices.fixes` may hold."""
EDITS = tuple(kind.id for kind in KINDS if kind.fix and not kind.drops)
"""Fixes that change texts, in the order in which they do."""
