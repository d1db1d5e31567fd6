"""An LLM judge behind any OpenAI-compatible endpoint: retried, cached, never guessed.

The endpoint is asked through the package `openai`. Everything it said is kept in a JSONL file, so nothing is paid for
twice and a killed evaluation goes on. Errors that may pass (429, 5xx, time-outs, broken replies) are tried again with
growing pauses; others end the work at once. An empty reply is no verdict, and not kept: it is asked for again, and
what stays empty can not be read. Nor can a reply that was cut off, or a question that the endpoint will not take.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tosslm.config import JudgeConfig
from tosslm.errors import InputError, TosslmError
from tosslm.evaluation.bounded import bound, within
from tosslm.evaluation.replies import keep_reply, kept_replies
from tosslm.files import fingerprint
from tosslm.outward import holds_key, whole_text, without_secrets
from tosslm.progress import Reporter, SilentReporter, Task

_PASSING = {408, 409, 425, 429}
_BROKEN = ValueError | LookupError | TypeError | AttributeError | TimeoutError | RecursionError
_LONGEST_PAUSE = 60.0
_TICK = 0.2
_EMPTY_TRIES = 3  # what a filter of the endpoint's holds back stays empty


CUT_OFF = "(cut off)"
"""Kept in the place of a reply that ran to the most tokens: what it quoted before is no verdict."""
_WILL_NOT = ("content_filter", "content filter", "content management policy", "context_length", "maximum context")
"""How endpoints name what they will not take, whoever asks again; of a status of 400."""


class _EmptyReplyError(ValueError):
    """The endpoint answered, and said nothing."""


class Judge:
    """Asks questions, several at a time.

    Args:
        config: model, endpoint, limits.
        cache: JSONL file of what was answered before; grows line by line.
        first_pause: seconds before the second try; doubled each time, up to a minute.

    Raises:
        InputError: the package `openai` is not installed, or the key's variable is not set.
    """

    def __init__(self, config: JudgeConfig, cache: Path, *, first_pause: float = 1.0) -> None:
        self.config, self._cache, self.first_pause = config, cache, first_pause
        self._client = _client(config)
        self._lock = threading.Lock()
        self._limits: dict[str, Any] = {"temperature": 0, "max_tokens": config.max_tokens}
        self._known, self._damaged = kept_replies(cache)

    def ask(self, questions: Sequence[str], reporter: Reporter | None = None) -> list[str]:
        """The judge's reply to each question; an empty one where it said nothing, however often it was asked.

        Raises:
            TosslmError: the endpoint refuses, or fails more often than ``retries`` allows, or has nothing to say to
                any question; replies so far are kept.
        """
        reporter = reporter or SilentReporter()
        if self._damaged:
            reporter.say(
                f"{self._cache}: {self._damaged} damaged lines left out; what they were about is asked again"
            )
            self._damaged = 0
        done: dict[str, str] = {
            question: self._known[k] for question in questions if (k := self._key(question)) in self._known
        }
        left = [question for question in dict.fromkeys(questions) if question not in done]
        with reporter.task("verdicts", len(left)) as task:
            done |= self._ask_all(left, task)
        self._tell_empty(done, reporter)
        return [done[question] for question in questions]

    def _tell_empty(self, done: Mapping[str, str], reporter: Reporter) -> None:
        empty = sum(reply in ("", CUT_OFF) for reply in done.values())
        if not empty:
            return
        told = (
            f"evaluation.judge: {self.config.model} gave an empty reply, one that was cut off, or none to {empty:,} "
            f"of {len(done):,} questions"
        )
        remedy = "one that thinks before it replies needs more of evaluation.judge.max_tokens"
        if empty == len(done):
            raise TosslmError(f"{told}; {remedy}, or see what the endpoint holds back")
        reporter.say(f"{told}; they count as unreadable; {remedy}")

    def _ask_all(self, questions: Sequence[str], task: Task) -> dict[str, str]:
        """In threads that nobody waits for: a request in flight keeps neither Ctrl-C nor the process's end."""
        waiting: SimpleQueue[str] = SimpleQueue()
        finished: SimpleQueue[tuple[str, str | Exception]] = SimpleQueue()
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                try:
                    question = waiting.get_nowait()
                except Empty:
                    return
                try:
                    finished.put((question, self._reply(question, over)))
                except Exception as error:
                    finished.put((question, error))

        for question in questions:
            waiting.put(question)
        for _ in range(min(self.config.concurrency, len(questions))):
            threading.Thread(target=work, daemon=True).start()
        done: dict[str, str] = {}
        try:
            while len(done) < len(questions):
                try:
                    question, reply = finished.get(timeout=_TICK)
                except Empty:
                    task.advance(0, 0)
                    continue
                if isinstance(reply, Exception):
                    raise reply
                done[question] = reply
                task.advance(1, 0)
        finally:
            over.set()
        return done

    def _reply(self, question: str, over: threading.Event) -> str:
        pause, empty = self.first_pause, 0
        for tries_left in range(self.config.retries, -1, -1):
            try:
                text = within(self.config.timeout, partial(self._request, question))
                break
            except Exception as error:
                empty += isinstance(error, _EmptyReplyError)
                if isinstance(error, _EmptyReplyError) and (empty == _EMPTY_TRIES or not tries_left):
                    return ""
                if _will_not(error):
                    return ""
                wait = pause_after(error, pause)
                if wait is None or not tries_left:
                    again = "mend that, and " if wait is None else ""
                    raise TosslmError(
                        f"evaluation.judge: {self.config.model} gave no reply: {_reason(error)}; verdicts so far are "
                        f"kept: {again}the same command goes on from here"
                    ) from error
                # Not all at the same moment again.
                if over.wait(wait * random.uniform(1.0, 1.25)):
                    raise TosslmError("evaluation.judge: given up") from error
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._keep(self._key(question), text)
        return text

    def _request(self, question: str) -> str:
        completion = self._completed(question)
        content = completion.choices[0].message.content
        cut_off = getattr(completion.choices[0], "finish_reason", None) == "length"
        # A judge that is told to begin with its verdict has given it all the same.
        if cut_off and not (isinstance(content, str) and content.lstrip().startswith("[[")):
            return CUT_OFF
        if content is None or (isinstance(content, str) and not content.strip()):
            raise _EmptyReplyError("an empty reply")
        # An endpoint may quote the request, and break an emoji in two.
        return whole_text(without_secrets(content))

    def _completed(self, question: str) -> Any:
        """What the endpoint makes of a question; told once what it calls its limits otherwise, it is told so."""
        import openai

        while True:  # each turn but the last leaves out one that was sent
            limits = self._limits
            try:
                return self._client.chat.completions.create(
                    model=self.config.model, messages=[{"role": "user", "content": question}], **limits
                )
            except openai.BadRequestError as error:
                if "max_tokens" in limits and "max_completion_tokens" in str(error):
                    self._leave_out("max_tokens", max_completion_tokens=self.config.max_tokens)
                elif "temperature" in limits and "temperature" in str(error):
                    self._leave_out("temperature")
                else:
                    raise

    def _leave_out(self, name: str, **instead: Any) -> None:
        with self._lock:  # other threads may leave out others
            self._limits = {key: value for key, value in self._limits.items() if key != name} | instead

    def _key(self, question: str) -> str:
        return fingerprint(self.config.model, self.config.base_url, self.config.max_tokens, question)

    def _keep(self, key: str, reply: str) -> None:
        with self._lock:
            self._known[key] = reply
            keep_reply(self._cache, key, reply)


def check_judge(config: JudgeConfig) -> None:
    """Refuse at the door what cannot work.

    Raises:
        InputError: `openai` or the key is missing, or a prompt lacks a place.
    """
    _client(config)
    for key, text, places in (
        ("prompt", config.prompt, ("{prompt}", "{first}", "{second}")),
        ("attack_prompt", config.attack_prompt, ("{prompt}", "{answer}")),
    ):
        missing = [place for place in places if text is not None and place not in text]
        if missing:
            raise InputError(f"evaluation.judge.{key}: {', '.join(missing)} is missing; put it into the text")


def _client(config: JudgeConfig) -> Any:
    try:
        import openai
    except ImportError as error:
        raise InputError(
            f'evaluation.judge: the package openai cannot be imported ({error}); pip install "tosslm[judge]"'
        ) from None
    holds_key(config.key_variable)
    key = os.environ.get(config.key_variable)
    if not key:
        raise InputError(
            f"evaluation.judge: {config.key_variable} is not set; put the endpoint's key there (any text where it "
            "wants none)"
        )
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            f"evaluation.judge: the key in {config.key_variable} holds a line end or another character that no "
            "request can carry; set it again, without"
        )
    bounds: dict[str, Any] = {"response": [partial(bound, config.timeout)]}
    plain = {"Accept-Encoding": "identity"}
    http = openai.DefaultHttpxClient(event_hooks=bounds, timeout=config.timeout, headers=plain)
    return openai.OpenAI(
        api_key=key, base_url=config.base_url, timeout=config.timeout, max_retries=0, http_client=http
    )


def _will_not(error: Exception) -> bool:
    """Whether an endpoint says that it will never take this very question: its filter's, or too long a one."""
    text = str(error).casefold()
    return getattr(error, "status_code", None) == 400 and any(name in text for name in _WILL_NOT)


def pause_after(error: Exception, pause: float) -> float | None:
    """Seconds to wait before the next try; None where another try would end the same."""
    import openai

    if isinstance(error, openai.APIStatusError):
        if error.status_code not in _PASSING and error.status_code < 500:
            return None
        try:
            wanted = float(error.response.headers.get("retry-after", ""))
        except ValueError:
            return pause
        return min(max(wanted, pause), _LONGEST_PAUSE) if wanted > 0 else pause  # nan is not
    # What is left are time-outs, cut connections, and replies that are no JSON or lack a choice.
    return pause if isinstance(error, _BROKEN | openai.APIError) else None


def _reason(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    said = f"{error} {error.__cause__ or ''}"  # openai's own says no more than "Connection error."
    text = without_secrets(said).strip().splitlines()
    return f"{type(error).__name__}{f' {status}' if status else ''}{f' ({text[0][:200]})' if text else ''}"
