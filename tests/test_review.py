"""`toss review`: a server for one person alone, and a page on which they really click."""

from __future__ import annotations

import http.client
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tosslm
from support.benches import select_in
from support.browser import Watched, opened
from support.made_run import answers, made_run
from test_report_everyone import violations
from tosslm.config import load_config
from tosslm.errors import InputError
from tosslm.report.review import near_cut
from tosslm.report.tokens import load_tokens
from tosslm.review import MAX_BODY, Review, Server, how_to_apply, open_review, version_of

ROWS = answers(24)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Review:
    """A run that tests do not change, and its page."""
    return open_review(made_run(tmp_path_factory.mktemp("review") / "run", ROWS), by="Ann")


@pytest.fixture
def run(template: Review, tmp_path: Path) -> tosslm.Run:
    shutil.copytree(template.file.parent, tmp_path / "run")
    return tosslm.load_run(tmp_path / "run")


@pytest.fixture
def server(template: Review, run: tosslm.Run) -> Iterator[Server]:
    made = Server(replace(template, file=run.layout.overrides))
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(10)


def asked(server: Server, method: str, path: str, body: bytes = b"", **headers: str | None) -> tuple[int, str]:
    """Status and body of one request, with the headers of the page unless others are given (None: without)."""
    own: dict[str, str | None] = {"Host": server.hosts[0]}
    if method == "POST":
        own |= {"Origin": f"http://{server.hosts[0]}", "Content-Type": "application/x-ndjson"}
        own |= {"Content-Length": str(len(body)), "If-Match": version_of(server.review.text())}
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in own.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body or None)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.review.file.read_text(encoding="utf-8").splitlines()]


def decision(run: tosslm.Run, row: int, what: str = "drop") -> bytes:
    return json.dumps({"row_id": run.rows["row_id"][row], "decision": what}).encode() + b"\n"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/overrides.jsonl", "//", "/overrides.jsonl", "/../TOKEN/"])
def test_without_the_token_nothing_is_answered(server: Server, method: str, path: str) -> None:
    assert asked(server, method, path.replace("TOKEN", server.token))[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:PORT", "127.0.0.1", "[::1]:PORT", None])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_hosts_name_is_refused_though_the_token_is_right(
    server: Server, method: str, host: str | None
) -> None:
    named = None if host is None else host.replace("PORT", str(server.server_port))
    path = f"/{server.token}/overrides.jsonl"
    assert asked(server, method, path, b"", Host=named, Origin=f"http://{named}")[0] == 403
    assert not server.review.file.exists()


def test_either_name_of_this_machine_is_answered(server: Server) -> None:
    for host in server.hosts:
        assert asked(server, "GET", f"/{server.token}/", Host=host)[0] == 200
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "path", ["../manifest.json", "..%2fmanifest.json", "%2e%2e/manifest.json", "manifest.json", "/etc/passwd", "?a"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_path_leads_to_another_file(server: Server, run: tosslm.Run, method: str, path: str) -> None:
    before = run.layout.manifest.read_bytes()
    assert asked(server, method, f"/{server.token}/{path}")[0] == 404
    assert run.layout.manifest.read_bytes() == before


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Length": str(MAX_BODY + 1)}, 413),
        ({"Content_Length": "9" * 5000}, 413),
        ({"Content_Length": None}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"Transfer_Encoding": "chunked"}, 411),
        ({"Content_Type": "text/plain"}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": None}, 403),
        ({"Origin": "null"}, 403),
        ({"If_Match": "0" * 16}, 409),
        ({"If_Match": None}, 409),
    ],
)
def test_a_writing_that_is_not_the_pages_is_not_done(
    server: Server, run: tosslm.Run, headers: dict[str, str | None], status: int
) -> None:
    path = f"/{server.token}/overrides.jsonl"
    assert asked(server, "POST", path, decision(run, 0), **headers)[0] == status
    assert not server.review.file.exists()
    assert asked(server, "POST", path, decision(run, 0))[0] == 200
    assert lines(server)[0]["row_id"] == run.rows["row_id"][0]


@pytest.mark.parametrize("body", [b"{", b'{"row_id": "feed", "decision": "drop"}', b"\xff\xfe", b"[1]"])
def test_what_selection_would_refuse_is_not_written(server: Server, body: bytes) -> None:
    status, told = asked(server, "POST", f"/{server.token}/overrides.jsonl", body)
    assert status == 400
    assert told
    assert not server.review.file.exists()


def test_a_file_that_somebody_else_changed_is_not_written_over(server: Server, run: tosslm.Run) -> None:
    path, mine = f"/{server.token}/overrides.jsonl", version_of("")
    server.review.file.write_bytes(decision(run, 3, "keep"))
    assert asked(server, "POST", path, decision(run, 0), If_Match=mine)[0] == 409
    assert server.review.file.read_bytes() == decision(run, 3, "keep")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_writing_that_breaks_off_changes_nothing(server: Server, run: tosslm.Run, share: float) -> None:
    """A tab that dies behind the headers, or at a line's end, would have half of the decisions stand for all."""
    before = decision(run, 0) + decision(run, 1)
    server.review.file.write_bytes(before)
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest("POST", f"/{server.token}/overrides.jsonl", skip_host=True)
    about = {
        "Host": server.hosts[0],
        "Origin": f"http://{server.hosts[0]}",
        "Content-Type": "application/x-ndjson",
        "Content-Length": str(len(before)),
        "If-Match": version_of(before.decode()),
    }
    for name, value in about.items():
        connection.putheader(name, value)
    connection.endheaders(before[: int(share * len(before))] or None)
    connection.sock.shutdown(socket.SHUT_WR)
    assert connection.sock.recv(100) == b""  # the server has read to the end, and says nothing
    assert server.review.file.read_bytes() == before


def test_a_browser_that_goes_away_makes_no_noise(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    for error in (BrokenPipeError(), ConnectionResetError(), ValueError("odd")):
        try:
            raise error
        except (OSError, ValueError):
            server.handle_error(None, None)
    assert capfd.readouterr().err == "toss: an answer to the browser failed (ValueError('odd'))\n"


def test_what_cannot_be_reviewed_is_refused(run: tosslm.Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder"):
        open_review(run, file=tmp_path)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('\n{"row_id": "feed", "decision": "drop"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: no row feed"):
        open_review(run, file=bad)
    with Server(open_review(run)) as server, pytest.raises(InputError, match="choose another --port"):
        Server(open_review(run), server.server_port)


def test_a_review_goes_on_from_what_the_run_was_selected_with(run: tosslm.Run) -> None:
    given = run.path.parent / "given.jsonl"
    given.write_bytes(decision(run, 5))
    facts = select_in(run.path, fingerprint="made", overrides=str(given))
    manifest = run.manifest
    manifest["stages"]["selection"] |= facts
    run.layout.manifest.write_text(json.dumps(manifest))
    review = open_review(tosslm.load_run(run.path))
    assert review.text().encode() == decision(run, 5)
    assert "Nothing was decided" in how_to_apply(run.name, review)[0]


@pytest.mark.parametrize("name", ["mine.jsonl", "my #1: two.jsonl", "2026", "[a", "ja n'ein"])
def test_the_command_that_applies_decisions_names_their_file_whatever_it_is_called(
    run: tosslm.Run, name: str
) -> None:
    review = open_review(run, file=run.path.parent / name)
    review.save(decision(run, 5).decode(), version_of(review.text()))
    words = shlex.split(how_to_apply(run.name, review)[-1].partition("toss run ")[2])
    config = load_config(run.manifest["config"], words[2:])
    assert config.selection.overrides == str(review.file)


def test_near_the_cut_are_the_last_that_go_and_the_first_that_stay(run: tosslm.Run) -> None:
    tokens, flat = load_tokens(run), np.concatenate(run.scores())
    limit = int(0.1 * len(flat))
    order = sorted(range(len(flat)), key=lambda i: (-flat[i], i))
    near = {i for place, i in enumerate(order) if 0.75 * limit <= place < 1.25 * limit}
    rows = np.repeat(np.arange(len(tokens.lengths)), tokens.lengths)
    assert near_cut(tokens, 0.1).tolist() == [sum(rows[i] == row for i in near) for row in range(len(tokens.lengths))]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped_and_says_how_to_apply(run: tosslm.Run, number: int) -> None:
    command = [sys.executable, "-m", "tosslm", "review", str(run.path), "--by", "Ann"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:(\d+)/([\w-]+)/", process.stdout.readline())
    assert address is not None
    run.layout.overrides.write_bytes(decision(run, 1))
    process.send_signal(number)
    said, wrong = process.communicate(timeout=60)
    assert process.returncode == 0, wrong
    assert f"Decisions in {run.layout.overrides}: 1." in said
    assert f"toss run {run.path} --set selection.overrides={run.layout.overrides}" in said


def watched_review(browser: Any, server: Server, **context: Any) -> Watched:
    """The page, open; requests to its own server are no fault."""
    watched = Watched(browser, server.url, **context)
    watched.page.check("#uncover")
    return watched


def own_faults(watched: Watched, server: Server) -> list[str]:
    return [fault for fault in watched.faults if not fault.startswith(f"request: {server.url}overrides.jsonl")]


def says(page: Any, text: str) -> None:
    page.locator("#marks-say", has_text=text).wait_for()


def saved(page: Any) -> None:
    says(page, "Saved")


def open_row(page: Any, row_id: str) -> None:
    page.fill("#search", row_id)
    page.click("#list .item")
    page.wait_for_selector(f"#row h3:has-text('{row_id}')")


def drag(page: Any, first: int, last: int) -> None:
    """Select tokens of the open row as a mouse does it."""
    boxes = [page.locator("#row .t").nth(i).bounding_box() for i in (first, last)]
    page.mouse.move(boxes[0]["x"] + 2, boxes[0]["y"] + boxes[0]["height"] / 2)
    page.mouse.down()
    page.mouse.move(boxes[1]["x"] + boxes[1]["width"] - 2, boxes[1]["y"] + boxes[1]["height"] / 2, steps=6)
    page.mouse.up()


def classes(page: Any, name: str) -> list[int]:
    script = f"[...document.querySelectorAll('#row .t')].flatMap((t, i) => t.classList.contains('{name}') ? [i] : [])"
    found: list[int] = page.evaluate(script)
    return found


def test_a_person_marks_with_the_mouse_and_the_run_heeds_it(browser: Any, server: Server, run: tosslm.Run) -> None:
    watched = watched_review(browser, server)
    page, ids = watched.page, run.rows["row_id"]
    open_row(page, ids[7])
    drag(page, 2, 4)
    assert classes(page, "sel") == [2, 3, 4]
    page.fill("#note", "rude 👍")
    page.click("#drop")
    saved(page)
    assert set(classes(page, "x")) >= {2, 3, 4}
    assert classes(page, "h") == [2, 3, 4]
    open_row(page, ids[8])
    page.click("#keep")
    says(page, "in all: 2")
    written = lines(server)
    places = run.rows["offsets"][7]
    span = [written[0][key] for key in ("message", "start", "end")]
    assert span == [1, places[2][1], places[4][2]], "code points, not UTF-16 units"
    assert [(one["row_id"], one["decision"], one["by"]) for one in written] == [
        (ids[7], "drop", "Ann"),
        (ids[8], "keep", "Ann"),
    ]
    assert written[0]["note"] == "rude 👍"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT.*Z", written[0]["at"])
    select_in(run.path, fingerprint="made", overrides=str(server.review.file))
    keep = run.keep()
    assert not keep[7][2:5].any()
    assert keep[8].all()
    watched.close()
    assert own_faults(watched, server) == []


def test_a_person_marks_with_the_keyboard_alone(browser: Any, server: Server, run: tosslm.Run) -> None:
    watched = watched_review(browser, server)
    page = watched.page
    page.focus("#list")
    page.keyboard.press("Home")
    first = page.inner_text("#row h3")
    page.keyboard.press("j")
    second = page.inner_text("#row h3")
    assert second != first
    page.keyboard.press("k")
    assert page.inner_text("#row h3") == first
    page.keyboard.press("x")
    saved(page)
    assert classes(page, "x") == classes(page, "h") == list(range(page.locator("#row .t").count()))
    page.focus("#row .text:has(.t)")
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "s"):
        page.keyboard.press(key)
    says(page, "in all: 2")
    assert {1, 2} & set(classes(page, "x")) == set(), "the later decision counts"
    page.keyboard.press("u")
    says(page, "in all: 1")
    page.keyboard.press("u")
    says(page, "in all: 0")
    assert page.is_disabled("#undo")
    assert lines(server) == []
    page.keyboard.press("?")
    assert page.is_visible("#keys")
    assert page.get_attribute("#help", "aria-expanded") == "true"
    page.focus("#search")
    page.keyboard.type("xs")
    assert page.input_value("#search") == "xs"
    assert lines(server) == [], "letters typed into a field decide nothing"
    watched.close()
    assert own_faults(watched, server) == []


def test_a_page_loaded_again_goes_on_where_it_was(browser: Any, server: Server, run: tosslm.Run) -> None:
    server.review.file.write_bytes(decision(run, 9))
    watched = watched_review(browser, server)
    page = watched.page
    open_row(page, run.rows["row_id"][9])
    assert len(classes(page, "h")) == len(run.keep()[9])
    assert page.is_disabled("#undo"), "what was decided before is not this page's to undo"
    page.keyboard.press("Tab")
    page.click("#keep")
    saved(page)
    assert [one["decision"] for one in lines(server)] == ["drop", "keep"]
    watched.close()
    assert own_faults(watched, server) == []


def test_rows_nearest_to_the_cut_come_first(browser: Any, server: Server, run: tosslm.Run) -> None:
    watched = watched_review(browser, server)
    near = near_cut(load_tokens(run), 0.1)
    assert watched.page.input_value("#order") == "near"
    listed = watched.page.evaluate("[...document.querySelectorAll('#list .item')].map((item) => item.row)")
    assert [near[row] for row in listed] == sorted(near.tolist(), reverse=True)[: len(listed)]
    assert near[listed[0]] > 0
    watched.close()


def test_a_server_that_is_gone_is_said_and_nothing_is_lost(browser: Any, server: Server, run: tosslm.Run) -> None:
    watched = watched_review(browser, server)
    page = watched.page
    server.review.file.write_bytes(decision(run, 2, "keep"))  # somebody else
    page.click("#drop")
    says(page, "Not saved")
    assert "changed elsewhere" in page.inner_text("#marks-say")
    assert "try again" not in page.inner_text("#marks-say")  # it would go by the same old version
    with page.expect_download() as download:
        page.click("#download")
    assert len(download.value.path().read_text().splitlines()) == 1
    watched.close()


def test_of_a_review_that_has_ended_only_what_was_decided_here_is_handed_out(
    browser: Any, server: Server, run: tosslm.Run
) -> None:
    """Its lines go to the end of the file, where older ones would overrule what others have decided since."""
    server.review.file.write_bytes(decision(run, 2, "keep") + decision(run, 3, "keep"))
    watched = watched_review(browser, server)
    server.token = "another"  # as one that was started anew has it
    watched.page.click("#drop")
    says(watched.page, "Not saved: this page is of a review that has ended")
    assert "try again" not in watched.page.inner_text("#marks-say")
    with watched.page.expect_download() as download:
        watched.page.click("#download")
    [one] = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert one["decision"] == "drop"
    watched.close()


def test_undoing_by_its_button_leaves_the_keys_alive(browser: Any, server: Server) -> None:
    watched = watched_review(browser, server)
    page = watched.page
    page.click("#drop")
    saved(page)
    page.focus("#undo")
    page.keyboard.press("Enter")
    assert page.is_disabled("#undo")
    page.keyboard.press("x")
    assert page.is_enabled("#undo")
    watched.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_review(browser: Any, server: Server, scheme: str) -> None:
    watched = Watched(browser, server.url, color_scheme=scheme, bypass_csp=True)
    watched.page.click("#help")
    for width in (1200, 390):
        watched.page.set_viewport_size({"width": width, "height": 800})
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(watched.page) == []
    watched.close()


def test_the_report_marks_too_and_hands_the_file_out(browser: Any, run: tosslm.Run) -> None:
    watched = opened(browser, run)
    page = watched.page
    page.check("#uncover")
    open_row(page, run.rows["row_id"][4])
    page.fill("#by", "Bob")
    page.click("#drop")
    assert page.locator("#row .t.x.h").count() == len(run.keep()[4])
    assert "by hand" in page.inner_text("#list .item")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "overrides.jsonl"
    [one] = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert (one["row_id"], one["decision"], one["by"]) == (run.rows["row_id"][4], "drop", "Bob")
    watched.close()
    assert watched.faults == []


def test_a_slow_client_holds_up_nobody(server: Server) -> None:
    """One that sends half of a request; the next is answered by another thread."""
    slow = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    slow.connect()
    slow.sock.sendall(b"GET /")
    began = time.monotonic()
    assert asked(server, "GET", f"/{server.token}/")[0] == 200
    assert time.monotonic() - began < 10
    slow.close()
