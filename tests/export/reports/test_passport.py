"""The loss passport names what the loss is a function of."""

import pytest
from made_runs import make_run

from orpo_qlora.export.origin import origin_of
from orpo_qlora.export.reports.passport import loss_passport
from orpo_qlora.runs import store


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({}, ""),
        ({"method": "dpo"}, "the base model without the adapter"),
        ({"method": "dpo", "start_from": "first"}, "the starting adapter"),
    ],
)
def test_the_reference_of_a_method_that_has_one_is_named(tiny_model, settings, reference):
    run = store.read_run(make_run(model=str(tiny_model), **settings))
    facts = {fact.label: fact.value for fact in loss_passport(run, origin_of(run))}
    assert facts.get("Reference", ";").partition(";")[0] == reference
