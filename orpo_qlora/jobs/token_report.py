"""Token counts in numbers and sentences, the same for page and command line. Floor 4; no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.summary import ROWS_KEPT, row_list
from orpo_qlora.data.wording import plural
from orpo_qlora.jobs.job import JobState
from orpo_qlora.jobs.token_counts import TokenizeRequest, TokenLengths, wait_for
from orpo_qlora.models.templates.chat_templates import UNCHANGED, TemplateChanges, TemplateInUse
from orpo_qlora.orpo.rows.length_policy import OverLength, fit


@dataclass(frozen=True)
class Fate:
    """What the length policy will do to the pairs of a file."""

    kept: int
    cut: int
    dropped: int
    cut_rows: tuple[int, ...]
    """The first `ROWS_KEPT`, as those below."""
    dropped_rows: tuple[int, ...]

    def sentence(self, max_length: int) -> str:
        """Return it in words, which is what training then does."""
        if not self.cut and not self.dropped:
            return f"Every pair fits into max_length = {max_length:,} tokens."
        pairs = self.kept + self.dropped
        parts = []
        for count, rows, verb in (
            (self.dropped, self.dropped_rows, "left out"),
            (self.cut, self.cut_rows, "cut"),
        ):
            if count:
                share, numbers = f"{count / pairs:.1%}", row_list(rows, count)
                parts.append(f"{plural(count, 'pair')} ({share}) will be {verb}: {numbers}")
        end = "" if self.kept else " Nothing would be left: raise max_length."
        return f"Longer than max_length = {max_length:,} tokens: {'; '.join(parts)}.{end}"


def fate_of(lengths: TokenLengths, max_length: int, over_length: OverLength) -> Fate:
    """Return which rows will be cut and which left out at this length."""
    cut: list[int] = []
    dropped: list[int] = []
    for row, pair in zip(lengths.rows, lengths.pairs(), strict=True):
        if pair.longest <= max_length:
            continue
        (dropped if fit(pair, max_length, over_length) is None else cut).append(row)
    kept = len(lengths.rows) - len(dropped)
    rows = (tuple(cut[:ROWS_KEPT]), tuple(dropped[:ROWS_KEPT]))
    return Fate(kept, len(cut), len(dropped), *rows)


def quantile(values: Sequence[int], share: float) -> int:
    """Return the smallest value that this share of the values, at least one, does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Spread(BaseModel):
    """How long something is in most pairs, and at most; in tokens."""

    model_config = ConfigDict(frozen=True)

    median: int
    most: int
    """95 % of the pairs are not longer."""
    longest: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Spread:
        """Return the spread of some counts."""
        return cls(median=quantile(values, 0.5), most=quantile(values, 0.95), longest=max(values))

    def sentence(self) -> str:
        """Return the spread in words."""
        return f"median {self.median:,}, 95 % up to {self.most:,}, longest {self.longest:,}"


class LengthReport(BaseModel):
    """Token statistics of a file under one tokenizer and one length policy."""

    model_config = ConfigDict(frozen=True)

    model: str
    max_length: int
    over_length: OverLength
    pairs: int
    whole: Spread
    """Prompt with the longer answer, which is what `max_length` bounds."""
    prompt: Spread
    chosen: Spread | None
    """None where no pair has a chosen response, likewise for rejected ones."""
    rejected: Spread | None
    compared: int
    """Pairs with both responses."""
    chosen_longer: int
    """Pairs whose chosen response has more tokens than the rejected one."""
    rejected_longer: int
    median_difference: int
    """Tokens of chosen minus tokens of rejected."""
    cut: int
    dropped: int
    cut_rows: tuple[int, ...]
    dropped_rows: tuple[int, ...]
    template: TemplateInUse | None = None
    changes: TemplateChanges = UNCHANGED

    def template_sentences(self) -> list[str]:
        """Return which chat template is used, unless the model's own, and what it changes."""
        used = self.template.sentences(self.model) if self.template else []
        return [*used, *self.changes.sentences()]

    def policy_sentence(self) -> str:
        """Return what `max_length` will do to these pairs, which is what training then does."""
        kept = self.pairs - self.dropped
        return Fate(kept, self.cut, self.dropped, self.cut_rows, self.dropped_rows).sentence(
            self.max_length
        )

    def sentences(self) -> list[str]:
        """Return the report as short sentences, most important first."""
        return [
            self.policy_sentence(),
            f"Tokens of prompt and longer answer: {self.whole.sentence()}.",
            f"Tokens of the prompt: {self.prompt.sentence()}.",
            *(
                f"Tokens of the {side} response: {spread.sentence()}."
                for side, spread in (("chosen", self.chosen), ("rejected", self.rejected))
                if spread
            ),
            *filter(None, [self.difference_sentence()]),
            *self.template_sentences(),
        ]

    def difference_sentence(self) -> str:
        """Return which answer is the longer one, and how often; empty without pairs."""
        if not self.compared:
            return ""
        share, other = self.chosen_longer / self.compared, self.rejected_longer / self.compared
        return (
            f"Chosen is the longer answer in {share:.0%} of the pairs, rejected in {other:.0%}; "
            f"median difference {self.median_difference:+,} tokens."
        )


def report_lengths(
    lengths: TokenLengths, model: str, max_length: int, over_length: OverLength
) -> LengthReport:
    """Return the report on counted tokens."""
    fate = fate_of(lengths, max_length, over_length)
    differences = differences_of(lengths)
    return LengthReport(
        model=model,
        max_length=max_length,
        over_length=over_length,
        pairs=len(lengths.rows),
        whole=Spread.of(lengths.longest()),
        prompt=Spread.of(lengths.prompt),
        chosen=_spread_of(lengths.chosen),
        rejected=_spread_of(lengths.rejected),
        compared=len(differences),
        chosen_longer=sum(difference > 0 for difference in differences),
        rejected_longer=sum(difference < 0 for difference in differences),
        median_difference=quantile(differences, 0.5) if differences else 0,
        cut=fate.cut,
        dropped=fate.dropped,
        cut_rows=fate.cut_rows,
        dropped_rows=fate.dropped_rows,
        template=lengths.template,
        changes=lengths.changes,
    )


def count_tokens(
    request: TokenizeRequest, config: TrainConfig, on_progress: Callable[[JobState], None]
) -> LengthReport:
    """Return the token report of a file, counted first if need be.

    Raises:
        OrpoQloraError: the job failed, with its message.
    """
    counted = wait_for(request, on_progress)
    return report_lengths(counted, config.model, config.max_length, config.over_length)


def differences_of(lengths: TokenLengths) -> list[int]:
    """Return the tokens of chosen minus those of rejected, of each pair that has both."""
    both = zip(lengths.chosen, lengths.rejected, strict=True)
    return [chosen - rejected for chosen, rejected in both if chosen and rejected]


def _spread_of(counts: Sequence[int]) -> Spread | None:
    """Return the spread of the responses that there are; a response has a token at least."""
    present = [count for count in counts if count]
    return Spread.of(present) if present else None
