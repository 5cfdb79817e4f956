"""The real pip-audit with a vulnerability service of the test's own: who knows, who is silent."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit.py"
KNOWN = {
    "id": "PYSEC-0000-1",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


@pytest.fixture
def service():
    """Return a function that serves answers and says where."""
    servers = []

    def serve(answer_of):
        class Service(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = answer_of(asked["package"]["name"])
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def audit(address, *arguments):
    done = subprocess.run(
        [sys.executable, str(AUDIT), "--osv-url", address, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"NO_PROXY": "127.0.0.1"},
    )
    return done.returncode, done.stdout + done.stderr


def test_a_known_vulnerability_fails_and_is_named(service):
    known = {"jinja2": (200, json.dumps({"vulns": [KNOWN]}))}
    code, said = audit(service(lambda name: known.get(name, (200, "{}"))))
    assert code == 1
    assert "VULNERABLE jinja2" in said
    assert "PYSEC-0000-1, fixed in 99.0" in said


def test_pins_without_a_known_vulnerability_pass(service):
    code, said = audit(service(lambda _: (200, "{}")))
    assert code == 0
    assert "NOT AUDITED" not in said
    assert "0 vulnerable" in said


@pytest.mark.parametrize("answer", [(503, ""), (403, "blocked"), (200, "<html>Log in</html>")])
def test_a_service_that_does_not_answer_is_reported_and_fails_nothing(service, answer):
    code, said = audit(service(lambda _: answer))
    assert code == 0
    assert "NOT AUDITED: the vulnerability service cannot be reached" in said


def test_an_unreachable_address_is_reported_and_fails_nothing():
    code, said = audit("http://127.0.0.1:9")
    assert code == 0
    assert "NOT AUDITED: the vulnerability service cannot be reached" in said


def test_a_fault_of_the_audit_itself_is_no_silence(service):
    code, said = audit(service(lambda _: (200, "{}")), "--no-such-option")
    assert code == 2
    assert "no-such-option" in said
