"""`evaluate`: a run's adapter against its base, and answers of several runs. Floor 6; no torch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from orpo_qlora import program, storage
from orpo_qlora.chat.vote_rows import vote_rows
from orpo_qlora.chat.votes import read_votes, scores
from orpo_qlora.cli.console import err, job_progress, out, plain, print_whole
from orpo_qlora.cli.files import HubConfig, HubOptions, HubSplit, data_path
from orpo_qlora.cli.options import Again, AsJson
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.evaluation.answers import formats
from orpo_qlora.evaluation.answers.kept import AnswerSampling
from orpo_qlora.evaluation.answers.prompts import PromptSet, held_out_prompts, read_prompts
from orpo_qlora.evaluation.embeddings import WORDLLAMA
from orpo_qlora.evaluation.judge.settings import KEY_VARIABLE, QUESTIONS, JudgeSettings
from orpo_qlora.evaluation.suite import judge_part, table
from orpo_qlora.evaluation.suite import request as suite_request
from orpo_qlora.evaluation.suite import results as suite_results
from orpo_qlora.evaluation.suite.request import SuiteRequest
from orpo_qlora.evaluation.suite.results import PARTS, SuitePaths, SuiteResults
from orpo_qlora.export.reports import answers_report
from orpo_qlora.export.reports.answers_report import AnswersReport
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run

HELD_OUT = "held-out"
LM_EVAL = "orpo_qlora.evaluation.lm_eval"
DEFAULT_PROMPTS = 100

Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Run ids or names, or “last”.")]
Measures = Annotated[
    list[str] | None,
    typer.Option(
        "--measure",
        metavar="PART",
        help=f"Let base and runs answer prompts and measure the answers; repeatable. Parts: "
        f"{', '.join(PARTS)}; or all.",
    ),
]
Prompts = Annotated[
    str,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Prompts to answer: held-out (those of the first run), a file with a column prompt, "
        "instruction or turns, or a Hub data set.",
    ),
]
MostPrompts = Annotated[
    int, typer.Option("--max-prompts", min=0, help="Answer the first prompts only; 0 is all.")
]
Samples = Annotated[int, typer.Option(min=1, help="Answers to each prompt.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")]
TopP = Annotated[float, typer.Option("--top-p", help="Sample from the likeliest tokens up to it.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer in tokens.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the first answer; the next ones add 1.")]
Embedder = Annotated[
    str,
    typer.Option(help="For diversity: wordllama, or a sentence-embedding model's id or folder."),
]
RewardModel = Annotated[
    str,
    typer.Option(
        "--reward-model",
        help="Reward model by id or folder; without one it is trained on the first run's pairs.",
    ),
]
JudgeUrl = Annotated[
    str,
    typer.Option(
        "--judge-url",
        help=f"OpenAI-compatible endpoint, with its version; a key is read from {KEY_VARIABLE}.",
    ),
]
JudgeModel = Annotated[str, typer.Option("--judge-model", help="Model of the judge.")]
JudgeAsks = Annotated[
    list[str] | None,
    typer.Option("--judge-ask", help=f"Question; repeatable: {', '.join(QUESTIONS)}."),
]
JudgePrices = Annotated[
    str, typer.Option("--judge-prices", metavar="IN,OUT", help="Prices of a million tokens.")
]
JudgeBudget = Annotated[
    float, typer.Option("--judge-budget", min=0, help="Most that may be spent; 0 is no limit.")
]
Text = Annotated[
    Path | None, typer.Option("--text", help="Plain text for the perplexity; one is shipped.")
]
LmEval = Annotated[
    str, typer.Option("--lm-eval", metavar="TASKS", help="Run lm-eval's tasks on the adapter.")
]
Processes = Annotated[
    int, typer.Option(min=0, help="Processes that share it; 0 is all visible GPUs, 1 on a CPU.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the answers in the formats of AlpacaEval and FastChat, and the results.",
    ),
]


def evaluate(
    runs: Runs,
    measure: Measures = None,
    prompts: Prompts = HELD_OUT,
    max_prompts: MostPrompts = DEFAULT_PROMPTS,
    samples: Samples = 1,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
    config_name: HubConfig = "",
    split: HubSplit = "",
    embedder: Embedder = WORDLLAMA,
    reward_model: RewardModel = "",
    judge_url: JudgeUrl = "",
    judge_model: JudgeModel = "",
    judge_ask: JudgeAsks = None,
    judge_prices: JudgePrices = "",
    judge_budget: JudgeBudget = 0.0,
    text: Text = None,
    lm_eval: LmEval = "",
    folder: Out = None,
    processes: Processes = 0,
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Compare a run's adapter with its base on the held-out pairs; kept with the run.

    With --measure, base and runs answer prompts and the answers are compared; both are kept.
    """
    found = [store.find_run(name) for name in runs]
    if lm_eval:
        raise typer.Exit(run_lm_eval(found, lm_eval))
    if measure is None and prompts == HELD_OUT and folder is None:
        given = {"--samples": samples != 1, "--reward-model": bool(reward_model)}
        given |= {"--judge-url": bool(judge_url), "--judge-model": bool(judge_model)}
        _refuse_without_measure(given | {"--text": text is not None})
        _print_cards(found, processes, again=again, as_json=as_json)
        return
    chosen = _prompts(found[0], prompts, HubOptions(config=config_name, split=split), as_json)
    request = SuiteRequest(
        adapters=suite_request.adapters_of(found),
        prompts=chosen.first(max_prompts),
        sampling=_sampling(temperature, top_p, max_tokens, seed, samples),
        parts=_parts(measure or ["answers"]),
        embedder=embedder,
        reward_model=reward_model,
        judge=_judge(judge_url, judge_model, judge_ask, judge_prices, judge_budget),
        text=_read_text(text) if text else "",
    )
    if request.judge is not None and "judge" in request.parts:
        _print_estimate(request, request.judge)
    with job_progress(quiet=as_json) as on_progress:
        results = suite_request.wait_for(request, on_progress, again=again, processes=processes)
    if folder is not None:
        write_folder(folder.expanduser(), results, suite_request.JOB.paths(request))
    _print_results(results, as_json=as_json)


def _refuse_without_measure(given: Mapping[str, bool]) -> None:
    """Refuse options that only --measure uses; `given` has whether each was given."""
    unused = [option for option, is_given in given.items() if is_given]
    if unused:
        raise InputError(
            f"{unused[0]} has no effect without --measure.",
            hint=f"Add --measure with one of {', '.join(PARTS)}; or all.",
        )


def _print_cards(runs: Sequence[Run], processes: int, *, again: bool, as_json: bool) -> None:
    for run in runs:
        with job_progress(quiet=as_json) as on_progress:
            card = evaluation_request.wait_for(run, on_progress, again=again, processes=processes)
        if as_json:
            summary = {"sentences": card.sentences()}
            out.print_json(json.dumps(card.model_dump(mode="json") | summary))
            continue
        for sentence in [*card.sentences(), *card.notes]:
            out.print(plain(sentence), soft_wrap=True)


def _sampling(
    temperature: float, top_p: float, max_tokens: int, seed: int, samples: int
) -> AnswerSampling:
    values = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    values |= {"seed": seed, "samples": samples}
    try:
        return AnswerSampling.model_validate(values)
    except ValueError as exc:
        raise InputError(
            f"These sampling settings cannot be used: {values}.",
            hint="Temperature is 0 to 10, top-p above 0 and at most 1, max-tokens at most 16,384, "
            "samples at most 64.",
        ) from exc


def _prompts(run: Run, prompts: str, options: HubOptions, quiet: bool) -> PromptSet:
    if prompts == HELD_OUT:
        return held_out_prompts(run)
    path = data_path(prompts, options, quiet=quiet)
    return read_prompts(path, prompts if path.name not in prompts else path.name)


def _judge(
    url: str, model: str, asks: list[str] | None, prices: str, budget: float
) -> JudgeSettings | None:
    if not url and not model:
        return None
    values: dict[str, object] = {"base_url": url, "model": model, "budget": budget}
    if asks:
        values["questions"] = tuple(asks)
    if prices:
        values |= dict(zip(("price_in", "price_out"), prices.split(","), strict=False))
    if budget and not prices:
        raise InputError(
            "A budget needs prices, or nothing can be counted against it.",
            hint="Give the prices of a million tokens read and written: --judge-prices 0.15,0.6",
        )
    try:
        return JudgeSettings.model_validate(values)
    except ValueError as exc:
        raise InputError(
            "These settings of the judge cannot be used.",
            hint=f"--judge-ask is one of {', '.join(QUESTIONS)}; --judge-prices is two numbers "
            "with a comma between.",
        ) from exc


def _print_estimate(request: SuiteRequest, judge: JudgeSettings) -> None:
    runs, tokens = len(request.adapters), request.sampling.max_tokens
    most = judge_part.highest_estimate(judge, request.prompts, runs, tokens)
    err.print(plain(f"At most {most.sentence}"), soft_wrap=True)


def _read_text(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(
            f"{path} cannot be read as UTF-8 text.", hint="Give another file with --text."
        ) from exc


def run_lm_eval(runs: Sequence[Run], tasks: str) -> int:
    """Run lm-eval on each run's adapter in this terminal; return its exit code.

    Raises:
        InputError: lm-eval is not installed, or a run has no adapter.
    """
    if find_spec("lm_eval") is None:
        raise InputError(
            "lm-eval is not installed.", hint="Run: pip install lm-eval — and try again."
        )
    codes = [
        program.run_foreground(LM_EVAL, [adapter.run, tasks])
        for adapter in suite_request.adapters_of(runs)
    ]
    return max(codes)


def _parts(names: Sequence[str]) -> tuple[suite_results.Part, ...]:
    wanted = {part.strip() for name in names for part in name.split(",")}
    unknown = sorted(wanted - {*PARTS, "all"})
    if unknown:
        raise InputError(
            f"There is no part “{unknown[0]}” to measure.",
            hint=f"The parts are {', '.join(PARTS)}; or all.",
        )
    return tuple(part for part in PARTS if part in wanted or "all" in wanted)


def write_folder(folder: Path, results: SuiteResults, paths: SuitePaths) -> None:
    """Write answers, results and report into a folder, made if missing.

    Raises:
        InputError: the folder cannot be written.
        DiskFull: a file is missing.
    """
    answers = [(one.name, suite_results.answers_of(one)) for one in results.systems]
    with storage.write_errors(folder), storage.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        formats.write_answers(folder, results.prompts, answers, time.time())
        content = json.dumps(suite_results.to_json(results), ensure_ascii=False, indent=1)
        (folder / "results.json").write_text(content, encoding="utf-8")
        (folder / "results.csv").write_text(table.to_csv(results), encoding="utf-8")
        reward = suite_results.read_reward(paths)
        if reward is not None:
            (folder / "reward.json").write_text(reward.model_dump_json(indent=1), encoding="utf-8")
        votes = vote_rows(results, scores(read_votes()))
        report = AnswersReport(results, reward, votes)
        answers_report.write_answers_html(folder / "report.html", report)


def _print_results(results: SuiteResults, *, as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps(suite_results.to_json(results)))
        return
    names = [one.name for one in results.systems]
    shown = Table("", *map(plain, names))
    for row in [*table.rows_of(results), *vote_rows(results, scores(read_votes()))]:
        cells = [row.cells.get(name, "–") for name in names]
        bold = [f"[bold]{cell}[/]" if name == row.best else cell
                for name, cell in zip(names, cells, strict=True)]  # fmt: skip
        shown.add_row(plain(row.title), *bold)
    out.print(
        plain(f"{len(results.prompts.prompts):,} prompts: {results.prompts.name}."), soft_wrap=True
    )
    print_whole(shown)
    out.print(answers_report.INTERVALS, soft_wrap=True)
    for part in results.parts:
        for sentence in part.sentences:
            out.print(plain(sentence), soft_wrap=True)
    for note in results.notes:
        out.print(plain(note), soft_wrap=True)
