"""Data sets of a loopback Hub, fetched by the real program and read by the real readers."""

import io
import json
import os
import stat
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_fetches import carry_out, hub_environment, prepare
from loopback_hub import Repo, loopback_hub

from orpo_qlora import storage
from orpo_qlora.data.files import hub, stored
from orpo_qlora.data.files.hub import HubSource, request_of
from orpo_qlora.data.pairs import PreferencePair, load_preferences
from orpo_qlora.errors import DataError, DiskFull, OrpoQloraError
from orpo_qlora.jobs.hub import fetch, job
from orpo_qlora.jobs.hub.fetch import FetchProgram
from orpo_qlora.jobs.hub.job import JOB

ROWS = [{"prompt": f"Why {i}?", "chosen": f"Because {i}.", "rejected": "No."} for i in range(6)]
PAIRS = [PreferencePair(f"Why {i}?", f"Because {i}.", "No.", i + 1) for i in range(6)]
TOKEN = "hf_refusedTokenOfTheTests00000000"


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(rows, schema=None):
    memory = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), memory)
    return memory.getvalue()


def card(text):
    return f"---\n{text}\n---\n# Card\n".encode()


def messages(user, answer):
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


CONFIGS = card(
    "configs:\n- config_name: english\n  data_files:\n"
    "  - split: train_prefs\n    path: en/a.jsonl\n"
    "  - split: test_prefs\n    path: en/b.jsonl\n- config_name: chinese\n"
    "  data_files: zh/train.jsonl"
)
IMAGES = {
    "info": {
        "features": {
            name: {"dtype": "string", "_type": "Value"} for name in ("prompt", "chosen", "rejected")
        }
        | {"photo": {"_type": "Image"}}
    }
}
IMAGE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt", "chosen", "rejected")),
        ("photo", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ],
    metadata={"huggingface": json.dumps(IMAGES)},
)
PICTURE = os.urandom(9_000_000)
"""Larger than what is read ahead."""
REPOS = {
    "acme/lines": Repo({"README.md": b"# Lines\n", "data/train.jsonl": lines(ROWS)}),
    "acme/array": Repo({"train.json": json.dumps(ROWS).encode()}),
    "acme/cells": Repo(
        {
            "train.csv": b'prompt,chosen,rejected\n007,NA,true\n"a,\nb",1.50,null\n2,,x\n',
            "test.csv": b"prompt,chosen,rejected\n1,2,3\n",
        }
    ),
    "acme/columns": Repo(
        {
            "data/train-00000-of-00002.parquet": parquet(
                [
                    {
                        "prompt": "Why?",
                        "chosen": messages("Why?", "A."),
                        "rejected": messages("Why?", "B."),
                    }
                ]
            ),
            "data/train-00001-of-00002.parquet": parquet(
                [
                    {
                        "prompt": "Who?",
                        "chosen": messages("Who?", "C."),
                        "rejected": messages("Who?", "D."),
                    }
                ]
            ),
        }
    ),
    "acme/configs": Repo(
        {
            "README.md": CONFIGS,
            "en/a.jsonl": lines(ROWS[3:5]),
            "en/b.jsonl": lines(ROWS[2:3]),
            "zh/train.jsonl": lines(
                [{"prompt": "为什么？", "chosen": "因为。", "rejected": "不。"}]
            ),
        }
    ),
    "acme/old": Repo({"train.jsonl": lines(ROWS)}, revisions={"v1": "1" * 40}),
    "acme/gated": Repo({"README.md": b"# Gated\n", "train.jsonl": lines(ROWS)}, gated=True),
    "acme/script": Repo({"script.py": b"import os; os.abort()", "train.jsonl": lines(ROWS)}),
    "acme/empty": Repo({"README.md": b"# Nothing\n"}),
    "acme/pictures": Repo({"train/a.png": b"\x89PNG", "train/b.png": b"\x89PNG"}),
    "acme/photos": Repo(
        {
            "data/train.parquet": parquet(
                [row | {"photo": {"bytes": PICTURE, "path": "a.png"}} for row in ROWS[:2]],
                IMAGE_SCHEMA,
            )
        }
    ),
    "acme/broken": Repo({"train.jsonl": b'{"prompt": "a", "chosen": \n'}),
    "acme/failing": Repo({"train.jsonl": lines(ROWS)}, error=500),
    "acme/shaky": Repo({"train.jsonl": lines(ROWS)}, breaks=2),
    "acme/breaking": Repo({"train.jsonl": lines(ROWS)}, breaks=-1),
}
FETCHES = {
    "lines": request_of("acme/lines"),
    "address": request_of("https://huggingface.co/datasets/acme/lines/viewer", max_rows=5),
    "array": request_of("acme/array"),
    "cells": request_of("acme/cells", split="train"),
    "columns": request_of("acme/columns"),
    "english": request_of("acme/configs", "english", "train_prefs"),
    "chinese": request_of("acme/configs", "chinese"),
    "first": request_of("acme/lines", max_rows=2),
    "shaky": request_of("acme/shaky"),
    "photos": request_of("acme/photos"),
    "no-config": request_of("acme/configs"),
    "wrong-config": request_of("acme/configs", "french"),
    "no-split": request_of("acme/configs", "english"),
    "wrong-split": request_of("acme/configs", "english", "train"),
    "wrong-revision": request_of("acme/old", revision="v2"),
    "missing": request_of("acme/nothing"),
    "gated": request_of("acme/gated"),
    "script": request_of("acme/script"),
    "empty": request_of("acme/empty"),
    "pictures": request_of("acme/pictures"),
    "broken": request_of("acme/broken"),
    "failing": request_of("acme/failing"),
    "breaking": request_of("acme/breaking"),
    "too-large": request_of("acme/lines").model_copy(update={"max_bytes": 100}),
    "too-large-on-disk": request_of("acme/lines", max_rows=6).model_copy(update={"max_bytes": 100}),
}


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """The answers to all of FETCHES by name, in a home that later tests read too."""
    home = tmp_path_factory.mktemp("hub-home")
    with pytest.MonkeyPatch.context() as patch, loopback_hub(dict(REPOS)) as server:
        patch.setenv(storage.HOME_VARIABLE, str(home))
        environment = hub_environment(server.address, home / "caches")
        environment["HF_TOKEN"] = TOKEN
        output = carry_out(list(FETCHES.values()), environment)
        answers = {name: JOB.read(request) for name, request in FETCHES.items()}
        return home, answers, server.requests, output


@pytest.fixture
def home(fetched, monkeypatch):
    monkeypatch.setenv(storage.HOME_VARIABLE, str(fetched[0]))
    return fetched[0]


def pairs_of(answer):
    assert answer.state.error is None, answer.state.error
    return list(load_preferences(answer.fetched.path).pairs)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("lines", PAIRS),
        ("address", PAIRS[:5]),
        ("array", PAIRS),
        ("shaky", PAIRS),
        ("first", PAIRS[:2]),
        ("english", [replace(pair, row=pair.row - 3) for pair in PAIRS[3:5]]),
        ("chinese", [PreferencePair("为什么？", "因为。", "不。", 1)]),
        # Cells as the file has them: the third row has no chosen response.
        (
            "cells",
            [PreferencePair("007", "NA", "true", 1), PreferencePair("a,\nb", "1.50", "null", 2)],
        ),
        ("columns", [PreferencePair("Why?", "A.", "B.", 1), PreferencePair("Who?", "C.", "D.", 2)]),
    ],
)
def test_rows_of_every_format_become_these_pairs(fetched, home, name, pairs):
    assert pairs_of(fetched[1][name]) == pairs


def test_source_is_recorded_with_the_commit(fetched, home):
    answer = fetched[1]["english"]
    report = load_preferences(answer.fetched.path).report
    sha = REPOS["acme/configs"].sha
    source = HubSource(id="acme/configs", config="english", split="train_prefs", revision=sha)
    assert report.hub == answer.fetched.source == source
    assert report.source == "acme/configs (train_prefs).jsonl"
    assert report.sha256 == answer.fetched.sha256
    assert (answer.fetched.rows, answer.state.done) == (2, 2)
    assert report.sentences()[1] == (
        "From the Hugging Face Hub: acme/configs, config english, split train_prefs, "
        f"revision {sha}."
    )
    assert fetched[1]["first"].fetched.source.max_rows == 2


def test_configs_and_splits_are_known_afterwards(fetched, home):
    listing = fetched[1]["no-split"].listing
    assert listing.configs == ("english", "chinese")
    assert (listing.config, listing.splits) == ("english", ("train_prefs", "test_prefs"))


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("no-config", "has 2 configs and no default: “english”, “chinese”", "--config-name"),
        ("wrong-config", "no config “french”", "“english”, “chinese”"),
        ("no-split", "2 splits, none of them “train”", "“train_prefs”, “test_prefs”"),
        ("wrong-split", "no split “train”", "“train_prefs”, “test_prefs”"),
        ("wrong-revision", "no revision “v2”", "“main”, “v1”"),
        ("missing", "no data set acme/nothing that you may read", "hf auth login"),
        ("gated", "acme/gated is gated", "Accept them on huggingface.co/datasets/acme/gated"),
        ("script", "loading script (script.py), which is never run", "refs/convert/parquet"),
        ("empty", "no files that can be read", "CSV"),
        ("pictures", "acme/pictures holds images", "CSV"),
        ("broken", "The files of acme/broken cannot be read", "another config or revision"),
        ("too-large", " of files; at most", "--max-rows"),
        ("too-large-on-disk", "takes more than", "--max-rows"),
    ],
)
def test_what_cannot_be_fetched_says_why_and_what_to_do(fetched, home, name, message, hint):
    error = fetched[1][name].state.error
    assert message in error.message
    assert hint in error.hint
    assert error.slug == DataError.slug
    assert fetched[1][name].fetched is None


@pytest.mark.parametrize(
    ("name", "message"), [("failing", "error 500"), ("breaking", "the connection broke off")]
)
def test_trouble_on_the_way_is_named(fetched, home, name, message):
    error = fetched[1][name].state.error
    assert message in error.message
    assert error.hint
    assert error.slug == "hub-unreachable"


def test_images_are_neither_downloaded_nor_trained_on(fetched, home):
    with pytest.raises(DataError, match="image, audio or video in 2") as caught:
        load_preferences(fetched[1]["photos"].fetched.path)
    assert "photo" in caught.value.message
    size = fetched[1]["photos"].fetched.path.stat().st_size
    assert size < 1000


def test_only_whole_files_are_left(fetched, home):
    kept = {path.name for path in (home / "datasets").iterdir() if path.suffix == ".data"}
    shas = {one.fetched.sha256 for one in fetched[1].values() if one.fetched}
    assert kept == {f"{sha}.data" for sha in shas}
    assert not list((home / "datasets").glob(".*"))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (home / "datasets").iterdir()}
    assert modes == {0o600}


def test_token_goes_to_the_hub_alone(fetched, home):
    _, _, requests, output = fetched
    assert {token for _, _, token in requests} <= {TOKEN, ""}
    assert TOKEN not in output
    files = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_accepted_terms_open_a_gated_data_set(own_home, tmp_path):
    request = request_of("acme/gated")
    with loopback_hub(dict(REPOS)) as server:
        environment = hub_environment(server.address, tmp_path / "caches")
        carry_out([request], environment | {"HF_TOKEN": "hf_accepted"})
    assert pairs_of(JOB.read(request)) == PAIRS


def test_the_same_commit_is_fetched_once_and_used_without_the_hub(own_home, tmp_path):
    request = request_of("acme/lines")
    repo = Repo(dict(REPOS["acme/lines"].files))
    with loopback_hub({"acme/lines": repo}) as server:
        environment = hub_environment(server.address, tmp_path / "caches")
        carry_out([request], environment)
        first = len(server.requests)
        carry_out([request], environment)
        asked = [path for _, path, _ in server.requests[first:] if "acme" in path]
        assert asked == ["/api/datasets/acme/lines?blobs=true"]
        assert JOB.read(request).fetched.note == ""
        carry_out([request], environment | {"HF_HUB_OFFLINE": "1"})
        answer = JOB.read(request)
        assert "offline mode is on" in answer.fetched.note
        assert pairs_of(answer) == PAIRS
        repo.files["data/train.jsonl"] = lines(ROWS[:1])
        carry_out([request], environment)
        assert pairs_of(JOB.read(request)) == PAIRS[:1]
    carry_out([request], environment)
    answer = JOB.read(request)
    assert "cannot be reached" in answer.fetched.note
    assert pairs_of(answer) == PAIRS[:1]


def test_offline_without_a_copy_is_an_error(own_home, tmp_path):
    request = request_of("acme/lines")
    environment = hub_environment("http://127.0.0.1:9", tmp_path / "caches")
    carry_out([request], environment | {"HF_HUB_OFFLINE": "1"})
    assert "offline mode is on" in JOB.read(request).state.error.message
    carry_out([request], environment)
    assert "(http://127.0.0.1:9) cannot be reached" in JOB.read(request).state.error.message


@pytest.fixture
def slow_hub(own_home, tmp_path, monkeypatch):
    """A Hub that sends one piece of its data file in a quarter of a second."""
    repo = Repo({"train.jsonl": lines(ROWS * 5000)}, pause=0.25)
    with loopback_hub({"acme/slow": repo}) as server:
        for name, value in hub_environment(server.address, tmp_path / "caches").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def test_a_slow_fetch_is_cancelled_and_leaves_nothing(slow_hub, own_home):
    request = request_of("acme/slow")
    seen = []

    def on_progress(state):
        seen.append(state.phase)
        if slow_hub.requests and "resolve" in slow_hub.requests[-1][1]:
            threading.Thread(target=JOB.cancel, args=(request,)).start()
            time.sleep(1)

    with pytest.raises(OrpoQloraError, match="was cancelled; nothing was kept"):
        job.fetch(request, on_progress)
    assert not JOB.read(request).state.is_busy
    assert not storage.is_locked(JOB.paths(request).lock)
    assert list((own_home / "datasets").iterdir()) == []


def test_drafts_of_a_killed_fetch_are_swept(own_home, tmp_path):
    (storage.home() / "datasets" / ".fetch-0123").write_text("half")
    carry_out(
        [request_of("acme/lines")], hub_environment("http://127.0.0.1:9", tmp_path / "caches")
    )
    assert list((own_home / "datasets").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("owner/name", "owner/name"),
        (" owner/na.me-1_x ", "owner/na.me-1_x"),
        ("hf://datasets/owner/name", "owner/name"),
        ("https://huggingface.co/datasets/owner/name", "owner/name"),
        ("https://huggingface.co/datasets/owner/name/tree/main", "owner/name"),
        ("https://example.com/datasets/owner/name", ""),
        ("owner/name/more", ""),
        ("name", ""),
        ("../name", ""),
        ("owner/..", ""),
        ("owner/.name", ""),
        ("/etc/passwd", ""),
        ("owner/na me", ""),
        ("owner/name\n", "owner/name"),
        ("owner/na\nme", ""),
    ],
)
def test_ids_are_recognised(text, found):
    assert hub.hub_id(text) == found
    assert hub.looks_like_id(text) == bool(found)


def test_a_file_name_is_no_id():
    assert not hub.looks_like_id("data/pairs.jsonl")
    assert hub.looks_like_id("owner/llama-3.1-pairs")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("owner",), "not the id of a data set"),
        (("a/b", "../x"), "not a valid config name"),
        (("a/b", "", "train[:10]"), "not a valid split name"),
        (("a/b", "", "", "../main"), "not a revision"),
        (("a/b", "", "", "-x"), "not a revision"),
        (("a/b", "", "", "", -1), "below 0"),
    ],
)
def test_parts_that_cannot_be_right_are_refused_before_anything_starts(parts, message):
    with pytest.raises(DataError, match=message) as caught:
        request_of(*parts)
    assert caught.value.hint


class FakeRows:
    """Rows of a split, made up as they are read."""

    config, split, count = "default", "train", 0

    def __init__(self, number, file_bytes=0):
        self.number, self.file_bytes = number, file_bytes

    def __iter__(self):
        return iter([{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}] * self.number)


@pytest.mark.parametrize("number", [0, 3])
def test_a_disk_without_room_is_left_as_it_is(own_home, monkeypatch, number):
    request = request_of("acme/lines")
    program = FetchProgram(job.FetchPaths(prepare(request)))
    if number:
        monkeypatch.setattr(fetch, "ROOM_SECONDS", -1)  # checked after every row
    about = SimpleNamespace(revision="a" * 40)
    monkeypatch.setattr(stored, "FREE_BYTES", 2**60 if not number else stored.FREE_BYTES)
    checks = []

    def check(size):
        checks.append(size)
        monkeypatch.setattr(stored, "FREE_BYTES", 2**60 if len(checks) == number else 0)
        check_room(size)

    check_room = stored.check_room
    monkeypatch.setattr(stored, "check_room", check if number else check_room)
    with pytest.raises(DiskFull, match="free"):
        program._fetch(request, about, FakeRows(10))
    assert list((own_home / "datasets").iterdir()) == []
    assert JOB.read(request).fetched is None


def test_rows_beyond_the_limit_are_refused_or_left_out(own_home, monkeypatch):
    monkeypatch.setattr(fetch, "MOST_ROWS", 5)
    about = SimpleNamespace(revision="a" * 40)
    request = request_of("acme/lines")
    program = FetchProgram(job.FetchPaths(prepare(request)))
    with pytest.raises(DataError, match="has more than 5 rows") as caught:
        program._fetch(request, about, FakeRows(6))
    assert "--max-rows" in caught.value.hint
    assert list((own_home / "datasets").iterdir()) == []
    program._fetch(request, about, FakeRows(5))
    first = request_of("acme/lines", max_rows=7)
    FetchProgram(job.FetchPaths(prepare(first)))._fetch(first, about, FakeRows(9))
    assert [JOB.read(one).fetched.rows for one in (request, first)] == [5, 7]
    stated = FakeRows(6)
    stated.count = 6
    with pytest.raises(DataError, match="has 6 rows; at most 5 rows are fetched"):
        fetch._refuse_large(request, stated)
