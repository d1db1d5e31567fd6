"""Packed Parquet for Megatron-Bridge, whose mask says of each token whether the *next* one is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tosslm.export.kind import ExportKind, Job, Snippet, Written
from tosslm.export.rows import MaskedRow
from tosslm.export.tables import write_plain_parquet

SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "loss_mask": pa.list_(pa.int8()),
        "seq_start_id": pa.list_(pa.int32()),
    }
)
_ROOM = 4096
_OPEN = 64
"""Packs that wait for a row that fits: memory stays bounded, and few packs stay half empty."""
_AT_ONCE = 64
"""Packs that are written together: each is as long as many rows."""


def next_is_trained(trained: np.ndarray) -> np.ndarray:
    """Whether each token's label, the token after it, is trained: int8 ``[T]`` of bool ``[T]``.

    Examples:
        >>> next_is_trained(np.array([False, True, False, True])).tolist()
        [1, 0, 1, 0]
    """
    return np.append(trained[1:], False).astype(np.int8)


def packed(rows: Iterable[MaskedRow], room: int) -> Iterator[list[MaskedRow]]:
    """Rows put together, each into the first open pack that has room.

    Args:
        rows: the rows; none is cut.
        room: labels of a pack at most; a row has one less than tokens, as the reader counts.
    """
    open_packs: list[tuple[int, list[MaskedRow]]] = []
    for row in rows:
        need = len(row.input_ids) - 1
        place = next((i for i, (taken, _) in enumerate(open_packs) if taken + need <= room), None)
        if place is None:
            if len(open_packs) == _OPEN:
                yield open_packs.pop(max(range(_OPEN), key=lambda i: open_packs[i][0]))[1]
            open_packs.append((need, [row]))
        else:
            taken, pack = open_packs[place]
            open_packs[place] = (taken + need, [*pack, row])
    yield from (pack for _, pack in open_packs)


def _record(pack: list[MaskedRow]) -> Mapping[str, Any]:
    starts = np.cumsum([0, *(len(row.input_ids) for row in pack[:-1])])
    return {
        "input_ids": np.concatenate([row.input_ids for row in pack]),
        "loss_mask": np.concatenate([next_is_trained(row.trained) for row in pack]),
        "seq_start_id": starts.astype(np.int32),
    }


def _write(rows: Iterator[MaskedRow], folder: Path, job: Job) -> Written:
    room = max(_ROOM, job.counts.longest_row - 1)
    packs = after_end = 0

    def records() -> Iterator[Mapping[str, Any]]:
        nonlocal packs, after_end
        for pack in packed(rows, room):
            packs += 1
            after_end += sum(int(row.trained[1:][row.input_ids[:-1] == job.eos].sum()) for row in pack)
            yield _record(pack)

    file = f"training_{room}.idx.parquet"
    write_plain_parquet(folder / file, SCHEMA, records(), at_once=_AT_ONCE)
    sentence = (
        f"Megatron-Bridge trains nothing behind an end-of-sequence token: {after_end:,} trained tokens stand right "
        "behind one."
    )
    return Written({"file": file, "pack_length": room, "packs": packs}, (sentence,) if after_end else ())


_PYTHON = '''"""Have a recipe of Megatron-Bridge train on the rows beside this file: `use_rows(cfg)`.

The mask lies beside the inputs: it says of each token whether the one after it is trained.
"""

from pathlib import Path

try:
    from megatron.bridge.data.packing import PackedSequenceSpecs
except ImportError:  # where earlier versions have it
    from megatron.bridge.data.datasets.packed_sequence import PackedSequenceSpecs

here = Path(__file__).resolve().parent


def use_rows(cfg):
    """Rows that are packed and masked already; the tokenizer is @MERGED@."""
    dataset = cfg.dataset
    dataset.seq_length = cfg.model.seq_length = @PACK_LENGTH@
    dataset.dataset_root = here
    dataset.dataset_kwargs = {**(dataset.dataset_kwargs or {}), "answer_only_loss": True}  # else no mask is read
    specs = PackedSequenceSpecs(packed_sequence_size=@PACK_LENGTH@, packed_train_data_path=here / @FILE@)
    names = [name for name in ("offline_packing_specs", "packed_sequence_specs") if hasattr(dataset, name)]
    setattr(dataset, names[0], specs)
    if hasattr(dataset, "enable_offline_packing"):
        dataset.enable_offline_packing = True
    dataset.do_validation = dataset.do_test = False
'''

KIND = ExportKind(
    "megatron",
    "training_N.idx.parquet, packed: input_ids, loss_mask beside the inputs, seq_start_id",
    _write,
    (Snippet("megatron-bridge", "megatron_rows.py", _PYTHON),),
    data="training_*.idx.parquet",
)
