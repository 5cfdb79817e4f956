import re
from pathlib import Path

import pytest

import orpo_qlora
from docs import generate
from orpo_qlora.data.pairs import load_preferences

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("name", generate.PARTS)
def test_generated_parts_are_fresh(name):
    """If this fails: make docs."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generate.filled(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text)
    for target in found:
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(("page", "folder"), [("reliability", "faults"), ("security", "ui")])
def test_promised_tests_exist(page, folder):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    promised = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", text)
    assert len(promised) > 20
    for file, name in promised:
        path = ROOT / "tests" / (file if "/" in file else f"{folder}/{file}")
        assert f"def {name}(" in path.read_text(encoding="utf-8") if name else path.exists(), file


EXAMPLES = re.findall(
    r"^\| (.+?) \| `(\{.*\})` \| .+ \|$",
    (ROOT / "docs" / "data.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize(("shape", "row"), EXAMPLES, ids=[shape for shape, _ in EXAMPLES])
def test_every_shape_in_the_docs_is_read(tmp_path, shape, row):
    path = tmp_path / "example"
    path.write_text(row, encoding="utf-8")
    pair = load_preferences(path).pairs[0]
    assert (pair.prompt, pair.chosen, pair.rejected) == ("Why?", "Because.", "No idea.")
    has_earlier = {"a system column", "several turns", "earlier turns in `history`"}
    assert bool(pair.earlier) == (shape in has_earlier)


def test_shapes_in_the_docs_are_as_many_as_are_promised():
    assert len(EXAMPLES) == 47


def test_changelog_tops_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(.+?)\]", text, re.MULTILINE).group(1) == orpo_qlora.__version__


def test_readme_names_every_example_and_preset_it_relies_on():
    from orpo_qlora.shipped_presets import preset_names

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"--preset (\S+)", text):
        assert name in {*preset_names(), "mine"}  # the reader's own


@pytest.mark.parametrize("path", sorted(ROOT.glob("orpo_qlora/**/*.py")), ids=lambda p: p.name)
def test_files_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
    assert path.stem not in {"utils", "helpers", "common", "misc"}
