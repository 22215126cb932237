"""The table of `--format csv` with its types kept; null where not known."""

from __future__ import annotations

from joulemeter.ledger import Ledger
from joulemeter.report.csv import COLUMNS, rows
from joulemeter.run import Run

EXTENSION = "parquet"
BINARY = True


def render(run: Run, ledger: Ledger) -> bytes:
    """One Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows(ledger), schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue())
