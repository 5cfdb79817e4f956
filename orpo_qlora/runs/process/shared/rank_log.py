"""The log of several processes that write into one file. Floor 3; no torch."""

from __future__ import annotations

import logging


def mark_log(rank: int) -> None:
    """Name the rank in each line of the log, and leave what all have in common to rank 0."""
    if rank:
        logging.getLogger().setLevel(logging.WARNING)
        previous = logging.getLogRecordFactory()

        def marked(*arguments: object, **options: object) -> logging.LogRecord:
            record = previous(*arguments, **options)
            record.msg = f"[rank {rank}] {record.msg}"
            return record

        logging.setLogRecordFactory(marked)
