"""Arrays for OLMo-core: token ids and a mask beside them, and where each row begins and ends."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tosslm.export.kind import ExportKind, Job, Snippet, Written
from tosslm.export.rows import MaskedRow

PART_BYTES = 1024**3


def token_dtype(vocabulary: int) -> type[np.unsignedinteger]:
    """The narrowest type for ids below ``vocabulary``, as OLMo-core chooses it.

    Examples:
        >>> token_dtype(65536).__name__, token_dtype(65537).__name__
        ('uint16', 'uint32')
    """
    for dtype in (np.uint8, np.uint16, np.uint32):
        if vocabulary - 1 <= np.iinfo(dtype).max:
            return dtype
    return np.uint64


def write_arrays(rows: Iterator[MaskedRow], folder: Path, vocabulary: int, part_bytes: int = PART_BYTES) -> int:
    """Write parts of whole rows, plain bytes without a header; returns how many parts."""
    dtype = token_dtype(vocabulary)
    part, row = 0, next(rows, None)
    while row is not None:
        name = f"token_ids_part_{part:04d}"
        at = 0
        with (
            (folder / f"{name}.npy").open("wb") as ids,
            (folder / f"labels_mask_part_{part:04d}.npy").open("wb") as mask,
            (folder / f"{name}.csv.gz").open("wb") as packed,
            gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0) as bounds,
        ):
            while row is not None and (at == 0 or (at + len(row.input_ids)) * np.dtype(dtype).itemsize <= part_bytes):
                ids.write(row.input_ids.astype(dtype).tobytes())
                mask.write(row.trained.tobytes())
                bounds.write(f"{at},{at + len(row.input_ids)}\n".encode())
                at += len(row.input_ids)
                row = next(rows, None)
        part += 1
    return part


def _write(rows: Iterator[MaskedRow], folder: Path, job: Job) -> Written:
    parts = write_arrays(rows, folder, job.vocabulary)
    return Written({"parts": parts, "dtype": token_dtype(job.vocabulary).__name__})


_PYTHON = '''"""The rows beside this file as a data set of OLMo-core: token ids of type @DTYPE@, the mask beside them.

The mask is read only where label_mask_paths name it.
"""

from pathlib import Path

# OLMo-core 3.0 or newer: where use_array_if_local is not known, rows are cut at each end-of-sequence token.
from olmo_core.data import LongDocStrategy, NumpyPackedFSLDatasetConfig, TokenizerConfig
from olmo_core.data.types import NumpyDatasetDType

here = Path(__file__).resolve().parent


def dataset(tokenizer: TokenizerConfig, work_dir: str, sequence_length: int):
    """Rows longer than sequence_length are cut: the longest has @LONGEST@ tokens."""
    return NumpyPackedFSLDatasetConfig(
        paths=sorted(str(path) for path in here.glob("token_ids_part_*.npy")),
        label_mask_paths=sorted(str(path) for path in here.glob("labels_mask_part_*.npy")),
        dtype=NumpyDatasetDType[@DTYPE@],
        # Else rows are cut at each end-of-sequence token, of which chat templates write one a turn.
        use_array_if_local=False,
        generate_doc_lengths=True,
        long_doc_strategy=LongDocStrategy.truncate,
        tokenizer=tokenizer,
        work_dir=work_dir,
        sequence_length=sequence_length,
    )
'''

KIND = ExportKind(
    "olmo",
    "token_ids_part_N.npy, labels_mask_part_N.npy and the rows' bounds, plain bytes as OLMo-core maps them",
    _write,
    (Snippet("olmo-core", "olmo_dataset.py", _PYTHON),),
)
