"""The page as it is really served, asked over HTTP; S-numbers are those of the threat list."""

import http.client
import json
import os
import re
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import httpx
import pytest
from serving import END_SECONDS, ROOT, serving, start_page

from orpo_qlora.ui.web import security, upload_limit

HOSTILE = {
    "GRADIO_ALLOWED_PATHS": "/etc",
    "GRADIO_SHARE": "true",
    "GRADIO_ROOT_PATH": "/elsewhere",
    "GRADIO_SERVER_NAME": "0.0.0.0",
    "GRADIO_SERVER_PORT": "1",
    "GRADIO_MCP_SERVER": "true",
    "GRADIO_RUN_HISTORY": "true",
    "GRADIO_ANALYTICS_ENABLED": "True",
    "GRADIO_WATCH_DIRS": "/",
    "GRADIO_VIBE_MODE": "1",
    "GRADIO_LOCAL_DEV_MODE": "1",
    "GRADIO_NUM_PORTS": "none",
    "GRADIO_NUM_WORKERS": "2",
    "GRADIO_SSR_MODE": "true",
    "GRADIO_PROFILING": "1",
    "GRADIO_DEBUG": "1",
    "SPACE_ID": "owner/space",
    "FORWARDED_ALLOW_IPS": "*",
    "WEB_CONCURRENCY": "4",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}
SESSION = secrets.token_hex(4)
"""Of events that need none of their own: Gradio describes the whole page for each new session."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("page") / "home", **HOSTILE) as served:
        yield served
    assert "Runs in progress continue" in served.rest


@pytest.fixture(scope="module")
def served(opened):
    return opened.address, opened.home


def times_woken(pid):
    found = [status.read_text() for status in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(re.search(r"\nvoluntary_ctxt_switches:\s+(\d+)", text)[1]) for text in found)


@pytest.fixture
def page(served):
    with httpx.Client(base_url=served[0], trust_env=False, timeout=END_SECONDS) as client:
        yield client


def test_page_is_there_once_its_address_is_printed(page):
    assert page.get("/").status_code == 200


def test_a_tab_keeps_no_connection_open(page):
    """A browser has six for a page, so of more tabs than that some would wait for ever."""
    assert page.get("/config").json()["connect_heartbeat"] is False


def test_an_idle_page_uses_no_processor(opened, page):
    """Gradio alone wakes a thousand times a second; each time a run that trains is interrupted."""
    page.get("/config")
    before = times_woken(opened.pid)
    time.sleep(1.0)  # a rate takes a while to see
    assert times_woken(opened.pid) - before < 300


@pytest.mark.parametrize(
    "host", ["evil.example", "192.168.0.7:7860", "127.0.0.1.evil.example", "", "[", "localhost.:1"]
)
def test_foreign_host_is_refused(page, host):
    assert page.get("/", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/", "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/cancel"]
)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", ""])
def test_foreign_origin_is_refused(page, method, path, origin):
    assert page.request(method, path, headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "no-cors", 403),
        ("same-site", "no-cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ],
)
def test_another_page_may_link_here_but_embed_nothing(page, site, mode, status):
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    assert page.get("/config", headers=headers).status_code == status


def test_own_origin_may_upload(page, served):
    files = {"files": ("a.csv", b"prompt,chosen,rejected\na,b,c\n")}
    answer = page.post("/gradio_api/upload", files=files, headers={"Origin": served[0]})
    assert answer.status_code == 200
    uploaded = Path(answer.json()[0])
    assert not uploaded.is_relative_to(served[1])
    assert uploaded.parents[2].stat().st_mode & 0o077 == 0


def test_every_answer_carries_the_protecting_headers(page):
    for path in ("/", "/config", "/nowhere", "/theme.css"):
        headers = page.get(path).headers
        for name, value in security.HEADERS.items():
            assert headers[name] == value, path


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring",
        "/monitoring/summary",
        "/gradio_api/runs",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/gradio_api/mcp/",
        "/gradio_api/mcp/sse",
    ],
)
def test_what_the_page_does_not_need_is_off(page, path):
    assert page.get(path).status_code in {401, 403, 404, 405}


def test_no_file_of_the_machine_can_be_fetched(page, served):
    home = served[1]
    (home / "runs").mkdir(parents=True, exist_ok=True)
    (home / "runs" / "private.txt").write_text("private")
    for path in (
        "/etc/passwd",
        str(home / "runs" / "private.txt"),
        str(ROOT / "app.py"),
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "~/.ssh/id_rsa",
        str(Path.home() / ".ssh" / "id_rsa"),
        f"{home}/../home/runs/private.txt",
        f"{home}//runs//private.txt",
        f"/proc/self/root{home}/runs/private.txt",
        "/proc/self/environ",
        "app.py",
        "http://127.0.0.1:22/",
        "file:///etc/passwd",
    ):
        answer = page.get(f"/gradio_api/file={path}")
        assert answer.status_code in {400, 403, 404}, path


@pytest.mark.parametrize("name", ["evil.html", "evil.svg", "evil.xml", "evil.js", "evil.mhtml"])
def test_what_was_uploaded_never_opens_as_a_page(page, name):
    text = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    path = page.post("/gradio_api/upload", files={"files": (name, text)}).json()[0]
    answer = page.get(f"/gradio_api/file={path}")
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "svg" not in answer.headers["Content-Type"]
    assert "html" not in answer.headers["Content-Type"]


@pytest.mark.parametrize("name", ["../../../x.csv", "/etc/x.csv", "a/../../b.csv", "x" * 300])
def test_an_upload_stays_in_its_folder_whatever_its_name(page, name):
    answer = page.post("/gradio_api/upload", files={"files": (name, b"a")})
    assert answer.status_code == 200
    path = Path(answer.json()[0])
    assert path.resolve() == path
    assert path.parents[1].name == "uploads"


def test_an_upload_that_is_only_a_way_out_is_refused(page):
    answer = page.post("/gradio_api/upload", files={"files": ("..", b"a")})
    assert answer.status_code == 400


def file_inputs(config):
    """Yield every event that takes a file, with what to send for it and where the file stands."""
    files = {c["id"] for c in config["components"] if c["type"] in {"file", "uploadbutton"}}
    for event in config["dependencies"]:
        places = [i for i, part in enumerate(event["inputs"]) if part in files]
        if places:
            yield event["id"], len(event["inputs"]), places


def ask_event(page, number, data, session, **more):
    body = {"data": data, "fn_index": number, "session_hash": session, **more}
    joined = page.post("/gradio_api/queue/join", json=body)
    assert joined.status_code == 200, joined.text
    with page.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as answer:
        for line in answer.iter_lines():
            message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("msg") in {"process_completed", "unexpected_error"}:
                return message
    raise AssertionError("no answer")


def test_no_event_takes_a_file_that_was_not_uploaded(page, served):
    found = list(file_inputs(page.get("/config").json()))
    assert found
    foreign = ["/etc/passwd", str(ROOT / "app.py"), str(served[1] / "login.json"), "../app.py"]
    for number, count, places in found:
        for path in foreign:
            data = [None] * count
            for place in places:
                data[place] = {"path": path, "meta": {"_type": "gradio.FileData"}}
            message = ask_event(page, number, data, SESSION)
            assert message["success"] is False, path
            assert "root:" not in json.dumps(message)


@pytest.fixture(scope="module")
def config(served):
    return httpx.get(f"{served[0]}/config", trust_env=False, timeout=END_SECONDS).json()


def ask_part(page, config, name, kind, data, choice=""):
    """Send what an event of a component would send, had its inputs held `data`, the others “a”."""
    part = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == name)
    event = next(
        event
        for event in config["dependencies"]
        if [part, kind] in event["targets"] and event["backend_fn"]
    )
    assert len(event["inputs"]) >= len(data)
    data = [*data, *["a"] * (len(event["inputs"]) - len(data))]
    more = {"trigger_id": part, "event_data": {"choice": choice}}
    return json.dumps(ask_event(page, event["id"], data, SESSION, **more))


@pytest.mark.parametrize(
    "dataset_id",
    ["{outside}/x", "../x", "..", "", "0" * 64, "0" * 64 + "\n", "{outside}/x\n", "x" * 100_000],
)
def test_only_the_id_of_a_kept_file_becomes_a_path(page, config, served, tmp_path, dataset_id):
    """The page's hidden input may hold anything; with it choices are written beside a file."""
    sent = dataset_id.format(outside=tmp_path)
    before = files_below(served[1])
    for shown, (name, kind, choice) in product(
        ("", sent),
        (
            ("data-summary", "click", "fix:duplicate"),
            ("data-summary", "click", "forget"),
            ("data-findings", "click", "encoding:cp1252"),
            ("data-columns-use", "click", ""),
            ("data-shape", "input", ""),
            ("data-ranking", "input", ""),
        ),
    ):
        message = ask_part(page, config, name, kind, [sent, shown], choice)
        assert "is not stored here" in message or (name == "data-shape" and not sent), (name, shown)
    message = ask_part(page, config, "data-download-csv", "click", [sent])
    assert "is not stored here" in message
    assert files_below(served[1]) == before
    assert files_below(tmp_path) == {}


def test_the_page_takes_presets_by_name_and_reads_no_other_file(page, config, served, tmp_path):
    for path in (tmp_path / "private.yaml", served[1] / "private.yaml"):
        path.write_text("xyzzy: 1\n")
    names = [str(tmp_path / "private.yaml"), "../private", "../private.yaml", "/etc/passwd", "."]
    for name in [*names, "~/.ssh/config", "pyproject.toml", "demo-cpu\n", "x" * 100_000]:
        message = ask_part(page, config, "train-preset", "input", [name])
        assert "There is no preset" in message, name
        assert "xyzzy" not in message
    assert "There is no preset" not in ask_part(page, config, "train-preset", "input", ["demo-cpu"])


def files_below(folder):
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_b56_an_upload_aborted_half_way_leaves_nothing(page, served):
    whole = page.post("/gradio_api/upload", files={"files": ("whole.csv", b"whole")}).json()[0]
    private = Path(whole).parents[2]
    before = files_below(private)
    assert Path(whole) in before
    request = page.build_request(
        "POST", "/gradio_api/upload", files={"files": ("half.csv", b"x" * 4_000_000)}
    )
    host, port = served[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=END_SECONDS) as line:
        head = [f"POST {request.url.path} HTTP/1.1"]
        head += [f"{name}: {value}" for name, value in request.headers.items()]
        line.sendall("\r\n".join([*head, "", ""]).encode() + request.read()[:2_000_000])
        until(lambda: sum(files_below(private).values()) > sum(before.values()))
    until(lambda: files_below(private) == before)
    again = page.post("/gradio_api/upload", files={"files": ("half.csv", b"y")}).json()[0]
    assert Path(again).read_bytes() == b"y"


def until(is_so):
    end = time.monotonic() + END_SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_uploads_are_limited(page, served):
    def announce(**headers):
        # httpx would not announce more than it sends.
        asked = http.client.HTTPConnection(served[0].removeprefix("http://"), timeout=END_SECONDS)
        asked.putrequest("POST", "/gradio_api/upload")
        for name, value in headers.items():
            asked.putheader(name.replace("_", "-"), value)
        asked.endheaders()
        try:
            return asked.getresponse().status
        finally:
            asked.close()

    assert announce(Content_Length=str(upload_limit.REQUEST_BYTES + 1)) == 413
    assert announce(Transfer_Encoding="chunked") == 411
    many = [("files", (f"{i}.csv", b"a")) for i in range(1001)]
    assert page.post("/gradio_api/upload", files=many).status_code == 400


def test_many_at_once_are_served_or_refused(page):
    """50 uploads and 500 events; the page answers all, and goes on afterwards."""
    upload = {"files": ("a.csv", b"prompt,chosen,rejected\na,b,c\n")}
    number, count, _ = next(iter(file_inputs(page.get("/config").json())))

    def send(i):
        if i % 10 == 0:
            return page.post("/gradio_api/upload", files=upload).status_code
        body = {"data": [None] * count, "fn_index": number, "session_hash": f"many{i}"}
        return page.post("/gradio_api/queue/join", json=body).status_code

    with ThreadPoolExecutor(32) as pool:
        codes = list(pool.map(send, range(550)))
    uploads, events = codes[::10], [code for i, code in enumerate(codes) if i % 10]
    assert set(uploads) == {200}
    assert set(events) <= {200, 503}
    assert page.get("/").status_code == 200


def test_nothing_is_shared_or_measured(page):
    config = page.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config.get("share_url") is None
    assert config["root"].startswith("http://127.0.0.1")
    assert "elsewhere" not in config["root"]


def test_an_address_of_another_machine_ends_the_program_with_a_reason(tmp_path):
    process = start_page(tmp_path / "home", "--host", "192.0.2.1")
    text = process.communicate(timeout=END_SECONDS)[0]
    assert process.returncode == 2
    assert "cannot listen on 192.0.2.1" in text
    assert "Traceback" not in text


def test_taken_port_ends_the_program_with_a_reason(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start_page(tmp_path / "home", "--port", str(port))
        text = process.communicate(timeout=END_SECONDS)[0]
    assert process.returncode == 2
    assert f"Port {port}" in text
    assert "--port 0" in text
    assert "Traceback" not in text


def test_a_port_that_there_is_not_is_refused(tmp_path):
    process = start_page(tmp_path / "home", "--port", "65536")
    text = process.communicate(timeout=END_SECONDS)[0]
    assert process.returncode == 2
    assert "no port 65536" in text
    assert "Traceback" not in text


def test_hostile_environment_is_emptied(monkeypatch):
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_PROXY", "no_proxy", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")
    security.clean_environment()
    left = {name: os.environ[name] for name in os.environ if name in {*HOSTILE, "GRADIO_TEMP_DIR"}}
    assert left.pop("GRADIO_ANALYTICS_ENABLED") == "False"
    assert left.keys() == {"HTTP_PROXY", "http_proxy"}
    assert "127.0.0.1" in os.environ["NO_PROXY"]
