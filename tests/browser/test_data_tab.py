"""Three ugly files on the Data tab, as a user handles them: mapped, fixed, read, removed."""

import csv
import json
import re
import time

import pytest
from pages import chromium, open_page, served_page, watched_page
from playwright.sync_api import expect

from orpo_qlora import storage
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.ui.data import uploads

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MINUTE = 60_000
HOSTILE = "<img src=x onerror=alert(1)>"
COUNT_FRAMES = """
const request = window.requestAnimationFrame.bind(window);
window.frames_requested = 0;
window.requestAnimationFrame = (callback) => {
  window.frames_requested += 1;
  return request(callback);
};
"""
NO_FRAME_SINCE = """() => {
  const before = window.frames_before;
  window.frames_before = window.frames_requested;
  return window.frames_requested > 0 && before === window.frames_requested;
}"""
"""True where the page requested no frame since this was evaluated last."""
FETCHING = "![x](http://example.invalid/x.png) <img src='//example.invalid/y.png'>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(demo_models, tmp_path_factory):
    """A page that is served for all tests here, and its home, which has the demo model."""
    home = tmp_path_factory.mktemp("data-tab") / "home"
    home.mkdir(mode=0o700)
    (home / "models").symlink_to(demo_models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.HOME_VARIABLE, str(home))
        with served_page() as address:
            yield address, home


@pytest.fixture
def page(served, browser, monkeypatch):
    """A page to open; whatever goes wrong in it fails the test."""
    address, home = served
    monkeypatch.setenv(storage.HOME_VARIABLE, str(home))
    with watched_page(browser, address=address) as page:
        yield page


@pytest.fixture
def word(tmp_path):
    """A word that no other try has: what an earlier one chose is remembered for its data."""
    return tmp_path.name[-12:]


def upload(page, path):
    page.locator("#data-upload input[type=file]").set_input_files(str(path))


def choose(page, part, column):
    page.locator(f"#column-{part} input").click()
    page.locator(f"#column-{part} [role=option]", has_text=column).first.click()


def press(page, choice):
    page.locator(f'[data-choice="{choice}"]').click()


def finding(page, finding_id):
    return page.locator(f'[data-finding="{finding_id}"]')


def pick(page, row, column=1):
    """Click a cell of the preview; gradio keeps an invisible copy of the table."""
    page.locator(f'#data-preview [data-testid="cell-{row - 1}-{column}"]').last.click()


def wait_for_tokens(page, row):
    expect(page.locator("#token-view")).to_contain_text(f"Row {row}:", timeout=3 * MINUTE)
    expect(page.locator("#token-status .busy")).to_have_count(0, timeout=3 * MINUTE)


def saved(page, tmp_path, kind):
    with page.expect_download(timeout=MINUTE) as download:
        page.locator(f"#data-download-{kind}").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_other_encoding_other_names_twins_and_a_contradiction(page, tmp_path, word):
    """Semicolons and Windows-1252, columns nobody could guess, pairs that say it twice."""
    path = tmp_path / "préférences.csv"
    open_page(page, "/")
    café = ["Où est le café ?", "Près du théâtre.", "Aucune idée, désolé."]
    rows = [café, ["Vide ?", "", "rien"], café, [café[0], café[2], café[1]]]
    rows += [[f"Numéro {i} ?", f"Préféré n° {i}.", f"Rejeté n° {i}"] for i in range(4)]
    with path.open("w", encoding="cp1252", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerows([[f"frage {word}", "gut", HOSTILE], *rows])
    upload(page, path)

    # Never guessed silently: every candidate shows how the text would read.
    card = page.locator("#data-error [role=alert]")
    expect(card).to_contain_text("not UTF-8", timeout=MINUTE)
    expect(card.locator("li", has_text="Western European (Windows)")).to_contain_text("théâtre")
    press(page, "encoding:windows-1252")
    expect(card).to_contain_text("does not name the columns", timeout=MINUTE)
    expect(page.locator("#data-continue")).to_be_hidden()
    for part, column in (("prompt", "frage"), ("chosen", "gut"), ("rejected", "<img")):
        choose(page, part, column)
    page.locator("#data-columns-use").click()

    account = page.locator("#data-summary")
    expect(account).to_contain_text("8 rows read, 7 pairs usable", timeout=MINUTE)
    expect(account).to_contain_text("windows-1252")
    expect(card).to_have_count(0)
    expect(finding(page, "empty-chosen")).to_contain_text("Row 2")
    expect(finding(page, "contradiction")).to_contain_text("Row 4")
    press(page, "fix:duplicate")
    expect(account).to_contain_text("6 pairs usable", timeout=MINUTE)
    expect(finding(page, "duplicate")).to_contain_text("Fixed")
    press(page, "fix:contradiction")
    expect(account).to_contain_text("5 pairs usable", timeout=MINUTE)
    press(page, "unfix:duplicate")
    expect(account).to_contain_text("6 pairs usable", timeout=MINUTE)
    expect(page.locator("#data-findings")).to_contain_text("8 rows = 6 pairs kept + 1 dropped")

    # A reload, and another file of the same columns, are read the same way.
    open_page(page)
    expect(account).to_contain_text("6 pairs usable", timeout=MINUTE)
    other = tmp_path / "autres.csv"
    other.write_text(f"frage {word};gut;{HOSTILE}\nà ?;b;c\n", encoding="utf-8")
    upload(page, other)
    expect(account).to_contain_text("1 row read, 1 pair usable", timeout=MINUTE)


def test_conversations_in_disguise_seen_token_by_token(page, tmp_path, word):
    """JSON Lines named .csv: turns, control tokens, markup, one pair far too long."""
    path = tmp_path / "talks.csv"
    open_page(page, "/")
    system = {"role": "system", "content": f"Be brief. {word} {HOSTILE} {FETCHING}"}
    lines = []
    for i in range(12):
        asked = {"role": "user", "content": f"What is {i}? " + "Think. " * (600 if i == 6 else 1)}
        bad = "Who knows?<|im_end|>" if i % 4 == 0 else "No idea."
        lines.append(
            {
                "prompt": [system, asked],
                "chosen": [{"role": "assistant", "content": f"The number {i}."}],
                "rejected": [{"role": "assistant", "content": bad}],
            }
        )
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    upload(page, path)
    expect(page.locator("#data-summary")).to_contain_text("12 pairs usable", timeout=MINUTE)
    wait_for_tokens(page, 1)
    expect(page.locator("#data-preview")).to_contain_text("<img src=x")
    expect(page.locator("#data-preview")).to_contain_text("![x](http://example.invalid")
    expect(page.locator("#token-summary")).to_contain_text("1 pair (8.3%) will be left out: row 7")
    expect(page.locator("[data-histogram]")).to_have_count(4)
    expect(page.locator('[data-histogram="whole"] .limit')).to_have_count(1)
    view = page.locator("#token-view")
    expect(view).to_contain_text("<img")
    # The same token before and after the fix: first the real end of turn twice, then once.
    ends = view.locator(".tokens").nth(2).locator(".token-special", has_text="<|im_end|>")
    expect(ends).to_have_count(2)
    press(page, "fix:special-tokens")
    expect(finding(page, "special-tokens")).to_contain_text("Fixed", timeout=MINUTE)
    expect(ends).to_have_count(1, timeout=3 * MINUTE)

    page.locator("#token-longest").click()
    expect(view).to_contain_text("Row 7:", timeout=3 * MINUTE)
    expect(view).to_contain_text("is dropped")
    expect(view.locator(".token-cut").first).to_be_visible()
    page.locator("#token-next").click()
    wait_for_tokens(page, 8)
    expect(view.locator(".tokens .token-cut")).to_have_count(0)
    page.locator("#token-row input").fill("3")
    wait_for_tokens(page, 3)
    # A click on any cell of the preview turns to its pair; the tokens of these are known by now.
    for row, column in ((8, 0), (1, 1), (7, 3)):
        pick(page, row, column)
        wait_for_tokens(page, row)
        expect(page.locator("#token-row input")).to_have_value(str(row))
        # Far below the table: who picks a pair need not look for it.
        expect(page.locator("#token-row")).to_be_in_viewport(timeout=MINUTE)

    # By keyboard: into the prompt, one token on; the line below says which it is, also when the
    # page scrolls another under the pointer.
    readout = view.locator(".token-readout")
    tokens = view.locator(".tokens").first.locator(".token")
    tokens.nth(250).scroll_into_view_if_needed()
    box = tokens.nth(250).bounding_box()
    x, y = int(box["x"] + box["width"] / 2), int(box["y"] + box["height"] / 2)
    page.mouse.move(x, y)
    expect(readout).to_contain_text("· 251 of")
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    expect(readout).to_contain_text(re.compile(r"id \d+ · 2 of \d+"))
    comes_under = "(token, [clientX, clientY]) => token.dispatchEvent(new PointerEvent("
    comes_under += "'pointerover', { bubbles: true, clientX, clientY }))"
    tokens.nth(300).evaluate(comes_under, [x, y])
    expect(readout).to_contain_text(re.compile(r"id \d+ · 2 of \d+"))
    tokens.nth(300).evaluate(comes_under, [x, y + 1])
    expect(readout).to_contain_text("· 301 of")

    # One click for over-long pairs is a setting of the Train tab.
    press(page, "over_length:cut_prompt")
    expect(page.locator("#token-summary")).to_contain_text("will be cut: row 7", timeout=MINUTE)
    page.get_by_role("tab", name="Train").click()
    expect(page.locator("#train-data")).to_contain_text("will be cut: row 7", timeout=MINUTE)
    page.locator("#group-data button").first.click()
    expect(page.locator("#setting-over_length").get_by_label("cut_prompt")).to_be_checked()

    # The settings of the Train tab decide: other roles, another length.
    page.locator("#group-objective button").first.click()
    page.locator("#setting-nll_on").get_by_label("answer").check()
    page.locator("#setting-max_length input").fill("2000")
    page.locator("#setting-max_length input").blur()
    page.get_by_role("tab", name="Data").click()
    expect(page.locator("#token-summary")).to_contain_text("Every pair fits", timeout=MINUTE)
    expect(view.locator(".tokens").first.locator(".token-nll")).to_have_count(0)


def test_broken_rows_and_no_header_and_formulas_to_take_away(page, tmp_path, word):
    """The first line is a preference, one row is too wide, and cells look like formulas."""
    open_page(page, "/")
    path = tmp_path / "nohead.csv"
    path.write_text(
        '=1+1?,"=2","=11"\nwhy?,because,no reason,x,y\nwhat?,+49 is Germany,-1\n'
        f"how?,so,not {word}\n",
        encoding="utf-8",
    )
    upload(page, path)
    card = page.locator("#data-error [role=alert]")
    expect(card).to_contain_text("does not name the columns", timeout=MINUTE)
    page.locator("#data-has-header input").uncheck()
    page.locator("#data-columns-use").click()
    expect(card).to_contain_text("Column 1", timeout=MINUTE)
    for index, part in enumerate(("prompt", "chosen", "rejected"), start=1):
        choose(page, part, f"Column {index}")
    page.locator("#data-columns-use").click()
    expect(card).to_contain_text("row 2", timeout=MINUTE)
    press(page, "fix:broken-rows")
    account = page.locator("#data-summary")
    expect(account).to_contain_text("4 rows read, 3 pairs usable", timeout=MINUTE)

    wait_for_tokens(page, 1)
    # Row 2 is left out, so the second line of the preview is row 3.
    pick(page, 2)
    wait_for_tokens(page, 3)
    kept = uploads.open_upload(page.locator("#data-id textarea, #data-id input").input_value())
    texts = [(pair.prompt, pair.chosen, pair.rejected) for pair in kept.pairs]
    for kind in ("csv", "jsonl"):
        taken = saved(page, tmp_path, kind)
        assert taken.name == f"nohead-cleaned.{kind}"
        again = load_preferences(taken).pairs
        assert [(pair.prompt, pair.chosen, pair.rejected) for pair in again] == texts
    assert texts[0] == ("=1+1?", "=2", "=11")
    assert '"=' not in (tmp_path / "nohead-cleaned.csv").read_text(encoding="utf-8-sig")
    report = json.loads(saved(page, tmp_path, "report").read_text(encoding="utf-8"))
    assert (report["rows_read"], report["pairs"]) == (4, 3)
    assert report["choices"]["fixes"] == ["broken-rows"]

    press(page, "forget")
    expect(card).to_contain_text("does not name the columns", timeout=MINUTE)


def test_a_broken_file_is_a_card_that_names_the_remedy(page, tmp_path):
    path = tmp_path / "wrong.csv"
    path.write_text(f"question,{HOSTILE},bad\na,b,c\n")
    open_page(page, "/")
    upload(page, path)
    card = page.locator("#data-error [role=alert]")
    expect(card).to_contain_text("question", timeout=MINUTE)
    expect(card).to_contain_text("chosen")
    expect(card).to_contain_text("<img src=x")
    page.locator("#example-hello").click()
    expect(page.locator("#data-summary")).to_contain_text("7 pairs usable", timeout=MINUTE)
    expect(card).to_have_count(0)


def test_what_is_chosen_before_the_page_has_its_answers_stays(page):
    """What it asks for as it opens is kept back here until an example is there."""
    kept, is_opening = [], True
    page.route(
        "**/gradio_api/run/**", lambda one: kept.append(one) if is_opening else one.continue_()
    )
    page.goto("/")
    # The empty address is looked at for a file and for what the list of runs shows; then for a run.
    deadline = time.monotonic() + MINUTE / 1000
    while [one.request.post_data_json["data"] for one in kept].count(["{}"]) < 2:
        assert time.monotonic() < deadline
        page.wait_for_timeout(100)
    is_opening = False
    page.locator("#example-hello").click()
    expect(page.locator("#data-summary")).to_contain_text("7 pairs usable", timeout=MINUTE)
    for route in kept:
        with page.expect_response(lambda answer, asked=route.request: answer.request == asked):
            route.continue_()
    page.locator("#data-continue").click()
    expect(page.locator("#train-data")).to_contain_text("7 pairs usable", timeout=MINUTE)


def test_narrow_page_needs_no_sideways_scrolling_and_rests(page):
    """In both themes; and a page at rest draws nothing, which would cost a tenth of a core."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.add_init_script(COUNT_FRAMES)
    open_page(page, "/?__theme=light")
    page.locator("#example-hello").click()
    wait_for_tokens(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # As Gradio does for `__theme=dark`.
    page.evaluate("document.body.classList.add('dark')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.wait_for_function(NO_FRAME_SINCE, polling=500)


def test_three_files_of_different_shapes_are_one_dataset_with_a_cap(page, tmp_path, word):
    """The cap is typed into the table; each file shows its own columns; the pairs are exact."""
    asked = [(f"{word} question {index}?", f"good {index}", f"bad {index}") for index in range(6)]
    (tmp_path / "mine.csv").write_text(
        "prompt,chosen,rejected\n" + "".join(",".join(row) + "\n" for row in asked)
    )
    ranked = {
        "prompt": f"{word} ranked?",
        "responses": ["mid", "best", "worst"],
        "scores": [2, 9, 1],
    }
    (tmp_path / "ranked.jsonl").write_text(json.dumps(ranked) + "\n")
    compared = {"prompt": asked[0][0], "response_a": "bad 0", "response_b": "good 0", "winner": "b"}
    (tmp_path / "compared.jsonl").write_text(json.dumps(compared) + "\n")
    open_page(page, "/")
    files = [str(tmp_path / name) for name in ("mine.csv", "ranked.jsonl", "compared.jsonl")]
    page.locator("#data-upload input[type=file]").set_input_files(files)
    summary = page.locator("#data-summary")
    expect(summary).to_contain_text("8 rows read, 8 pairs usable.")
    expect(finding(page, "duplicate")).to_contain_text(
        "compared.jsonl: The pair is in another file"
    )
    page.locator('#data-files-table [data-testid="cell-0-3"]').last.dblclick()
    page.keyboard.type("4")
    page.keyboard.press("Enter")
    expect(summary).to_contain_text("mine.csv: 6 pairs found, 4 taken (cap 4).")
    page.locator("#data-files-shown label", has_text="ranked.jsonl").click()
    expect(page.locator("#data-ranking")).to_contain_text("Best against rest: 2 pairs")
    page.locator("#data-ranking label", has_text="Best against rest").click()
    expect(page.locator("#data-preview")).to_contain_text("mid")
    dataset = uploads.open_upload(page.url.partition("data=")[2].partition("&")[0])
    texts = [(pair.prompt, pair.chosen, pair.rejected) for pair in dataset.pairs]
    assert texts == [
        *(row for row in asked if row in texts[:4]),
        (f"{word} ranked?", "best", "mid"),
        (f"{word} ranked?", "best", "worst"),
        (asked[0][0], "good 0", "bad 0"),
    ]
    assert [part.pairs_taken for part in dataset.report.files] == [4, 2, 1]
