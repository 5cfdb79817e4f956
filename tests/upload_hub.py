"""The part of a Hub on the loopback interface that takes uploads."""

import base64
import json
import re
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from loopback_hub import HubHandler, LoopbackServer, serving


class UploadHub(LoopbackServer):
    """Keeps repositories: visibility and files by name; `tokens` lists those that were sent."""

    def __init__(self):
        super().__init__(_Handler)
        self.repos = {}
        self.tokens = set()
        self.objects = {}
        self.refuses = False


def upload_hub():
    return serving(UploadHub())


class _Handler(HubHandler, BaseHTTPRequestHandler):
    server: UploadHub
    content_type = "application/vnd.git-lfs+json"

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self._body())

    def do_PUT(self):
        body = self._body()
        self.server.objects[urlsplit(self.path).path.rpartition("/")[2]] = body
        self.send_json({})

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
        hub.tokens.add(self.token())
        if hub.refuses:
            self.send_json({"error": "forbidden"}, 403)
        elif path == "/api/repos/create":
            about = json.loads(body)
            repo = f"{about.get('organization') or 'me'}/{about['name']}"
            is_private = about.get("private", about.get("visibility") == "private")
            hub.repos.setdefault(repo, {"private": bool(is_private), "files": {}})
            self.send_json({"url": f"{hub.address}/{repo}", "name": repo})
        elif path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            modes = [
                (f["path"], "lfs" if f["path"].endswith(".safetensors") else "regular")
                for f in asked
            ]
            self.send_json(
                {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]}
            )
        elif path.endswith("/info/lfs/objects/batch"):
            found = json.loads(body)["objects"]
            self.send_json({"transfer": "basic", "objects": [self._object(one) for one in found]})
        elif path.endswith("/commit/main"):
            self._commit(re.search(r"/api/models/(.+)/commit/main", path)[1], body)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/main)?", path):
            private = hub.repos[found[1]]["private"]
            self.send_json({"id": found[1], "private": private, "siblings": [], "sha": "0" * 40})
        elif path == "/api/whoami-v2":
            self.send_json({"name": "me", "type": "user", "orgs": []})
        elif path == "/api/validate-yaml":
            self.send_json({"errors": [], "warnings": []})
        else:
            self.send_json({"error": f"no {path}"}, 404)

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
        self.send_json({"success": True, "commitUrl": address, "commitOid": "1" * 40})
