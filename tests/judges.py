"""A judge on the loopback interface, which answers as a test says."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Judge:
    """An endpoint on the loopback interface; `answer` makes a reply of a question."""

    answer: object
    address: str = ""
    asked: list = field(default_factory=list)
    keys: list = field(default_factory=list)


@contextmanager
def judging(answer):
    """Serve a judge; `answer(content, number)` returns a text, or (status, body)."""
    judge = Judge(answer)
    counting = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with counting:
                judge.asked.append(content)
                judge.keys.append(self.headers.get("authorization", ""))
                number = len(judge.asked)
            found = judge.answer(content["messages"][-1]["content"], number)
            status, body = found if isinstance(found, tuple) else (200, completion(found))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    judge.address = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text, tokens=10):
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()


def prefers_good(content, number):
    first = content.partition("=== ANSWER B ===")[0]
    return "Reasons.\nVERDICT: A" if "good" in first else "Reasons.\nVERDICT: B"
