"""A hub on this machine: the few endpoints of the Hugging Face Hub that an upload speaks to, over real HTTP."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlparse

from support.listening import listening

_REPO = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?P<rest>/.*)?$")
_LFS = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch$")


@dataclass
class LocalHub:
    """What the hub holds, and how it answers.

    Attributes:
        url: its address.
        token: the one that may write.
        private: of each data set, by its name, whether it is private.
        files: of each data set, by path.
        large: bytes that came by themselves, by SHA-256.
        failing: parts of paths that are answered with the status here.
    """

    url: str = ""
    token: str = "hf_writes"
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    failing: dict[str, int] = field(default_factory=dict)

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON for a request."""
        if status := next((status for part, status in self.failing.items() if part in path), None):
            return status, {"error": "as told"}
        if path.startswith("/large/"):
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if token != f"Bearer {self.token}":
            return 401, {"error": "Invalid credentials"}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "auth": {"accessToken": {"role": "write"}}}
        if path == "/api/validate-yaml":
            odd = "no-license" in json.loads(body)["content"]
            return (400 if odd else 200), {"errors": [{"message": "license"}] if odd else [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := _LFS.match(path):
            return 200, self._batch(json.loads(body))
        if found := _REPO.match(path):
            return self._repo(found["repo"], found["rest"] or "", body)
        return 404, {"error": path}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if repo.startswith("them/"):
            return 403, {"error": "You don't have the rights to create a dataset under this namespace"}
        if repo in self.files:
            return 409, {"url": f"{self.url}/datasets/{repo}", "error": "exists"}
        self.private[repo] = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.files[repo] = {".gitattributes": b"*.parquet filter=lfs\n"}
        return 200, {"url": f"{self.url}/datasets/{repo}", "name": repo}

    def _repo(self, repo: str, rest: str, body: bytes) -> tuple[int, Any]:
        if repo not in self.files:
            return 404, {"error": "Repository not found"}
        if rest.startswith("/preupload/"):
            files = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": self._mode(one["path"])} for one in files]
            return 200, {"files": [mode | {"shouldIgnore": False, "oid": None} for mode in modes]}
        if rest.startswith("/commit/"):
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.files[repo][line["value"]["path"]] = self.large[line["value"]["oid"]]
            return 200, {"commitUrl": f"{self.url}/datasets/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40}
        if rest.startswith("/tree/"):
            names = self.files[repo]
            return 200, [{"type": "file", "path": name, "size": len(names[name]), "oid": "0"} for name in names]
        siblings = [{"rfilename": name} for name in self.files[repo]]
        return 200, {"id": repo, "private": self.private[repo], "sha": "0" * 40, "siblings": siblings, "tags": []}

    @staticmethod
    def _mode(path: str) -> str:
        return "lfs" if path.endswith(".parquet") else "regular"

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {
            "transfer": "basic",
            "objects": [
                one | {"actions": {"upload": {"href": f"{self.url}/large/{one['oid']}"}}} for one in asked["objects"]
            ],
        }


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """A hub that listens on this machine alone."""
    hub = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "")
            status, value = hub.answer(self.command, urlparse(self.path).path, token, body)
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")  # by which the library tells it from a missing file
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_HEAD = _serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with listening(Handler) as hub.url:
        yield hub
