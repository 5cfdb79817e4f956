"""The Votes panel: win rates, downloads, and votes as training data. Floor 6."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora.chat import votes
from orpo_qlora.chat.conversations import Answer, Conversation
from orpo_qlora.chat.votes import Export, Score
from orpo_qlora.data.wording import plural
from orpo_qlora.runs import present
from orpo_qlora.ui.chat import messages as messages_view
from orpo_qlora.ui.data import tab as data_tab
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.data.tab import DataTab
from orpo_qlora.ui.parts import cards, downloads
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED
from orpo_qlora.ui.parts.guard import Updates, guarded

KINDS = {"csv": "Votes as CSV", "jsonl": "Votes as JSON Lines"}
SOURCE = "votes.jsonl"
"""File name in the Data tab."""
SCORES_SHOWN = 12
NO_VOTES = (
    "No votes yet. Tick “Blind”, ask something and vote for the better answer: the win rate "
    "appears here, and the votes become preference pairs."
)


@dataclass(frozen=True)
class VotesPanel:
    """The components of the panel."""

    fold: gr.Accordion
    scores: gr.HTML
    use: gr.Button
    downloads: dict[str, gr.Button]
    file: gr.File

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with a vote."""
        return [self.fold, self.scores, self.use, *self.downloads.values()]


def build_votes_panel(file: gr.File) -> VotesPanel:
    """Return the panel without votes; `file` passes a download to the browser."""
    with gr.Accordion("Votes", open=False, elem_id="chat-scores-fold") as fold:
        scores = gr.HTML(cards.reason(NO_VOTES), elem_id="chat-scores")
        with gr.Row(elem_classes="actions"):
            use = gr.Button(
                "Use votes as data",
                variant="primary",
                interactive=False,
                elem_id="chat-use-votes",
                scale=0,
                min_width=230,
            )
            downloads = {
                kind: gr.Button(
                    label, interactive=False, elem_id=f"chat-votes-{kind}", scale=0, min_width=190
                )
                for kind, label in KINDS.items()
            }
    return VotesPanel(fold, scores, use, downloads, file)


def connect_votes_panel(panel: VotesPanel, card: gr.HTML) -> None:
    """Connect the downloads; errors appear in `card`."""

    def on_download(kind: str) -> Updates:
        return {panel.file: str(export_file(kind))}

    for kind, button in panel.downloads.items():
        handler = guarded(card, partial(on_download, kind))
        event = button.click(handler, None, [card, panel.file], trigger_mode="once", **UNCHECKED)
        event.success(None, panel.file, None, js=downloads.SAVE, **QUIET)


def connect_votes_to_data(panel: VotesPanel, card: gr.HTML, data: DataTab, tabs: gr.Tabs) -> Any:  # noqa: ANN401
    """Connect “Use votes as data”; return the event after which the Data tab shows them."""

    def on_use() -> Updates:
        shown = data_tab.dataset_updates(data, store_as_data())
        return {**shown, data.upload: None, tabs: gr.Tabs(selected="data")}

    parts = [card, *data.outputs, data.upload, tabs]
    return panel.use.click(guarded(card, on_use), None, parts, trigger_mode="once", **UNCHECKED)


def panel_updates(panel: VotesPanel, *, is_open: bool | None = None) -> Updates:
    """Return the updates for all votes; `is_open` None keeps the panel open or closed."""
    found = votes.read_votes()
    export = votes.export_of(found)
    can_export = gr.update(interactive=bool(export.pairs))
    opening = {} if is_open is None else {"open": is_open}
    title = f"Votes ({len(found):,})" if found else "Votes"
    return {
        panel.fold: gr.update(label=title, **opening),
        panel.scores: scores_html(votes.scores(found), export) if found else cards.reason(NO_VOTES),
        panel.use: can_export,
        **{button: can_export for button in panel.downloads.values()},
    }


def scores_html(scores: list[Score], export: Export) -> str:
    """Return each score as a sentence with an interval bar, and what can be exported."""
    rows = "".join(_score(score) for score in scores[:SCORES_SHOWN])
    more = len(scores) - SCORES_SHOWN
    rest = f"<li>… and {more} older comparisons.</li>" if more > 0 else ""
    return (
        f'<ul class="scores">{rows}{rest}</ul>'
        f'<p class="quiet">{html.escape(_export_sentence(export))}</p>'
    )


def _score(score: Score) -> str:
    return f"<li><p>{html.escape(score_sentence(score))}</p>{_interval_bar(score)}</li>"


def score_sentence(score: Score) -> str:
    """Return a score as a sentence, with its interval and what it means."""
    sides = f"{_side(score.one)} against {_side(score.other)}"
    undecided = _listed(
        plural(score.ties, "tie") if score.ties else "",
        f"{score.bad} times both bad" if score.bad else "",
    )
    if score.win_rate is None:
        return f"{sides}: no answer was preferred yet ({undecided})."
    low, high = score.interval.low, score.interval.high
    meaning = "it may still be chance"
    if low > 0.5:
        meaning = "preferred, beyond chance"
    elif high < 0.5:
        meaning = "worse, beyond chance"
    beside = f", {undecided}" if undecided else ""
    return (
        f"{sides}: won {score.wins:,} of {plural(score.decided, 'decided vote')}, "
        f"{present.percent(score.win_rate)} (95 % interval {present.percent(low)} to "
        f"{present.percent(high)}){beside}: {meaning}."
    )


def _side(answer: Answer) -> str:
    if not answer.run:
        return "the base model"
    return f"“{answer.title}” ({answer.sha256[: messages_view.HASH_CHARACTERS]})"


def _interval_bar(score: Score) -> str:
    if score.win_rate is None:
        return ""
    low, high = (round(100 * end, 1) for end in (score.interval.low, score.interval.high))
    return (
        '<div class="score-bar" aria-hidden="true">'
        f'<span class="score-range" style="left: {low}%; width: {round(high - low, 1)}%"></span>'
        f'<span class="score-point" style="left: {round(100 * score.win_rate, 1)}%"></span></div>'
    )


def _export_sentence(export: Export) -> str:
    reasons = "; ".join(f"{count:,} × {reason}" for reason, count in export.left_out.items())
    left = f" Left out: {reasons}." if reasons else ""
    return f"{plural(len(export.pairs), 'vote')} can be trained on as preference pairs.{left}"


def _listed(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def vote_sentence(conversation: Conversation) -> str:
    """Return the newest vote as a sentence with the models' names."""
    last = conversation.last
    if last is None or not last.vote:
        return ""
    if last.vote in {"tie", "bad"}:
        names = " and ".join(messages_view.name_of(last, place) for place in range(2))
        return f"{names}: {'a tie' if last.vote == 'tie' else 'both bad'}."
    title = f"“{last.preferred.title}”" if last.preferred.run else "the base model"
    return f"You preferred {title}. Both continue from that answer."


def export_file(kind: str) -> Path:
    """Write all votes that make a pair as `csv` or `jsonl`, and return the path.

    Raises:
        InputError: there are none, or a text cannot be written as CSV.
        DiskFull: no file remains.
    """
    folder = Path(tempfile.gettempdir()) / "votes"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"votes.{kind}"
    votes.write_export(path, votes.export_of(votes.read_votes()))
    return path


def store_as_data(progress: Callable[[float], None] | None = None) -> str:
    """Store all votes that make a pair like an upload of the Data tab; return the file's id.

    Raises:
        InputError: there are none.
        DiskFull: no file remains.
    """
    return uploads.store_upload(export_file("jsonl"), SOURCE, progress)
