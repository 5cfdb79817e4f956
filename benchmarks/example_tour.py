"""The README's tour, driven through the page: measured time, three answers.

Run: python -m benchmarks.example_tour   (about eight minutes on two CPU cores)

Opens the page as a person would, takes the example and the demo preset, trains, asks both models
three questions and fills the README's measured part. A finished run that the home folder already
has is taken as it is. The pictures are taken by `python -m docs.screenshots`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orpo_qlora.runs import store

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
QUESTIONS = (
    "Why do leaves change color in autumn?",
    "What is a budget?",
    "How do bees make honey?",
)
MINUTE = 60_000


def tour(page, address: str) -> list[tuple[str, str, str]]:
    """Walk through the tabs; return each question with both answers."""
    page.goto(address)
    page.locator("#example-short_answers").click()
    page.locator("#data-continue").wait_for()
    page.locator("#data-continue").click()
    page.locator("#train-preset input").click()
    page.get_by_role("option", name="demo-cpu").click()
    page.locator("#setting-name input, #setting-name textarea").first.fill("Short answers")
    if not store.list_runs():
        page.locator("#train-start").click()
    page.get_by_role("tab", name="Runs").click()
    status = page.locator("#run-status .pill")
    status.filter(has_text="finished").wait_for(timeout=20 * MINUTE)
    page.locator("#run-chat").click()
    page.locator("#chat-settings-fold button").first.click()
    page.locator("#chat-temperature input[type=number]").fill("0")
    page.locator("#chat-max-tokens input[type=number]").fill("80")
    page.locator("#chat-settings-fold button").first.click()
    return [(question, *ask(page, question)) for question in QUESTIONS]


def ask(page, question: str) -> tuple[str, str]:
    """Ask both models in a fresh conversation; return base's and tuned's answer."""
    if page.locator("#chat-clear").is_enabled():
        page.locator("#chat-clear").click()
        page.locator("#chat-newest .chat-reply").first.wait_for(state="detached")
    page.locator("#chat-message textarea").fill(question)
    page.locator("#chat-send").click()
    page.locator("#chat-newest .chat-reply").first.wait_for(timeout=2 * MINUTE)
    page.locator("#chat-again:not([disabled])").wait_for(timeout=3 * MINUTE)
    page.wait_for_timeout(1500)
    print(page.locator("#chat-note").inner_text())
    answers = page.locator("#chat-newest .chat-text")
    base, tuned = (" ".join(answers.nth(place).inner_text().split()) for place in range(2))
    return base, tuned


def report(answers: list[tuple[str, str, str]]) -> str:
    """Return the README's measured part; the time is from the click to *finished*."""
    run = store.find_run("last")
    seconds = run.state.ended_at - run.state.created_at
    accuracy = store.metrics_of(run.paths).series("logps/accuracies", held_out=True)
    lines = [
        f"Measured on two cores of a server CPU, page and browser included: the example with the "
        f"preset `demo-cpu` ({run.state.total_steps} steps) took {seconds / 60:.1f} minutes from "
        f"the click to *finished*. Held-out preference accuracy rose from {accuracy[0][1]:.0%} to "
        f"{accuracy[-1][1]:.0%}. Then, at temperature 0 and at most 80 tokens:",
        "",
    ]
    for question, base, tuned in answers:
        lines += [f"> **{question}**", ">", f"> *base:* {base}", ">", f"> *tuned:* {tuned}", ""]
    lines.append(
        "These lines are made by `python -m benchmarks.example_tour`, the pictures by\n"
        "`python -m docs.screenshots`."
    )
    return "\n".join(lines)


def main() -> None:
    """Drive the tour and fill the README."""
    sys.path.insert(0, str(ROOT / "tests"))
    from pages import chromium, served_page, watch_errors

    with served_page() as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        errors = watch_errors(page)
        answers = tour(page, address)
    if errors:
        sys.exit("the page reported errors: " + "; ".join(errors))
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- measured -->")
    after = rest.partition("<!-- /measured -->")[2]
    filled = f"<!-- measured -->\n\n{report(answers)}\n\n<!-- /measured -->"
    README.write_text(before + filled + after, encoding="utf-8")
    print(report(answers))


if __name__ == "__main__":
    main()
