"""Number formats and status texts of the page, without markup."""

from __future__ import annotations

import time

from orpo_qlora.data.summary import plural
from orpo_qlora.models.catalogue import find_model
from orpo_qlora.models.templates.chat_templates import label_of
from orpo_qlora.runs.state import RunState, Status
from orpo_qlora.runs.store import Run
from orpo_qlora.setting import is_template_text

STATUS_MEANINGS: dict[Status, str] = {
    "queued": "In the queue; starts when no other run trains.",
    "starting": "Getting ready.",
    "running": "Training.",
    "stopping": "Stopping after the current step, with a checkpoint; the adapter is kept.",
    "finished": "Finished. Its adapter is ready to chat with.",
    "stopped": "Stopped by you. Its adapter is kept, and it can be resumed.",
    "failed": "Failed. The reason is below.",
    "interrupted": "Its worker ended without an error message: the machine may have restarted, or "
    "memory ran out. See the log below.",
}
UNFINISHED_PERCENT = 99
"""Shown while the last step is done but the adapter is not on disk yet."""


def duration(seconds: float) -> str:
    """Return a length of time in at most two units: “45 s”, “3 min 20 s”, “2 h 05 min”."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        rest = f" {whole % 60:02d} s" if whole % 60 and whole < 600 else ""
        return f"{whole // 60} min{rest}"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def step_seconds(seconds: float) -> str:
    """Return the duration of a step."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms per step"
    return f"{seconds:.2g} s per step" if seconds < 10 else f"{seconds:.0f} s per step"


def number(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def scientific(value: float) -> str:
    """Return a small number as it is written in papers: “2e-4”."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"


def percent(share: float) -> str:
    """Return a share between 0 and 1 as whole per cent."""
    return f"{share * 100:.0f} %"


def moment(seconds_since_epoch: float) -> str:
    """Return a point in time as this machine's clock shows it: “21 Nov 14:05”."""
    local = time.localtime(seconds_since_epoch)
    return f"{local.tm_mday} {time.strftime('%b %H:%M', local)}"


def progress_percent(state: RunState) -> int | None:
    """Return how much of the run is done, None while its length is unknown."""
    if state.status == "finished":
        return 100
    if not state.total_steps:
        return None
    return min(UNFINISHED_PERCENT, round(100 * state.step / state.total_steps))


def progress_sentence(state: RunState) -> str:
    """Return phase, step, seconds per step and time left, as far as they are known."""
    parts = [state.phase[:1].upper() + state.phase[1:]] if state.phase else []
    if state.total_steps:
        parts.append(f"step {state.step:,} of {state.total_steps:,}")
    if state.seconds_per_step:
        parts.append(step_seconds(state.seconds_per_step))
        left = (state.total_steps - state.step) * state.seconds_per_step
        if left > 0 and state.status == "running":
            parts.append(f"about {duration(left)} left")
    return " · ".join(parts)


def ended_sentence(state: RunState) -> str:
    """Return steps, duration and end of a run that is over."""
    parts = [f"{state.step:,} of {plural(state.total_steps, 'step')}"] if state.total_steps else []
    if state.ended_at and state.started_at:
        parts.append(f"took {duration(state.ended_at - state.started_at)}")
    if state.ended_at:
        parts.append(f"ended {moment(state.ended_at)}")
    line = " · ".join(parts)
    return line[:1].upper() + line[1:]


def run_label(run: Run) -> str:
    """Return a run as one line of a list."""
    began = moment(run.state.created_at) if run.state.created_at else run.id
    return f"{run.title} · {run.state.status} · {began}"


def model_title(model: str) -> str:
    """Return the catalogue's title of a model, or the model as given."""
    entry = find_model(model)
    return entry.title if entry else model


def setting_value(value: object) -> str:
    """Return a setting's value as text; None, the method's own, as “auto”."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "; ".join(str(item) for item in value) or "–"
    if isinstance(value, str) and is_template_text(value):
        return label_of(value)
    return str(value) if value != "" else "–"


def tokens_per_second(rate: float) -> str:
    """Return generation throughput."""
    return f"{rate:.1f} tokens/s per answer"
