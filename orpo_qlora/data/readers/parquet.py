"""Parquet: batches of columns to rows. Floor 1; no torch.

Built on pyarrow, which is loaded only where a Parquet file is met.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.readers.source import FILE_BYTES, Source
from orpo_qlora.errors import DataError

BATCH_ROWS = 256
TEXT_BYTES = 4 * FILE_BYTES
"""Most that a file may grow to: a few kilobytes of Parquet can stand for terabytes of text."""
BATCH_BYTES = 1 << 29
REASON_CHARACTERS = 200


@dataclass(frozen=True)
class Parquet:
    """The columns and rows of a Parquet file."""

    source: Source

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns.

        Raises:
            DataError: the file is damaged, or unpacks to too much text.
        """
        import pyarrow.parquet as pq

        with _translated(self.source.name), pq.ParquetFile(self.source.path) as file:
            about = file.metadata
            groups = (about.row_group(index) for index in range(about.num_row_groups))
            size = sum(group.total_byte_size for group in groups)
            if size > TEXT_BYTES:
                raise too_large(self.source.name, size)
            return tuple(file.schema_arrow.names)

    def rows(self) -> Iterator[Row]:
        """Yield the rows.

        Raises:
            DataError: the file is damaged, or grows too large.
        """
        import pyarrow.parquet as pq

        number = total = 0
        with _translated(self.source.name), pq.ParquetFile(self.source.path) as file:
            of = max(1, file.metadata.num_rows)
            # Threads would decode several row groups ahead, each as large as its writer liked.
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                total += batch.nbytes
                if total > TEXT_BYTES or batch.nbytes > BATCH_BYTES:
                    raise too_large(self.source.name, total)
                cells = [column.to_pylist() for column in batch.columns]
                for values in zip(*cells, strict=True):
                    number += 1
                    yield Row(values, number, 0)
                self.source.progress(number / of)


def too_large(name: str, size: int) -> DataError:
    """Return the error for a file that unpacks to too much text."""
    return DataError(
        f"{name} unpacks to at least {size:,} bytes; at most {TEXT_BYTES:,} can be read.",
        where=name,
        hint="Split it, or keep a random part of its rows.",
    )


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn pyarrow's errors into one that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as exc:
        reason = " ".join(str(exc).split())[:REASON_CHARACTERS]
        raise DataError(
            f"{name} is a Parquet file that cannot be read: {reason}.",
            where=name,
            hint="It may be incomplete: copy or export it again.",
        ) from exc
