import pytest

from orpo_qlora.data.choices import ReadChoices
from orpo_qlora.errors import InputError, NeedsColumns, NeedsEncoding
from orpo_qlora.ui import answers, datasets

ROWS = ["hi,yes,no", "hi,yes,no", "why?,so,not so"]


@pytest.fixture
def dataset_id(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\n" + "\n".join(ROWS) + "\n", encoding="utf-8")
    return datasets.keep_dataset(path, "pairs.csv")


def rows(dataset_id):
    return [pair.row for pair in datasets.open_dataset(dataset_id).pairs]


def test_a_fix_is_on_until_it_is_taken_back(dataset_id):
    assert rows(dataset_id) == [1, 2, 3]
    answers.answer(dataset_id, "fix:duplicate")
    answers.answer(dataset_id, "fix:duplicate")
    assert datasets.choices_of(dataset_id).fixes == ("duplicate",)
    assert rows(dataset_id) == [1, 3]
    assert datasets.open_dataset(dataset_id).report.finding("duplicate").fixed
    answers.answer(dataset_id, "unfix:duplicate")
    assert rows(dataset_id) == [1, 2, 3]


def test_everything_can_be_forgotten(dataset_id):
    answers.answer(dataset_id, "fix:duplicate")
    answers.choose_columns(dataset_id, ["prompt", "rejected", "chosen", "", ""], has_header=True)
    assert datasets.open_dataset(dataset_id).pairs[0].chosen == "no"
    answers.answer(dataset_id, "forget")
    assert datasets.choices_of(dataset_id) == ReadChoices()
    assert datasets.open_dataset(dataset_id).pairs[0].chosen == "yes"


@pytest.mark.parametrize(
    "then", [(), (("question", "response_j", "response_j"), True), (("", "", ""), False)]
)
def test_a_choice_of_columns_that_is_undone_is_not_remembered_either(tmp_path, then):
    """Whatever was chosen after it, the pairs are as at first, in this file and in the next."""
    path = tmp_path / "pairs.csv"
    path.write_text("question,response_j,response_k\nwhy?,so,not so\n", encoding="utf-8")
    dataset_id = datasets.keep_dataset(path, "pairs.csv")
    before = datasets.open_dataset(dataset_id).report
    swapped = ["question", "response_k", "response_j", "", ""]
    answers.choose_columns(dataset_id, swapped, has_header=True)
    assert datasets.open_dataset(dataset_id).pairs[0].chosen == "not so"
    if then:
        answers.choose_columns(dataset_id, [*then[0], "", ""], has_header=then[1])
        with pytest.raises(NeedsColumns):
            datasets.open_dataset(dataset_id)
    answers.answer(dataset_id, "forget")
    assert datasets.open_dataset(dataset_id).report == before
    assert datasets.open_dataset(dataset_id).pairs[0].chosen == "so"
    path.write_text("question,response_j,response_k\nhow?,well,badly\n", encoding="utf-8")
    following = datasets.open_dataset(datasets.keep_dataset(path, "next.csv"))
    assert following.pairs[0].chosen == "well"


def test_answers_to_a_file_that_cannot_be_read_are_undone_too(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes("frage;gut;schlecht\nça va ?;très bien;bof\n".encode("cp1252"))
    dataset_id = datasets.keep_dataset(path, "pairs.csv")
    answers.answer(dataset_id, "forget")
    with pytest.raises(NeedsEncoding):
        datasets.open_dataset(dataset_id)


def test_header_taken_for_a_row_gives_new_names_to_choose_from(dataset_id):
    answers.choose_columns(dataset_id, ["prompt", "chosen", "rejected", "", ""], has_header=False)
    with pytest.raises(NeedsColumns) as question:
        datasets.open_dataset(dataset_id)
    assert question.value.columns == ("Column 1", "Column 2", "Column 3")
    chosen = ["Column 1", "Column 2", "Column 3", "", ""]
    answers.choose_columns(dataset_id, chosen, has_header=False)
    assert rows(dataset_id) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "values", [["prompt", "chosen", "chosen", "", ""], ["x", "y", "z", "", ""]]
)
def test_impossible_columns_are_asked_again_and_not_remembered(dataset_id, values):
    answers.choose_columns(dataset_id, values, has_header=True)
    with pytest.raises(NeedsColumns):
        datasets.open_dataset(dataset_id)
    answers.answer(dataset_id, "forget")
    assert rows(dataset_id) == [1, 2, 3]


@pytest.mark.parametrize(
    "choice", ["", "drop:everything", "fixes", "fix:<b>", "encoding:zip", "encoding:"]
)
def test_only_buttons_that_exist_are_obeyed(dataset_id, choice):
    with pytest.raises(InputError):
        answers.answer(dataset_id, choice)
    assert datasets.choices_of(dataset_id) == ReadChoices()
