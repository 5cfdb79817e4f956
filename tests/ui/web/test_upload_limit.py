import asyncio

import pytest

from orpo_qlora.ui.web import upload_limit
from orpo_qlora.ui.web.upload_limit import UploadLimit


async def taken(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def status(limit, length, path="/gradio_api/upload", method="POST"):
    return asyncio.run(answer(limit, length, path, method))


async def answer(limit, length, path="/gradio_api/upload", method="POST"):
    sent = []
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": "http", "path": path, "method": method, "headers": headers}

    async def send(message):
        sent.append(message)

    await limit(scope, None, send)
    return sent[0]["status"]


@pytest.fixture
def limit(tmp_path):
    return UploadLimit(taken, tmp_path)


@pytest.mark.parametrize("length", [None, "", "-1", "1e9", "１"])
def test_an_upload_without_a_length_is_refused(limit, length):
    assert status(limit, length) == 411


def test_one_request_brings_no_more_than_one_large_file(limit):
    assert status(limit, upload_limit.REQUEST_BYTES) == 200
    assert status(limit, upload_limit.REQUEST_BYTES + 1) == 413


def test_other_requests_are_not_weighed(limit):
    assert status(limit, None, path="/config") == 200
    assert status(limit, None, method="OPTIONS") == 200


def test_the_folder_gets_no_larger_than_promised(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(upload_limit, "FOLDER_BYTES", 100)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_bytes(b"x" * 60)
    assert status(limit, 40) == 200
    assert status(limit, 41) == 507


def test_the_folder_gets_no_more_files_than_promised(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(upload_limit, "FOLDER_FILES", 2)
    (tmp_path / "a").touch()
    assert status(limit, 1) == 200
    (tmp_path / "b").touch()
    assert status(limit, 1) == 507


def test_the_disk_keeps_room_for_runs(limit, monkeypatch):
    monkeypatch.setattr(upload_limit, "FREE_BYTES", 2**60)
    assert status(limit, 1) == 507


def test_uploads_that_come_together_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr(upload_limit, "FOLDER_BYTES", 100)
    gate = asyncio.Event()

    async def slow(scope, receive, send):
        await gate.wait()
        await taken(scope, receive, send)

    limit = UploadLimit(slow, tmp_path)

    async def two():
        first = asyncio.create_task(answer(limit, 60))
        await asyncio.sleep(0)
        second = asyncio.create_task(answer(limit, 60))
        assert await second == 507
        gate.set()
        assert await first == 200
        assert await answer(limit, 60) == 200, "the room is free again"

    asyncio.run(two())
