"""An LLM judge behind any OpenAI-compatible endpoint: retried, cached, never guessed.

The endpoint is asked through the package `openai`. Everything it said is kept in a JSONL file, so nothing is paid for
twice and a killed evaluation goes on. Errors that may pass (429, 5xx, time-outs, broken replies) are tried again with
growing pauses; others end the work at once.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tosslm.config import JudgeConfig
from tosslm.errors import InputError, TosslmError
from tosslm.files import fingerprint
from tosslm.outward import holds_key, whole_text, without_secrets
from tosslm.progress import Reporter, SilentReporter

_PASSING = {408, 409, 425, 429}
_LONGEST_PAUSE = 60.0


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
        self.config, self._cache, self._first_pause = config, cache, first_pause
        self._client = _client(config)
        self._lock = threading.Lock()
        self._known = _read_cache(cache)

    def ask(self, questions: Sequence[str], reporter: Reporter | None = None) -> list[str]:
        """The judge's reply to each question.

        Raises:
            TosslmError: the endpoint refuses, or fails more often than ``retries`` allows; replies so far are kept.
        """
        done: dict[str, str] = {
            question: self._known[k] for question in questions if (k := self._key(question)) in self._known
        }
        left = [question for question in dict.fromkeys(questions) if question not in done]
        with (
            (reporter or SilentReporter()).task("verdicts", len(left)) as task,
            ThreadPoolExecutor(self.config.concurrency) as pool,
        ):
            replies = [pool.submit(self._reply, question) for question in left]
            try:
                for question, reply in zip(left, replies, strict=True):
                    done[question] = reply.result()
                    task.advance(1, 0)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [done[question] for question in questions]

    def _reply(self, question: str) -> str:
        pause = self._first_pause
        for tries_left in range(self.config.retries, -1, -1):
            try:
                text = self._request(question)
                break
            except Exception as error:
                wait = _pause_after(error, pause)
                if wait is None or not tries_left:
                    raise TosslmError(
                        f"evaluation.judge: {self.config.model} gave no reply: {_reason(error)}; verdicts so far are "
                        "kept, and the same command goes on from here"
                    ) from error
                # Not all at the same moment again.
                time.sleep(wait * random.uniform(1.0, 1.25))
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._keep(self._key(question), text)
        return text

    def _request(self, question: str) -> str:
        completion = self._client.chat.completions.create(
            model=self.config.model,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=self.config.max_tokens,
        )
        content = completion.choices[0].message.content
        # An endpoint may quote the request, and break an emoji in two.
        return whole_text(without_secrets(content)) if isinstance(content, str) else ""

    def _key(self, question: str) -> str:
        return fingerprint(self.config.model, self.config.base_url, self.config.max_tokens, question)

    def _keep(self, key: str, reply: str) -> None:
        line = json.dumps({"key": key, "reply": reply}, ensure_ascii=False) + "\n"
        with self._lock:
            self._known[key] = reply
            with self._cache.open("ab") as file:
                file.write(line.encode())


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
    return openai.OpenAI(api_key=key, base_url=config.base_url, timeout=config.timeout, max_retries=0)


def _pause_after(error: Exception, pause: float) -> float | None:
    """Seconds to wait before the next try; None where another try would end the same."""
    import openai

    if isinstance(error, openai.APIStatusError):
        if error.status_code not in _PASSING and error.status_code < 500:
            return None
        try:
            wanted = float(error.response.headers.get("retry-after", ""))
        except ValueError:
            return pause
        return min(max(wanted, pause), _LONGEST_PAUSE)
    # What is left are time-outs, cut connections, and replies that are no JSON or lack a choice.
    return (
        pause if isinstance(error, openai.APIError | ValueError | LookupError | TypeError | AttributeError) else None
    )


def _reason(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    text = without_secrets(str(error)).strip().splitlines()
    return f"{type(error).__name__}{f' {status}' if status else ''}{f' ({text[0][:200]})' if text else ''}"


def _read_cache(path: Path) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)  # what a kill cut off
    lines = (json.loads(line) for line in data[:whole].splitlines())
    return {line["key"]: line["reply"] for line in lines}
