import math
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks.rivals import figures, page, study
from benchmarks.rivals.results import (
    Mean,
    PairLogps,
    Study,
    Training,
    log_odds,
    mean_of,
    read_study,
    write_study,
)

ABOUT = {"data": "made", "settings": {}}


def made_study() -> Study:
    """Two held-out pairs of three, every variant twice; training adds 1 nat and takes 0.5."""
    found = Study(ABOUT, PairLogps([-2.0, -3.0, -1.0], [-2.5, -2.0, -1.5]))
    for name in study.VARIANTS:
        for seed in (1, 2):
            after = PairLogps([-1.0, -2.0], [-3.0, -2.5 - seed / 5])
            at = dict.fromkeys(study.MEASURED_AT, after)
            found.trainings.append(Training(name, seed, 1e-4, [{"loss": 1.0}], at))
    return found


def test_interval_of_three_seeds_is_students() -> None:
    """1, 2, 3: mean 2, standard deviation 1, so 2 ± 4.303 / √3."""
    mean = mean_of([1.0, 2.0, 3.0])

    assert mean.value == 2.0
    assert mean.high - mean.value == pytest.approx(4.303 / math.sqrt(3))
    assert mean.value - mean.low == pytest.approx(4.303 / math.sqrt(3))


def test_one_seed_has_no_interval() -> None:
    assert mean_of([1.5]) == Mean(1.5, 1.5, 1.5)


def test_ratios_of_pairs() -> None:
    """p = 1/2 has odds 1 and p = 1/4 odds 1/3: a ratio of 2 and an odds ratio of 3."""
    pairs = PairLogps([math.log(0.5), math.log(0.25)], [math.log(0.25), math.log(0.5)])

    assert pairs.ratios == pytest.approx([math.log(2), -math.log(2)])
    assert pairs.odds_ratios == pytest.approx([math.log(3), -math.log(3)])
    assert pairs.accuracy == 0.5
    assert log_odds(math.log(0.5)) == pytest.approx(0.0)


def test_kept_results_are_read_again(tmp_path) -> None:
    path = tmp_path / "results" / "rivals.json"
    write_study(path, made_study())

    found = read_study(path, ABOUT)

    assert found == made_study()
    assert found.has("SFT", 2)
    assert not found.has("SFT", 3)


def test_other_settings_start_again(tmp_path) -> None:
    path = tmp_path / "rivals.json"
    write_study(path, made_study())

    assert read_study(path, {"data": "other"}) == Study({"data": "other"})
    assert read_study(tmp_path / "missing.json", {}) == Study({})


def test_a_setting_that_is_new_since_does_not_start_again(tmp_path) -> None:
    path = tmp_path / "rivals.json"
    now = study.config_of(study.VARIANTS["SFT"], 0).model_dump(mode="json", by_alias=True)
    before = {name: value for name, value in now.items() if name != "group_by_prompt"}
    write_study(path, Study({"settings": {"SFT": before}}, PairLogps([-1.0], [-2.0])))

    assert read_study(path, {"settings": {"SFT": now}}).base is not None
    assert read_study(path, {"settings": {"SFT": now | {"lambda": 0.7}}}).base is None


def test_curve_starts_at_the_base() -> None:
    points = made_study().curve("SFT", figures.rejected)

    assert [point.step for point in points] == [0, *study.MEASURED_AT]
    assert points[0].mean == Mean(-2.25, -2.25, -2.25)
    assert points[-1].mean.value == pytest.approx(-2.9)


@pytest.mark.parametrize("density", [figures.ratio_density, figures.odds_ratio_density])
def test_densities_add_up_to_one(density) -> None:
    step = 0.01
    places = [-30 + at * step for at in range(6001)]

    assert sum(density(z) for z in places) * step == pytest.approx(1.0, abs=1e-4)


def test_samples_have_the_variances_of_the_densities() -> None:
    """2 for a difference of exponentials, 2·π²/3 for one of logistic values."""
    for values, variance in zip(figures.sampled_ratios(), (2.0, 2 * math.pi**2 / 3), strict=True):
        assert sum(z * z for z in values) / len(values) == pytest.approx(variance, rel=0.03)


def test_pictures_are_svg_with_every_variant(tmp_path) -> None:
    figures.draw_all(made_study(), tmp_path)

    drawn = {path.name: ElementTree.parse(path).getroot() for path in tmp_path.iterdir()}
    assert len(drawn) == 5
    assert all(root.tag.endswith("svg") for root in drawn.values())
    texts = [one.text for one in drawn["rivals-figure-7.svg"].iter() if one.tag.endswith("text")]
    assert set(study.VARIANTS) <= set(texts)


def test_text_between_marks_is_replaced() -> None:
    text = "before\n<!-- a -->old<!-- /a -->\nafter"

    assert page.filled(text, "a", "new") == "before\n<!-- a -->\n\nnew\n\n<!-- /a -->\nafter"


def test_page_without_its_mark_is_an_error() -> None:
    with pytest.raises(ValueError, match="“b”"):
        page.filled("<!-- a --><!-- /a -->", "b", "new")


def test_changes_are_means_over_seeds() -> None:
    """Chosen: −2, −3 to −1, −2. Rejected: −2.5, −2 to −3, −2.8 on average."""
    rows = page.changes_table(made_study()).splitlines()

    assert rows[2].startswith("| SFT | +1.00 (+1.00 to +1.00) | -0.65 (")


def test_only_short_pairs_are_taken(tmp_path) -> None:
    path = tmp_path / "pairs.csv"
    long = "x" * study.LONGEST_CHARACTERS
    path.write_text(f"prompt,chosen,rejected\nWhy?,yes,no\nWho?,{long},no\n", encoding="utf-8")

    assert [pair.prompt for pair in study.short_pairs(path)] == ["Why?"]


def test_variants_differ_only_in_what_they_name() -> None:
    sft, orpo = (study.config_of(one, 1) for one in (study.SFT, study.ORPO[0]))

    assert orpo == sft.model_copy(update={"method": "orpo", "lambda_": 0.1})


def test_interrupted_study_compares_the_seeds_that_all_have() -> None:
    found = made_study()
    last = study.ORPO[-1].name
    found.trainings = [
        one
        for one in found.trainings
        if (one.variant, one.seed) not in {(last, 2), ("DPO β 0.1", 1)}
    ]

    kept = page.comparable(found)

    assert {one.seed for one in kept.trainings} == {1}
    assert {one.variant for one in kept.trainings} == {*study.VARIANTS} - {study.DPO.name}
