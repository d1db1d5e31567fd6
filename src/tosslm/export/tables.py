"""Parquet as other programs read it: plain columns, and no key of ours or of a library's in the schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 1024


def write_plain_parquet(
    path: Path, schema: pa.Schema, records: Iterable[Mapping[str, Any]], at_once: int = ROWS_PER_GROUP
) -> None:
    """Write records as they come.

    Args:
        path: a file in a folder that is not in place yet.
        schema: without metadata.
        records: a value for each column.
        at_once: records of a row group, which are held until they are written.
    """
    stream = iter(records)
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(islice(stream, at_once)):
            columns = {name: [record[name] for record in batch] for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))
