"""A hub on this machine: it answers what an upload asks, keeps the files, and can refuse a commit."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """`files` of all commits by name, `requests` as (method, path), and what the next answers are."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.is_private: bool | None = None  # None while the repository is not there
        self.messages: list[str] = []
        self.user: dict[str, Any] = {"type": "user", "name": "me", "orgs": [{"name": "us"}], "auth": {}}
        self.refuses_commits = False
        self.address = ""

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path == "/api/whoami-v2":
            return 200, self.user
        if path == "/api/repos/create":
            self.created.append(asked := json.loads(body))
            if self.is_private is None:
                self.is_private = asked.get("private") is True or asked.get("visibility") == "private"
            return 200, {"url": f"{self.address}/me/merge", "id": "me/merge"}
        if path.partition("?")[0] == "/api/models/me/merge":
            siblings = [{"rfilename": name} for name in self.files]
            return 200, {"id": "me/merge", "private": bool(self.is_private), "siblings": siblings}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            names = [each["path"] for each in json.loads(body)["files"]]
            return 200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        if "/commit/" in path:
            return self._commit(body)
        return (200, {}) if path == "/" else (404, {"error": f"no such page {path}"})

    def _commit(self, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.refuses_commits:
            return 507, {"error": "the disk of the hub is full"}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                self.messages.append(line["value"]["summary"])
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "deletedFile":
                del self.files[line["value"]["path"]]
        return 200, {"commitUrl": f"{self.address}/me/merge/commit/ab", "commitOid": "ab", "hookOutput": ""}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that answers at its `address` within the context."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            hub.requests.append((self.command, self.path))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, document = hub.answer(self.path, body)
            content = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
