"""Arrow files, and the folders that `datasets.save_to_disk` writes. Floor 1; no torch.

Built on pyarrow, which is loaded only where such a file is met. Batches are validated before they
are read: an Arrow file holds offsets into memory, and a damaged one must not be followed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.readers.parquet import (
    BATCH_BYTES,
    BATCH_ROWS,
    REASON_CHARACTERS,
    TEXT_BYTES,
    too_large,
)
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.readers.source import Progress, Source, forward_only, open_source
from orpo_qlora.data.wording import listed
from orpo_qlora.errors import DataError

STATE, SPLITS = "state.json", "dataset_dict.json"
"""Files that `save_to_disk` writes into a data set's folder and around its splits."""
_FILE_MAGIC = b"ARROW1"


@dataclass(frozen=True)
class ArrowFile:
    """The columns and rows of an Arrow file, in the file or the stream format."""

    source: Source

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns.

        Raises:
            DataError: the file is damaged.
        """
        with self._opened() as reader:
            return tuple(reader.schema.names)

    def rows(self, first: int = 1) -> Iterator[Row]:
        """Yield the rows, numbered from `first`.

        Raises:
            DataError: the file is damaged, or unpacks to too much text.
        """
        number, total = first - 1, 0
        with self._opened() as reader:
            for batch in _batches(reader):
                total += batch.nbytes
                if total > TEXT_BYTES or batch.nbytes > BATCH_BYTES:
                    raise too_large(self.source.name, total)
                batch.validate(full=True)
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    part = batch.slice(start, BATCH_ROWS)
                    cells = [column.to_pylist() for column in part.columns]
                    for values in zip(*cells, strict=True):
                        number += 1
                        yield Row(values, number, 0)
                self.source.progress(min(1.0, total / max(1, self.source.size)))
        self.source.progress(1.0)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Yield pyarrow's reader; its errors name the file."""
        import pyarrow as pa

        try:
            with self.source.path.open("rb") as file:
                is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
                file.seek(0)
                with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file) as reader:
                    yield reader
        except (pa.ArrowException, OSError, ValueError, OverflowError) as exc:
            reason = " ".join(str(exc).split())[:REASON_CHARACTERS]
            raise DataError(
                f"{self.source.name} is an Arrow file that cannot be read: {reason}.",
                where=self.source.name,
                hint="It may be incomplete: copy or export it again.",
            ) from exc


def _batches(reader: Any) -> Iterator[Any]:  # noqa: ANN401 - one of pyarrow's two readers
    """Yield the batches of either format."""
    if hasattr(reader, "num_record_batches"):
        yield from map(reader.get_batch, range(reader.num_record_batches))
    else:
        yield from reader


@dataclass(frozen=True)
class SavedFolder:
    """A folder that `save_to_disk` wrote: Arrow files with the same columns, in order."""

    files: tuple[ArrowFile, ...]
    name: str
    sha256: str
    """Of the files' own SHA-256s, in order."""

    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns.

        Raises:
            DataError: a file is damaged, or has other columns.
        """
        first, *others = [file.columns() for file in self.files]
        for file, columns in zip(self.files[1:], others, strict=True):
            if columns != first:
                raise DataError(
                    f"{file.source.name} has other columns than the first file.",
                    where=file.source.name,
                    hint="Save the data set again.",
                )
        return first

    def rows(self) -> Iterator[Row]:
        """Yield the rows of all files, numbered on."""
        number = 0
        for file in self.files:
            for row in file.rows(number + 1):
                number = row.number
                yield row


def open_saved(
    folder: Path,
    name: str,
    choices: ReadChoices,
    progress: Progress | None = None,
    *,
    is_whole: bool = True,
) -> SavedFolder:
    """Find and scan the files of a saved data set.

    Raises:
        DataError: it holds several splits, or lacks a file.
    """
    if (folder / SPLITS).is_file():
        raise DataError(
            f"{name} holds several splits: {listed(splits_of(folder))}.",
            where=name,
            hint="Choose one: --split, or the folder of the split itself.",
        )
    paths = _files_of(folder, name)
    sizes = [path.stat().st_size for path in paths]
    files, on_progress = [], forward_only(progress)
    for index, path in enumerate(paths):
        report = _share(on_progress, sum(sizes[:index]), sizes[index], sum(sizes))
        source = open_source(path, f"{name}/{path.name}", choices, report, is_whole=is_whole)
        files.append(ArrowFile(source))
    digest = hashlib.sha256("\n".join(file.source.sha256 for file in files).encode())
    return SavedFolder(tuple(files), name, digest.hexdigest())


def split_folder(folder: Path, split: str) -> Path:
    """Return the folder of a split of a saved data set; with one split it need not be named.

    Raises:
        DataError: there is no such split.
    """
    if not (folder / SPLITS).is_file():
        if split and split != folder.name:
            raise DataError(
                f"{folder.name} is one saved data set without splits.",
                where=str(folder),
                hint="Leave out --split.",
            )
        return folder
    splits = splits_of(folder)
    if not split and len(splits) == 1:
        return folder / splits[0]
    if split not in splits:
        missing = f"no split “{split}”" if split else f"{len(splits)} splits"
        raise DataError(
            f"{folder.name} has {missing}.",
            where=str(folder),
            hint=f"Its splits: {listed(splits)}. Choose one (--split).",
        )
    return folder / split


def splits_of(folder: Path) -> tuple[str, ...]:
    """Return the splits of a saved data set that are there.

    Raises:
        DataError: the folder's description is damaged.
    """
    names = _json(folder / SPLITS, folder.name).get("splits")
    found = [str(name) for name in names] if isinstance(names, list) else []
    return tuple(one for one in found if Path(one).name == one and (folder / one / STATE).is_file())


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def _files_of(folder: Path, name: str) -> list[Path]:
    entries = _json(folder / STATE, name).get("_data_files")
    names = [
        str(entry.get("filename"))
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
    ]
    # A name with a folder in it could lead anywhere.
    missing = [one for one in names if Path(one).name != one or not (folder / one).is_file()]
    if missing or not names:
        raise DataError(
            f"{name} lacks its data file{'s' if len(missing) > 1 else ''} {listed(missing)}."
            if missing
            else f"{name} names no data files.",
            where=name,
            hint="Copy the whole folder, or save the data set again.",
        )
    return [folder / one for one in names]


def _json(path: Path, name: str) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise DataError(
            f"{path.name} of {name} cannot be read.",
            where=str(path),
            hint="Copy the whole folder, or save the data set again.",
        ) from exc
    return value if isinstance(value, dict) else {}


def _share(progress: Progress, done: int, size: int, total: int) -> Progress:
    """Return a callback that turns the share of one file into that of all."""
    return lambda share: progress((done + share * size) / max(1, total))
