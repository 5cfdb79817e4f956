"""Which sections of a run's page are open, as the browser remembers it."""

import pytest

from orpo_qlora.ui.runs.folds import opened_updates

FOLDS = {"log": "log fold", "samples": "samples fold"}


@pytest.mark.parametrize(
    ("stored", "opened"),
    [("log", {"log fold"}), ("samples,log,log", {"log fold", "samples fold"}), ("", set())],
)
def test_remembered_sections_are_opened(stored, opened):
    updates = opened_updates(FOLDS, stored)
    assert set(updates) == opened
    assert all(update["open"] is True for update in updates.values())


@pytest.mark.parametrize("stored", [None, "<b>", "other,", 3])
def test_anything_else_a_browser_stores_is_ignored(stored):
    assert opened_updates(FOLDS, stored) == {}
