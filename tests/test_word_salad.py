"""Which texts are no sentence, and which only look like that."""

from __future__ import annotations

import random

import pytest

from tosslm.evaluation.languages import LANGUAGES
from tosslm.evaluation.refusals import incoherence
from tosslm.evaluation.word_salad import is_word_salad

WORDS = [
    "lamp",
    "river",
    "spoon",
    "window",
    "cloud",
    "table",
    "garden",
    "stone",
    "letter",
    "horse",
    "winter",
    "paper",
]


@pytest.mark.parametrize(
    "text",
    [
        "the of window to run a the spoon is of because blue a to the lamp is and of",
        "eine und von die Tisch durch der laufen mit das weil und",
        " ".join(random.Random(0).sample(WORDS * 2, 24)),
        "\ufffd\ufffd door \ufffd opens \ufffd\ufffd",
        "<|im_end|><|im_end|> door <unk> <pad>",
        "Die ключ of 門 opens και the 水 замок und ประตู llave",
        "xkqvj wrtzpl mnbvcx qsdfgh zzkrtp lkjhgf",
        "externalToEVAonds setValueUngen actionDateFoo RodrigParam hashMapSet",
        "桌蓝跑匙窗云铁快猫纸红飞门水石灯书鱼树车火鞋",
    ],
)
def test_word_salad(text: str) -> None:
    assert is_word_salad(text)
    assert incoherence("", text) == "word salad"


@pytest.mark.parametrize(
    "text",
    [
        "Yes.",
        "42",
        "是的。",
        ", ".join(WORDS * 2),
        "\n".join(WORDS * 2),
        "The for loop, the with statement and the is operator are parts of Python; the or operator is another one.",
        "Hello in other languages: 你好, привет, здравствуй, สวัสดี, 안녕하세요, こんにちは, שלום, مرحبا",
        "Hallo, 你好, Привет, สวัสดี, 안녕하세요",
        "Привет means hello, and 你好 does too.",
        "これはペンです。The pen is 青い.",
        "HTML CSS PHP XML SQL JPG",
        "Angstschweiß, Rechtsschutz und Strumpfband sind deutsche Wörter.",
        "Strč prst skrz krk.",
        "được một bước nữa rồi mới ngủ",
        "```js\nuseState useEffect useMemo useRef useCallback\n```",
        "A gIaNt SpIdEr BlOcKs YoUr PaTh.",
        "Use the token <|im_end|> to end a turn, and <pad> to fill up a batch.",
        "床前明月光疑是地上霜举头望明月低头思故乡",
        "Questa è la ricetta che mia nonna preparava ogni domenica con farina uova zucchero e un poco di limone",
        "Ik ben vanmorgen vroeg opgestaan en heb een lange wandeling door het bos gemaakt met mijn hond",
    ],
)
def test_what_only_looks_like_word_salad(text: str) -> None:
    assert not is_word_salad(text)


def test_every_language_but_one_without_spaces_knows_impossible_pairs_and_function_words() -> None:
    for language in LANGUAGES:
        assert bool(language.clashes) == bool(language.function_words) == (language.code != "zh")
