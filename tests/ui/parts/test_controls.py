"""Hints on the page name its controls."""

from pathlib import Path

import pytest

from orpo_qlora.export.formats import FORMATS
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.controls import CONTROLS, named_on_page

PACKAGE = Path(__file__).parents[3] / "orpo_qlora"


def test_options_in_hints_become_controls():
    card = cards.error_card("The export failed.", hint="Choose one (--split), or --merged DIR.")
    assert "Choose one (“Split”), or “Merged model”." in card
    assert named_on_page("Write --split-by and --maximum.") == "Write --split-by and --maximum."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Choose it with --map prompt=COLUMN.", "Choose it with “Prompt”."),
        (
            "with --map shape=labelled --map responses=text --map label=is_ok.",
            "with “Shape” (Labelled single responses), “Responses” (text), “Label” (is_ok).",
        ),
        (
            "--map first_values=0 --map second_values=1, or",
            "“First wins if” (0), “Second wins if” (1), or",
        ),
    ],
)  # fmt: skip
def test_chosen_columns_are_named_as_the_data_tab_names_them(text, shown):
    assert named_on_page(text) == shown
    assert shown in cards.error_card(text, hint=text)


@pytest.mark.parametrize(("option", "control"), CONTROLS.items())
def test_every_option_and_every_control_exists(option, control):
    def sources(folder):
        return "".join(path.read_text() for path in (PACKAGE / folder).rglob("*.py"))

    flag = option.split()[0]
    assert f'"{flag}"' in sources("cli") or f"{flag[2:].replace('-', '_')}: " in sources("cli")
    if "orpo-qlora" not in control:
        labels = {one.label for one in FORMATS}
        label = control.strip("“”")
        assert label in labels or f'"{label}"' in sources("ui")
