"""The data checks: each row is kept, or dropped for one reason, and findings are counted.

Floor 1; no torch. One pass over the rows; of the texts only 64-bit digests are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.doctor import checks
from orpo_qlora.data.doctor.findings import BY_ID, DROPS, EDITS, FIXES, KINDS, Kind
from orpo_qlora.data.doctor.whole import LengthCounts
from orpo_qlora.data.messages import NO_TOOLS, Message
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Preference, Side
from orpo_qlora.data.summary import ROWS_KEPT, Drop, Example, Finding
from orpo_qlora.errors import BrokenRows, InputError

EXAMPLES_KEPT = 3
EXAMPLE_CHARACTERS = 120
PROMPT_PAIRS = 10
"""Pairs of one prompt that are accepted without a finding."""
PASSES = 10
"""Passes over the pairs above which the adapter memorises them."""

Keys = tuple[int, int, int]
"""Digests of everything before the answers, of the chosen and of the rejected one."""


@dataclass
class Tally:
    """The rows of one finding."""

    count: int = 0
    rows: list[int] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)

    def add(self, row: int, text: str = "") -> None:
        """Count a row; its text is an example if there are few so far."""
        self.count += 1
        if len(self.rows) < ROWS_KEPT:
            self.rows.append(row)
        if text and len(self.examples) < EXAMPLES_KEPT:
            self.examples.append(Example(row=row, text=excerpt(text)))


class Doctor:
    """Examines preferences one after another and counts findings and drops."""

    def __init__(self, fixes: Iterable[str] = ()) -> None:
        self._fixes = frozenset(fixes)
        unknown = sorted(self._fixes - set(FIXES))
        if unknown:
            raise InputError(f"There is no fix “{unknown[0]}”.", hint=f"Fixes: {', '.join(FIXES)}.")
        self._edits = [name for name in EDITS if name in self._fixes]
        self._found: dict[str, Tally] = {}
        self._dropped: dict[str, Tally] = {}
        self._pairs: dict[int, int] = {}
        """Digest of each pair kept to its row."""
        self._prompts: dict[int, int] = {}
        self.rows_read = 0
        self.has_python_lists = False
        self._lengths = LengthCounts()

    @property
    def kept(self) -> int:
        """Pairs and single responses that are usable."""
        return self._lengths.count

    @property
    def singles(self) -> dict[Side, int]:
        """Usable single responses by side."""
        return self._lengths.singles

    def examine(self, row: Row, taken: Preference | str, detail: str = "") -> Preference | None:
        """Return the preference with the chosen fixes applied, or None if it is dropped."""
        self.rows_read += 1
        if isinstance(taken, str):
            self._drop(taken, row.number, row.fault or detail)
            return None
        joined = _joined(taken)
        if not _is_text(joined):
            # Undecodable bytes let through for dropping are lone surrogates too.
            reason = BrokenRows.fix if BrokenRows.fix in self._fixes else "no-text"
            self._drop(reason, row.number, taken.prompt)
            return None
        whole = self._edited(row.number, taken, joined)
        fault = fault_of(*whole.texts, single=whole.single)
        if fault:
            self._drop(fault, row.number, whole.prompt)
            return None
        keys = digests(whole)
        joined = joined if whole is taken else _joined(whole)
        for kind, sign in self._signs(whole, keys, joined):
            self._note(kind, row.number, sign)
            if kind in self._fixes and BY_ID[kind].drops:
                self._drop(kind, row.number, sign)
                return None
        self._remember(row.number, whole, keys)
        return whole

    def _note(self, kind: str, row: int, sign: str) -> None:
        self._found.setdefault(kind, Tally()).add(row, sign)

    def _drop(self, reason: str, row: int, sign: str) -> None:
        self._dropped.setdefault(reason, Tally()).add(row, sign)

    def _edited(self, row: int, taken: Preference, joined: str) -> Preference:
        """Record findings that an edit could fix, and apply the edits the user chose."""
        for kind in EDITS:
            may_have, find, edit = _EDITS[kind]
            sign = find(taken) if may_have(joined) else ""
            if sign:
                self._note(kind, row, sign)
                if kind in self._fixes:
                    taken = edit(taken)
        return taken

    def _signs(self, pair: Preference, keys: Keys, joined: str) -> Iterable[tuple[str, str]]:
        """Yield the findings of a pair that dropping it would fix, each with an example.

        Lazy: once a pair is dropped for one finding, later checks are skipped.
        """
        prompt, chosen, rejected = pair.texts
        likeness = _likeness(pair)
        if likeness:
            yield likeness, chosen
        yield from self._repetitions(pair.prompt, keys)
        placeholder = checks.media_placeholder(joined)
        if placeholder:
            yield "media-placeholder", f"{placeholder} in {text_with(placeholder, pair)}"
        if checks.may_be_templated(joined) and any(map(checks.is_templated, pair.texts)):
            yield "templated", prompt
        if checks.is_truncated(chosen):
            # Masked before each cut: half a key is not recognised as one.
            yield "truncated", "… " + checks.masked(chosen).rstrip()[-EXAMPLE_CHARACTERS + 2 :]
        if checks.EXCEL_CHARACTERS in (len(prompt), len(chosen), len(rejected)):
            yield "excel-cut", prompt
        asked = checks.language_of(prompt)
        answered = {checks.language_of(chosen), checks.language_of(rejected)} if asked else set()
        others = sorted(answered - {"", asked})
        if others:
            start, answer = (checks.masked(text)[:60] for text in (prompt, chosen))
            yield "language-mix", f"{asked} → {others[0]}: {start} → {answer}"
        for name, find, text in (
            ("tool-use", str, chosen if pair.tool_use != NO_TOOLS else ""),
            ("reasoning", checks.reasoning_in, f"{chosen}\n{rejected}"),
            ("secret", checks.secret_in, joined),
            ("e-mail", checks.email_in, joined),
        ):
            sign = find(text)
            if sign:
                yield name, sign

    def _repetitions(self, text: str, keys: Keys) -> Iterable[tuple[str, str]]:
        prompt, chosen, rejected = keys
        same = self._pairs.get(hash((prompt, chosen, rejected)))
        if same is not None:
            yield "duplicate", f"as row {same:,}: {text}"
        opposite = self._pairs.get(hash((prompt, rejected, chosen)))
        if opposite is not None:
            yield "contradiction", f"against row {opposite:,}: {text}"
        if self._prompts.get(prompt, 0) >= PROMPT_PAIRS:
            yield "repeated-prompt", text

    def _remember(self, row: int, pair: Preference, keys: Keys) -> None:
        prompt, chosen, rejected = keys
        self._pairs.setdefault(hash((prompt, chosen, rejected)), row)
        self._prompts[prompt] = self._prompts.get(prompt, 0) + 1
        self._lengths.add(pair)

    def drops(self) -> tuple[Drop, ...]:
        """Return the dropped rows by reason, in report order."""
        return tuple(
            Drop(
                reason=kind.id,
                label=kind.label,
                rows=tuple(self._dropped[kind.id].rows),
                count=self._dropped[kind.id].count,
            )
            for kind in KINDS
            if kind.id in self._dropped
        )

    def findings(self) -> tuple[Finding, ...]:
        """Return the findings in report order."""
        seen = {**{k: self._dropped[k] for k in _DROP_IDS & set(self._dropped)}, **self._found}
        found = {kind: self._finding(BY_ID[kind], tally) for kind, tally in seen.items()}
        about_all = (self._lengths.length_bias(), self._lengths.few_pairs(self.rows_read))
        for finding in (*about_all, self._python_lists()):
            if finding:
                found[finding.id] = finding
        return tuple(found[kind.id] for kind in KINDS if kind.id in found)

    def _finding(self, kind: Kind, tally: Tally) -> Finding:
        return Finding(
            id=kind.id,
            severity=kind.severity,
            label=kind.label,
            count=tally.count,
            share=tally.count / max(1, self.rows_read),
            rows=tuple(tally.rows),
            examples=tuple(tally.examples),
            fix=kind.fix,
            fixed=kind.id in self._fixes,
            advice=kind.advice,
        )

    def _python_lists(self) -> Finding | None:
        if not self.has_python_lists:
            return None
        kind = BY_ID["python-lists"]
        return Finding(
            id=kind.id,
            severity=kind.severity,
            label=kind.label,
            count=self.rows_read,
            share=1.0,
            advice=kind.advice,
        )


_DROP_IDS = {kind.id for kind in DROPS}


def fault_of(prompt: str, chosen: str, rejected: str, *, single: Side = "") -> str:
    """Return the reason why these texts are not a preference, empty if they are.

    An empty answer has no tokens, so its mean log-prob would be NaN and one row would ruin the
    run; two equal answers have odds ratio 1 whatever the policy says. Of a single response only its
    own side counts.
    """
    for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        is_part = not single or name in ("prompt", single)
        if is_part and not text.strip():
            return f"empty-{name}"
    return "identical" if not single and chosen.strip() == rejected.strip() else ""


def _likeness(pair: Preference) -> str:
    """Return the finding that both responses say the same, empty for none or a single one."""
    _, chosen, rejected = pair.texts
    if pair.single:
        return ""
    if checks.same_but_for_form(chosen, rejected):
        return "same-but-for-form"
    return "near-identical" if checks.is_near(chosen, rejected) else ""


def too_many_passes(pairs: int, config: TrainConfig) -> Finding | None:
    """Return the finding that these settings repeat every pair too often, or None.

    Needs the settings of a run, so it is checked at the start of one and not with the file.
    """
    shown = config.max_steps * config.pairs_per_step or config.epochs * pairs
    passes = shown / max(1, pairs)
    if passes <= PASSES:
        return None
    kind = BY_ID["few-pairs"]
    return Finding(
        id=kind.id,
        severity=kind.severity,
        label=f"every pair is shown about {passes:.0f} times",
        count=pairs,
        share=1.0,
        advice="The adapter memorises them; use fewer steps or more pairs.",
    )


def excerpt(text: str) -> str:
    """Return the beginning of a text on one line, keys and addresses masked."""
    start = checks.masked(text)[: 4 * EXAMPLE_CHARACTERS].encode(errors="replace").decode()
    words = " ".join(start.split())
    return words if len(words) <= EXAMPLE_CHARACTERS else words[: EXAMPLE_CHARACTERS - 1] + "…"


def digests(pair: Preference) -> Keys:
    """Return 64-bit digests of conversation, chosen and rejected, outer white space stripped."""
    prompt, chosen, rejected = (text.strip() for text in pair.texts)
    use = pair.tool_use
    asked = "\0".join(f"{turn.role}\0{turn.text}" for turn in (*pair.earlier, *use.steps))
    asked += use.tools
    return digest(f"{asked}\0{prompt}" if asked else prompt), digest(chosen), digest(rejected)


def _is_text(text: str) -> bool:
    """Return whether the text can be encoded, that is, has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def digest(text: str) -> int:
    """Return a 64-bit digest, valid in this process; keyed, so no file can force a collision."""
    return hash(text) & 0xFFFF_FFFF_FFFF_FFFF


_Find = Callable[[Preference], str]
_Edit = Callable[[Preference], Preference]


def _joined(pair: Preference) -> str:
    """Return all texts of a pair as one, for cheap tests that most pairs pass."""
    return "\n\n".join(_texts(pair))


def text_with(sign: str, pair: Preference) -> str:
    """Return the first text of a pair that contains a sign."""
    return next((text for text in _texts(pair) if sign in text), "")


def _texts(pair: Preference) -> tuple[str, ...]:
    return (*(turn.text for turn in (*pair.earlier, *pair.tool_use.steps)), *pair.texts)


def _contents(pair: Preference) -> tuple[str, ...]:
    """Return what an edit changes: all texts without tool calls, which are data."""
    turns = (*pair.earlier, *pair.tool_use.steps)
    return (*(turn.content for turn in turns), pair.prompt, pair.chosen, pair.rejected)


def _any_text(find: Callable[[str], str]) -> _Find:
    def find_in(pair: Preference) -> str:
        for text in _contents(pair):
            found = find(text)
            if found:
                return f"{found} in {text}"
        return ""

    return find_in


def _every_text(edit: Callable[[str], str]) -> _Edit:
    def edited(pair: Preference) -> Preference:
        def turns(messages: tuple[Message, ...]) -> tuple[Message, ...]:
            return tuple(replace(turn, content=edit(turn.content)) for turn in messages)

        return pair._replace(
            earlier=turns(pair.earlier),
            prompt=edit(pair.prompt),
            chosen=edit(pair.chosen),
            rejected=edit(pair.rejected),
            tool_use=replace(pair.tool_use, steps=turns(pair.tool_use.steps)),
        )

    return edited


def _prompt_in_answer(pair: Preference) -> str:
    for answer in (pair.chosen, pair.rejected):
        if checks.repeats_prompt(pair.prompt, answer):
            return answer
    return ""


def _without_prompt(pair: Preference) -> Preference:
    answers = (pair.chosen, pair.rejected)
    chosen, rejected = (checks.without_prompt(pair.prompt, text) for text in answers)
    return pair._replace(chosen=chosen, rejected=rejected)


def _not_composed(text: str) -> str:
    return "" if checks.is_composed(text) else "accents"


_EDITS: dict[str, tuple[Callable[[str], object], _Find, _Edit]] = {
    "special-tokens": (
        checks.special_token,
        _any_text(checks.special_token),
        _every_text(checks.without_special_tokens),
    ),
    "prompt-in-answer": (bool, _prompt_in_answer, _without_prompt),
    "hidden-characters": (
        checks.hidden_character,
        _any_text(checks.hidden_character),
        _every_text(checks.without_hidden_characters),
    ),
    "letter-forms": (_not_composed, _any_text(_not_composed), _every_text(checks.composed)),
}
