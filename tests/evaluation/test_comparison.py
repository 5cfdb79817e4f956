"""Runs side by side: exact intervals, drift, cost, and bold only where intervals part."""

import json

import numpy as np
import pytest
import yaml
from made_runs import PAIRS, evaluation, leave_adapter, make_run

from orpo_qlora import storage
from orpo_qlora.cli import main
from orpo_qlora.config import TrainConfig
from orpo_qlora.evaluation import comparison, report_card, statistics
from orpo_qlora.evaluation.comparison import Cost
from orpo_qlora.evaluation.report_card import ReportCard, Scores
from orpo_qlora.runs import store
from orpo_qlora.runs.curves.intervals import wilson
from orpo_qlora.runs.process import sweep


def compare(*made):
    return comparison.compare([store.read_run(paths) for paths in made])


def varied(name, value, **others):
    return make_run(varied=(name,), tags=("sweep-abc",), **{name: value}, **others)


def log_steps(paths, *records):
    lines = storage.JsonLines(paths.metrics)
    for record in records:
        lines.append(record)
    lines.close()


def measure(paths, accuracy, pairs):
    log_steps(paths, evaluation(10, 0.1, accuracy, 2.0, pairs))


def leave_card(paths, won, kl_base=None):
    """Write a report card on len(won) pairs, each of its own prompt; margins are ±1."""
    leave_adapter(paths)
    count = len(won)
    scores = Scores(
        rows=tuple(range(count)),
        prompts=tuple(range(count)),
        chosen_tokens=(3,) * count,
        rejected_tokens=(3,) * count,
        base_chosen=(-2.0,) * count,
        base_rejected=(-1.0,) * count,
        tuned_chosen=tuple(-1.0 if each else -3.0 for each in won),
        tuned_rejected=(-2.0,) * count,
    )
    card = ReportCard.model_validate(
        {
            **report_card.summarise(scores),
            **{"run": paths.id, "made_at": 0, "notes": (), "seconds": 1, "scores": scores},
            **{"adapter_sha256": report_card.adapter_sha256(paths), "kl_base": kl_base},
        }
    )
    report_card.file_of(paths).write_text(card.model_dump_json())


def test_runs_are_ordered_and_labelled_by_what_is_varied():
    made = [varied("learning_rate", rate) for rate in (4e-4, 1e-4, 2e-4)]
    found = compare(*made)
    assert found.settings == ("learning_rate",)
    assert [one.label for one in found.entries] == [
        f"learning rate = {rate}" for rate in ("0.0001", "0.0002", "0.0004")
    ]


def test_choices_are_ordered_as_the_form_lists_them():
    made = [varied("scheduler", name) for name in ("constant", "linear", "cosine")]
    assert [one.run.config.scheduler for one in compare(*made).entries] == [
        "linear", "cosine", "constant",
    ]  # fmt: skip


def test_runs_outside_a_sweep_keep_their_names_and_show_what_differs():
    found = compare(make_run(name="a", lora_r=8), make_run(name="b", lora_r=16))
    assert found.settings == ("lora_r",)
    assert [one.label for one in found.entries] == ["a", "b"]


def test_cost_is_what_the_steps_recorded():
    paths = varied("lora_r", 8)
    log_steps(
        paths,
        {"step": 1, "pairs": 4, "forwards": 8, "tokens": 100, "seconds": 3, "peak_memory_bytes": 7},
        {"step": 2, "pairs": 2, "forwards": 4, "tokens": 80, "seconds": 0, "peak_memory_bytes": 9},
        {"step": 2, "eval/pairs": 5, "eval/seconds": 99, "eval/tokens": 1, "eval/loss": 1},
    )
    (one,) = compare(paths).entries
    assert one.cost == Cost(2.0, 30.0, 0.5, 9.0)
    assert one.kl_base is None


def test_what_an_earlier_version_did_not_record_is_unknown():
    paths = varied("lora_r", 8)
    log_steps(paths, {"step": 1, "pairs": 4, "seconds": 2}, {"step": 2, "pairs": 4, "forwards": 8})
    (one,) = compare(paths).entries
    assert one.cost == Cost()
    assert comparison.columns_of(compare(paths), comparison.COSTS) == []


def test_the_forwards_of_the_reference_are_named_apart():
    made = [varied("method", method) for method in ("orpo", "dpo", "kto")]
    shown = comparison.columns_of(compare(*made), comparison.COSTS)
    (column,) = [each for each in shown if each.name == "reference_forwards_per_pair"]
    texts = {one.run.config.method: column.text(one) for one in compare(*made).entries}
    assert texts == {"orpo": "–", "dpo": "2", "kto": "4"}


def test_accuracy_is_the_same_measurement_under_every_method():
    orpo, dpo = varied("method", "orpo", accuracy=0.8), varied("method", "dpo")
    record = {"step": 10, "eval/loss": 1, "eval/pairs": 5, "eval/rewards/accuracies": 0.0}
    log_steps(dpo, record | {"eval/logps/accuracies": 0.6})
    found = {one.run.config.method: one.accuracy.value for one in compare(orpo, dpo).entries}
    assert found == {"orpo": 0.8, "dpo": 0.6}


def test_runs_of_an_earlier_version_open_and_compare():
    """Their settings, labels and records name no method, varied setting or `logps/accuracies`."""
    made = [make_run(tags=("λ-sweep-ab",), **{"lambda": value}) for value in (0.1, 0.2)]
    new = set(TrainConfig.model_fields) & {"method", "beta", "start_from", "chat_template", "ratio"}
    for paths, accuracy in zip(made, (0.4, 0.8), strict=True):
        settings = yaml.safe_load(paths.config.read_text())
        for name in new:
            del settings[name]
        paths.config.write_text(yaml.safe_dump(settings))
        log_steps(
            paths, {"step": 9, "eval/loss": 1, "eval/pairs": 5, "eval/rewards/accuracies": accuracy}
        )
    found = comparison.compare(sweep.group_of("last"))
    assert found.settings == ("lambda",)
    assert [one.accuracy.value for one in found.entries] == [0.4, 0.8]
    assert [one.run.config.method for one in found.entries] == ["orpo", "orpo"]


def test_the_drift_is_the_run_s_own_or_its_report_card_s():
    logged, carded = varied("lora_r", 8), varied("lora_r", 16)
    log_steps(logged, {"step": 10, "eval/kl_base": 0.25, "eval/loss": 1})
    leave_card(logged, [True], kl_base=0.5)
    leave_card(carded, [True], kl_base=0.75)
    assert [one.kl_base for one in compare(logged, carded).entries] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("accuracies", "pairs", "is_clear"),
    [
        # Wilson: 50 of 100 is 40 to 60 %, 65 of 100 is 55 to 74 %, 80 of 100 is 71 to 87 %.
        ((0.5, 0.8), 100, True),
        ((0.5, 0.65), 100, False),
        ((0.5, 0.65, 0.8), 100, False),
        ((0.2, 0.3, 0.8), 100, True),
        ((0.0, 1.0), 3, False),
        ((0.5, 0.5), 1000, False),
    ],
)
def test_the_best_is_bold_only_where_its_interval_parts_from_all_others(
    accuracies, pairs, is_clear
):
    made = [varied("lora_r", 8 * (at + 1)) for at in range(len(accuracies))]
    for paths, accuracy in zip(made, accuracies, strict=True):
        measure(paths, accuracy, pairs)
    found = compare(*made)
    best = found.entries[accuracies.index(max(accuracies))]
    assert found.best == best
    assert best.accuracy == wilson(max(accuracies), pairs)
    assert found.bold == ({"accuracy": best.run.id} if is_clear else {})
    sentence = comparison.result_sentence(found)
    assert ("do not decide" in sentence) != is_clear
    assert ("Chance does not explain its lead" in sentence) == is_clear


def test_pair_by_pair_a_difference_can_part_where_intervals_overlap():
    """72 and 60 of 100, the better one right wherever the other is: the intervals overlap."""
    better, worse = varied("lora_r", 8), varied("lora_r", 16)
    outcomes = {better: np.arange(100) < 72, worse: np.arange(100) < 60}
    for paths, won in outcomes.items():
        measure(paths, won.mean(), 100)
    assert compare(better, worse).bold == {}
    for paths, won in outcomes.items():
        leave_card(paths, won.tolist())
    found = compare(better, worse)
    expected = statistics.difference_interval(outcomes[better], outcomes[worse], np.arange(100))
    assert found.entries[1].difference == expected
    assert expected.value == pytest.approx(-0.12)
    assert expected.high < 0
    assert found.entries[0].difference is None
    assert found.bold == {"accuracy": better.id, "gap": better.id}


def test_cards_on_other_pairs_are_not_paired():
    first, second = varied("lora_r", 8), varied("lora_r", 16)
    for paths, pairs in ((first, 5), (second, 4)):
        measure(paths, 0.5, 5)
        leave_card(paths, [True] * pairs)
    assert [one.difference for one in compare(first, second).entries] == [None, None]


def test_nothing_is_best_beyond_chance_on_different_pairs():
    first, second = varied("lora_r", 8), varied("lora_r", 16)
    measure(first, 0.1, 1000)
    measure(second, 0.9, 1000)
    second.held_out.write_text(second.held_out.read_text().replace(PAIRS[17].prompt, "q99"))
    found = compare(first, second)
    assert (found.has_same_pairs, found.bold) == (False, {})
    assert "not measured on the same pairs" in comparison.result_sentence(found)


def test_the_command_line_prints_the_same_table(cli_output):
    made = [varied("lora_r", rank, accuracy=accuracy) for rank, accuracy in ((8, 0.4), (16, 0.8))]
    log_steps(made[0], {"step": 11, "pairs": 2, "forwards": 4, "eval/kl_base": 0.125})
    found = json.loads(cli_output("runs", "--sweep", "sweep-abc", "--json"))
    assert found == json.loads(json.dumps(comparison.to_json(compare(*made))))
    assert found["settings"] == ["lora_r"]
    first, second = found["runs"]
    assert first["settings"] == {"lora_r": 8}
    assert first["kl_base"] == 0.125
    assert second["accuracy"]["low"] == wilson(0.8, 5).low
    assert second["held_out"]["rewards/accuracies"] == 0.8
    printed = cli_output("runs", "--sweep", "last")
    assert "80 % (38–96 %)" in printed
    assert found["result"] in printed


@pytest.fixture
def cli_output(monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments):
        done = CliRunner().invoke(main.app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    return run
