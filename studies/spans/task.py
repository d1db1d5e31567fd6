"""SemEval-2021 Task 5 as the task itself measures it: mean F1 over the characters of each test post.

A word is predicted when one of its tokens is above a threshold, which is chosen on the validation posts. Beside the
signals stands a lexicon: the words that people mark at least half of the times they occur in the training posts.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Mapping

import numpy as np
from datasets import Dataset
from studies.corpora import records
from studies.spans.quality import character_f1, predicted_characters, word_spans, word_values

THRESHOLDS = 300
Words = list[tuple[int, int]]


def task_f1(rows: Dataset, signals: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """F1 of every test post under each signal, at the threshold that is best on the validation posts."""
    texts = [json.loads(messages)[-1]["content"] for messages in rows["messages"]]
    marked = [_characters(spans) for spans in rows["unsafe_spans"]]
    test = np.array([source == "test" for source in rows["source"]])
    offsets = [np.asarray(row)[:, 1:] for row in rows["offsets"]]
    ends = np.cumsum([len(row) for row in offsets])[:-1]
    results = {}
    for name, values in signals.items():
        posts = [
            word_values(*post) for post in zip(texts, offsets, np.split(values.astype(float), ends), strict=True)
        ]
        threshold = _best_threshold([(posts[i], marked[i]) for i in np.flatnonzero(~test)])
        results[name] = [_f1(posts[i], marked[i], threshold) for i in np.flatnonzero(test)]
    lexicon = _lexicon({texts[i] for i in np.flatnonzero(~test)})
    results["lexicon"] = [
        _f1((words := word_spans(texts[i]), _in_lexicon(texts[i], words, lexicon)), marked[i], 0.5)
        for i in np.flatnonzero(test)
    ]
    results["nothing"] = [character_f1(set(), marked[i]) for i in np.flatnonzero(test)]
    return results


def _best_threshold(posts: list[tuple[tuple[Words, np.ndarray], set[int]]]) -> float:
    values = np.concatenate([words[1] for words, _ in posts])
    candidates = np.unique(np.quantile(values[np.isfinite(values)], np.linspace(0.5, 1, THRESHOLDS)))
    return max(candidates, key=lambda threshold: np.mean([_f1(words, marks, threshold) for words, marks in posts]))


def _f1(post: tuple[Words, np.ndarray], marked: set[int], threshold: float) -> float:
    words, values = post
    return character_f1(predicted_characters(words, values >= threshold), marked)


def _characters(spans: list[list[int]]) -> set[int]:
    return {character for _, start, end in spans for character in range(start, end)}


def _lexicon(validation: set[str]) -> set[str]:
    """Words that occur at least three times in the training posts and are marked at least half of the times."""
    seen: collections.Counter[str] = collections.Counter()
    unsafe: collections.Counter[str] = collections.Counter()
    for post in records("toxic_spans_train"):
        if post["text"] not in validation:
            marked = {character for start, end in post["spans"] for character in range(start, end)}
            for start, end in word_spans(post["text"]):
                word = _bare(post["text"][start:end])
                seen[word] += 1
                unsafe[word] += any(character in marked for character in range(start, end))
    return {word for word, count in seen.items() if word and count >= 3 and unsafe[word] >= count / 2}


def _in_lexicon(text: str, words: Words, lexicon: set[str]) -> np.ndarray:
    return np.array([float(_bare(text[start:end]) in lexicon) for start, end in words])


def _bare(word: str) -> str:
    return re.sub(r"^\W+|\W+$", "", word.lower())
