"""What a reader should know of a set, in sentences: how much, where first, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tosslm.inspection.counts import Counts, Seen
from tosslm.inspection.edges import Shift
from tosslm.inspection.layouts import ALONE, BARE, Layout


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know.

    Attributes:
        name: for machines.
        rows: how many it concerns; sequences, where rows are packed and runs are looked at.
        tokens: how many it concerns.
        first_row: number of the first row it stands in; None where it is true of the set alone.
        text: the sentence.
    """

    name: str
    rows: int
    tokens: int
    first_row: int | None
    text: str


_OF_ROWS: dict[str, Callable[[Seen], str]] = {
    "lengths": lambda seen: (
        f"have columns of unequal length, {seen.tokens:,} values in all. Trainers fail on them, or train on wrong "
        "tokens; what both columns have is counted here. Write the set anew"
    ),
    "starts": lambda seen: (
        "have a seq_start_id that does not begin at 0, does not rise, or leads past the row's end; each is one "
        "sequence here. Write the beginnings alone, the first of them 0, without the end"
    ),
    "crossing": lambda seen: (
        f"have sequences whose last mask value is 1, {seen.tokens:,} of them. The mask goes with labels: mask[i] is "
        "whether token i + 1 trains, and behind the last one there is none. Megatron-Bridge leaves it unread, other "
        "readers would train on the next sequence's first token; write 0, or, if the mask was made for tokens, move "
        "it one place to the left"
    ),
    "early": lambda seen: (
        f"have labels that stand one place before their tokens ({seen.tokens:,} of them: labels[i] is input_ids[i + "
        "1]): they are shifted already. Trainers that stand on transformers shift by themselves, so a model would "
        "learn the token after the next; write labels[i] = input_ids[i], or -100"
    ),
    "late": lambda seen: (
        f"have labels that stand one place after their tokens ({seen.tokens:,} of them: labels[i] is input_ids[i - "
        "1]), so a model would learn to repeat what it reads; write labels[i] = input_ids[i], or -100"
    ),
    "differ": lambda seen: (
        f"have labels other than their tokens, {seen.tokens:,} of them. Labels are input_ids where a token trains, "
        "-100 elsewhere; unless another target is meant there, they are of another text or tokenizer"
    ),
    "unknown": lambda seen: (
        f"have labels below 0 that are not -100, {seen.tokens:,} of them: trainers leave out -100 alone and fail on "
        "others; write -100"
    ),
    "negative": lambda seen: f"have ids below 0, {seen.tokens:,} of them: no model has them; write the set anew",
    "empty": lambda seen: "have no tokens; leave them out",
    "nothing": lambda seen: (
        f"train on nothing, {seen.tokens:,} tokens in all: they cost time, and a batch of nothing else has no loss "
        "(nan in some trainers); leave them out, or mend the mask"
    ),
    "everything": lambda seen: (
        f"train on every token, prompts included ({seen.tokens:,} tokens): their mask says nothing. That is right of "
        "plain text; of conversations, mask the prompts"
    ),
    "hidden": lambda seen: (
        f"train on padding: {seen.tokens:,} trained tokens have attention_mask 0; give them label -100 (or mask 0)"
    ),
    "weights": lambda seen: (
        f"have mask values other than 0 and 1, {seen.tokens:,} of them. Trainers take them as true, or as weights; "
        "here every one but 0 counts as trained"
    ),
}


def found(counts: Counts, layout: Layout) -> list[Finding]:
    """All findings of a set, those of single rows first."""
    findings = list(_of_rows(counts))
    if layout in (ALONE, BARE) and counts.trained:
        findings.append(_unmasked(counts, layout))
    if (shift := counts.edges.shift(counts.ends)) is not None:
        findings.append(_shifted(shift, counts))
    if counts.vocabulary is not None:
        findings += _known(counts)
    return findings


def found_in_chat(nothing: int, rows: int, first: int | None) -> list[Finding]:
    """Findings of a chat file that is read without a tokenizer."""
    if not nothing:
        return []
    text = f"{_rows(nothing, rows)} train no answer; leave them out, or give one a weight of 1. {_first(first)}"
    return [Finding("nothing", nothing, 0, first, text)]


def _of_rows(counts: Counts) -> Iterator[Finding]:
    for name, told in _OF_ROWS.items():
        seen = counts.seen.get(name)
        if seen is not None and seen.rows:
            text = f"{_rows(seen.rows, counts.rows)} {told(seen)}. {_first(seen.first)}"
            yield Finding(name, seen.rows, seen.tokens, seen.first, text)


def _unmasked(counts: Counts, layout: Layout) -> Finding:
    text = (
        f"No column says which tokens train ({', '.join(layout.needs)} do not), so {counts.trained:,} tokens do, "
        "prompts included; of conversations, write labels with -100 at prompts"
    )
    return Finding("unmasked", counts.rows, counts.trained, None, f"{text}.")


def _shifted(shift: Shift, counts: Counts) -> Finding:
    what = "sequences" if counts.sequences != counts.rows else "rows"
    name = counts.vocabulary.names.get(shift.token) if counts.vocabulary else None
    token = f"{shift.token}{f' ({name})' if name else ''}"
    if shift.early:
        told = (
            f"look as if their mask began and ended one token early: the first trained token is always {token}, as a "
            "header's last one is, and what follows the last one is always the same, as an end of turn is. Move the "
            "mask one place to the right, unless answers all begin alike and their end is left out on purpose"
        )
    else:
        told = (
            f"look as if their mask began one token late: the token before the trained ones varies, as an answer's "
            f"first one does, and the one before that is always {token}. Move the mask one place to the left, unless "
            "the first token of each answer is left out on purpose"
        )
    text = f"{shift.sequences:,} of {shift.of:,} {what} {told}. {_first(shift.first)}"
    return Finding("mask_early" if shift.early else "mask_late", shift.sequences, 0, shift.first, text)


def _known(counts: Counts) -> Iterator[Finding]:
    assert counts.vocabulary is not None
    if counts.beyond.rows:
        text = (
            f"{_rows(counts.beyond.rows, counts.rows)} have ids from {counts.vocabulary.size:,} on, "
            f"{counts.beyond.tokens:,} of them, which the tokenizer does not know: it is another model's, or lacks "
            f"tokens that were added to it. {_first(counts.beyond.first)}"
        )
        yield Finding("beyond", counts.beyond.rows, counts.beyond.tokens, counts.beyond.first, text)
    yield from _ends(counts)
    for token, seen in sorted(counts.special.items()):
        text = (
            f"{_rows(seen.rows, counts.rows)} train on the special token {counts.vocabulary.names[token]} ({token}), "
            f"{seen.tokens:,} times, inside text: a header, padding or the beginning of another row stands where "
            f"an answer should be. {_first(seen.first)}"
        )
        yield Finding("special", seen.rows, seen.tokens, seen.first, text)


def _ends(counts: Counts) -> Iterator[Finding]:
    assert counts.vocabulary is not None
    if not counts.trained or not counts.ends:
        return
    names = " or ".join(f"{name} ({token})" for token, name in counts.vocabulary.ends.items())
    if not any(end.stands for end in counts.ends.values()):
        text = (
            f"No row has {names}, which end turns: a model that learns from this does not learn to stop, or the "
            "tokenizer is another model's."
        )
        yield Finding("no_end", counts.rows, 0, None, text)
        return
    none_trained = not any(end.trained for end in counts.ends.values())
    for token, end in counts.ends.items():
        if not end.trained and (end.behind or (none_trained and end.stands)):
            text = (
                f"{counts.vocabulary.ends[token]} ({token}), which ends turns, stands {end.stands:,} times, "
                f"{end.behind:,} of them right behind a trained token, and never trains: the model does not learn to "
                f"stop; train it where it ends an answer. {_first(end.first)}"
            )
            yield Finding("end_untrained", counts.rows, end.stands, end.first, text)


def _rows(count: int, of: int) -> str:
    return f"{count:,} of {of:,} rows"


def _first(number: int | None) -> str:
    return f"First: row {number:,}."
