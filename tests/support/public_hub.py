"""A hub on this machine that anybody may read: the endpoints of the Hugging Face Hub by which public sets come."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from support.listening import listening

COMMIT = "0123456789" * 4
_SET = r"/datasets/(?P<repo>[^/]+/[^/]+)"
_ASKED = re.compile(rf"/api{_SET}(?:/(?P<what>revision|tree|paths-info)/[^/]+(?P<path>/.*)?)?$")
_FILE = re.compile(rf"{_SET}/resolve/[^/]+/(?P<path>.+)$")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass
class PublicHub:
    """What the hub holds, and what was read of it.

    Attributes:
        files: of each data set, by path; all of one commit.
        url: its address.
        read: the files that somebody took bytes of, as ``OWNER/NAME/PATH``.
    """

    files: Mapping[str, Mapping[str, bytes]]
    url: str = ""
    read: set[str] = field(default_factory=set)

    def told(self, repo: str, what: str | None, path: str, body: bytes) -> Any:
        """What the interface says of a data set."""
        held = self.files[repo]
        if what == "tree":
            return listing(held, path)
        if what == "paths-info":
            wanted = parse_qs(body.decode())["paths"]
            return [entry for name in wanted for entry in every(held) if entry["path"] == name]
        siblings = [{"rfilename": name} for name in held]
        return {"id": repo, "sha": COMMIT, "private": False, "gated": False, "siblings": siblings, "tags": []}


def every(held: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """All folders and files of a set, as the interface lists them."""
    folders = {name.rsplit("/", depth)[0] for name in held for depth in range(1, name.count("/") + 1)}
    return [
        *({"type": "directory", "path": name, "oid": oid(name.encode())} for name in sorted(folders)),
        *({"type": "file", "path": name, "size": len(held[name]), "oid": oid(held[name])} for name in sorted(held)),
    ]


def listing(held: Mapping[str, bytes], folder: str) -> list[dict[str, Any]]:
    """What lies in a folder itself."""
    return [entry for entry in every(held) if entry["path"].rpartition("/")[0] == folder]


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: PublicHub

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlparse(self.path).path)
        if (asked := _ASKED.match(path)) and asked["repo"] in self.hub.files:
            told = self.hub.told(asked["repo"], asked["what"], (asked["path"] or "").strip("/"), body)
            self._answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})
        elif (found := _FILE.match(path)) and found["path"] in self.hub.files.get(found["repo"], {}):
            self._file(found["repo"], found["path"])
        else:
            code = "EntryNotFound" if found and found["repo"] in self.hub.files else "RepoNotFound"
            self._answer(404, b"{}", {"X-Error-Code": code})

    def _file(self, repo: str, path: str) -> None:
        content, status = self.hub.files[repo][path], 200
        headers = {"ETag": f'"{oid(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if self.command == "GET":
            self.hub.read.add(f"{repo}/{path}")
        if part := _RANGE.match(self.headers.get("Range", "")):
            first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._answer(status, content, headers)

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_HEAD = _serve  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def public_hub(files: Mapping[str, Mapping[str, bytes]]) -> Iterator[PublicHub]:
    """A hub with these data sets, that listens on this machine alone."""
    hub = PublicHub(files)
    with listening(type("Handler", (_Handler,), {"hub": hub})) as hub.url:
        yield hub
