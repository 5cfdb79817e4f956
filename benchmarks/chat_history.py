"""Time to the first token of a conversation, with keys and values reused or recomputed.

    python -m benchmarks.chat_history [--turns 8]

Base and one adapter of the demo model answer one message after another; the adapter is random,
which changes the text but not the times.
"""

from __future__ import annotations

import argparse
import time

import torch
from peft import LoraConfig, get_peft_model

from orpo_qlora.data.messages import Message
from orpo_qlora.models import loading
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.generation.generate import prompt_ids, stream
from orpo_qlora.models.generation.prefixes import Prefixes
from orpo_qlora.models.generation.sampling import BASE, Conversation, Sampling

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
    print("| message | tokens of history | first token, no reuse | first token, reuse | kept |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    prefixes = Prefixes()
    histories: list[tuple[Message, ...]] = [(), ()]
    for number in range(1, arguments.turns + 1):
        histories = [(*history, Message("user", QUESTION)) for history in histories]
        batch = [
            Conversation(history, name)
            for history, name in zip(histories, (BASE, "tuned"), strict=True)
        ]
        whole, _ = answer(policy, base.tokenizer, batch, None, first_only=True)
        reused, texts = answer(policy, base.tokenizer, batch, prefixes)
        length = max(len(prompt_ids(base.tokenizer, history)) for history in histories)
        print(
            f"| {number} | {length:,} | {whole:.2f} s | {reused:.2f} s "
            f"| {prefixes.bytes / 2**20:.0f} MiB |",
            flush=True,
        )
        histories = [
            (*history, Message("assistant", text))
            for history, text in zip(histories, texts, strict=True)
        ]


def answer(policy, tokenizer, batch, prefixes, *, first_only=False):
    """Return the seconds to the first step, and the answers."""
    texts = [""] * len(batch)
    started, first = time.perf_counter(), 0.0
    for deltas in stream(policy, tokenizer, batch, SAMPLING, prefixes=prefixes):
        first = first or time.perf_counter() - started
        for delta in deltas:
            texts[delta.row] += delta.text
        if first_only:
            break
    return first, texts


if __name__ == "__main__":
    main()
