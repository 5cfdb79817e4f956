"""Answers as the files of AlpacaEval and FastChat. Floor 5; no torch.

AlpacaEval 0.6: a JSON list of `instruction`, `output`, `generator`. FastChat 0.2: JSON Lines of
`question_id`, `answer_id`, `model_id`, `choices`, `tstamp`, beside `question.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.evaluation.answers.kept import Answers
from orpo_qlora.evaluation.answers.prompts import Prompt, PromptSet

ALPACA, FASTCHAT, QUESTIONS = "model_outputs", "model_answer", "question.jsonl"
NAME_CHARACTERS = 80


def alpaca_rows(prompts: PromptSet, answers: Answers, generator: str) -> list[dict[str, str]]:
    """Return the first answer to each prompt's first turn, as `alpaca_eval` reads them."""
    return [
        {
            "instruction": prompt.whole_text,
            "output": answers[prompt.key, 0].texts[0],
            "generator": generator,
            "dataset": prompt.category or prompts.name,
        }
        for prompt in prompts.prompts
        if (prompt.key, 0) in answers
    ]


def fastchat_rows(
    prompts: PromptSet, answers: Answers, generator: str, at: float
) -> list[dict[str, object]]:
    """Return every sample of each prompt as a FastChat answer; `at` is in seconds since 1970."""
    rows: list[dict[str, object]] = []
    for prompt in prompts.prompts:
        samples = sorted(sample for key, sample in answers if key == prompt.key)
        if samples:
            identity = f"{generator} {prompt.key}".encode()
            rows.append(
                {
                    "question_id": _question_id(prompt),
                    "answer_id": hashlib.sha256(identity).hexdigest()[:22],
                    "model_id": generator,
                    "choices": [
                        {"index": index, "turns": list(answers[prompt.key, sample].texts)}
                        for index, sample in enumerate(samples)
                    ],
                    "tstamp": at,
                }
            )
    return rows


def question_rows(prompts: PromptSet) -> list[dict[str, object]]:
    """Return the prompts as FastChat questions."""
    return [
        {
            "question_id": _question_id(prompt),
            "category": prompt.category or "general",
            "turns": [prompt.whole_text, *prompt.followups],
            **({"reference": list(prompt.references)} if prompt.references else {}),
        }
        for prompt in prompts.prompts
    ]


def _question_id(prompt: Prompt) -> int | str:
    return int(prompt.id) if prompt.id.isdecimal() else prompt.id


def file_name(system: str) -> str:
    """Return the name of a model's file, without its ending."""
    return re.sub(r"[^\w.-]+", "-", system).strip("-.")[:NAME_CHARACTERS] or "model"


def write_answers(
    folder: Path, prompts: PromptSet, by_system: Sequence[tuple[str, Answers]], at: float
) -> list[Path]:
    """Write the answers of every system in both formats; return the files.

    Raises:
        DiskFull: a file is missing.
    """
    for part in (ALPACA, FASTCHAT):
        (folder / part).mkdir(parents=True, exist_ok=True)
    questions = folder / QUESTIONS
    storage.write_whole(questions, map(_line, question_rows(prompts)))
    written = [questions]
    for system, answers in by_system:
        name = file_name(system)
        alpaca, fastchat = folder / ALPACA / f"{name}.json", folder / FASTCHAT / f"{name}.jsonl"
        rows = alpaca_rows(prompts, answers, system)
        storage.write_whole(alpaca, json.dumps(rows, ensure_ascii=False, indent=1))
        storage.write_whole(fastchat, map(_line, fastchat_rows(prompts, answers, system, at)))
        written += [alpaca, fastchat]
    return written


def _line(row: Mapping[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
