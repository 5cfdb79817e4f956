"""Every example that is offered is there and trains as it is."""

import pytest

from orpo_qlora.data.examples import EXAMPLES, FOLDER, example_names, example_path
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.errors import InputError


def test_catalogue_and_folder_agree():
    assert sorted(example_names()) == sorted(path.stem for path in FOLDER.glob("*.csv"))


@pytest.mark.parametrize("name", example_names())
def test_example_loads_without_a_dropped_row(name):
    dataset = load_preferences(example_path(name))
    assert dataset.report.rows_dropped == 0
    assert dataset.report.ignored_columns == ()
    assert dataset.pairs


@pytest.mark.parametrize("name", example_names())
def test_example_has_a_title_and_one_line_about_it(name):
    example = EXAMPLES[name]
    assert example.name == name
    assert example.title
    assert example.description.endswith(".")
    assert "\n" not in example.description


@pytest.mark.parametrize("name", ["", "nope", "../hello", "hello.csv"])
def test_unknown_example_lists_the_known_ones(name):
    with pytest.raises(InputError, match="There is no example") as caught:
        example_path(name)
    assert "short_answers" in caught.value.hint
