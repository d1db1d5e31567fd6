"""The server of `toss review`: one page for one person, on this machine, behind an address that nobody can guess.

A page of another site may have a browser send requests here, and a name of another site may be made to lead here. So
every request needs the random token of the address, the Host of this server, and, to write, the Origin of its page.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shlex import quote

import yaml

from tosslm.errors import InputError
from tosslm.files import read_tables, write_text
from tosslm.outward import outward
from tosslm.report.review import Served, review_page
from tosslm.runs.decisions import DECIDED_COLUMNS, check_decisions, numbered, parse_decisions, read_text
from tosslm.runs.layout import SELECTION
from tosslm.runs.reader import Run
from tosslm.runs.tables import stored_rows
from tosslm.selection.decided import Decision

HOST = "127.0.0.1"
MAX_BODY = 32 * 2**20
"""Bytes of decisions in a request."""
_SECONDS = 30
_MEDIA = "application/x-ndjson"


@dataclass
class Review:
    """Decisions of one run, and the file that they are in.

    Attributes:
        file: the JSON Lines file; need not be there yet.
        rows: the custom set's file.
        page: makes the page.
        start: what is decided while there is no file: what the run was selected with.
    """

    file: Path
    rows: Path
    page: Served
    start: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _met: set[str] = field(default_factory=set)

    def text(self) -> str:
        """What the file holds, or what its first version begins with."""
        return read_text(self.file) if self.file.exists() else self.start

    def html(self) -> str:
        """The page with what is decided now."""
        with self._lock:
            text = self.text()
        return self.page(parse_decisions(text, str(self.file)), version_of(text))

    def save(self, text: str, version: str) -> str | None:
        """Write decisions in place of those of a version; the new version, or None where the file is another by now.

        Raises:
            InputError: a line is no decision, or names a row that is not there.
        """
        lines = numbered(text, "line")
        named = {decision.row_id: line for line, decision in reversed(list(lines))}
        if unknown := self._unknown(named):
            first = min(unknown, key=named.__getitem__)
            raise InputError(f"line {named[first]}: no row {first} in the custom set")
        with self._lock:
            if version_of(self.text()) != version:
                return None
            write_text(self.file, text)
        return version_of(text)

    def _unknown(self, named: Collection[str]) -> set[str]:
        """Which ids are of no row; the set is read for those that were not met before, rather than held."""
        unknown = set(named) - self._met
        if unknown:
            for table in read_tables(self.rows, ["row_id"]):
                self._met |= unknown & set(table["row_id"].to_pylist())
        return unknown - self._met


def version_of(text: str) -> str:
    """16 hex digits of a file's content."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_review(run: Run, *, file: Path | None = None, by: str = "") -> Review:
    """What a person decides of a run.

    Args:
        run: a run whose selection is done.
        file: of the decisions; ``overrides.jsonl`` in the run folder by default. What is there is gone on from.
        by: who decides.

    Raises:
        InputError: selection is not done, or the file does not fit the run.
    """
    if not run.has(SELECTION):
        raise InputError(f"{run.name}: no selection yet, or out of date; run `toss select {run.name}` first")
    layout, path = run.layout, file or run.layout.overrides
    if path.is_dir():
        raise InputError(f"{path}: a folder; name a file for the decisions")
    start = read_text(layout.decisions) if layout.decisions.exists() else ""
    review = Review(path, layout.rows("custom"), review_page(run, file=str(path), by=by), start)
    rows = stored_rows(layout.rows("custom"), DECIDED_COLUMNS)
    check_decisions(list(numbered(review.text(), str(path))), rows, str(path))
    return review


class Server(ThreadingHTTPServer):
    """Serves a review to whoever has its address.

    Args:
        review: what is served.
        port: 0 takes a free one.

    Attributes:
        token: of the address.

    Raises:
        InputError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, review: Review, port: int = 0) -> None:
        self.review, self.token = review, secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"port {port} cannot be opened ({error}); choose another --port, or none") from None

    @property
    def hosts(self) -> tuple[str, str]:
        """What a browser may call this server."""
        return f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{self.hosts[0]}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that went away in the midst of an answer, and little of anything else."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            print(outward(f"toss: an answer to the browser failed ({error!r})"), file=sys.stderr)

    def run_until(self, stop: Callable[[], bool]) -> None:
        """Serve until asked to stop."""
        thread = threading.Thread(target=partial(self.serve_forever, poll_interval=0.1), daemon=True)
        thread.start()
        while not stop():
            thread.join(0.1)
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):  # the names of its methods are the standard library's
    server: Server
    timeout = _SECONDS
    protocol_version = "HTTP/1.1"

    def version_string(self) -> str:
        return "toss"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the address would be in it."""

    def _is_meant(self) -> bool:
        """Whether the request has Host and token; it is answered where it has not."""
        token, hosts = self.path.split("/")[1:2], self.headers.get_all("Host") or []
        known = hmac.compare_digest("".join(token).encode(), self.server.token.encode())
        if known and len(hosts) == 1 and hosts[0] in self.server.hosts:
            return True
        self._answer(HTTPStatus.FORBIDDEN, "Not for you.")
        return False

    def do_GET(self) -> None:
        """The page, or the decisions as they are."""
        if not self._is_meant():
            return
        review = self.server.review
        try:
            if self.path == f"/{self.server.token}/":
                self._answer(HTTPStatus.OK, review.html(), "text/html")
            elif self.path == f"/{self.server.token}/overrides.jsonl":
                self._answer(HTTPStatus.OK, review.text(), _MEDIA)
            else:
                self._answer(HTTPStatus.NOT_FOUND, "Nothing here.")
        except InputError as error:  # somebody has changed the file
            self._answer(HTTPStatus.CONFLICT, outward(error))

    def do_POST(self) -> None:
        """Save decisions."""
        if not self._is_meant():
            return
        wrong = self._refused()
        if wrong is not None:
            self._answer(*wrong)
            return
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # whoever sent it is gone, and half of the decisions would stand for all
            self.close_connection = True
            return
        try:
            version = self.server.review.save(body.decode("utf-8"), self.headers.get("If-Match", ""))
        except (InputError, UnicodeDecodeError, OSError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, outward(error))
            return
        if version is None:
            self._answer(HTTPStatus.CONFLICT, "the file was changed elsewhere")
        else:
            self._answer(HTTPStatus.OK, version)

    def _refused(self) -> tuple[HTTPStatus, str] | None:
        """Why a request to write is not read."""
        origins, length = self.headers.get_all("Origin") or [], self.headers.get("Content-Length", "")
        if origins != [f"http://{self.headers['Host']}"]:
            return HTTPStatus.FORBIDDEN, "Not from the page."
        if self.path != f"/{self.server.token}/overrides.jsonl":
            return HTTPStatus.NOT_FOUND, "Nothing here."
        if self.headers.get("Content-Type") != _MEDIA:
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send {_MEDIA}"
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            return HTTPStatus.LENGTH_REQUIRED, "say a Content-Length"
        if len(length) > 12 or int(length) > MAX_BODY:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY:,} bytes of decisions"
        return None

    def _not_done(self) -> None:
        if self._is_meant():
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "Not done here.")

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_CONNECT = do_TRACE = _not_done

    def _answer(self, status: HTTPStatus, text: str, media: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{media}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if status >= HTTPStatus.BAD_REQUEST:  # what was sent along is not read, so nothing can follow it
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest of the policy stands in the page
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def _in_yaml(file: Path) -> str:
    """A path as the value of ``--set`` is read: as it stands where YAML takes it so, else quoted."""
    text = str(file)
    with suppress(yaml.YAMLError):
        if yaml.safe_load(text) == text:
            return text
    return json.dumps(text, ensure_ascii=False)


def how_to_apply(run: str, review: Review) -> Sequence[str]:
    """What to do with the decisions, for the end of a review."""
    decisions: Sequence[Decision] = parse_decisions(review.text(), str(review.file))
    if not review.file.exists():
        return [f"Nothing was decided; {review.file} is not written."]
    return [
        f"Decisions in {review.file}: {len(decisions):,}.",
        f"To apply them: toss run {quote(run)} --set {quote(f'selection.overrides={_in_yaml(review.file)}')}",
    ]
