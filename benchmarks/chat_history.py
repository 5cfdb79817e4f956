"""How long a conversation waits for its first word, with what was read kept or read again.

    python -m benchmarks.chat_history [--turns 8]

Base and one adapter of the demo model answer message after message; the adapter is random, which
changes words and no times.
"""

from __future__ import annotations

import argparse
import time

import torch
from peft import LoraConfig, get_peft_model

from orpo_qlora.data.messages import Message
from orpo_qlora.models import hardware, loading
from orpo_qlora.models.generation import prompt_ids, stream
from orpo_qlora.models.prefixes import Prefixes
from orpo_qlora.models.sampling import BASE, Conversation, Sampling

QUESTION = (
    "Explain in a few sentences how rain comes about, and what else there is to know about it."
)
SAMPLING = Sampling(temperature=0.7, max_tokens=96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=8)
    arguments = parser.parse_args()
    base = loading.load_base("smollm2-135m-instruct", dequantized=True)
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(base.model, lora, adapter_name="tuned")
    print(f"{hardware.use_all_cores()} threads, {torch.get_num_threads()} used")
    print("| message | tokens of history | first word, all read | first word, rest read | kept |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    prefixes = Prefixes()
    talks: list[tuple[Message, ...]] = [(), ()]
    for number in range(1, arguments.turns + 1):
        talks = [(*talk, Message("user", QUESTION)) for talk in talks]
        asked = [
            Conversation(talk, name) for talk, name in zip(talks, (BASE, "tuned"), strict=True)
        ]
        whole, _ = answer(policy, base.tokenizer, asked, None, first_only=True)
        rest, said = answer(policy, base.tokenizer, asked, prefixes)
        length = max(len(prompt_ids(base.tokenizer, talk)) for talk in talks)
        print(
            f"| {number} | {length:,} | {whole:.2f} s | {rest:.2f} s "
            f"| {prefixes.bytes / 2**20:.0f} MiB |",
            flush=True,
        )
        talks = [
            (*talk, Message("assistant", text)) for talk, text in zip(talks, said, strict=True)
        ]


def answer(policy, tokenizer, asked, prefixes, *, first_only=False):
    """Return the seconds to the first step, and the answers."""
    said = [""] * len(asked)
    started, first = time.perf_counter(), 0.0
    for deltas in stream(policy, tokenizer, asked, SAMPLING, prefixes=prefixes):
        first = first or time.perf_counter() - started
        for delta in deltas:
            said[delta.row] += delta.text
        if first_only:
            break
    return first, said


if __name__ == "__main__":
    main()
