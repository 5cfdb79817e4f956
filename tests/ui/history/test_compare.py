import re

import pytest
from made_runs import make_run, named_parts

from orpo_qlora.evaluation import comparison
from orpo_qlora.runs import store
from orpo_qlora.runs.curves import metrics
from orpo_qlora.runs.process import deletion as deletion_of_runs
from orpo_qlora.ui.history import compare, compare_view, results_view, sweep_chart, sweep_panel
from orpo_qlora.ui.history.compare_view import line_up


def runs_of(made):
    return [store.read_run(paths) for paths in made]


def compared(*made):
    return line_up(runs_of(made))


def draw_results(*made):
    places = {one.run.id: one.place for one in compared(*made)}
    return results_view.draw_results(comparison.compare(runs_of(made)), places)


def draw_sweep(*made):
    colours = {one.run.id: one.colour for one in compared(*made)}
    return sweep_chart.draw_sweep(comparison.compare(runs_of(made)), colours)


@pytest.fixture
def sweep():
    values = ((0.05, 0.6), (0.1, 0.6), (0.5, 1.0))
    return [
        make_run(name=f"λ = {value}", accuracy=accuracy, **{"lambda": value})
        for value, accuracy in values
    ]


def test_only_what_differs_is_listed():
    first = make_run(name="a", lora_r=8, seed=1)
    second = make_run(name="b", lora_r=16, seed=1)
    table = compare_view.draw_differences(compared(first, second))
    assert "LoRA rank" in table
    assert re.search(r"<td>8</td><td>16</td>", table)
    assert "seed" not in table
    assert "torch" not in table
    assert "Run name" not in table


def test_other_data_and_versions_are_differences_too():
    first, second = make_run(name="a"), make_run(name="b")
    text = second.config.read_text()
    second.config.write_text(re.sub(r"peft: .*", "peft: 0.0.1", text))
    report = second.report.read_text()
    second.report.write_text(report.replace("pairs.csv", "<i>.csv").replace("abab", "cdcd"))
    table = compare_view.draw_differences(compared(first, second))
    assert "peft" in table
    assert "0.0.1" in table
    assert "&lt;i&gt;.csv (cdcd" in table


def test_equal_runs_differ_in_nothing():
    table = compare_view.draw_differences(compared(make_run(name="a"), make_run(name="b")))
    assert "are the same" in table


def test_runs_of_one_name_are_distinguished():
    labels = [one.label for one in compared(make_run(name="a"), make_run(name="a"))]
    assert labels[0] != labels[1]
    assert all(label.startswith("a (20") for label in labels)


def test_held_out_results_carry_their_interval(sweep):
    table = draw_results(*sweep)
    # 3 of 5: Wilson 23 to 88 %; 5 of 5: 57 to 100 %.
    assert "60 % (23–88 %)" in table
    assert "100 % (57–100 %)" in table
    assert "cannot be compared" not in table


def test_other_held_out_pairs_are_said():
    first, second = make_run(name="a", accuracy=0.5), make_run(name="b", accuracy=0.5)
    second.held_out.write_text(second.held_out.read_text().replace("q17", "q99"))
    assert "cannot be compared" in draw_results(first, second)


def test_a_run_without_measurement_has_a_row_all_the_same(sweep):
    table = draw_results(*sweep, make_run(name="late", status="queued"))
    assert table.count("</span>late</th>") == 1  # it has no cost either
    assert ">–</td>" in table


@pytest.mark.parametrize(("held_out", "points"), [(True, 2), (False, 10)])
def test_every_run_is_a_curve_in_every_chart(sweep, held_out, points):
    drawn = compare_view.draw_curves(compared(*sweep), held_out=held_out)
    assert drawn.count("<figure") == len(compare_view.PLOTS)
    for place in (1, 2, 3):
        assert drawn.count(f'class="curve{" curve-held-out" if held_out else ""}"') >= 3
        assert f'stroke="var(--run-{place})"' in drawn
    first = re.search(r'data-curves="([^"]*)"', drawn)[1]
    assert first.count("points") == 3
    assert first.count("[") == 1 + 3 * (points + 1)


def test_lambda_is_drawn_against_what_came_of_it(sweep):
    drawn = draw_sweep(*sweep)
    assert drawn.count("<figure") == 3
    assert "Highest held-out accuracy so far: λ = 0.5, 100 % (57–100 %)." in drawn
    # With five pairs the intervals overlap, and that is said.
    assert "the difference to λ = 0.05, 0.1, so these pairs do not decide" in drawn
    assert drawn.count('class="dots"') == 9


def test_two_crossed_settings_are_side_by_side():
    made = [
        make_run(accuracy=0.6, varied=("lambda", "lora_r"), lora_r=rank, **{"lambda": value})
        for value in (0.1, 0.5)
        for rank in (8, 16)
    ]
    drawn = draw_sweep(*made)
    assert "λ = 0.1, LoRA rank = 8: 60 %; λ = 0.1, LoRA rank = 16: 60 %" in drawn
    # Two values, each half of the width, and two runs beside each other in a half of that.
    accuracy = drawn[: drawn.index("</figure>")]
    assert re.findall(r'class="dots" style="[^"]*" d="M([\d.]+) ', accuracy) == [
        "187.5", "312.5", "687.5", "812.5",
    ]  # fmt: skip
    assert accuracy.count('class="tick-x"') == 2


def test_more_than_six_runs_have_rows_and_points_and_the_first_six_a_curve():
    made = [make_run(accuracy=0.5, varied=("seed",), seed=seed) for seed in range(8)]
    several = compared(*made)
    drawn = compare_view.draw_curves(several, held_out=True)
    assert 'stroke="var(--run-6)"' in drawn
    assert "run-7" not in drawn
    assert "run-other" not in drawn
    assert "the first 6 runs" in compare_view.draw_legend(several)
    assert draw_sweep(*made).count("var(--run-other)") == 2 * (3 + 1)  # and two whiskers
    assert draw_results(*made).count("<tr><th><span") == 8


def test_log_probs_of_both_responses_share_a_scale(sweep):
    drawn = compare_view.draw_curves(compared(*sweep), held_out=True)
    chosen, rejected = (
        re.findall(r'class="tick-y"[^>]*>[^<]*<', chart) for chart in drawn.split("<figure")[1:3]
    )
    assert chosen == rejected


def test_one_lambda_makes_no_sweep(sweep):
    late = make_run(status="queued", **{"lambda": 1.0})
    assert draw_sweep(sweep[0], make_run(accuracy=0.2, **{"lambda": 0.05})) == ""
    assert draw_sweep(sweep[0], late) == ""


@pytest.fixture
def part():
    return named_parts(compare.Comparison)


def test_a_comparison_is_drawn_again_only_when_a_run_went_on(part, sweep):
    ids = [paths.id for paths in sweep]
    seen = compare.compare_updates(part, ids, compare.HELD_OUT)[part.seen]
    assert compare.compare_updates(part, ids, compare.HELD_OUT, seen) is None
    assert compare.compare_updates(part, ids, compare.TRAINING, seen) is not None
    with sweep[0].metrics.open("a") as file:
        file.write('{"step": 11, "loss": 1.0}\n')
    assert compare.compare_updates(part, ids, compare.HELD_OUT, seen) is not None


def test_a_deleted_run_leaves_the_comparison(part, sweep):
    ids = [paths.id for paths in sweep]
    deletion_of_runs.delete_run(sweep[0])
    head = compare.compare_updates(part, [*ids, "../../etc"], compare.HELD_OUT)[part.head]
    assert head.count("<li>") == 2
    for paths in sweep[1:]:
        deletion_of_runs.delete_run(paths)
    updates = compare.compare_updates(part, ids, compare.HELD_OUT)
    assert "were deleted" in updates[part.head]
    # Nothing of theirs stays on the page, and nothing is waited for.
    drawn = (part.sweep, part.held_out, part.curves, part.differences)
    assert [updates[each] for each in drawn] == ["", "", "", ""]
    assert updates[part.timer].active is False


@pytest.mark.parametrize(
    ("lambda_", "text"), [(0.1, "0.05, 0.1, 0.2"), (0, "0.05, 0.1, 0.5"), (None, "0.05, 0.1, 0.2")]
)
def test_values_to_try_follow_the_setting(lambda_, text):
    assert sweep_panel.offered_text("lambda", lambda_) == text


def test_long_files_are_compared_while_they_are_read(sweep, monkeypatch):
    monkeypatch.setattr(metrics, "PIECE_BYTES", 1000)
    monkeypatch.setattr(compare, "MOST_SECONDS", 0.0)
    part, ids = named_parts(compare.Comparison), [paths.id for paths in sweep]
    updates = compare.compare_updates(part, ids, compare.TRAINING)
    assert "Reading metrics" in updates[part.curves]
    assert updates[part.timer].active
    looks = 1
    while updates[part.timer].active:
        updates = compare.compare_updates(part, ids, compare.TRAINING, updates[part.seen])
        looks += 1
        assert looks < 100
    assert looks > 2
    assert "Reading" not in updates[part.curves]
    assert updates[part.curves] == compare_view.draw_curves(compared(*sweep), held_out=False)
