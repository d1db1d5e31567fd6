"""A keep mask on another model's tokens: dropped text stays dropped, by a rule, and what cannot be told is said."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

import tosslm
from support.made_run import answers, made_run
from test_tokenize import CORPUS, build, conversation
from tosslm import InputError
from tosslm.carrying import RULES, Carried, Rule, carry_mask, changed_sides
from tosslm.characters import Axis, Tokens, answers_of, make_axis, place_tokens
from tosslm.cli import app
from tosslm.data.tokenize import RowTokenizer
from tosslm.data.tokenized import TokenizedRow
from tosslm.errors import TosslmError
from tosslm.files import write_parquet
from tosslm.runs.tables import KEEP_SCHEMA
from tosslm.transfer import transfer
from tosslm.transferred import transfer_row

Spans = list[tuple[int, int, int]]


@st.composite
def tokenisations(draw: st.DrawFn, contents: Sequence[str]) -> tuple[Spans, list[int]]:
    """Spans and ids of made response tokens: pieces of one character, overlaps, tokens without text, cut ends."""
    spans: Spans = []
    for answer, content in enumerate(contents):
        spans += [(-1, -1, -1)] * draw(st.integers(0, 2))
        cuts = sorted(draw(st.sets(st.integers(1, len(content) - 1), max_size=5))) if len(content) > 1 else []
        for low, high in itertools.pairwise([0, *cuts, len(content)]):
            reach = draw(st.integers(0, 1)) if low else 0  # a token may begin inside the character before it
            spans += [(answer, low - reach, high)] * draw(st.integers(1, 3))
        spans += [(-1, -1, -1)] * draw(st.integers(0, 1))
    if draw(st.booleans()):  # whole answers end with an end of turn, and only the last one may be cut
        spans = spans[: max(1, draw(st.integers(1, len(spans))))]
    ids = draw(st.lists(st.integers(0, 3), min_size=len(spans), max_size=len(spans)))
    return spans, ids


def placed(axis: Axis, spans: Spans, ids: Sequence[int], owners: Sequence[int]) -> Tokens:
    return place_tokens(axis, np.array(owners), np.array(spans, dtype=np.int64), np.array(ids))


def owners_of(spans: Spans) -> list[int]:
    """A made token without text belongs to the answer whose text comes next, else to the one before."""
    owners = []
    for i, (answer, _, _) in enumerate(spans):
        after = next((a for a, _, _ in spans[i:] if a >= 0), None)
        before = next((a for a, _, _ in spans[:i][::-1] if a >= 0), 0)
        owners.append(answer if answer >= 0 else before if after is None else after)
    return owners


@st.composite
def cases(draw: st.DrawFn) -> tuple[Axis, Tokens, np.ndarray, Tokens, Spans, Spans]:
    contents = draw(st.lists(st.text("ab ", min_size=1, max_size=12), min_size=1, max_size=3))
    (ours, our_ids), (theirs, their_ids) = draw(tokenisations(contents)), draw(tokenisations(contents))
    axis = make_axis(dict(enumerate(contents)))
    keep = np.array(draw(st.lists(st.booleans(), min_size=len(ours), max_size=len(ours))))
    source = placed(axis, ours, our_ids, owners_of(ours))
    return axis, source, keep, placed(axis, theirs, their_ids, owners_of(theirs)), ours, theirs


def characters(span: tuple[int, int, int]) -> set[tuple[int, int]]:
    return {(span[0], i) for i in range(span[1], span[2])} if span[0] >= 0 else set()


def components(spans: Sequence[tuple[str, int, set[tuple[int, int]]]]) -> list[set[tuple[str, int]]]:
    """Tokens that hang together by shared characters, found by merging until nothing changes."""
    groups = [({(side, i)}, set(text)) for side, i, text in spans if text]
    merged = True
    while merged:
        merged = False
        for a, b in itertools.combinations(range(len(groups)), 2):
            if groups[a][1] & groups[b][1]:
                groups[a] = (groups[a][0] | groups[b][0], groups[a][1] | groups[b][1])
                del groups[b]
                merged = True
                break
    return [members for members, _ in groups]


def by_hand(ours: Spans, keep: np.ndarray, theirs: Spans, rule: str) -> dict[int, bool | None]:
    """The choice on each target token with text, by sets of characters; None where the source has none of them."""
    known = set().union(*map(characters, ours))
    dropped = set().union(*(characters(span) for span, kept in zip(ours, keep, strict=True) if not kept))
    choice: dict[int, bool | None] = {}
    for i, span in enumerate(theirs):
        text = characters(span) & known
        share = len(text & dropped) / len(text) if text else 0
        falls = {"any": share > 0, "most": share > 0.5, "all": share == 1}[rule]
        if characters(span):
            choice[i] = None if not text else not falls
    both = [("ours", i, characters(s)) for i, s in enumerate(ours)]
    both += [("theirs", i, characters(s)) for i, s in enumerate(theirs)]
    for members in components(both):
        left, right = (sorted(i for side, i in members if side == name) for name in ("ours", "theirs"))
        if [ours[i] for i in left] == [theirs[i] for i in right]:
            choice |= {b: bool(keep[a]) for a, b in zip(left, right, strict=True)}
    return choice


@settings(max_examples=300, deadline=None)
@given(case=cases(), rule=st.sampled_from(RULES))
def test_text_goes_as_sets_of_characters_say(case: Any, rule: Any) -> None:
    axis, source, keep, target, ours, theirs = case
    carried = carry_mask(source, keep, target, axis, rule)
    for token, kept in by_hand(ours, keep, theirs, rule).items():
        assert carried.chosen[token] == (kept is not None)
        assert carried.keep[token] == bool(kept)


@settings(max_examples=200, deadline=None)
@given(case=cases(), rule=st.sampled_from(RULES))
def test_the_same_tokens_have_the_same_mask(case: Any, rule: Any) -> None:
    axis, source, keep, *_ = case
    carried = carry_mask(source, keep, source, axis, rule)
    assert carried.keep.tolist() == keep.tolist()
    assert carried.chosen.all()
    assert carried.partner.tolist() == list(range(len(keep)))
    sides = changed_sides(source, keep, source, carried, axis.size)
    assert (sides.newly_dropped, sides.newly_kept) == (0, 0)


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_any_drops_what_most_drops_and_most_what_all_drops(case: Any) -> None:
    axis, source, keep, target, *_ = case
    by_any, by_most, by_all = (carry_mask(source, keep, target, axis, rule).keep for rule in ("any", "most", "all"))
    assert not (by_any & ~by_most).any()
    assert not (by_most & ~by_all).any()


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_all_drops_no_kept_character_and_any_keeps_no_dropped_one(case: Any) -> None:
    axis, source, keep, target, *_ = case
    sides_of: tuple[tuple[Rule, str], ...] = (("all", "newly_dropped"), ("any", "newly_kept"))
    for rule, never in sides_of:
        carried = carry_mask(source, keep, target, axis, rule)
        sides = changed_sides(source, keep, target, carried, axis.size)
        assert getattr(sides, never) == 0
        assert sides.dropped_after - sides.dropped_before == sides.newly_dropped - sides.newly_kept
        assert max(sides.dropped_before, sides.dropped_after) <= sides.characters


def test_more_than_half_is_more_than_half() -> None:
    axis = make_axis({1: "abcd"})
    source = placed(axis, [(1, 0, 2), (1, 2, 3), (1, 3, 4)], [0, 1, 2], [1, 1, 1])
    target = placed(axis, [(1, 0, 4)], [9], [1])
    for keep, kept in (([False, True, True], True), ([False, False, True], False)):
        assert carry_mask(source, np.array(keep), target, axis).keep.tolist() == [kept]


END = (-1, -1, -1)


def carried_over(content: str, ours: Spans, keep: list[bool], theirs: Spans, ids: list[int] | None = None) -> Carried:
    axis = make_axis({1: content})
    source = placed(axis, ours, range(len(ours)), [1] * len(ours))
    target = placed(axis, theirs, ids or range(100, 100 + len(theirs)), [1] * len(theirs))
    return carry_mask(source, np.array(keep), target, axis)


@pytest.mark.parametrize("end_kept", [True, False])
def test_what_has_no_text_goes_as_the_end_of_turn_does(end_kept: bool) -> None:
    """Reasoning before the answer, a template's part after it, and the end of turn; the source has but the latter."""
    carried = carried_over("ab", [(1, 0, 2), END], [not end_kept, end_kept], [END, END, (1, 0, 2), END, END])
    assert carried.keep.tolist() == [end_kept, end_kept, not end_kept, end_kept, end_kept]
    assert carried.chosen.all()


def test_reasoning_keeps_its_own_choice_where_it_is_the_same_tokens() -> None:
    ours: Spans = [END, END, (1, 0, 2), END]
    same = carried_over("ab", ours, [False, True, True, True], [END, END, (1, 0, 1), (1, 1, 2), END], [0, 1, 7, 8, 9])
    assert same.keep.tolist() == [False, True, True, True, True]
    other = carried_over("ab", ours, [False, True, True, True], [END, END, (1, 0, 2), END], [5, 6, 7, 8])
    assert other.keep.tolist() == [True, True, True, True]


def test_a_source_without_ends_of_turn_gives_that_of_its_last_text() -> None:
    for kept in (True, False):
        carried = carried_over("ab ", [(1, 0, 1), (1, 1, 2)], [not kept, kept], [(1, 0, 3), END])
        assert carried.keep[1] == kept
        assert carried.chosen[1]


def test_an_end_of_turn_is_not_taken_for_the_next_answers_beginning() -> None:
    axis = make_axis({1: "ab", 3: "cd"})
    source = placed(axis, [(1, 0, 2), END, (3, 0, 2), END], [5, 0, 6, 7], [1, 1, 3, 3])
    target = placed(axis, [(1, 0, 2), END, (3, 0, 2), END], [5, 0, 6, 7], [1, 3, 3, 3])
    assert carry_mask(source, np.array([True, False, True, True]), target, axis).keep.tolist() == [True] * 4


def test_what_the_source_cut_off_is_not_trained() -> None:
    """Half of the third target token was scored, and counts; its end of turn never was."""
    ours: Spans = [(1, 0, 2), (1, 2, 3)]
    carried = carried_over("abcdef", ours, [True, True], [(1, 0, 1), (1, 1, 4), (1, 4, 6), END])
    assert carried.keep.tolist() == carried.chosen.tolist() == [True, True, False, False]


def test_tokens_without_text_find_their_answer() -> None:
    mask = np.array([False] + [True] * 3 + [False] + [True] * 2 + [False] + [True] * 3)
    messages = np.array([-1, 1, -1, -1, -1, -1, 5, -1])
    assert answers_of(mask, messages, [1, 3, 5]).tolist() == [1, 1, 1, 3, 3, 5, 5, 5]
    adjacent = np.array([False, True, True, True, True])
    assert answers_of(adjacent, np.array([1, -1, 3, -1]), [1, 3]).tolist() == [1, 1, 3, 3]
    assert answers_of(mask[:7], messages[:5], [1]).tolist() == [1, 1, 1, -1, -1]


TEXTS = (
    "Sure, take two eggs and stir 👩🏽‍🍳 them. 👍🏿👍 Wait",
    "e\u0301te\u0301 n\u0303o Z\u0351\u036b\u0343alg\u0310o \ufb01ne caf\u00e9  and\t\n\nmore",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u202bkind\u202c \u0928\u092e\u0938\u094d\u0924\u0947 "
    "\ud55c\uad6d\uc5b4 \u4f60\u597d\u4e16\u754c 🇫🇷🇩🇪",
    "  leading, <|im_end|> quoted and trailing  ",
)  # fmt: skip


@functools.cache
def word_piece() -> PreTrainedTokenizerFast:
    """As BERT: lower case without accents, pieces of words, unknown words as one token."""
    special = ["[UNK]", "[CLS]", "[SEP]", "<u>", "<a>", "<e>"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    backend.train_from_iterator([*CORPUS, "cafe fine kind more quoted"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<e>", unk_token="[UNK]", additional_special_tokens=["<u>", "<a>"]
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<u>' if m.role == 'user' else '<a>' }}{{ m.content }}{{ '<e>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
    )
    return tokenizer


KINDS = ("llama3.1", "qwen3", "mistral-v0.2", "wordpiece")


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return word_piece() if kind == "wordpiece" else build(kind)


def as_row(made: TokenizedRow, messages: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "row_id": "x",
        "messages": json.dumps(messages, ensure_ascii=False),
        "input_ids": made.input_ids,
        "response_mask": made.response_mask,
        "offsets": made.offsets,
    }


def sets_of(offsets: list[list[int]], keep: Sequence[bool]) -> tuple[set[Any], set[Any]]:
    """Characters in tokens, and those in dropped ones."""
    spans = [(span[0], span[1], span[2]) for span in offsets]
    every = set().union(*map(characters, spans))
    dropped = set().union(*(characters(span) for span, kept in zip(spans, keep, strict=True) if not kept))
    return every, dropped


@pytest.mark.parametrize(("source", "target"), list(itertools.product(KINDS, KINDS)))
def test_real_tokenizers_over_unicode(source: str, target: str) -> None:
    messages = conversation("Hi", TEXTS[0], "More?", TEXTS[1], "And?", TEXTS[2], "So?", TEXTS[3])
    made = RowTokenizer(tokenizer_of(source), max_length=10_000)(messages)
    tokenize = RowTokenizer(tokenizer_of(target), max_length=10_000)
    other = tokenize(messages)
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        keep = rng.random(len(made.offsets)) > share
        kept: dict[str, np.ndarray] = {}
        known, dropped = sets_of(made.offsets, keep.tolist())
        for rule in RULES:
            moved = transfer_row(as_row(made, messages), keep, tokenize, rule)
            kept[rule] = moved.keep
            assert moved.record["input_ids"] == other.input_ids
            assert moved.record["response_mask"] == other.response_mask
            expected = iter(moved.keep.tolist())
            labels = [
                token if responds and next(expected) else -100
                for token, responds in zip(other.input_ids, other.response_mask, strict=True)
            ]
            assert moved.record["labels"] == labels
            theirs, gone = sets_of(other.offsets, moved.keep.tolist())
            both = known & theirs
            assert moved.characters["characters"] == len(both)
            assert moved.characters["newly_dropped"] == len((gone - dropped) & both)
            assert moved.characters["newly_kept"] == len((dropped - gone) & both)
            if rule != "most":
                assert not moved.characters["newly_dropped" if rule == "all" else "newly_kept"]
            if source == target:
                assert moved.keep.tolist() == keep.tolist()
        assert not (kept["any"] & ~kept["most"]).any()
        assert not (kept["most"] & ~kept["all"]).any()


def test_nothing_dropped_is_nothing_dropped_in_any_pair() -> None:
    messages = conversation("Hi", *itertools.chain(*((text, "More?") for text in TEXTS)))[:-1]
    for source, target in itertools.product(KINDS, KINDS):
        made = RowTokenizer(tokenizer_of(source), max_length=10_000)(messages)
        for kept in (True, False):
            keep = np.full(len(made.offsets), kept)
            for rule in RULES:
                moved = transfer_row(as_row(made, messages), keep, RowTokenizer(tokenizer_of(target)), rule)
                assert moved.keep.any() == kept
                if kept:  # but for white space that one template strips and the other writes
                    assert moved.target["dropped"] == moved.target["not_in_source"] <= 4


def test_answers_that_the_source_does_not_train_are_not_trained() -> None:
    messages = conversation("Hi", "Hello!", "More?", "No.")
    made = RowTokenizer(build("llama3.1"), turns="last")(messages)
    moved = transfer_row(
        as_row(made, messages), np.ones(len(made.offsets), bool), RowTokenizer(build("zephyr")), "most", "last"
    )
    trained = [token for token in moved.record["labels"] if token != -100]
    assert build("zephyr").decode(trained).strip() == "No.</s>"


def test_a_longer_target_row_trains_nothing_that_the_source_never_scored() -> None:
    messages = conversation("Hi", "Take two eggs and stir them slowly.", "More?", "The river is calm this evening.")
    tokenizer = build("llama3.1")
    whole = RowTokenizer(tokenizer)(messages)
    for length in range(whole.response_mask.index(True) + 1, len(whole.input_ids) + 1):
        made = RowTokenizer(tokenizer, max_length=length)(messages)
        keep = np.arange(len(made.offsets)) % 3 > 0
        moved = transfer_row(as_row(made, messages), keep, RowTokenizer(tokenizer), "most")
        assert moved.keep[: len(keep)].tolist() == keep.tolist()
        # The last text token before a cut says how the end of its answer goes, and nothing else is known.
        assert moved.keep[len(keep) :].sum() <= 1
        shorter = transfer_row(
            as_row(whole, messages),
            np.arange(len(whole.offsets)) % 3 > 0,
            RowTokenizer(tokenizer, max_length=length),
            "most",
        )
        assert shorter.keep.tolist() == keep.tolist()


@pytest.mark.parametrize("end_kept", [True, False])
def test_reasoning_goes_as_the_end_of_turn_and_what_is_lost_by_that_is_counted(end_kept: bool) -> None:
    messages = conversation("Hi", "Hello!")
    messages[1]["reasoning_content"] = "They greet me."
    source, other = build("qwen3"), copy.copy(build("zephyr"))
    other.chat_template = source.chat_template
    made = RowTokenizer(source)(messages)
    bare = [span[0] < 0 for span in made.offsets]
    keep = ~np.array(bare)  # the answer is kept, its reasoning is not
    keep[-1] = end_kept
    inside = bare[:-1].count(True)
    moved = transfer_row(as_row(made, messages), keep, RowTokenizer(other), "most")
    theirs = [span[0] < 0 for span in RowTokenizer(other)(messages).offsets]
    assert sum(theirs) > inside  # other pieces
    assert [kept for kept, none in zip(moved.keep.tolist(), theirs, strict=True) if none] == [end_kept] * sum(theirs)
    assert moved.keep[~np.array(theirs)].all()
    assert moved.source["without_text_dropped_not_carried"] == inside > 0
    same = transfer_row(as_row(made, messages), keep, RowTokenizer(source), "most")
    assert same.keep.tolist() == keep.tolist()
    assert same.source["without_text_dropped_not_carried"] == 0


def toss(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def run(tmp_path: Path) -> tosslm.Run:
    return made_run(tmp_path / "run", answers(9), discard_fraction=0.3)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    build("mistral-v0.2").save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_the_command_writes_rows_that_a_trainer_takes(run: tosslm.Run, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = toss("transfer", str(run.path), str(out), "--tokenizer", str(other), "--rule", "any", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts == json.loads((out / "transfer.json").read_text())
    assert sorted(file.name for file in out.iterdir()) == ["custom.parquet", "transfer.json"]
    rows = pq.read_table(out / "custom.parquet").to_pylist()
    assert [row["row_id"] for row in rows] == run.rows["row_id"]
    tokenize = RowTokenizer(build("mistral-v0.2"))
    tokens = dropped = 0
    for row, stored, keep in zip(rows, run.rows, run.keep(), strict=True):
        messages = json.loads(stored["messages"])
        made = tokenize(messages)
        assert row["input_ids"] == made.input_ids
        assert row["attention_mask"] == [1] * len(made.input_ids)
        trained = [label for label in row["labels"] if label != -100]
        assert len(trained) == sum(row["keep"])
        _, gone = sets_of(stored["offsets"], keep.tolist())
        for span, kept in zip(made.offsets, row["keep"], strict=True):
            if span[0] >= 0:
                assert kept == (not characters((span[0], span[1], span[2])) & gone)
        assert row["keep"][-1] == keep[-1]  # the end of turn
        tokens += len(row["keep"])
        dropped += row["keep"].count(False)
    assert (facts["target"]["tokens"], facts["target"]["dropped"]) == (tokens, dropped)
    assert facts["source"]["dropped"] == run.stages["selection"]["discarded"]
    assert set(facts["target_tokenizer"]["files"]) >= {"tokenizer.json", "tokenizer_config.json"}
    assert facts["characters"]["newly_kept"] == 0
    assert facts["not_transferred"] == facts["notes"] == []
    loaded = Dataset.from_parquet(str(out / "custom.parquet"))
    assert loaded[2]["labels"] == rows[2]["labels"]
    assert (facts["rule"], facts["rows"]) == ("any", {"transferred": 9, "without_trained_tokens": 0, "skipped": 0})


def test_refused_rows_stop_the_command_or_are_named(run: tosslm.Run, other: Path, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(other)
    refusal = "{% if 'Question 3?' in messages[0].content %}{{ raise_exception('no threes') }}{% endif %}"
    tokenizer.chat_template = refusal + str(tokenizer.chat_template)
    tokenizer.save_pretrained(other)
    arguments = ["transfer", str(run.path), str(tmp_path / "out"), "--tokenizer", str(other)]
    row_id = run.rows["row_id"][3]
    refused = toss(*arguments)
    assert refused.exit_code == 2
    for said in (row_id, "custom.jsonl:4", "no threes", "--on-bad-row skip"):
        assert said in " ".join(refused.stderr.split())
    assert not (tmp_path / "out").exists()
    skipped = toss(*arguments, "--on-bad-row", "skip")
    assert skipped.exit_code == 0, skipped.stderr
    assert "8 rows for" in skipped.stdout.splitlines()[0]
    [named] = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    facts = json.loads((tmp_path / "out/transfer.json").read_text())
    assert facts["skipped"] == [named]
    assert (named["row_id"], facts["rows"]["skipped"]) == (row_id, 1)
    assert row_id not in pq.read_table(tmp_path / "out/custom.parquet")["row_id"].to_pylist()


def test_a_row_that_loses_all_its_trained_tokens_is_refused(run: tosslm.Run, other: Path, tmp_path: Path) -> None:
    """One token of each answer is kept, and half of it is all that the target sees before the cut."""
    with pytest.raises(InputError, match=r"custom\.jsonl:1.*; .*raise --max-length"):
        transfer(run, tmp_path / "out", tokenizer=str(other), max_length=12)
    skip = toss(
        *("transfer", str(run.path), str(tmp_path / "out"), "--tokenizer", str(other)),
        *("--max-length", "2", "--on-bad-row", "skip"),
    )
    assert skip.exit_code == 2
    assert "no row is left" in skip.stderr
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_is_said(run: tosslm.Run, other: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for out, said in ((tmp_path / "mine", "exists already"), (run.path / "x", "lies in the run folder")):
        with pytest.raises(InputError, match=said):
            transfer(run, out, tokenizer=str(other))
    unknown = "--tokenizer: 'builtin:none' is no built-in"
    for name, said in (("builtin:none", unknown), (str(tmp_path), "--tokenizer: .*cannot be loaded")):
        with pytest.raises(InputError, match=said):
            transfer(run, tmp_path / "out", tokenizer=name)
    hazard = tmp_path / "hazard"
    shutil.copytree(other, hazard)
    (hazard / "HAZARDOUS.md").touch()
    with pytest.raises(InputError, match="a degraded reference"):
        transfer(run, tmp_path / "out", tokenizer=str(hazard))
    bare = tmp_path / "bare"
    shutil.copytree(other, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        transfer(run, tmp_path / "out", tokenizer=str(bare))
    unselected = made_run(tmp_path / "other-run", answers(3))
    del unselected.stages["selection"]
    with pytest.raises(InputError, match="no selection yet"):
        transfer(unselected, tmp_path / "out", tokenizer=str(other))


def test_weights_and_anchors_stay_behind_and_are_named(run: tosslm.Run, other: Path, tmp_path: Path) -> None:
    run.manifest["config"]["finetune"]["dropped"] = "anchor"
    run.layout.weights.touch()
    facts = transfer(run, tmp_path / "out", tokenizer=str(other))
    assert facts["not_transferred"] == ["weights", "anchors"]
    assert len(facts["notes"]) == 2


def test_dropped_tokens_stand_in_the_input_again_and_that_is_said(
    run: tosslm.Run, other: Path, tmp_path: Path
) -> None:
    run.manifest["config"]["selection"]["context"] = "drop"
    facts = transfer(run, tmp_path / "out", tokenizer=str(other))
    assert facts["not_transferred"] == ["context"]
    assert "here they stay in it" in facts["notes"][0]


def test_what_a_method_does_beside_its_mask_is_said(run: tosslm.Run, other: Path, tmp_path: Path) -> None:
    run.manifest["config"]["method"] = "lisa"
    facts = transfer(run, tmp_path / "out", tokenizer=str(other))
    assert any("around each training step" in note for note in facts["notes"])


def test_a_mask_of_other_rows_is_refused(run: tosslm.Run, other: Path, tmp_path: Path) -> None:
    masks = [np.append(keep, True) for keep in run.keep()]
    columns = {"row_id": run.rows["row_id"], "keep": masks}
    write_parquet(run.layout.keep, columns, KEEP_SCHEMA, "made")
    with pytest.raises(TosslmError, match="does not fit row"):
        transfer(run, tmp_path / "out", tokenizer=str(other))
    assert not (tmp_path / "out").exists()
