"""Input of one comparison: pairs as token ids and as text, an adapter, and their FLOPs."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.peers.turns import Spec
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.models.devices.memory import Shape, read_shape
from orpo_qlora.models.loading import attach_new_adapter, load_base
from orpo_qlora.orpo.rows.tokens import TokenizedPair, tokenize_pairs
from orpo_qlora.orpo.verify.parity import fill_adapter

LONGEST = 1024
RANK = 16
FIRST_WORD_TOKEN = 1000
"""Random tokens are taken from here up: below are special ones."""


@dataclass(frozen=True)
class Cell:
    """One comparison: `spec` for the trainers, the rest for the reader."""

    name: str
    pairs_per_step: int
    unique_tokens: float
    """Prompt, chosen and rejected tokens of a step, each once, on average."""
    useful_flops: float
    """Of a step: forward and input gradient over unique tokens, the head on every predicted one."""
    spec: Spec


def make_cell(
    data: str,
    pairs_per_step: int,
    steps: int,
    model: str,
    folder: Path,
    *,
    longest: int = LONGEST,
) -> Cell:
    """Write what the trainers need into a folder and describe it.

    Args:
        data: preference file, or `synthetic:PxA`.
        pairs_per_step: pairs an optimizer step.
        steps: for which there are pairs.
        model: name or folder of the base.
        folder: where the files go.
        longest: a file's pairs with more tokens, prompt with one response, are left out.
    """
    base = load_base(model)
    torch.manual_seed(0)
    policy = attach_new_adapter(base, TrainConfig(lora_r=RANK, lora_alpha=2 * RANK))
    fill_adapter(policy)
    policy.save_pretrained(folder / "adapter")
    wanted = pairs_per_step * steps
    if data.startswith("synthetic:"):
        pairs = _random_pairs(data, wanted, len(base.tokenizer))
        texts = []
    else:
        pairs, texts = _real_pairs(Path(data), wanted, base.tokenizer, longest)
    (folder / "pairs.json").write_text(json.dumps([_sides(pair) for pair in pairs]))
    (folder / "texts.json").write_text(json.dumps(texts))
    shape = read_shape(base.folder)
    spec = Spec(
        model=str(base.folder),
        adapter=str(folder / "adapter"),
        pairs=str(folder / "pairs.json"),
        texts=str(folder / "texts.json"),
        pairs_per_step=pairs_per_step,
    )
    tokens = sum(len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs)
    return Cell(
        name=_name(data, longest) if texts else data,
        pairs_per_step=pairs_per_step,
        unique_tokens=tokens / steps,
        useful_flops=sum(_flops(pair, shape) for pair in pairs) / steps,
        spec=spec,
    )


def _name(data: str, longest: int) -> str:
    name = Path(data).stem
    return name if longest == LONGEST else f"{name} up to {longest} tokens"


def _sides(pair: TokenizedPair) -> dict[str, list[int]]:
    return {
        "prompt": list(pair.prompt),
        "chosen": list(pair.chosen),
        "rejected": list(pair.rejected),
    }


def _random_pairs(data: str, count: int, vocabulary: int) -> list[TokenizedPair]:
    prompt, answer = (int(number) for number in data.partition(":")[2].split("x"))
    source = random.Random(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(source.randrange(FIRST_WORD_TOKEN, vocabulary) for _ in range(length))

    return [
        TokenizedPair(tokens(prompt), tokens(answer), tokens(answer), row)
        for row in range(1, count + 1)
    ]


def _real_pairs(
    path: Path, count: int, tokenizer: object, longest: int
) -> tuple[list[TokenizedPair], list[dict[str, str]]]:
    """Return a file's pairs in a shuffled order, again from the start where there are too few."""
    originals = list(load_preferences(path).pairs)
    random.Random(0).shuffle(originals)
    by_row = {pair.row: pair for pair in originals}
    tokenized = tokenize_pairs(tokenizer, originals, longest, "drop").pairs
    pairs = [tokenized[index % len(tokenized)] for index in range(count)]
    texts = [
        {
            "prompt": by_row[p.row].prompt,
            "chosen": by_row[p.row].chosen,
            "rejected": by_row[p.row].rejected,
        }
        for p in pairs
    ]
    return pairs, texts


def _flops(pair: TokenizedPair, shape: Shape) -> float:
    """Return the floating-point operations that a pair needs, prompt computed once."""
    prompt, chosen, rejected = len(pair.prompt), len(pair.chosen), len(pair.rejected)
    sent = prompt + chosen + rejected - 2
    predicted = prompt - 1 + chosen + rejected
    scores = prompt**2 / 2 + prompt * (chosen + rejected) + (chosen**2 + rejected**2) / 2
    return (
        4 * shape.linear_weights * sent
        + 6 * shape.adapter_weights(RANK) * sent
        + 4 * shape.hidden * shape.vocabulary * predicted
        + 3.5 * 4 * shape.query_width * shape.layers * scores
    )
