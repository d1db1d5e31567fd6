"""What a tokenizer knows of a set's tokens: which end a turn, which are special, which there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tosslm.errors import InputError

_ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What findings need of a tokenizer.

    Attributes:
        size: ids go from 0 to one less.
        ends: tokens that end a turn, by id: the chat template's, and the end of the sequence.
        special: int64, ids of special tokens that do not belong inside an answer.
        names: their text, by id.
    """

    size: int
    ends: Mapping[int, str]
    special: np.ndarray
    names: Mapping[int, str]


def load_tokenizer(name: str) -> Any:
    """A tokenizer of a folder, a hub id, or a built-in model; no code of theirs is run.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoTokenizer

    from tosslm.model.builtin import builtin_folder

    try:
        folder: str | Path = builtin_folder(name) if name.startswith("builtin:") else name
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except InputError as error:
        raise InputError(str(error).replace("model.name", "--tokenizer")) from None
    except Exception as error:  # the hub's and the tokenizers' own are of all kinds
        raise InputError(
            f"--tokenizer: {name!r} cannot be loaded ({type(error).__name__}: {str(error)[:300]}); name a folder "
            "with tokenizer.json and tokenizer_config.json, or a hub id, and check the network"
        ) from error


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """What findings need of a tokenizer; one without a chat template has the end of the sequence alone."""
    special = set(tokenizer.all_special_ids)
    special |= {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    written = _written_in_turn(tokenizer)
    control = special | set(tokenizer.get_added_vocab().values())
    behind = [token for token in written.get("behind", []) if token in control]
    ends = [*behind[:1], *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]
    inside = special - set(ends) - set(written.get("turn", []))
    known = inside | set(ends)
    names = dict(zip(known, tokenizer.convert_ids_to_tokens(list(known)), strict=True))
    return Vocabulary(
        len(tokenizer),
        {token: str(names[token]) for token in dict.fromkeys(ends)},
        np.array(sorted(inside), dtype=np.int64),
        {token: str(name) for token, name in names.items()},
    )


def _written_in_turn(tokenizer: Any) -> dict[str, list[int]]:
    """Ids that the chat template itself writes in an assistant's turn, and those of them behind its text."""
    asked = [{"role": "user", "content": "question"}]
    told = [*asked, {"role": "assistant", "content": _ANSWER}]
    try:
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        text = tokenizer.apply_chat_template(told, tokenize=False)
    except Exception:  # a template is a program, and there may be none
        return {}
    turn = text[len(prompt) :] if text.startswith(prompt) else text[text.find(_ANSWER) :]
    behind = turn[turn.rfind(_ANSWER) + len(_ANSWER) :]
    return {
        name: list(tokenizer(part, add_special_tokens=False)["input_ids"])
        for name, part in (("turn", turn), ("behind", behind))
    }
