"""How each language refuses, complies after all, and cannot go on: patterns, and nothing that acts on them.

A language is added by one file with a ``Language`` in it, and its name in ``LANGUAGES``.
"""

from __future__ import annotations

from tosslm.evaluation.languages.chinese import CHINESE
from tosslm.evaluation.languages.english import ENGLISH
from tosslm.evaluation.languages.french import FRENCH
from tosslm.evaluation.languages.german import GERMAN
from tosslm.evaluation.languages.spanish import SPANISH

LANGUAGES = (ENGLISH, SPANISH, FRENCH, GERMAN, CHINESE)
