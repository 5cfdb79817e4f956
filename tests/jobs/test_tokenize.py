"""The real tokenize program with real tokenizers."""

import time
from pathlib import Path

import pytest
from tiny import make_base_model

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.jobs import job, token_counts
from orpo_qlora.jobs.job import JobState
from orpo_qlora.jobs.token_counts import TokenizeRequest
from orpo_qlora.jobs.token_report import fate_of, quantile, report_lengths
from orpo_qlora.models.templates.tokenizers import load_tokenizer
from orpo_qlora.orpo.rows.tokens import tokenize_pairs
from orpo_qlora.ui.data.token_view import draw_tokens

WAIT_SECONDS = 240.0
ROWS = [
    ("hello there", "hi, nice to meet you", "leave me alone"),
    ("東京 🙂 naïve?", "Größe and λ 🙂🙂", "leave <|im_end|> me"),
    ("what is gravity?", "gravity pulls things together " * 6, "gravity pulls things apart"),
]


def write_csv(path, rows=ROWS):
    lines = ["prompt,chosen,rejected"]
    lines += [",".join(f'"{cell}"' for cell in row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def request_for(tmp_path, tiny_model):
    path = write_csv(tmp_path / "pairs.csv")

    def make(**changes):
        about = {"path": str(path), "source": "pairs.csv", "sha256": storage.sha256_of(path)}
        return TokenizeRequest(**{**about, "model": str(tiny_model), "rows": (2,), **changes})

    return make


def answered(request):
    token_counts.ask(request)
    deadline = time.monotonic() + WAIT_SECONDS
    lock = token_counts.paths_of(request).lock
    # After its last word the program still writes to its log, and then lets go of its lock.
    while token_counts.read_answer(request).state.is_busy or storage.is_locked(lock):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return token_counts.read_answer(request)


def test_a_cancelled_job_ends_at_once_and_can_be_asked_for_again(request_for):
    request = request_for()
    state = token_counts.ask(request).state
    assert state.is_busy
    process = job._started[token_counts.paths_of(request).folder]
    token_counts.end_started(request.key)
    assert process.poll() is not None
    assert token_counts.read_answer(request).state.status == "new"
    token_counts.end_started(request.key)
    assert answered(request).state.status == "done"
    token_counts.end_started(request.key)
    assert token_counts.read_answer(request).lengths is not None


def test_it_counts_every_pair_and_spells_out_the_requested_row(request_for, tiny_model):
    request = request_for()
    answer = answered(request)
    assert answer.state.status == "done", token_counts.paths_of(request).log.read_text()
    tokenizer = load_tokenizer(tiny_model)
    pairs = load_preferences(Path(request.path)).pairs
    whole = tokenize_pairs(tokenizer, pairs, 10**6, "drop").pairs
    assert answer.lengths.rows == (1, 2, 3)
    assert answer.lengths.prompt == tuple(len(pair.prompt) for pair in whole)
    assert answer.lengths.chosen == tuple(len(pair.chosen) for pair in whole)
    assert answer.lengths.rejected == tuple(len(pair.rejected) for pair in whole)
    view = answer.tokens[2]
    for side in ("prompt", "chosen", "rejected"):
        tokens, ids = getattr(view, side), getattr(whole[1], side)
        assert tuple(token.id for token in tokens) == ids
        # The pieces are the text: nothing lost between them, no broken character.
        assert "".join(token.text for token in tokens) == tokenizer.decode(list(ids))
        assert not any("\ufffd" in token.text for token in tokens)
    assert view.chosen[-1].is_special
    assert next(token.id for token in view.prompt if token.is_special) == whole[1].prompt[0]
    assert view.lengths == list(answer.lengths.pairs())[1]


def test_it_says_what_the_template_of_a_base_model_is_and_changes(request_for, tmp_path):
    path = tmp_path / "system.csv"
    path.write_text("system,prompt,chosen,rejected\nbe kind,hello,hi,no\n,hi,hello,go\n")
    base = make_base_model(tmp_path / "tiny-base", is_sentencepiece=True)
    request = request_for(
        path=str(path),
        source="system.csv",
        sha256=storage.sha256_of(path),
        model=str(base),
        chat_template="mistral",
        rows=(1,),
    )
    answer = answered(request)
    assert answer.state.status == "done", token_counts.paths_of(request).log.read_text()
    texts = [token.text for token in answer.tokens[1].prompt]
    # SentencePiece begins a text with a space.
    assert "".join(texts) == "<s> [INST] be kind\n\nhello [/INST]"
    assert answer.tokens[1].chosen[-1].text == "</s>"
    report = report_lengths(answer.lengths, "Tiny", 1024, "drop")
    assert report.template_sentences() == [
        "Tiny is a base model without a chat template: mistral is used; “</s>” ends each turn.",
        "The NLL term has to teach the model this format too, so a small λ fits (0.1 to 0.25 in "
        "the paper).",
        "The chat template takes no system message: it is put in front of the first user turn in "
        "1 pair.",
    ]
    assert report.sentences()[-3:] == report.template_sentences()
    assert request_for().key != request_for(chat_template="zephyr").key


def test_refused_conversations_are_counted_and_shown(tmp_path, tiny_model):
    template = tmp_path / "particular.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no bad words') }}"
        "{% endif %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}", encoding="utf-8",
    )  # fmt: skip
    path = write_csv(tmp_path / "pairs.csv", [*ROWS, ("bad", "hello", "you")])
    request = TokenizeRequest(
        path=str(path), source="pairs.csv", sha256=storage.sha256_of(path), model=str(tiny_model),
        chat_template=template.read_text(encoding="utf-8"), rows=(1, 4),
    )  # fmt: skip
    answer = answered(request)
    assert answer.lengths.rows == (1, 2, 3)
    assert (answer.lengths.changes.refused, answer.lengths.changes.refused_rows) == (1, (4,))
    assert answer.tokens[4].refusal == "no bad words"
    assert not answer.tokens[1].refusal
    assert "Row 4: this pair is dropped" in draw_tokens(answer.tokens[4], TrainConfig())


def test_second_look_is_on_disk_and_another_row_joins_it(request_for):
    request = request_for()
    answered(request)
    log = token_counts.paths_of(request).log
    before = log.read_text()
    assert token_counts.ask(request).state.status == "done"
    assert log.read_text() == before
    other = request_for(rows=(3, 1))
    assert other.key == request.key
    answer = answered(other)
    assert set(answer.tokens) == {1, 3}
    assert len(log.read_text()) > len(before)


def test_fate_is_what_tokenising_the_file_does(request_for, tiny_model):
    request = request_for(rows=())
    counted = answered(request).lengths
    tokenizer = load_tokenizer(tiny_model)
    pairs = load_preferences(Path(request.path)).pairs
    longest = counted.longest()
    for policy in ("drop", "cut_prompt", "cut_answers"):
        for limit in (min(longest), sorted(longest)[1], max(longest)):
            done = tokenize_pairs(tokenizer, pairs, limit, policy)
            fate = fate_of(counted, limit, policy)
            assert (fate.dropped, fate.cut) == (len(done.dropped_rows), len(done.cut_rows))
            assert fate.dropped_rows == done.dropped_rows
            assert fate.cut_rows == done.cut_rows
            assert fate.kept == len(done.pairs)


@pytest.mark.parametrize(
    ("changes", "slug", "words"),
    [
        ({"model": "nobody/nothing"}, "model-not-found", "hub cannot be reached"),
        ({"sha256": "0" * 64}, "data", "has changed"),
        ({"path": "/nowhere.csv"}, "data", "cannot be opened"),
    ],
)
def test_a_failure_is_a_card_and_stays(request_for, changes, slug, words):
    request = request_for(**changes)
    answer = answered(request)
    assert answer.state.status == "failed"
    assert answer.state.error.slug == slug
    assert words in answer.state.error.message
    assert token_counts.ask(request).state.status == "failed"


def test_what_failed_is_tried_anew_when_asked_again(request_for):
    request = request_for(model="/no/such/folder")
    answered(request)
    assert token_counts.ask(request, again=True).state.status == "starting"
    assert answered(request).state.status == "failed"


def test_a_job_that_died_is_called_lost(request_for):
    request = request_for()
    paths = token_counts.paths_of(request)
    paths.folder.mkdir()
    state = JobState(status="working", phase="counting tokens")
    storage.write_whole(paths.state, state.model_dump_json())
    lost = token_counts.ask(request).state
    assert lost.status == "lost"
    assert "Try again" in lost.error.hint


def test_old_answers_make_room(request_for, monkeypatch):
    monkeypatch.setattr(token_counts.TokenizeJob, "kept", 2)
    requests = [request_for(model=f"/no/such/folder{index}") for index in range(3)]
    for request in requests:
        answered(request)
    kept = {path.name for path in token_counts.JOB.folder().iterdir()}
    assert kept == {requests[1].key, requests[2].key}


def test_another_tokenizer_file_is_another_question(request_for, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    before = request_for(model=str(folder)).key
    assert request_for(model=str(folder), rows=(1, 3)).key == before
    choices = ReadChoices(fixes=("duplicate",))
    assert request_for(model=str(folder), choices=choices).key != before
    (folder / "tokenizer.json").write_text("{} ")
    assert request_for(model=str(folder)).key != before


@pytest.mark.parametrize(("share", "value"), [(0.5, 3), (0.95, 5), (0.0, 1), (1.0, 5)])
def test_quantile_is_one_of_the_values(share, value):
    assert quantile([5, 3, 1, 4, 2], share) == value
