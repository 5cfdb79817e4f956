"""A Hub on the loopback interface: the addresses that huggingface_hub and datasets ask for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

_INFO = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?$")
_TREE = re.compile(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?$")
_PATHS = re.compile(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)$")
_AUTH = re.compile(r"/api/datasets/([^/]+/[^/]+)/auth-check$")
_REFS = re.compile(r"/api/datasets/([^/]+/[^/]+)/refs$")
_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
PIECE = 4096


@dataclass
class Repo:
    """One data set and how the server treats it."""

    files: dict[str, bytes]
    gated: bool = False
    """Files are refused without the token `hf_accepted`."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """Commit by branch or tag, besides main."""
    breaks: int = 0
    """How many answers about data files break off in the middle; -1 for all."""
    pause: float = 0.0
    """Seconds between pieces of a data file."""
    error: int = 0
    """Status of every answer about a data file."""

    @property
    def sha(self) -> str:
        digest = hashlib.sha1()
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest()

    def commit(self, revision: str) -> str | None:
        known = {"main": self.sha, self.sha: self.sha, **self.revisions}
        return known.get(unquote(revision)) or (
            revision if revision in self.revisions.values() else None
        )


class LoopbackServer(ThreadingHTTPServer):
    """A server on a free port of the loopback interface."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that goes away in the middle of an answer is no error of the server."""


Server = TypeVar("Server", bound=LoopbackServer)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class LoopbackHub(LoopbackServer):
    """Serves `repos`; `requests` lists what was asked for, as (method, path, token)."""

    def __init__(self, repos: dict[str, Repo]) -> None:
        super().__init__(_Handler)
        self.repos = repos
        self.requests: list[tuple[str, str, str]] = []


def loopback_hub(repos: dict[str, Repo]) -> AbstractContextManager[LoopbackHub]:
    return serving(LoopbackHub(repos))


class HubHandler(BaseHTTPRequestHandler):
    """A quiet handler that answers with JSON."""

    protocol_version = "HTTP/1.1"
    content_type = "application/json"

    def log_message(self, *_):
        pass

    def token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def send_json(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", self.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Handler(HubHandler):
    server: LoopbackHub

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        self._body = self.rfile.read(length)
        self._answer()

    def _answer(self):
        path = urlsplit(self.path).path
        token = self.token()
        self.server.requests.append((self.command, self.path, token))
        for pattern, method in (
            (_PATHS, self._paths),
            (_TREE, self._tree),
            (_AUTH, self._auth),
            (_REFS, self._refs),
            (_INFO, self._info),
            (_FILE, self._file),
        ):
            found = pattern.fullmatch(path)
            if found:
                repo = self.server.repos.get(found[1])
                if repo is None:
                    self._error(404, "RepoNotFound", "Repository not found")
                    return
                method(repo, found, token)
                return
        self._error(404, "", "Not found")

    def _info(self, repo, found, token):
        sha = repo.commit(found[2] or "main")
        if sha is None:
            self._error(404, "RevisionNotFound", "Invalid rev id")
            return
        about = {
            "_id": "0", "id": found[1], "sha": sha, "private": False, "disabled": False,
            "gated": "auto" if repo.gated else False, "downloads": 0, "likes": 0, "tags": [],
            "siblings": [{"rfilename": n, "size": len(c)} for n, c in repo.files.items()],
        }  # fmt: skip
        self.send_json(about)

    def _tree(self, repo, found, token):
        sha = repo.commit(found[2])
        if sha is None:
            self._error(404, "RevisionNotFound", "Invalid rev id")
            return
        folder = unquote(found[3] or "").strip("/")
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0]
        entries = self._entries(repo, folder, is_deep=recursive.lower() in {"true", "1"})
        if folder and not entries:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        self.send_json(entries)

    def _entries(self, repo, folder, *, is_deep):
        prefix = f"{folder}/" if folder else ""
        entries = {}
        for name, content in repo.files.items():
            if not name.startswith(prefix):
                continue
            rest = name.removeprefix(prefix).split("/")
            for depth in range(1, len(rest)):
                path = prefix + "/".join(rest[:depth])
                if depth == 1 or is_deep:
                    entries[path] = {"type": "directory", "path": path, "oid": "0", "size": 0}
            if len(rest) == 1 or is_deep:
                entries[name] = _entry(name, content)
        return list(entries.values())

    def _paths(self, repo, found, token):
        sha = repo.commit(found[2])
        if sha is None:
            self._error(404, "RevisionNotFound", "Invalid rev id")
            return
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(self._body).get("paths", [])
        else:
            paths = parse_qs(self._body.decode()).get("paths", [])
        entries = {entry["path"]: entry for entry in self._entries(repo, "", is_deep=True)}
        self.send_json([entries[path] for path in paths if path in entries])

    def _refs(self, repo, found, token):
        branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repo.sha}]
        branches += [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in repo.revisions.items()
        ]
        self.send_json({"branches": branches, "tags": [], "converts": []})

    def _auth(self, repo, found, token):
        if repo.gated and token != "hf_accepted":
            self._error(403 if token else 401, "GatedRepo", "Access to this resource is restricted")
        else:
            self.send_json({})

    def _file(self, repo, found, token):
        sha, name = repo.commit(found[2]), unquote(found[3])
        if sha is None:
            self._error(404, "RevisionNotFound", "Invalid rev id")
        elif repo.gated and token != "hf_accepted":
            self._error(403 if token else 401, "GatedRepo", "Access to this resource is restricted")
        elif name not in repo.files:
            self._error(404, "EntryNotFound", "Entry not found", commit=sha)
        elif repo.error and name != "README.md":
            self._error(repo.error, "", "Internal error")
        else:
            self._send_file(repo, sha, repo.files[name], is_data=name != "README.md")

    def _send_file(self, repo, sha, content, *, is_data):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        part = content
        self.send_response(206 if wanted else 200)
        if wanted:
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            part = content[start : end + 1]
            self.send_header(
                "Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}"
            )
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", sha)
        self.end_headers()
        if self.command == "HEAD":
            return
        if is_data and repo.breaks:
            repo.breaks -= 1
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        for start in range(0, len(part), PIECE):
            self.wfile.write(part[start : start + PIECE])
            if is_data and repo.pause:
                time.sleep(repo.pause)

    def _error(self, status, code, message, commit=""):
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name, content):
    return {
        "type": "file", "path": name, "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }  # fmt: skip
