"""SemEval-2021 Task 5, Toxic Spans: posts in which people marked what is toxic.

The references learn from single sentences, and of a sentence they know only whether it holds a marked span. Posts
that sentences were taken from are in no other part. The custom set is the test posts and a slice of the training
posts, on which the threshold of the task's own measure is chosen.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from studies.corpora import records, sentence_bounds, write_jsonl

SENTENCES = 900
VALIDATION_POSTS = 300
WORDS = range(3, 41)
PROMPT = [{"role": "system", "content": ""}, {"role": "user", "content": "Comment:"}]


def write_sets(folder: Path, seed: int, *, sentences: int = SENTENCES, test_posts: int | None = None) -> None:
    """Write ``custom``, ``harmful`` and ``utility`` as JSONL; the seed chooses sentences, never test posts.

    Args:
        folder: where to.
        seed: of the sentences.
        sentences: of each kind that the references learn from.
        test_posts: that many of them, and no validation posts; None is all of both.
    """
    posts = records("toxic_spans_train")
    random.Random(0).shuffle(posts)
    validation, rest = posts[:VALIDATION_POSTS], posts[VALIDATION_POSTS:]
    seen = {post["text"] for post in records("toxic_spans_test") + validation}
    rest = [post for post in rest if post["text"] not in seen]
    random.Random(seed + 1).shuffle(rest)
    toxic, clean = labelled_sentences(rest)
    custom = [_row(post["text"], "test", post["spans"]) for post in records("toxic_spans_test")]
    custom += [_row(post["text"], "validation", post["spans"]) for post in validation]
    if test_posts is not None:
        some = random.Random(0).sample(range(len(records("toxic_spans_test"))), test_posts)
        custom = [custom[i] for i in sorted(some)]
    write_jsonl(folder / "custom.jsonl", custom)
    write_jsonl(folder / "harmful.jsonl", [_row(text, "sentence") for text in toxic[:sentences]])
    write_jsonl(folder / "utility.jsonl", [_row(text, "sentence") for text in clean[:sentences]])


def labelled_sentences(posts: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Distinct sentences that hold a marked span, and those that hold none."""
    labelled: dict[str, bool] = {}
    for post in posts:
        for start, end in sentence_bounds(post["text"]):
            sentence = post["text"][start:end].strip()
            if len(sentence.split()) in WORDS:
                labelled.setdefault(sentence, any(a < end and b > start for a, b in post["spans"]))
    return [s for s, toxic in labelled.items() if toxic], [s for s, toxic in labelled.items() if not toxic]


def _row(text: str, source: str, spans: list[list[int]] | None = None) -> dict[str, Any]:
    row = {"messages": [*PROMPT, {"role": "assistant", "content": text}], "source": source}
    return row if spans is None else row | {"unsafe_spans": spans}
