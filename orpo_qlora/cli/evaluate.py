"""`evaluate`: a run's adapter against its base. Floor 6; no torch."""

from __future__ import annotations

import json

from orpo_qlora.cli.console import job_progress, out, plain
from orpo_qlora.cli.options import Again, AsJson, RunName
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.runs import store


def evaluate(
    run: RunName,
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Compare a run's adapter with its base on the held-out pairs; kept with the run."""
    found = store.find_run(run)
    with job_progress(quiet=as_json) as on_progress:
        card = evaluation_request.wait_for(found, on_progress, again=again)
    if as_json:
        summary = {"sentences": card.sentences()}
        out.print_json(json.dumps(card.model_dump(mode="json") | summary))
        return
    for sentence in [*card.sentences(), *card.notes]:
        out.print(plain(sentence), soft_wrap=True)
