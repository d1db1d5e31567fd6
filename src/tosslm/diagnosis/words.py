"""What kind of token each response token is, by a rule light enough for every token of a large set.

The rule knows Unicode, and a list of English function words. In other languages all words count as content words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

CLASSES = ("content word", "function word", "word piece", "number", "punctuation", "symbol", "space", "no text")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_ENGLISH = """a about above after again against all am an and any are aren't as at be because been before being
below between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each
few for from further had hadn't has hasn't have haven't having he he's her here hers herself him himself his how i
i'd i'll i'm i've if in into is isn't it it's its itself just may me might more most must my myself no nor not of
off on once one only or other our ours ourselves out over own same shall she she's should shouldn't so some such
than that that's the their theirs them themselves then there there's these they they're they've this those through
to too under until up upon us very was wasn't we we'll we're we've were weren't what when where whether which while
who whom whose why will with within without won't would wouldn't yet you you'd you'll you're you've your yours
yourself yourselves"""
_FUNCTION_WORDS = frozenset(_ENGLISH.split())


def token_classes(messages: Sequence[Mapping[str, str]], offsets: Sequence[Sequence[int]]) -> list[str]:
    """One of ``CLASSES`` for each response token.

    Args:
        messages: the row's messages.
        offsets: ``[N, 3]``: message index, start, end of each token; -1 where it has no text, as an end of turn.
    """
    return [
        "no text" if start < 0 else _class_of(messages[message]["content"], start, end)
        for message, start, end in offsets
    ]


def _class_of(content: str, start: int, end: int) -> str:
    text = content[start:end]
    if not text.strip():
        return "space"
    for i, character in enumerate(text, start):
        if character.isalpha():
            return _word_class(content, i)
        if character.isdigit():
            return "number"
    kinds = {unicodedata.category(character)[0] for character in text.strip()}
    return "punctuation" if kinds == {"P"} else "symbol"


def _word_class(content: str, letter: int) -> str:
    """The class of the token whose first letter stands at ``letter``."""
    before = letter - 1
    if before >= 0 and content[before] in "'\u2019":
        before -= 1
    if before >= 0 and content[before].isalnum():
        return "word piece"
    word = _WORD.match(content, letter)
    found = word.group().lower().replace("\u2019", "'") if word else ""
    return "function word" if found in _FUNCTION_WORDS else "content word"
