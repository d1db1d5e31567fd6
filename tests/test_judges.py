"""The judge against a real server on this machine that speaks the protocol and misbehaves."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tosslm.config import JudgeConfig
from tosslm.errors import InputError, TosslmError
from tosslm.evaluation.answers import Answer
from tosslm.evaluation.judges import Judge, check_judge, pause_after
from tosslm.evaluation.verdicts import judge_attacks, judge_pairs, pair_samples, read_pair_verdict
from tosslm.progress import SilentReporter
from tosslm.stages import evaluate

pytest.importorskip("openai")


class Endpoint:
    """A local server; ``behave`` gets the question and how often it came before, and says what to do."""

    def __init__(self) -> None:
        self.behave: Callable[[str, int], Any] = lambda question, before: "[[C]]"
        self.seen: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.bodies: list[dict[str, Any]] = []
        self.encodings: set[str] = set()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.answer(self, body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()  # seconds between looks

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        question = body["messages"][0]["content"]
        with self._lock:
            before = self.seen[question]
            self.seen[question] += 1
            self.keys.add(handler.headers["Authorization"])
            self.bodies.append(body)
            self.encodings.add(handler.headers["Accept-Encoding"])
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            what = self.behave(question, before)
        finally:
            with self._lock:
                self.at_once -= 1
        if callable(what):
            with contextlib.suppress(OSError):  # the client gave up
                what(handler)
            return
        status, text = what if isinstance(what, tuple) else (200, completion(what))
        data = text.encode()
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            # A body that is cut off is shorter than announced.
            cut = text.startswith("CUT")
            handler.send_header("Content-Length", str(len(data) + 100 * cut))
            handler.end_headers()
            handler.wfile.write(data)
            handler.close_connection = cut
        except OSError:
            pass  # the client gave up


def completion(text: str | None, finish_reason: str = "stop") -> str:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": finish_reason, "message": message}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


def late(seconds: float, reply: str) -> str:
    time.sleep(seconds)
    return reply


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    server = Endpoint()
    yield server
    server.server.shutdown()
    server.server.server_close()


def judge_of(endpoint: Endpoint, cache: Path, **settings: Any) -> Judge:
    config = JudgeConfig.model_validate({"model": "m", "base_url": endpoint.url, "timeout": 5.0} | settings)
    return Judge(config, cache / "verdicts.jsonl", first_pause=0.01)


@pytest.mark.parametrize(
    "bad",
    [
        (429, '{"error": {"message": "slow down"}}'),
        (500, "oops"),
        (503, ""),
        (200, "CUT"),
        (200, '{"choices": ['),
        (200, '{"choices": []}'),
        (200, "<html>not json</html>"),
    ],
)
def test_what_may_pass_is_tried_again(endpoint: Endpoint, tmp_path: Path, bad: tuple[int, str]) -> None:
    endpoint.behave = lambda question, before: bad if before < 2 else f"{question} [[A]]"
    assert judge_of(endpoint, tmp_path).ask(["one", "two"]) == ["one [[A]]", "two [[A]]"]
    assert endpoint.seen == {"one": 3, "two": 3}
    assert endpoint.keys == {"Bearer secret-key"}


class Saying(SilentReporter):
    """Keeps what it is told to say."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_an_empty_reply_is_asked_for_again(endpoint: Endpoint, tmp_path: Path, nothing: str | None) -> None:
    endpoint.behave = lambda question, before: (200, completion(nothing)) if before < 2 else "[[A]]"
    assert judge_of(endpoint, tmp_path).ask(["one", "two"]) == ["[[A]]", "[[A]]"]
    assert endpoint.seen == {"one": 3, "two": 3}


def test_a_reply_that_stays_empty_is_told_and_not_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.behave = lambda question, before: "" if question == "held back" else "[[A]]"
    reporter = Saying()
    assert judge_of(endpoint, tmp_path).ask(["one", "held back"], reporter) == ["[[A]]", ""]
    assert endpoint.seen == {"one": 1, "held back": 3}
    assert [text for text in reporter.said if "or none to 1 of 2 questions" in text] == reporter.said != []
    endpoint.behave = lambda question, before: "[[B]]"
    assert judge_of(endpoint, tmp_path).ask(["one", "held back"]) == ["[[A]]", "[[B]]"]


def test_a_judge_that_says_nothing_at_all_is_an_error(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.behave = lambda question, before: ""
    with pytest.raises(TosslmError, match=r"or none to 2 of 2 questions.*evaluation\.judge\.max_tokens"):
        judge_of(endpoint, tmp_path, retries=0).ask(["one", "two", "one"])
    assert endpoint.seen == {"one": 1, "two": 1}


def test_empty_replies_that_were_kept_before_are_asked_for_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.behave = lambda question, before: "[[A]]"
    judge_of(endpoint, tmp_path).ask(["one", "two"])
    cache = tmp_path / "verdicts.jsonl"
    first, second = map(json.loads, cache.read_text(encoding="utf-8").splitlines())
    cache.write_text(json.dumps(first) + "\n" + json.dumps(second | {"reply": ""}) + "\n", encoding="utf-8")
    reporter = Saying()
    assert judge_of(endpoint, tmp_path).ask(["one", "two"], reporter) == ["[[A]]", "[[A]]"]
    assert sum(endpoint.seen.values()) == 3
    assert reporter.said == []  # such a line is not damaged


def test_a_slow_reply_is_given_up_and_asked_for_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.behave = lambda question, before: late(0.0 if before else 1.5, "[[B]]")
    start = time.monotonic()
    assert judge_of(endpoint, tmp_path, timeout=0.3).ask(["one"]) == ["[[B]]"]
    assert time.monotonic() - start < 1.4
    assert endpoint.seen["one"] == 2


def dripping(head: bool) -> Callable[[BaseHTTPRequestHandler], None]:
    """A whole reply, a byte at a time, which never lets a single read wait for long."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        body = completion("[[A]]").encode()
        start = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        if not head:
            handler.wfile.write(start)
        for byte in start + body if head else body:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.05)

    return drip


def huge(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """Four hundred megabytes, or as much of it as the client takes."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.send_response(status)
        handler.send_header("Content-Length", str(400 * 2**20))
        handler.end_headers()
        for _ in range(400):
            handler.wfile.write(b" " * 2**20)

    return send


def bomb(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    packer = zlib.compressobj(9, wbits=31)
    data = b"".join(packer.compress(b" " * 2**20) for _ in range(400)) + packer.flush()  # 400 KB
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@pytest.mark.parametrize("head", [False, True])
def test_a_reply_that_drips_is_given_up(endpoint: Endpoint, tmp_path: Path, head: bool) -> None:
    endpoint.behave = lambda question, before: dripping(head) if not before else "[[B]]"
    start = time.monotonic()
    assert judge_of(endpoint, tmp_path, timeout=0.5).ask(["one"]) == ["[[B]]"]
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("send", [huge(200), huge(500), bomb], ids=["reply", "error", "bomb"])
def test_a_huge_reply_is_not_taken_in(
    endpoint: Endpoint, tmp_path: Path, send: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    endpoint.behave = lambda question, before: send if not before else "[[B]]"
    judge = judge_of(endpoint, tmp_path, timeout=30.0)
    tracemalloc.start()
    try:
        assert judge.ask(["one"]) == ["[[B]]"]
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()
    assert endpoint.encodings == {"identity"}  # what is packed may be a bomb


def test_half_an_emoji_and_an_echoed_key_are_not_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.behave = lambda question, before: "[[A]] \ud83d said secret-key"
    for _ in range(2):
        assert judge_of(endpoint, tmp_path).ask(["one"]) == ["[[A]] \ufffd said [key]"]
    assert endpoint.seen["one"] == 1
    assert "secret-key" not in (tmp_path / "verdicts.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("status", [401, 500])
def test_an_echoed_key_is_not_told(endpoint: Endpoint, tmp_path: Path, status: int) -> None:
    endpoint.behave = lambda question, before: (status, '{"error": {"message": "no: Bearer secret-key"}}')
    with pytest.raises(TosslmError) as caught:
        judge_of(endpoint, tmp_path, retries=0).ask(["one"])
    assert "no: Bearer [key]" in str(caught.value)


@pytest.mark.parametrize("wanted", ["nan", "-5", "inf", "1e9", "-inf", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_pause_that_the_endpoint_wants_is_a_sane_one(wanted: str) -> None:
    import openai

    response = SimpleNamespace(headers={"retry-after": wanted}, request=None, status_code=429)
    pause = pause_after(openai.APIStatusError("slow down", response=response, body=None), 2.0)
    assert pause == (60.0 if wanted in ("inf", "1e9") else 2.0)


def test_damaged_lines_of_the_cache_are_left_out_and_told_once(endpoint: Endpoint, tmp_path: Path) -> None:
    judge = judge_of(endpoint, tmp_path)
    assert judge.ask(["one", "two"]) == ["[[C]]", "[[C]]"]
    cache = tmp_path / "verdicts.jsonl"
    bad = [b"{no json", b"[]", b"3", b'{"key": 1, "reply": "x"}', b'{"key": "k"}', b"\xff\xfe", b"[" * 100_000, b""]
    cache.write_bytes(b"\n".join([*bad, cache.read_bytes()]))
    reporter, judge = Saying(), judge_of(endpoint, tmp_path)
    for _ in range(2):
        assert judge.ask(["one", "two"], reporter) == ["[[C]]", "[[C]]"]
    assert [text.partition(": ")[2].split(" ")[0] for text in reporter.said] == [str(len(bad))]
    assert endpoint.seen == {"one": 1, "two": 1}


def test_an_interrupted_judge_is_left_at_once(endpoint: Endpoint, tmp_path: Path) -> None:
    """In the first wait for a reply, and in the pause after a failure."""

    class Stopped(SilentReporter):
        def advance(self, steps: int, tokens: int, note: str = "") -> None:
            raise KeyboardInterrupt

    for behave in (lambda question, before: late(5.0, "[[A]]"), lambda question, before: (503, "")):
        endpoint.behave = behave
        start = time.monotonic()
        judge = judge_of(endpoint, tmp_path)
        judge.first_pause = 30.0
        with pytest.raises(KeyboardInterrupt):
            judge.ask(["one", "two"], Stopped())
        assert time.monotonic() - start < 2


def test_what_cannot_pass_ends_at_once_and_tells_no_key(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.behave = lambda question, before: (401, '{"error": {"message": "wrong key"}}')
    with pytest.raises(TosslmError, match="401") as caught:
        judge_of(endpoint, tmp_path).ask(["one"])
    assert endpoint.seen["one"] == 1
    assert "secret-key" not in str(caught.value)


def test_verdicts_so_far_are_kept_when_the_endpoint_fails_for_good(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.behave = lambda question, before: (500, "") if question == "c" else "[[A]]"
    with pytest.raises(TosslmError, match="gave no reply"):
        judge_of(endpoint, tmp_path, retries=2, concurrency=1).ask(["a", "b", "c", "d"])
    assert endpoint.seen["c"] == 3
    # A kill may cut off the last line.
    with (tmp_path / "verdicts.jsonl").open("ab") as file:
        file.write(b'{"key": "12')
    endpoint.behave = lambda question, before: "[[B]]"
    assert judge_of(endpoint, tmp_path).ask(["a", "b", "c", "d"])[:3] == ["[[A]]", "[[A]]", "[[B]]"]
    assert (endpoint.seen["a"], endpoint.seen["b"]) == (1, 1)


def test_no_more_requests_at_a_time_than_allowed(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.behave = lambda question, before: late(0.03, "[[C]]")
    judge_of(endpoint, tmp_path, concurrency=3).ask([str(i) for i in range(15)])
    assert endpoint.most_at_once == 3


def test_another_model_has_verdicts_of_its_own(endpoint: Endpoint, tmp_path: Path) -> None:
    for model in ("m", "m", "n"):
        judge_of(endpoint, tmp_path, model=model).ask(["one", "one"])
    assert endpoint.seen["one"] == 2


def answers(texts: dict[str, str]) -> list[Answer]:
    return [Answer(prompt, prompt, text, True) for prompt, text in texts.items()]


def test_pairs_are_judged_in_both_orders(endpoint: Endpoint, tmp_path: Path) -> None:
    """A judge that always prefers the first place, but for a good answer; ties and nonsense in between."""

    def behave(question: str, before: int) -> str:
        prompt, first, second = question.split("|")
        if prompt == "nonsense":
            return "I would rather not say [[A]] or [[B]]"
        if prompt == "half" and first == "mine":
            return "cut off before the verd"
        if prompt == "tie":
            return "[[C]]"
        return "[[B]]" if second == "good" else "[[A]]"

    endpoint.behave = behave
    judge = judge_of(endpoint, tmp_path, prompt="{prompt}|{first}|{second}")
    mine = answers({"won": "good", "lost": "bad", "place": "mine", "tie": "x", "nonsense": "y", "half": "mine"})
    theirs = answers({"half": "t", "nonsense": "z", "tie": "x", "place": "t", "lost": "good", "won": "bad"})
    verdicts = judge_pairs(judge, mine, theirs)
    assert dict(zip(verdicts.wins.ids, verdicts.wins.values, strict=True)) == {
        "won": 1.0,
        "lost": 0.0,
        "place": 0.5,
        "tie": 0.5,
    }
    assert verdicts.unreadable.values.sum() == 3
    metrics = pair_samples({"win_rate": verdicts})
    assert metrics["win_rate"].values.mean() == 0.5
    assert metrics["judge_unreadable"].values.mean() == 3 / 12
    with pytest.raises(ValueError, match="same prompts"):
        judge_pairs(judge, mine, theirs[:-1])


def test_pairs_are_judged_anew_where_the_rivals_answers_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "_asked", lambda bench: [])
    bench: Any = SimpleNamespace(config=SimpleNamespace(evaluation=SimpleNamespace(judge=True)))
    covered = []
    for said in ("yes", "no"):
        (tmp_path / "harmful.jsonl").write_text(said)
        covered.append(evaluate._covers(bench, tmp_path))
    assert covered[0] != covered[1]


def test_braces_in_an_answer_stay_what_they_are(endpoint: Endpoint, tmp_path: Path) -> None:
    judge = judge_of(endpoint, tmp_path, prompt="{prompt}|{first}|{second}")
    judge_pairs(judge, answers({"p": "{second} {x}"}), answers({"p": "{prompt}"}))
    assert set(endpoint.seen) == {"p|{second} {x}|{prompt}", "p|{prompt}|{second} {x}"}


def test_attacks_by_a_judge(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.behave = lambda question, before: {"q a": "so [[yes]]", "r b": "[[NO]]", "s c": "maybe"}[question]
    judge = judge_of(endpoint, tmp_path, attack_prompt="{prompt} {answer}")
    assert judge_attacks(judge, answers({"q": "a", "r": "b", "s": "c"})) == [True, False, None]


@pytest.mark.parametrize(
    ("reply", "value"),
    [("[[A]]", 1.0), ("x [[ B ]] y", 0.0), ("[[C]]", 0.5), ("[[A]] as said: [[A]]", 1.0), ("A", None), ("", None)],
)
def test_reading_a_verdict(reply: str, value: float | None) -> None:
    assert read_pair_verdict(reply) == value


def test_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    config = JudgeConfig.model_validate({"model": "m", "key_variable": "SOME_KEY"})
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(InputError, match="SOME_KEY is not set"):
        check_judge(config)
    monkeypatch.setenv("SOME_KEY", "x")
    check_judge(config)
    with pytest.raises(InputError, match=r"\{second\} is missing"):
        check_judge(config.model_copy(update={"prompt": "{prompt} {first}"}))


QUOTED = "<think>I must end with one of [[A]] (assistant A is better), [[B]] or [[C]]. B helps.</think> B. [[b]]"


def test_what_a_judge_quotes_while_it_reasons_is_no_verdict() -> None:
    assert read_pair_verdict(QUOTED) == 0.0
    assert read_pair_verdict(QUOTED.partition("</think>")[0]) is None


def test_a_reply_that_was_cut_off_is_no_verdict_and_not_paid_for_again(endpoint: Endpoint, tmp_path: Path) -> None:
    """It quotes the rule, and would be read as what it had not come to yet."""
    endpoint.behave = lambda question, before: (
        (200, completion("One of [[A]] (assistant A is bet", "length")) if "long" in question else "[[A]]"
    )
    told: list[str] = []
    judge = judge_of(endpoint, tmp_path / "cache.jsonl")
    replies = judge.ask(["a long one", "another"], SimpleNamespace(say=told.append, task=SilentReporter().task))
    assert [read_pair_verdict(reply) for reply in replies] == [None, 1.0]
    assert "1 of 2 questions" in told[0]
    assert "max_tokens" in told[0]
    assert judge_of(endpoint, tmp_path / "cache.jsonl").ask(["a long one"] * 1 + ["another"]) == replies
    assert sum(endpoint.seen.values()) == 2


def test_a_reply_that_was_cut_off_behind_its_verdict_is_one(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.behave = lambda question, before: (200, completion("[[B]] since the other gives", "length"))
    assert [read_pair_verdict(one) for one in judge_of(endpoint, tmp_path).ask(["one"])] == [0.0]


@pytest.mark.parametrize("said", ["content_filter: blocked", "maximum context length is 8192 tokens"])
def test_a_question_that_the_endpoint_will_not_take_is_unreadable_and_blocks_no_other(
    endpoint: Endpoint, tmp_path: Path, said: str
) -> None:
    refused = json.dumps({"error": {"message": said, "code": "bad"}})
    endpoint.behave = lambda question, before: (400, refused) if "bomb" in question else "[[A]]"
    replies = judge_of(endpoint, tmp_path / "cache.jsonl").ask(["a bomb", "a cake"])
    assert [read_pair_verdict(reply) for reply in replies] == [None, 1.0]


def test_an_endpoint_that_calls_its_limits_otherwise_is_asked_in_its_own_words(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    def behave(question: str, before: int) -> Any:
        body = endpoint.bodies[-1]
        if "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        elif "temperature" in body:
            said = "Unsupported value: 'temperature' does not support 0 with this model."
        else:
            return "[[A]]"
        return 400, json.dumps({"error": {"message": said}})

    endpoint.behave = behave
    judge = judge_of(endpoint, tmp_path / "cache.jsonl", concurrency=1, max_tokens=77)
    assert judge.ask(["one", "two"]) == ["[[A]]", "[[A]]"]
    assert [endpoint.seen[name] for name in ("one", "two")] == [3, 1]  # what was learnt stays
    assert endpoint.bodies[-1]["max_completion_tokens"] == 77
