"""The page as it is really served, asked over HTTP; S-numbers are those of the threat list."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from orpo_qlora.errors import InputError
from orpo_qlora.ui import security

REPOSITORY = Path(__file__).parents[2]
HOSTILE = {
    "GRADIO_ALLOWED_PATHS": "/etc",
    "GRADIO_SHARE": "true",
    "GRADIO_ROOT_PATH": "/elsewhere",
    "GRADIO_SERVER_NAME": "0.0.0.0",
    "GRADIO_SERVER_PORT": "1",
    "GRADIO_MCP_SERVER": "true",
    "GRADIO_RUN_HISTORY": "true",
    "GRADIO_ANALYTICS_ENABLED": "True",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}
START_SECONDS = 120


def start_page(home, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "app.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "ORPO_QLORA_HOME": str(home), **environment},
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home = tmp_path_factory.mktemp("page") / "home"
    process = start_page(home, "--port", "0", **HOSTILE)
    said = process.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+", said)
    if address is None:
        process.kill()
        pytest.fail(said + process.stdout.read())
    yield address[0], home
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=START_SECONDS)[0]
    assert process.returncode == 0, rest
    assert "goes on" in rest


@pytest.fixture
def page(served):
    with httpx.Client(base_url=served[0], trust_env=False, timeout=30) as client:
        yield client


def test_page_is_there_once_its_address_is_printed(page):
    assert page.get("/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "192.168.0.7:7860", "127.0.0.1.evil.example", "", "[", "localhost.:1"]
)
def test_foreign_host_is_refused(page, host):
    assert page.get("/", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/gradio_api/upload", "/gradio_api/queue/join"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", ""])
def test_foreign_origin_is_refused(page, method, path, origin):
    assert page.request(method, path, headers={"Origin": origin}).status_code == 403


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
        str(REPOSITORY / "app.py"),
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "http://127.0.0.1:22/",
        "file:///etc/passwd",
    ):
        answer = page.get(f"/gradio_api/file={path}")
        assert answer.status_code in {400, 403, 404}, path


def test_nothing_is_shared_or_measured(page):
    config = page.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config.get("share_url") is None
    assert config["root"].startswith("http://127.0.0.1")
    assert "elsewhere" not in config["root"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.com", ""])
def test_other_machines_are_kept_out(host):
    with pytest.raises(InputError, match="no login"):
        security.refuse_exposed(host)


def test_exposed_host_ends_the_program_with_a_reason(tmp_path):
    process = start_page(tmp_path / "home", "--host", "0.0.0.0")
    said = process.communicate(timeout=START_SECONDS)[0]
    assert process.returncode == 2
    assert "no login" in said
    assert "Traceback" not in said


def test_taken_port_ends_the_program_with_a_reason(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start_page(tmp_path / "home", "--port", str(port))
        said = process.communicate(timeout=START_SECONDS)[0]
    assert process.returncode == 2
    assert f"Port {port}" in said
    assert "--port 0" in said
    assert "Traceback" not in said


def test_hostile_environment_is_emptied(monkeypatch):
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_PROXY", "no_proxy", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")
    security.clean_environment()
    left = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    assert left == {"GRADIO_ANALYTICS_ENABLED": "False"}
    assert "127.0.0.1" in os.environ["NO_PROXY"]
