import pytest

from benchmarks import method_tables
from benchmarks.trainers import Reply


def replies(*seconds: float) -> list[Reply]:
    """Two warm-up steps of another speed, then steps of these wall seconds, half of them CPU."""
    steps = [100.0] * method_tables.WARM_UP + list(seconds)
    return [Reply(one, 0.0, processor_seconds=one / 2) for one in steps]


def test_ratio_is_taken_step_by_step_without_the_warm_up() -> None:
    """A slow minute doubles both trainers' third step and leaves their ratio."""
    found = method_tables.ratios_of(
        {
            method_tables.CACHED: replies(1.0, 1.0, 2.0),
            method_tables.LIVE: replies(1.5, 1.5, 3.0),
            method_tables.ORPO: replies(0.9, 0.9, 1.8),
            f"{method_tables.TRL_DPO}, batch 2": replies(2.0, 2.0, 4.0),
            f"{method_tables.TRL_ORPO}, batch 1": replies(1.8, 1.8, 3.6),
        }
    )

    medians = {one["name"]: one["wall"][0] for one in found}
    assert medians[f"{method_tables.TRL_DPO} by {method_tables.CACHED}"] == pytest.approx(2.0)
    assert medians[f"{method_tables.ORPO} by {method_tables.LIVE}"] == pytest.approx(0.6)
    assert all(one["wall"] == pytest.approx(one["processor"]) for one in found)


def test_every_target_is_of_a_measured_trainer() -> None:
    assert {name for target in method_tables.TARGETS for name in target[:2]} == set(
        method_tables.FORWARDS
    )
