"""Whether a text is words without a sentence, by what can be counted without a model. Pure, and slow to accuse.

Each rule needs several signs of one kind, and knows a case that looks alike and is fine: lists have separators
between their words, code has its fence, a lesson in another language mixes two scripts, not four. So it tells the
wreck of a model from an answer, and takes a plausible sentence that means nothing for an answer.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from tosslm.evaluation.languages import LANGUAGES

MIN_CLASHES = 3
"""A sentence with a typing error, or one that names "the for loop", has fewer impossible pairs of words."""
CLASH_SHARE = 0.05
"""Of all pairs of words, so many have to be impossible; an essay on operators stays far below."""
MIN_SCRIPTS = 4
"""Japanese counts as one script, and a lesson needs two or three."""
SCRIPT_SWITCHES = 0.4
"""Share of neighbouring words, with only a space between them, that change script."""
DEBRIS_SHARE = 0.25
"""Pieces of a tokenizer's alphabet and characters that could not be decoded, against words."""
ODD_WORDS = 0.6
"""Share of words that cannot be spoken, or are glued together out of pieces."""
MIN_ODD_WORDS = 6
MIN_BARE_WORDS = 20
"""So many words with nothing but spaces between them are no list."""
FUNCTION_SHARE = 0.05
"""Share of function words that a sentence has at least; in those of these languages it is about 0.4."""
_MIN_HAN = 20

_FENCED = re.compile(r"```.*?(?:```|$)|`[^`\n]*`|https?://\S+", re.DOTALL)
_DEBRIS = re.compile(r"\ufffd|\u0120|\u010a|\u2581|<\|[\w ]{1,30}\|>|</?(?:unk|pad|mask|bos|eos|s)>|(?<!\w)##(?=\w)")
# Ahead of the text, for pairs overlap: "of the the of" has three.
_CLASHES = tuple(
    re.compile(rf"(?<![\w'-])(?=(?:{'|'.join(language.clashes)})(?![\w'-]))")
    for language in LANGUAGES
    if language.clashes
)
# Sentences in other languages than ours have to be told from random words, though nothing else is known of them.
_OTHER_FUNCTION_WORDS = (
    "il di che per non una gli dei da si o os um uma do em com não por het een van en op met voor te niet dat "
    "att som och det på är av för med og til af er ikke w na z i nie to jest się przez lub v a se je že pro ve "
    "bir bu ile için de olarak veya yang dan untuk dengan dari ini itu atau la și cu pe din sau este az és "
    "hogy egy nem vagy ja on ei tai että joka kun của và là các cho một không u za ili kao sa ang ng mga ut et "
    "est ad cum ir su kad yra ar un no ka els amb dels ha ta sea oder ke "
)
_FUNCTION_WORDS = frozenset(" ".join([_OTHER_FUNCTION_WORDS, *(x.function_words for x in LANGUAGES)]).split())
_LETTER = "[a-zA-ZÀ-ɏ'-]"
_BARE_WORDS = re.compile(rf"(?<!{_LETTER}){_LETTER}++(?: ++{_LETTER}++){{{MIN_BARE_WORDS - 1},}}+")
_UNSPOKEN = re.compile(r"[b-df-hj-np-tv-xz]{4,}")
_VOWEL = re.compile("[aeiouyœæø\u0131]")
_GLUED = re.compile(r"[^\W_]*[a-zà-ÿ]{2}(?:[A-ZÀ-Þ]|##)[^\W\d]{2}[\w#]*")
_HAN_RUN = re.compile(r"[\u3400-\u9fff]+")
# The commonest characters, without which twenty in a row make no Chinese sentence.
_COMMON_HAN = frozenset(
    "的了是在不有我你他她它们這这那和与與就也都很可以会會能要到说說为為上下中个個一人大来來去对對着著过過把被让讓给給"
    "从從向并而但或如果因所其之于於等用年月日时時地得没沒又再还還最更多少好看想做请請什么怎两二三四五六七八九十"
)
_SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK"}


def is_word_salad(text: str) -> bool:
    """Whether a text is no sentence in any known language, but random words, letters, scripts or broken tokens.

    Example:
        >>> is_word_salad("lamp of the the blue an to spoon the were is an of window"), is_word_salad("Yes, a lamp.")
        (True, False)
    """
    prose = _FENCED.sub(" ", text)
    tests = (
        _is_debris,
        _has_clashes,
        _mixes_scripts,
        _is_unspoken,
        _is_glued,
        _lacks_common_han,
        _lacks_function_words,
    )
    return any(test(prose) for test in tests)


def _is_debris(text: str) -> bool:
    found = len(_DEBRIS.findall(text))
    return found >= MIN_CLASHES and found >= DEBRIS_SHARE * len(re.findall(r"\w+", text))


def _has_clashes(text: str) -> bool:
    words = text.casefold().split()
    least = max(MIN_CLASHES, CLASH_SHARE * (len(words) - 1))
    return any(len(clash.findall(" ".join(words))) >= least for clash in _CLASHES)


def _mixes_scripts(text: str) -> bool:
    pieces = re.findall(r"[^\W\d_]+|[^\w\s]+", text)
    scripts = [_script(piece[0]) for piece in _by_script(pieces)]
    pairs = [(a, b) for a, b in pairwise(scripts) if a and b]
    switches = [pair for pair in pairs if pair[0] != pair[1]]
    return (
        len({script for pair in switches for script in pair}) >= MIN_SCRIPTS
        and len(switches) >= MIN_SCRIPTS
        and len(switches) >= SCRIPT_SWITCHES * len(pairs)
    )


def _by_script(pieces: list[str]) -> list[str]:
    """Pieces cut where a script ends inside a word."""
    cut = []
    for piece in pieces:
        start = 0
        for i in range(1, len(piece)):
            if _script(piece[i]) != _script(piece[i - 1]):
                cut.append(piece[start:i])
                start = i
        cut.append(piece[start:])
    return cut


def _script(character: str) -> str | None:
    """The first word of a letter's Unicode name, None for what is no letter."""
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "?").split()[0]
    return _SCRIPTS.get(name, name)


def _is_unspoken(text: str) -> bool:
    words = text.split()
    odd = [w for w in words if w.isalpha() and w.islower() and len(w) > 2 and _is_odd(w)]
    return len(odd) >= MIN_ODD_WORDS and len(odd) >= ODD_WORDS * len(words)


def _is_odd(word: str) -> bool:
    # Only of Latin letters is it known which ones are vowels, and without their accents.
    plain = unicodedata.normalize("NFD", word)
    return _script(word[0]) == "LATIN" and not (_VOWEL.search(plain) and not _UNSPOKEN.search(plain))


def _is_glued(text: str) -> bool:
    words = text.split()
    glued = [word for word in words if _GLUED.fullmatch(word)]
    return len(glued) >= MIN_CLASHES and len(words) >= 5 and len(glued) >= ODD_WORDS * len(words)


def _lacks_common_han(text: str) -> bool:
    runs = _HAN_RUN.findall(text)
    return any(len(run) >= _MIN_HAN and not _COMMON_HAN.intersection(run) for run in runs)


def _lacks_function_words(text: str) -> bool:
    return any(
        sum(word in _FUNCTION_WORDS for word in words) < FUNCTION_SHARE * len(words)
        for run in _BARE_WORDS.findall(text)
        if (words := run.casefold().split())
    )
