"""Rows padded to micro-batches, with what the loss needs beside the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tosslm.errors import InputError
from tosslm.training.labels import IGNORED


def anchored_places(examples: Sequence[Mapping[str, Any]], attention_mask: torch.Tensor) -> torch.Tensor:
    """Where the tokens of padded rows are anchored, on whichever side they are padded.

    Args:
        examples: rows with ``anchored``, one bool a token.
        attention_mask: ``[B, T]``, 0 at padding.

    Raises:
        InputError: a row has not as many bools as tokens in the batch.

    Returns:
        bool ``[B, T]``.

    Examples:
        >>> rows = [{"anchored": [True, False]}, {"anchored": [True]}]
        >>> anchored_places(rows, torch.tensor([[1, 1], [0, 1]])).tolist()
        [[True, False], [False, True]]
    """
    real = attention_mask.bool()
    rows = [torch.as_tensor(example["anchored"], dtype=torch.bool) for example in examples]
    for row, tokens in zip(rows, real.sum(1).tolist(), strict=True):
        if len(row) != tokens:
            raise InputError(
                f"anchored: a row has {len(row)} values for the {tokens} tokens of it that are read; one a token is "
                "needed, in rows that no collator cuts or masks"
            )
    places = torch.zeros_like(real)
    places[real] = torch.cat(rows)
    return places


class TrainingCollator(DataCollatorForLanguageModeling):
    """Pads a micro-batch of training rows, with what the loss needs beside the labels."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """As TRL's, with ``response_tokens`` ``[B]``, and what rows bear beside labels.

        That is ``anchored``, bool ``[B, T]``, ``weight``, float32 ``[B, T]``, ``place``, int64 ``[B, T]``, and
        ``number``, int64 ``[B]``. Rows end with their last label or anchor, for nothing that follows changes what is
        predicted there.
        """
        examples = [_taught(example) for example in examples]
        batch = super().torch_call(examples)
        batch["response_tokens"] = torch.tensor([example["response_tokens"] for example in examples])
        if "anchored" in examples[0]:
            batch["anchored"] = anchored_places(examples, batch["attention_mask"])
        if "weight" in examples[0]:
            weights = [torch.as_tensor(example["weight"], dtype=torch.float32) for example in examples]
            batch["weight"] = torch.nn.utils.rnn.pad_sequence(weights, batch_first=True)
        if "place" in examples[0]:
            places = [torch.as_tensor(example["place"], dtype=torch.int64) for example in examples]
            batch["place"] = torch.nn.utils.rnn.pad_sequence(places, batch_first=True)
        if "number" in examples[0]:
            batch["number"] = torch.tensor([example["number"] for example in examples])
        return batch


def _taught(example: dict[str, Any]) -> dict[str, Any]:
    """A training row up to its last label or anchor; of a row without any, two tokens that train nothing."""
    pairs = zip(example["labels"], example.get("anchored") or repeat(False), strict=False)
    wanted = [place for place, (label, held) in enumerate(pairs) if held or label != IGNORED]
    end = max(2, wanted[-1] + 1 if wanted else 0)
    return {name: value[:end] if isinstance(value, list) else value for name, value in example.items()}
