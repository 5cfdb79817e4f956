"""The `datasets` library: what a Hub repository holds, and its rows as plain values. Floor 4.

Imported only by the fetch program. Repositories with a loading script are refused, files other
than tables are refused before any of them is read, and images, audio and video are neither
downloaded nor decoded where the format allows it (Parquet), and never decoded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

import datasets
from datasets import DatasetBuilder, Features, IterableDataset, Value
from huggingface_hub import HfApi

from orpo_qlora.data.files.hub import HubRequest
from orpo_qlora.data.wording import listed
from orpo_qlora.errors import DataError
from orpo_qlora.jobs.hub.job import HubListing

TABLES = {"csv", "json", "parquet", "arrow", "text"}
"""Builders of the library for files that hold rows of text."""
MEDIA = {
    "imagefolder": "images", "audiofolder": "audio", "videofolder": "videos",
    "pdffolder": "PDF documents", "webdataset": "archives of media files",
}  # fmt: skip
NOT_FETCHED = {"bytes": None, "path": "not downloaded"}
"""Cell of an image, audio or video; has the keys of an undecoded one."""
READ_RETRIES = 2
"""The Hub library retries each request five times itself, with growing pauses."""


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    id: str
    revision: str
    sizes: Mapping[str, int]
    """Bytes of its files by path."""


@dataclass(frozen=True)
class Rows:
    """The rows of one split, not read yet."""

    config: str
    split: str
    count: int
    """0 if the repository does not state it."""
    file_bytes: int
    """Size of its files on the Hub, 0 if unknown."""
    stream: IterableDataset
    media: tuple[str, ...]
    """Columns of images, audio or video, which are not downloaded."""

    def __iter__(self) -> Iterator[dict[str, object]]:
        for row in self.stream:
            yield {name: plain(value) for name, value in row.items()} | dict.fromkeys(
                self.media, NOT_FETCHED
            )


def open_repository(request: HubRequest) -> Repository:
    """Resolve the revision and refuse what needs code.

    Raises:
        DataError: the repository has a loading script.
        Exception: those of huggingface_hub.
    """
    datasets.config.STREAMING_READ_MAX_RETRIES = READ_RETRIES
    datasets.config.STREAMING_OPEN_MAX_RETRIES = READ_RETRIES
    datasets.disable_progress_bars()
    api = HfApi()
    about = api.dataset_info(
        request.id, revision=request.revision or None, files_metadata=True, timeout=30
    )
    if about.gated:
        api.auth_check(request.id, repo_type="dataset")
    sizes = {file.rfilename: file.size or 0 for file in about.siblings or ()}
    script = request.id.rpartition("/")[2] + ".py"
    if script in sizes:
        raise DataError(
            f"{request.id} is read by a loading script ({script}), which is never run.",
            hint="Use its Parquet copy, if it has one: revision refs/convert/parquet "
            "(--data-revision). Otherwise download its files and choose them here.",
        )
    return Repository(request.id, str(about.sha), sizes)


def configs_of(repository: Repository) -> HubListing:
    """Return the configs of a repository, its default one filled in.

    Raises:
        Exception: those of datasets and huggingface_hub.
    """
    names = datasets.get_dataset_config_names(repository.id, revision=repository.revision)
    return HubListing(configs=tuple(names))


@dataclass(frozen=True)
class OpenConfig:
    """One config of a repository with its splits; no row has been read."""

    repository: Repository
    builder: DatasetBuilder
    streams: Mapping[str, IterableDataset]

    @property
    def name(self) -> str:
        """The config's name."""
        return str(self.builder.config.name)

    @property
    def default_split(self) -> str:
        """The only split, else `train`, which there need not be."""
        return next(iter(self.streams)) if len(self.streams) == 1 else "train"

    def rows(self, split: str) -> Rows:
        """Return the rows of one split."""
        stream, media = self._without_media(split)
        stated = (self.builder.info.splits or {}).get(split)
        return Rows(
            config=self.name,
            split=split,
            count=int(stated.num_examples or 0) if stated else 0,
            file_bytes=self._file_bytes(split),
            stream=stream,
            media=media,
        )

    def _file_bytes(self, split: str) -> int:
        files = (self.builder.config.data_files or {}).get(split, ())
        marker, sizes = f"@{self.repository.revision}/", self.repository.sizes
        return sum(sizes.get(str(file).partition(marker)[2], 0) for file in files)

    def _without_media(self, split: str) -> tuple[IterableDataset, tuple[str, ...]]:
        """Return a stream of exact texts without media, and the names of the columns left out."""
        stream, kind = self.streams[split], _kind_of(self.builder)
        if kind == "csv":
            return self._exact_cells(split), ()
        features: Features = stream.features or {}
        media = tuple(name for name, one in features.items() if _is_media(one))
        if not media:
            return stream, ()
        if kind == "parquet":
            kept = [name for name in features if name not in media]
            return self._again(split, columns=kept), media
        return stream.remove_columns(list(media)), media

    def _exact_cells(self, split: str) -> IterableDataset:
        """Return CSV cells as texts: pandas would turn “NA” into nothing and 007 into 7."""
        first = next(iter(self.streams[split]), None)
        if first is None:
            return self.streams[split]
        features = Features({name: Value("string") for name in first})
        return self._again(split, features=features, keep_default_na=False, na_filter=False)

    def _again(self, split: str, **changed: object) -> IterableDataset:
        builder = _load(self.repository, self.name, **changed)
        return builder.as_streaming_dataset()[split]


def open_config(repository: Repository, listing: HubListing, request: HubRequest) -> OpenConfig:
    """Return the config that is requested, or the default one.

    Raises:
        DataError: there is no such config, or its files are not tables of text.
        Exception: those of datasets and huggingface_hub.
    """
    builder = _builder(repository, listing, request)
    return OpenConfig(repository, builder, builder.as_streaming_dataset())


def _builder(repository: Repository, listing: HubListing, request: HubRequest) -> DatasetBuilder:
    if request.config and request.config not in listing.configs:
        raise DataError(
            f"{repository.id} has no config “{request.config}”.",
            hint=f"Its configs: {listed(listing.configs)}.",
        )
    name = request.config or _default_config(repository, listing)
    builder = _load(repository, name)
    kind = _kind_of(builder)
    if kind in TABLES:
        return builder
    held = MEDIA.get(kind, f"files of the kind “{kind}”")
    raise DataError(
        f"{repository.id} holds {held}, and only tables of text can be read.",
        hint="Choose a data set of CSV, JSON, Parquet or Arrow files.",
    )


def _default_config(repository: Repository, listing: HubListing) -> str:
    if len(listing.configs) == 1:
        return listing.configs[0]
    name = datasets.get_dataset_default_config_name(repository.id, revision=repository.revision)
    if name is None:
        raise DataError(
            f"{repository.id} has {len(listing.configs)} configs and no default: "
            f"{listed(listing.configs)}.",
            hint="Choose one (--config-name).",
        )
    return str(name)


def _load(repository: Repository, config: str, **changed: object) -> DatasetBuilder:
    # Without the prefix a folder of this name in the working folder would be read instead.
    return datasets.load_dataset_builder(
        f"hf://datasets/{repository.id}", config, revision=repository.revision, **changed
    )


def _kind_of(builder: DatasetBuilder) -> str:
    """Return the name of the library's module for the builder: such as “json” or “imagefolder”."""
    modules = (base.__module__ for base in type(builder).__mro__)
    found = next(name for name in modules if name.startswith("datasets.packaged_modules."))
    return found.rpartition(".")[2]


def _is_media(feature: object) -> bool:
    """Whether a column holds images, audio, video or documents, at any depth."""
    if isinstance(feature, dict):
        return any(map(_is_media, feature.values()))
    if isinstance(feature, list | tuple):
        return any(map(_is_media, feature))
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return _is_media(inner)
    return hasattr(feature, "decode") and type(feature).__name__ != "Json"


def plain(value: Any) -> object:  # noqa: ANN401 - whatever Arrow holds
    """Return a cell as JSON has it: dates as ISO texts, bytes left out, NaN as nothing."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return None
    return str(value) if not isinstance(value, timedelta) else value.total_seconds()
