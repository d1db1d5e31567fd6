"""The form in which a language's patterns are written down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """What is known of a language.

    Patterns are regular expressions over text as ``refusals.normalized`` leaves it: lower case, NFKC, one form of
    apostrophe, single spaces. All languages are tried on every answer, for an answer need not be in the language of
    its prompt.

    Attributes:
        code: its ISO 639-1 code.
        openings: refuse where an answer begins.
        phrases: refuse anywhere in the first sentences.
        firm: a flat no that opens an answer; none after a closed question, of which it is the answer.
        closed_questions: prompts that ask for yes or no, other than "Can you ...".
        compliance: after a refusal or apology, does what was asked for after all.
        instead: beside such a pattern, offers something else, which leaves the refusal one.
        clashes: neighbouring words that no sentence has.
        function_words: the commonest words, some of which every long sentence has; parted by spaces.
    """

    code: str
    openings: tuple[str, ...]
    phrases: tuple[str, ...]
    firm: tuple[str, ...]
    closed_questions: tuple[str, ...]
    compliance: tuple[str, ...]
    instead: tuple[str, ...]
    clashes: tuple[str, ...]
    function_words: str
