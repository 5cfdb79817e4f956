"""The page as it is served to other machines."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from serving import END_SECONDS, serving

from orpo_qlora.ui.web.password import FREE_TRIES

NAME = "studio.example"
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


def log_in(client, password, address="10.0.0.1", **options):
    # The page listens behind a proxy of this machine, as uvicorn sees it.
    headers = {"X-Forwarded-For": address, **options.pop("headers", {})}
    return client.post("/login", data={"password": password}, headers=headers, **options)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_nothing_answers_without_the_password(page, method):
    for path in PATHS:
        assert page.request(method, path).status_code == 401, path


def test_the_page_that_asks_says_nothing_else_and_takes_no_script(page):
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
def test_nobody_is_led_to_another_site(page, password, path):
    answer = page.post(path, data={"password": password}, headers=HTML)
    assert re.fullmatch(r"/(\?.*)?", answer.headers.get("Location", "/"))


def test_another_session_s_token_opens_nothing(page, password):
    answer = log_in(page, password)
    name, value = next(iter(answer.cookies.items()))
    page.cookies.clear()
    for wrong in ("", value[:-1], value + "x", "null", "é"):
        cookie = f"{name}={wrong}".encode()
        assert page.get("/config", headers={"Cookie": cookie}).status_code == 401


def test_foreign_pages_cannot_even_ask(page, password):
    for headers, status in (
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 400),
    ):
        assert log_in(page, password, headers=headers).status_code == status
    for host in (NAME, f"{NAME}:443", "10.1.2.3:7860"):
        headers = {"Host": host, "Origin": f"https://{host}"}
        assert log_in(page, password, headers=headers).status_code == 200


def test_wrong_passwords_make_wait_and_the_wait_is_said(page, password):
    for last in range(10):  # a machine that is busy for two seconds lets the wait pass
        address = f"10.0.2.{last}"
        for _ in range(FREE_TRIES):
            assert log_in(page, "wrong", address).status_code == 401
        answer = log_in(page, password, address, headers=HTML)
        if answer.status_code == 429:
            break
        page.cookies.clear()
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 2
    assert "Try again in" in answer.text
    assert page.get("/config").status_code == 401
    assert log_in(page, password, "10.0.0.3").status_code == 200, "only who tried has to wait"


def test_tries_sent_together_count_one_after_the_other(page):
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda _: log_in(page, "wrong", "10.0.0.4").status_code, range(32)))
    # The first wait is 2 s: should the machine be busy for so long, another try is due.
    waits = int((time.monotonic() - began) / 2)
    assert FREE_TRIES <= codes.count(401) <= FREE_TRIES + waits
    assert codes.count(401) + codes.count(429) == 32


def test_a_form_without_end_is_cut_off(page):
    body = b"password=" + b"x" * 100_000
    answer = page.post("/login", content=body, headers={"X-Forwarded-For": "10.0.0.5"})
    assert answer.status_code == 413


def test_a_program_logs_in_like_a_person(exposed, password):
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


def test_the_next_start_shows_no_password_and_takes_the_same(tmp_path):
    home = tmp_path / "home"
    with serving(home, "--host", "0.0.0.0") as first:
        word = re.search(r"password is: (\S+)", first.said)[1]
    with serving(home, "--public-name", NAME) as second:
        assert word not in second.said
        assert "Forgotten? Delete" in second.said
        with httpx.Client(base_url=second.address, trust_env=False) as client:
            assert client.get("/config").status_code == 401
            assert log_in(client, word).status_code == 200
            assert client.get("/config").status_code == 200


def test_at_this_machine_nobody_is_asked(tmp_path):
    with serving(tmp_path / "home") as served:
        assert "password" not in served.said
        assert not (served.home / "login.json").exists()
        assert httpx.get(f"{served.address}/config", trust_env=False).status_code == 200
