"""The real evaluation of a real run: its numbers are the run's own, and it says when it cannot."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from orpo_qlora import storage
from orpo_qlora.data.pairs import write_pairs
from orpo_qlora.errors import Busy, InputError, OrpoQloraError
from orpo_qlora.evaluation import report_card
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.runs import store
from orpo_qlora.runs.process import training_setup

FAULTS = Path(__file__).parents[1] / "faults" / "shim"


def evaluate_cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "orpo_qlora.cli.main", "evaluate", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_card_s_numbers_are_those_the_run_logged(copied_run):
    card = report_card.read_card(copied_run)
    metrics = store.metrics_of(copied_run.paths)
    for name, tell in {
        "rewards/accuracies": lambda side: side.accuracy.value,
        "logps/chosen": lambda side: side.chosen_logp,
        "logps/rejected": lambda side: side.rejected_logp,
        "rewards/margins": lambda side: 0.5 * side.margin.value,  # λ = 0.5
    }.items():
        (_, before), *_, (_, after) = metrics.series(name, held_out=True)
        assert tell(card.base) == pytest.approx(before, abs=1e-4), name
        assert tell(card.tuned) == pytest.approx(after, abs=1e-4), name
    assert card.tuned.margin.value - card.base.margin.value > 0.05
    ((_, drift),) = metrics.series("kl_base", held_out=True)
    assert drift > 1e-3
    assert card.kl_base == pytest.approx(drift, rel=1e-3)
    held_out = store.held_out_pairs(copied_run.paths)
    assert (card.pairs, card.prompts) == (len(held_out), len({pair.prompt for pair in held_out}))
    assert card.adapter_sha256 == storage.sha256_of(
        copied_run.paths.adapter / "adapter_model.safetensors"
    )
    assert any("computed once for both answers" in note for note in card.notes)


def test_base_scores_are_those_of_the_plain_model(copied_run):
    scores = report_card.read_card(copied_run).scores
    base = training_setup.load_base(copied_run.config)
    pairs = training_setup.tokenize(
        copied_run.config, base.tokenizer, store.held_out_pairs(copied_run.paths)
    ).pairs
    assert [pair.row for pair in pairs] == list(scores.rows)
    for pair, chosen, tokens in zip(pairs, scores.base_chosen, scores.chosen_tokens, strict=True):
        ids = torch.tensor([pair.prompt + pair.chosen])
        with torch.no_grad():
            logps = torch.log_softmax(base.model(input_ids=ids).logits[0, :-1], -1)
        plain = logps.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :].mean()
        assert chosen == pytest.approx(float(plain), abs=1e-4)
        assert tokens == len(pair.chosen)


def test_the_command_line_prints_the_same_card(copied_run):
    done = evaluate_cli(copied_run.id, "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    sentences = printed.pop("sentences")
    card = report_card.read_card(copied_run)
    assert report_card.ReportCard.model_validate(printed) == card
    assert sentences == card.sentences()
    assert "Tuned prefers the chosen response in" in sentences[0]


def test_flipped_pairs_come_with_their_texts(copied_run):
    card = report_card.read_card(copied_run)
    scores, change = card.scores, card.difference
    gained = report_card.flips(copied_run, card, gained=True, most=100)
    lost = report_card.flips(copied_run, card, gained=False, most=100)
    assert (len(gained), len(lost)) == (change.gained, change.lost)
    assert len(gained) + len(lost) >= 1
    assert change.gained - change.lost == round(change.accuracy.value * card.pairs)
    for flip in gained:
        place = scores.rows.index(flip.pair.row)
        assert flip.before <= 0 < flip.after
        assert flip.after == scores.tuned_chosen[place] - scores.tuned_rejected[place]
        assert flip.pair in store.held_out_pairs(copied_run.paths)


def test_each_pair_of_a_ranked_row_has_its_own_scores(copied_run):
    before = report_card.read_card(copied_run)
    pairs = store.held_out_pairs(copied_run.paths)
    write_pairs(copied_run.paths.held_out, [replace(pair, row=pairs[0].row) for pair in pairs])
    card = evaluation_request.wait_for(copied_run, lambda _: None, again=True)
    assert card.scores.tuned_chosen == pytest.approx(before.scores.tuned_chosen, abs=1e-5)
    assert card.scores.tuned_rejected == pytest.approx(before.scores.tuned_rejected, abs=1e-5)
    flipped = {
        flip.pair.chosen: flip.after
        for flip in report_card.flips(copied_run, card, gained=True, most=100)
    }
    margins = card.scores.margins(tuned=True).tolist()
    wanted = {pair.chosen: margin for pair, margin in zip(pairs, margins, strict=True)}
    assert flipped
    assert flipped == {chosen: wanted[chosen] for chosen in flipped}


def test_a_known_card_is_not_measured_again(copied_run):
    assert evaluation_request.ask(copied_run).card == report_card.read_card(copied_run)
    assert not evaluation_request.read_evaluation(copied_run).state.is_busy


def test_a_card_is_void_once_the_run_has_another_adapter(copied_run):
    assert report_card.read_card(copied_run) is not None
    path = copied_run.paths.adapter / "adapter_model.safetensors"
    save_file({name: 2 * values for name, values in load_file(path).items()}, path)
    assert report_card.read_card(copied_run) is None
    assert evaluation_request.read_evaluation(copied_run).card is None


def test_an_adapter_that_does_not_fit_is_a_card_with_a_way_out(copied_run):
    path = copied_run.paths.adapter / "adapter_model.safetensors"
    save_file({name: values[:, :-1].copy() for name, values in load_file(path).items()}, path)
    with pytest.raises(OrpoQloraError, match="does not fit its base model") as caught:
        evaluation_request.wait_for(copied_run, lambda _: None)
    assert caught.value.hint
    # It stays said, and only being asked again tries again.
    assert evaluation_request.ask(copied_run).state.error.message == caught.value.message


def test_memory_that_runs_out_is_named_and_asking_again_measures(copied_run, monkeypatch):
    place = report_card.file_of(copied_run.paths)
    place.unlink(missing_ok=True)
    fault = {
        "module": evaluation_request.JOB.program,
        "act": "memory",
        "op": "rename",
        "path": place.name,
    }
    monkeypatch.setenv("FAULT", json.dumps(fault))
    monkeypatch.setenv("PYTHONPATH", str(FAULTS))
    with pytest.raises(OrpoQloraError, match="Memory ran out while") as caught:
        evaluation_request.wait_for(copied_run, lambda _: None)
    assert "evaluate again" in caught.value.hint
    monkeypatch.delenv("FAULT")
    assert evaluation_request.wait_for(copied_run, lambda _: None) == report_card.read_card(
        copied_run
    )


def test_without_held_out_pairs_it_says_what_to_do(copied_run):
    write_pairs(copied_run.paths.held_out, ())
    with pytest.raises(InputError, match="no pairs away from training") as caught:
        evaluation_request.ask(copied_run)
    assert "Held-out share" in caught.value.hint
    assert evaluate_cli(copied_run.id).returncode == 2


@pytest.mark.parametrize("status", ["queued", "running", "failed"])
def test_only_what_has_ended_well_is_evaluated(copied_run, status):
    store.write_state(copied_run.paths, copied_run.state.model_copy(update={"status": status}))
    with pytest.raises(InputError) as caught:
        evaluation_request.ask(store.read_run(copied_run.paths))
    assert caught.value.hint


def test_it_waits_while_another_run_trains(copied_run):
    other = store.RunPaths(copied_run.paths.folder.with_name("20260101-000000-beef"))
    shutil.copytree(copied_run.paths.folder, other.folder)
    store.write_state(other, copied_run.state.model_copy(update={"status": "running"}))
    with storage.FileLock(other.lock), pytest.raises(Busy, match="needs the machine to itself"):
        evaluation_request.ask(copied_run, again=True)


def test_every_pair_s_margins_are_finite_and_counted(copied_run):
    card = report_card.read_card(copied_run)
    for tuned, side in ((False, card.base), (True, card.tuned)):
        margins = card.scores.margins(tuned=tuned)
        assert np.isfinite(margins).all()
        assert side.accuracy.value == (margins > 0).mean()
        assert side.accuracy.low <= side.accuracy.value <= side.accuracy.high
