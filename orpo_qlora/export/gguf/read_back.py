"""A GGUF file read back and compared with the run's own model. Floor 5.

The file is read with transformers' loader, which shares no code with the converter's writer. What
it does not see, llama.cpp's own kernels, is llama.cpp's to test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from orpo_qlora.data.wording import brief
from orpo_qlora.errors import OrpoQloraError
from orpo_qlora.export.checks import Checks
from orpo_qlora.export.compare import RunNumbers, greedy, largest_difference, mean_logps
from orpo_qlora.export.gguf.types import GgufType
from orpo_qlora.models.load_errors import loading_errors
from orpo_qlora.orpo.rows.tokens import TokenizedPair, to_tokens

HINT = "The file was not kept. Try another type or a newer llama.cpp: --llama-cpp DIR"
SHOWN_CHARACTERS = 80


class ReadBackError(OrpoQloraError):
    """An exported file is not the run's model."""

    slug = "read-back"


def read_back(path: Path, own: RunNumbers, kind: GgufType, device: str) -> Checks:
    """Load a GGUF file and compare it with the run's own model.

    Args:
        path: of the file.
        own: the numbers, tokens and answers that it must give.
        kind: its number type, which sets the tolerance.
        device: where to compute.

    Raises:
        ReadBackError: template, tokens, end token or log-probs differ.
        ModelError: the file cannot be loaded.
    """
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    with loading_errors(f"{path.name} cannot be read back", HINT):
        tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
    _compare_template(str(tokenizer.chat_template or ""), own)
    _compare_tokens(tokenizer, own)
    with loading_errors(f"{path.name} cannot be read back", HINT):
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, trust_remote_code=False
        )
    _compare_end(model.config.get_text_config().eos_token_id, tokenizer, own)
    model = model.to(device).eval()
    logps = mean_logps(model, own.pairs)
    largest = largest_difference(logps, own.logps)
    if not largest <= kind.tolerance:
        raise ReadBackError(
            f"{path.name} differs from the run's own model by {largest:.2g} nats a token in the "
            f"mean log-prob of an answer; {kind.id} may differ by {kind.tolerance:g}.",
            hint=HINT,
        )
    answers = greedy(model, tokenizer, own.prompts)
    same = sum(one == other for one, other in zip(answers, own.answers, strict=True))
    return Checks(
        read_with=f"transformers {transformers.__version__}",
        pairs=len(own.pairs),
        largest_difference_nats=largest,
        mean_difference_nats=float((logps - own.logps).abs().mean()),
        tolerance_nats=kind.tolerance,
        prompts=len(own.prompts),
        same_answers=same,
    )


def _compare_template(template: str, own: RunNumbers) -> None:
    if template == own.template:
        return
    shared = 0
    for one, other in zip(template, own.template, strict=False):
        if one != other:
            break
        shared += 1
    found = brief(template[shared:], SHOWN_CHARACTERS) or "nothing"
    raise ReadBackError(
        f"The file's chat template is not the run's: from character {shared + 1:,} it has “{found}”"
        ".",
        hint=HINT,
    )


def _compare_tokens(tokenizer: PreTrainedTokenizerBase, own: RunNumbers) -> None:
    for found, expected in zip(to_tokens(tokenizer, own.raw), own.whole, strict=True):
        if found != expected:
            place, ids, wanted = _first_difference(found, expected)
            raise ReadBackError(
                f"The file's tokens are not the run's: in the pair of row {expected.row:,}, token "
                f"{place + 1:,} is {ids} instead of {wanted}.",
                hint=HINT,
            )


def _first_difference(found: TokenizedPair, expected: TokenizedPair) -> tuple[int, str, str]:
    """Return place, found id and expected id of the first token that differs."""
    for name in ("prompt", "chosen", "rejected"):
        ids: Sequence[int] = getattr(found, name)
        wanted: Sequence[int] = getattr(expected, name)
        if ids != wanted:
            place = next(
                (i for i, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b),
                min(len(ids), len(wanted)),
            )
            shown = [str(part[place]) if place < len(part) else "none" for part in (ids, wanted)]
            return place, shown[0], shown[1]
    return 0, "unknown", "unknown"


def _compare_end(eos: object, tokenizer: PreTrainedTokenizerBase, own: RunNumbers) -> None:
    ends = eos if isinstance(eos, list) else [eos]
    if own.end in ends:
        return
    known = [token for token in ends if isinstance(token, int)]
    text = ", ".join(f"“{tokenizer.convert_ids_to_tokens(token)}”" for token in known) or "none"
    raise ReadBackError(
        f"The file's end token is {text}, but the run ends a turn with “{own.end_text}”: answers "
        "would not stop.",
        hint=HINT,
    )
