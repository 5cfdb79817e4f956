"""Answers to the sample prompts as HTML, base model beside a later step."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from orpo_qlora.orpo.schedule import evaluation_every
from orpo_qlora.runs.store import Run

Sample = Mapping[str, object]
LATEST = "latest"


def answered_steps(samples: Sequence[Sample]) -> list[int]:
    """Return the steps with answers, without the base model's."""
    steps = [step for one in samples if isinstance(step := one.get("step"), int) and step > 0]
    return sorted(set(steps))


def step_choices(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """Return the choices of steps, the latest first."""
    steps = answered_steps(samples)
    return [("the latest", LATEST), *((f"after step {step:,}", str(step)) for step in steps[::-1])]


def awaited_sentence(run: Run) -> str:
    """Return when the prompts are answered next."""
    total = run.state.total_steps
    if not run.is_active:
        return "The run ended before the prompts were answered again."
    if not run.paths.held_out.is_file() or not run.paths.held_out.stat().st_size:
        at = f", after step {total:,}" if total else ""
        return (
            f"Comes at the end of the run{at}: without held-out pairs nothing is measured before."
        )
    if not total:
        return "Comes with the first evaluation."
    every = evaluation_every(run.config, total)
    if every >= total:
        return f"Comes at the end of the run, after step {total:,}."
    return f"Comes with the first evaluation, after step {every:,}."


def samples_table(samples: Sequence[Sample], awaited: str, step: int | None = None) -> str:
    """Return each sample prompt with the base model's answer and a later one.

    Args:
        samples: all answers so far, oldest first.
        awaited: shown instead of later answers that do not exist yet.
        step: the step to show; None for the latest.
    """
    steps = answered_steps(samples)
    shown = step if step in steps else (steps[-1] if steps else None)
    prompts = list(dict.fromkeys(str(sample.get("prompt", "")) for sample in samples))
    rows = "".join(_row(prompt, samples, shown, awaited) for prompt in prompts)
    if not rows:
        return f'<p class="quiet">No answers yet. {html.escape(awaited)}</p>'
    now = f"After step {shown:,}" if shown is not None else "Now"
    return (
        '<table class="samples"><thead><tr><th scope="col">Prompt</th>'
        f'<th scope="col">Base model</th><th scope="col">{now}</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _row(prompt: str, samples: Sequence[Sample], step: int | None, awaited: str) -> str:
    own = [one for one in samples if str(one.get("prompt", "")) == prompt]
    answers = {one.get("step"): str(one.get("answer", "")) for one in own}
    base, later = answers.get(0), answers.get(step)
    title = f"After step {step:,}" if step is not None else "Now"
    if step is None:
        now = _cell(title, awaited, "quiet")
    elif later is None:
        now = _cell(title, "No answer of this step.", "quiet")
    else:
        now = _cell(title, later, note="the same as the base model" if later == base else "")
    before = _cell("Base model", base) if base is not None else _cell("Base model", "–", "quiet")
    return f"<tr>{_cell('Prompt', prompt)}{before}{now}</tr>"


def _cell(title: str, text: str, kind: str = "answer", note: str = "") -> str:
    small = f"<small>{html.escape(note)}</small>" if note else ""
    # The title is shown instead of the table's head on a narrow screen.
    return (
        f'<td data-title="{title}"><div class="{kind}" dir="auto">{html.escape(text)}</div>'
        f"{small}</td>"
    )
