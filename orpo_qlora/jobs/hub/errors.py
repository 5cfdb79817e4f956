"""Errors of huggingface_hub, datasets and the network in the user's words. Floor 4."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import (
    DataFilesNotFoundError,
    DatasetGenerationError,
    DatasetNotFoundError,
)
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

from orpo_qlora.data.files.hub import HubRequest
from orpo_qlora.data.wording import listed
from orpo_qlora.errors import DataError, OrpoQloraError
from orpo_qlora.program import without_secrets

REASON_CHARACTERS = 300
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class HubUnreachable(OrpoQloraError):
    """The Hub cannot be asked now."""

    slug = "hub-unreachable"


@contextmanager
def translated(request: HubRequest) -> Iterator[None]:
    """Turn errors of the libraries into ours."""
    try:
        yield
    except OrpoQloraError:
        raise
    except Exception as exc:
        error = _translate(request, exc)
        if error is None:
            raise
        raise error from exc


def _translate(request: HubRequest, exc: Exception) -> OrpoQloraError | None:
    """Return our error for one of theirs, looking at its causes too; None if none is known."""
    chain: list[BaseException] = []
    cause: BaseException | None = exc
    while cause is not None and len(chain) < 10:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(one, OSError) and one.errno in _DISK for one in chain):
        return None  # this machine's disk: a full one has its own message
    for one in chain:
        error = _about_access(request, one) or _about_network(one)
        if error is not None:
            return error
    for one in chain:
        error = _about_files(request, one)
        if error is not None:
            return error
    return None


def _about_access(request: HubRequest, exc: BaseException) -> OrpoQloraError | None:
    name = request.id
    if isinstance(exc, GatedRepoError):
        return DataError(
            f"{name} is gated: its owner asks you to accept terms first.",
            hint=f"Accept them on huggingface.co/datasets/{name}, then log in with “hf auth login” "
            "or set HF_TOKEN, and try again. The token is not stored here.",
        )
    if isinstance(exc, DisabledRepoError):
        return DataError(f"{name} is disabled on the Hub.", hint="Choose another data set.")
    if isinstance(exc, RepositoryNotFoundError):
        return DataError(
            f"The Hub has no data set {name} that you may read.",
            hint="Check the spelling. A private one needs “hf auth login” or HF_TOKEN.",
        )
    if isinstance(exc, RevisionNotFoundError):
        return DataError(
            f"{name} has no revision “{request.revision}”.",
            hint=f"Its branches and tags: {_revisions(name)}. A commit must be written in full.",
        )
    if isinstance(exc, HFValidationError):
        return DataError(f"“{name}” is not the id of a data set.", hint="Write owner/name.")
    return None


def _revisions(name: str) -> str:
    try:
        refs = HfApi().list_repo_refs(name, repo_type="dataset")
    except (HfHubHTTPError, httpx.HTTPError, OSError):
        return "unknown"
    return listed([ref.name for ref in [*refs.branches, *refs.tags]]) or "none"


def _about_network(exc: BaseException) -> OrpoQloraError | None:
    if isinstance(exc, OfflineModeIsEnabled):
        return HubUnreachable(
            "The Hub is not asked: offline mode is on.",
            hint="Unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, or choose a local file.",
        )
    if isinstance(exc, HfHubHTTPError) and not isinstance(exc, EntryNotFoundError):
        status = exc.response.status_code if exc.response is not None else 0
        if status in {401, 403}:
            return DataError(
                f"The Hub refuses access (error {status}).",
                hint="Log in with “hf auth login” or set HF_TOKEN to a token that may read it.",
            )
        hint = "Wait a few minutes and try again; logged in, more requests are allowed."
        if status != 429:
            hint = "Try again later; huggingface.co may be having problems."
        return HubUnreachable(f"The Hub answers with error {status}.", hint=hint)
    if isinstance(exc, httpx.HTTPError | ConnectionError | TimeoutError):
        return HubUnreachable(
            f"The Hub ({constants.ENDPOINT}) cannot be reached, or the connection broke off.",
            hint="Check the network and try again; nothing incomplete was kept.",
        )
    return None


def _about_files(request: HubRequest, exc: BaseException) -> OrpoQloraError | None:
    name = request.id
    if isinstance(exc, DataFilesNotFoundError | EmptyDatasetError):
        return DataError(
            f"{name} has no files that can be read.",
            hint="Choose a data set of CSV, JSON, Parquet or Arrow files.",
        )
    if isinstance(exc, DatasetNotFoundError):
        return DataError(f"{name}: {_reason(exc)}", hint="Check the id and the revision.")
    if isinstance(exc, EntryNotFoundError | FileNotFoundError):
        return DataError(
            f"{name} names a file that it does not have: {_reason(exc)}.",
            hint="Report it to its owner, or choose another revision.",
        )
    known = DatasetGenerationError | pa.ArrowException | ValueError | TypeError | ImportError
    if isinstance(exc, known) and not isinstance(exc, OSError):
        return DataError(
            f"The files of {name} cannot be read: {_reason(exc)}.",
            hint="Choose another config or revision, or download its files and choose them here.",
        )
    return None


def _reason(exc: BaseException) -> str:
    return without_secrets(" ".join(str(exc).split()))[:REASON_CHARACTERS].rstrip(".")
