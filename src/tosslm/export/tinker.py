"""Tokens with a float weight each, for Tinker, which shifts them by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from tosslm.export.kind import ExportKind, Job, Snippet, Written
from tosslm.export.rows import MaskedRow
from tosslm.export.tables import write_plain_parquet

FILE = "data.parquet"
SCHEMA = pa.schema({"tokens": pa.list_(pa.int32()), "weights": pa.list_(pa.float32())})


def _write(rows: Iterator[MaskedRow], folder: Path, job: Job) -> Written:
    write_plain_parquet(folder / FILE, SCHEMA, ({"tokens": row.input_ids, "weights": row.weights} for row in rows))
    return Written()


_PYTHON = '''"""The rows beside this file as data for Tinker: `client.forward_backward(batch, "cross_entropy")`."""

from pathlib import Path

import pyarrow.parquet as pq
import tinker
import torch
from tinker_cookbook.supervised.common import datum_from_model_input_weights

here = Path(__file__).resolve().parent


def data():
    """A datum a row; weights lie beside their tokens, and are shifted here."""
    for batch in pq.ParquetFile(here / "data.parquet").iter_batches():
        for row in batch.to_pylist():
            tokens = tinker.ModelInput.from_ints(row["tokens"])
            yield datum_from_model_input_weights(tokens, torch.tensor(row["weights"]), max_length=None)
'''

KIND = ExportKind(
    "tinker",
    f"{FILE}: tokens, and a float weight for each",
    _write,
    (Snippet("tinker-cookbook", "tinker_data.py", _PYTHON),),
    weighs=True,
    data=FILE,
)
