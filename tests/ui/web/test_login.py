"""The page as it is served to other machines."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from itsdangerous import TimestampSigner
from serving import END_SECONDS, serving, start_page
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from orpo_qlora.errors import InputError
from orpo_qlora.ui.web import login
from orpo_qlora.ui.web.login import AttemptLimit, Login

NAME = "studio.example"
CHOSEN = "a password of mine"
HTML = {"Accept": "text/html,*/*"}
PATHS = (
    *(
        "/",
        "/config",
        "/watch",
        "/theme.css",
        "/robots.txt",
        "/pwa_icon",
        "/manifest.json",
        "/static/x",
    ),
    *("/gradio_api/info", "/gradio_api/app_id", "/gradio_api/heartbeat/x", "/gradio_api/runs"),
    *("/gradio_api/queue/data", "/gradio_api/queue/status", "/gradio_api/login_check"),
    *("/gradio_api/file=/etc/passwd", "/gradio_api/token", "/gradio_api/user", "/gradio_api/mcp/"),
    *(
        "/monitoring",
        "/logout",
        "/assets/x.js",
        "/proxy=http://127.0.0.1",
        "/nowhere",
        "//",
        "/x/..",
    ),
    *("/gradio_api/startup-events/", "/gradio_api/startup-events/../info", "/login/x"),
)


@pytest.fixture(scope="module")
def exposed(tmp_path_factory):
    home = tmp_path_factory.mktemp("exposed") / "home"
    with serving(home, "--host", "0.0.0.0", "--public-name", NAME) as served:
        yield served


@pytest.fixture(scope="module")
def password(exposed):
    return re.search(r"password is: (\S+)", exposed.said)[1]


@pytest.fixture
def page(exposed):
    with httpx.Client(base_url=exposed.address, trust_env=False, timeout=END_SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A page on this machine whose user set a password."""
    home = tmp_path_factory.mktemp("chosen") / "home"
    with serving(home, ORPO_QLORA_PASSWORD=CHOSEN) as served:
        yield served


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def log_in(client, password, **options):
    return client.post("/login", data={"password": password}, **options)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_nothing_answers_without_the_password(page, method):
    for path in PATHS:
        assert page.request(method, path).status_code == 401, path


def test_the_login_form_contains_nothing_else_and_takes_no_script(page):
    answer = page.get("/?run=<script>&x=%22%3E%3Cb%3E", headers=HTML)
    assert answer.status_code == 401
    assert answer.headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert 'type="password"' in answer.text
    assert "<script" not in answer.text
    assert '"><b>' not in answer.text
    assert "gradio" not in answer.text


def test_the_password_opens_the_page_where_it_was_asked_for(page, password):
    answer = log_in(page, password, headers=HTML, params={"run": "a b", "tab": "chat"})
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/?run=a+b&tab=chat"
    cookie = answer.headers["Set-Cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert page.get("/config").status_code == 200
    assert page.get("/monitoring").status_code in {403, 404}
    assert page.get("/login", params={"run": "x"}).headers["Location"] == "/?run=x"


def test_behind_tls_the_cookie_is_for_tls_only(page, password):
    for scheme in ("http", "https"):
        cookie = log_in(page, password, headers={"X-Forwarded-Proto": scheme}).headers["Set-Cookie"]
        assert ("secure" in cookie.lower()) is (scheme == "https")


@pytest.mark.parametrize("path", ["//evil.example/login", "/login//evil.example", "/login?//evil"])
def test_a_login_never_leads_to_another_site(page, password, path):
    answer = page.post(path, data={"password": password}, headers=HTML)
    assert re.fullmatch(r"/(\?.*)?", answer.headers.get("Location", "/"))


def test_a_changed_session_cookie_opens_nothing(page, password):
    answer = log_in(page, password)
    name, value = next(iter(answer.cookies.items()))
    page.cookies.clear()
    for wrong in ("", value[:-1], value + "x", "null", "é"):
        cookie = f"{name}={wrong}".encode()
        assert page.get("/config", headers={"Cookie": cookie}).status_code == 401


def test_foreign_pages_cannot_log_in(page, password):
    for headers, status in (
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 400),
    ):
        assert log_in(page, password, headers=headers).status_code == status
    for host in (NAME, f"{NAME}:443", "10.1.2.3:7860"):
        headers = {"Host": host, "Origin": f"https://{host}"}
        assert log_in(page, password, headers=headers).status_code == 200


def test_a_form_without_end_is_cut_off(page):
    body = b"password=" + b"x" * 100_000
    answer = page.post("/login", content=body)
    assert answer.status_code == 413


def test_a_gradio_client_logs_in(exposed, password):
    from gradio_client import Client

    client = Client(exposed.address, auth=("", password), verbose=False)
    assert client.config["title"] == "orpo-qlora"
    client.close()
    with pytest.raises(Exception, match="Invalid credentials"):
        Client(exposed.address, auth=("", "wrong"), verbose=False)


def test_the_password_is_in_no_file_and_on_no_command_line(exposed, password):
    for path in exposed.home.rglob("*"):
        if path.is_file():
            assert password.encode() not in path.read_bytes(), path
    assert password not in " ".join(psutil.Process(exposed.pid).cmdline())


def test_each_start_has_a_password_of_its_own(exposed, password, tmp_path):
    with serving(tmp_path / "home", "--host", "0.0.0.0") as other:
        assert re.search(r"password is: (\S+)", other.said)[1] != password
    assert len(password) * 6 >= 128  # bits
    assert not (exposed.home / "login.json").exists()


def test_at_this_machine_no_password_is_needed(tmp_path):
    with serving(tmp_path / "home") as served:
        assert "password" not in served.said
        assert httpx.get(f"{served.address}/config", trust_env=False).status_code == 200


def test_a_chosen_password_is_never_printed_and_always_needed(chosen):
    assert CHOSEN not in chosen.said
    assert "ORPO_QLORA_PASSWORD" in chosen.said
    with httpx.Client(base_url=chosen.address, trust_env=False) as client:
        assert client.get("/config").status_code == 401
        assert log_in(client, f" {CHOSEN}\n").status_code == 200
        assert client.get("/config").status_code == 200


def test_attempts_sent_together_are_limited(chosen):
    with httpx.Client(base_url=chosen.address, trust_env=False, timeout=END_SECONDS) as client:
        assert log_in(client, CHOSEN).status_code == 200
        with ThreadPoolExecutor(16) as pool:
            codes = list(pool.map(lambda _: log_in(client, "wrong").status_code, range(32)))
        assert codes.count(401) == login.MAX_FAILURES
        assert codes.count(429) == 32 - login.MAX_FAILURES
        answer = log_in(client, CHOSEN, headers=HTML)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= login.FAILURE_WINDOW_SECONDS
        assert "Try again in" in answer.text
        assert client.get("/config").status_code == 200, "an open session is not affected"


def test_a_short_password_ends_the_program_with_a_reason(tmp_path):
    process = start_page(tmp_path / "home", "--port", "0", ORPO_QLORA_PASSWORD="1234567")
    text = process.communicate(timeout=END_SECONDS)[0]
    assert process.returncode == 2
    assert "at least 8 characters" in text
    assert "1234567" not in text


def test_no_program_of_the_page_inherits_the_password(monkeypatch):
    monkeypatch.setenv(login.PASSWORD_VARIABLE, CHOSEN)
    assert login.take_password() == CHOSEN
    assert login.PASSWORD_VARIABLE not in os.environ
    assert login.take_password() == ""


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_an_empty_password_counts_as_none(monkeypatch, value):
    monkeypatch.setenv(login.PASSWORD_VARIABLE, value)
    assert login.take_password() == ""


def test_a_password_of_spaces_and_few_letters_is_too_short(monkeypatch):
    monkeypatch.setenv(login.PASSWORD_VARIABLE, "   short   ")
    with pytest.raises(InputError, match="too short"):
        login.take_password()


def test_ten_failures_a_minute_are_allowed():
    clock = Clock()
    attempts = AttemptLimit(clock)
    for _ in range(10):
        assert attempts.wait_seconds() == 0
        attempts.record_failure()
        clock.now += 1
    assert attempts.wait_seconds() == 50
    clock.now += 50
    assert attempts.wait_seconds() == 0
    attempts.record_failure()
    assert attempts.wait_seconds() == 1


async def _page(scope, receive, send):
    await PlainTextResponse("the page")(scope, receive, send)


@pytest.fixture
def client():
    """A page behind a login, and the cookie of an open session."""
    client = TestClient(Login(_page, "a password"), base_url="http://page")
    assert client.post("/login", data={"password": "a password"}).status_code == 200
    return client


def test_a_session_ends_after_a_week(client, monkeypatch):
    now = time.time()
    for late, status in ((login.SESSION_SECONDS - 1, 200), (login.SESSION_SECONDS + 1, 401)):
        monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _, at=now + late: int(at))
        assert client.get("/").status_code == status


def test_only_this_process_can_sign_a_session(client):
    [(name, value)] = client.cookies.items()
    assert client.get("/").text == "the page"
    data, stamp, signature = value.split(".")
    other = TestClient(Login(_page, "a password"), base_url="http://page")
    other.post("/login", data={"password": "a password"})
    [foreign] = other.cookies.values()
    forged = ["", ".", "..", data, f"{data}.{stamp}.", f".{stamp}.{signature}", f"{value}0"]
    forged += [value[:-1], foreign, f"x.{stamp}.{signature}", f"{data}.x.{signature}"]
    for wrong in forged:
        client.cookies.clear()
        assert client.get("/", headers={"Cookie": f"{name}={wrong}"}).status_code == 401, wrong
