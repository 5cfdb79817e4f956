"""The program of a tokenize job: `python -m orpo_qlora.jobs.tokenize FOLDER`. Floor 4.

Loads the tokenizer of a model, never its weights, and writes what `jobs.token_counts` reads: the
token counts of all pairs and the tokens of the requested rows. More rows may be requested while it
works.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from orpo_qlora import storage
from orpo_qlora.data.pairs import PreferenceData, PreferencePair
from orpo_qlora.jobs.job import JobProgram, run_job
from orpo_qlora.jobs.token_counts import (
    PairTokens,
    Token,
    TokenizePaths,
    TokenizeRequest,
    TokenLengths,
    read_dataset,
)
from orpo_qlora.models.templates import tokenizers
from orpo_qlora.models.templates.chat_templates import UNCHANGED, TemplateInUse
from orpo_qlora.models.templates.rendering import template_in_use
from orpo_qlora.models.weights import find
from orpo_qlora.orpo.rows.tokens import TokenizedPair, changes_of, refuse_none_left, to_tokens

BATCH_PAIRS = 256
REPORT_SECONDS = 0.5
CHARACTER_TOKENS = 8
"""Byte-level tokens that one character, or a joined emoji's part, may be cut into."""
_UNFINISHED = "\ufffd"


class TokenizeProgram(JobProgram):
    """Answers the request of one folder."""

    def __init__(self, paths: TokenizePaths) -> None:
        super().__init__(paths)
        self.paths = paths
        self._template: TemplateInUse | None = None

    def run(self) -> None:
        """Answer the request, again while more rows are requested."""
        request = self._request()
        self.report("loading the tokenizer")
        folder = find.find_tokenizer(request.model, request.revision)
        tokenizer = tokenizers.load_tokenizer(folder, request.chat_template)
        self._template = template_in_use(folder, tokenizer, request.chat_template)
        self.report("reading the pairs")
        dataset = read_dataset(request)
        while not self._is_answered(dataset):
            self._show_rows(tokenizer, dataset)
            if not self.paths.lengths.exists():
                self._count(tokenizer, dataset)
        self.finish()

    def _request(self) -> TokenizeRequest:
        return TokenizeRequest.model_validate_json(self.paths.request.read_bytes())

    def _is_answered(self, dataset: PreferenceData) -> bool:
        return self.paths.lengths.exists() and not self._missing(dataset)

    def _missing(self, dataset: PreferenceData) -> list[PreferencePair]:
        rows = [row for row in self._request().rows if not self.paths.tokens(row).exists()]
        # Pairs are in the order of their rows, and may be a million on disk.
        places = [bisect_left(dataset.pairs, row, key=lambda pair: pair.row) for row in rows]
        near = [dataset.pairs[place] for place in places if place < len(dataset.pairs)]
        return [pair for pair in near if pair.row in rows]

    def _show_rows(self, tokenizer: PreTrainedTokenizerBase, dataset: PreferenceData) -> None:
        missing = self._missing(dataset)
        if not missing:
            return
        for pair in missing:
            found = to_tokens(tokenizer, [pair])
            refusal = changes_of(tokenizer, [pair], found).refusal
            tokens = (
                spell_out(tokenizer, found[0])
                if found
                else PairTokens(row=pair.row, prompt=(), chosen=(), rejected=(), refusal=refusal)
            )
            storage.write_whole(self.paths.tokens(pair.row), tokens.model_dump_json())

    def _count(self, tokenizer: PreTrainedTokenizerBase, dataset: PreferenceData) -> None:
        self.report("counting tokens", total=len(dataset.pairs))
        columns: tuple[list[int], ...] = ([], [], [], [], [])
        changes = UNCHANGED
        for first in range(0, len(dataset.pairs), BATCH_PAIRS):
            batch = dataset.pairs[first : first + BATCH_PAIRS]
            whole = to_tokens(tokenizer, batch)
            changes += changes_of(tokenizer, batch, whole)
            for pair in whole:
                for column, count in zip(columns, _counts(pair), strict=True):
                    column.append(count)
            if time.monotonic() - self.reported_at > REPORT_SECONDS:
                self.report("counting tokens", done=first + len(batch))
                # The user may have selected another row.
                self._show_rows(tokenizer, dataset)
        rows, prompt, chosen, rejected, same_start = map(tuple, columns)
        refuse_none_left(changes, len(rows))
        lengths = TokenLengths(
            rows=rows,
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            same_start=same_start,
            template=self._template,
            changes=changes,
        )
        storage.write_whole(self.paths.lengths, lengths.model_dump_json())


def _counts(pair: TokenizedPair) -> tuple[int, int, int, int, int]:
    counts = pair.lengths
    return pair.row, counts.prompt, counts.chosen, counts.rejected, counts.same_start


def spell_out(tokenizer: PreTrainedTokenizerBase, pair: TokenizedPair) -> PairTokens:
    """Return the tokens of a pair with the text that each adds."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)

    def tokens(ids: Sequence[int], before: Sequence[int]) -> tuple[Token, ...]:
        texts = _texts(tokenizer, ids, before)
        return tuple(
            Token(id=token, text=text, is_special=token in special)
            for token, text in zip(ids, texts, strict=True)
        )

    prompt = tokens(pair.prompt, ())
    chosen, rejected = (tokens(ids, pair.prompt) for ids in (pair.chosen, pair.rejected))
    return PairTokens(row=pair.row, prompt=prompt, chosen=chosen, rejected=rejected)


def _texts(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], before: Sequence[int]
) -> Iterator[str]:
    """Yield the text each token adds; a character of several tokens belongs to its first one."""
    context, open_ids = list(before[-1:]), list[int]()
    for index, token in enumerate(ids):
        open_ids.append(token)
        text = _added(tokenizer, context, open_ids)
        is_unfinished = text.endswith(_UNFINISHED) and len(open_ids) < CHARACTER_TOKENS
        if is_unfinished and index + 1 < len(ids):
            continue
        yield text
        yield from [""] * (len(open_ids) - 1)
        context, open_ids = open_ids, []


def _added(tokenizer: PreTrainedTokenizerBase, context: list[int], ids: list[int]) -> str:
    """Return the text of tokens as it reads after others: alone, a word may lose its space."""
    before, whole = (
        tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for part in (context, [*context, *ids])
    )
    return whole[len(before) :] if whole.startswith(before) else whole


def main(arguments: Sequence[str]) -> int:
    """Run the job of one folder; return its exit code."""
    paths = TokenizePaths(Path(arguments[0]))

    def make() -> tuple[TokenizeProgram, Callable[[], None]]:
        program = TokenizeProgram(paths)
        return program, program.run

    return run_job(paths, make)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
