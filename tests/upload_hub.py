"""The part of a Hub on the loopback interface that takes uploads."""

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class UploadHub(ThreadingHTTPServer):
    """Keeps repositories: visibility and files by name; `tokens` lists those that were sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos = {}
        self.tokens = set()
        self.objects = {}
        self.refuses = False

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def upload_hub():
    hub = UploadHub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: UploadHub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self._body())

    def do_PUT(self):
        body = self._body()
        self.server.objects[urlsplit(self.path).path.rpartition("/")[2]] = body
        self._json({})

    def _body(self):
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(self, body):
        hub, path = self.server, urlsplit(self.path).path
        hub.tokens.add((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if hub.refuses:
            self._json({"error": "forbidden"}, 403)
        elif path == "/api/repos/create":
            about = json.loads(body)
            repo = f"{about.get('organization') or 'me'}/{about['name']}"
            is_private = about.get("private", about.get("visibility") == "private")
            hub.repos.setdefault(repo, {"private": bool(is_private), "files": {}})
            self._json({"url": f"{hub.address}/{repo}", "name": repo})
        elif path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            modes = [
                (f["path"], "lfs" if f["path"].endswith(".safetensors") else "regular")
                for f in asked
            ]
            self._json(
                {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]}
            )
        elif path.endswith("/info/lfs/objects/batch"):
            found = json.loads(body)["objects"]
            self._json({"transfer": "basic", "objects": [self._object(one) for one in found]})
        elif path.endswith("/commit/main"):
            self._commit(re.search(r"/api/models/(.+)/commit/main", path)[1], body)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/main)?", path):
            private = hub.repos[found[1]]["private"]
            self._json({"id": found[1], "private": private, "siblings": [], "sha": "0" * 40})
        elif path == "/api/whoami-v2":
            self._json({"name": "me", "type": "user", "orgs": []})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        else:
            self._json({"error": f"no {path}"}, 404)

    def _object(self, one):
        link = {"href": f"{self.server.address}/objects/{one['oid']}"}
        return {**one, "authenticated": True, "actions": {"upload": link}}

    def _commit(self, repo, body):
        files = self.server.repos[repo]["files"]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        address = f"{self.server.address}/{repo}/commit/{'1' * 40}"
        self._json({"success": True, "commitUrl": address, "commitOid": "1" * 40})

    def _json(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.git-lfs+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
