"""Upload of an adapter or a merged model with its card to the Hub. Floor 5; no torch.

Private by default. The token comes from the environment alone and is neither stored nor printed.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from orpo_qlora.data.wording import in_bytes
from orpo_qlora.errors import InputError, OrpoQloraError, ResourceError
from orpo_qlora.export.bundle import (
    MANIFEST,
    adapter_files,
    check_exportable,
    size_of,
    write_folder,
)
from orpo_qlora.export.origin import origin_of
from orpo_qlora.program import without_secrets
from orpo_qlora.runs.store import Run

TOKEN = "HF_TOKEN"


@dataclass(frozen=True)
class Push:
    """What is uploaded, and where to."""

    repo: str
    is_private: bool
    files: dict[str, int]
    """Bytes by name."""
    url: str = ""
    """Address of the upload's commit; empty in a dry run."""

    def lines(self) -> list[str]:
        """Return the repository and every file with its size."""
        total = sum(self.files.values())
        access = "private" if self.is_private else "public"
        head = f"{self.repo} ({access}): {len(self.files)} files, {in_bytes(total)}"
        return [head, *(f"  {name}  {size:,} bytes" for name, size in sorted(self.files.items()))]


def push(
    run: Run, repo: str, *, merged: Path | None = None, public: bool = False, dry_run: bool = False
) -> Push:
    """Upload a run's adapter, or a merged model's folder, as one commit.

    Args:
        run: finished or stopped.
        repo: `owner/name`; made if missing.
        merged: folder of the run's merged model to upload instead of the adapter; files that do
            not belong to it stay.
        public: make a new repository public, or upload to one that is.
        dry_run: return what would be uploaded; nothing is sent.

    Raises:
        InputError: no final adapter, no such folder, no token, a name that the Hub refuses, or a
            public repository without `public`.
        ResourceError: the Hub cannot be reached.
    """
    check_exportable(run)
    check_name(repo)
    if merged is not None:
        return _upload(merged, repo, _merged_files(run, merged), public=public, dry_run=dry_run)
    content = adapter_files(run, origin_of(run))
    files = {name: size_of(one) for name, one in content.items()}
    with tempfile.TemporaryDirectory(prefix="orpo-qlora-push-") as folder:
        if not dry_run:
            write_folder(Path(folder), content)
        return _upload(Path(folder), repo, files, public=public, dry_run=dry_run)


def check_name(repo: str) -> None:
    """Refuse a repository that the Hub would refuse.

    Raises:
        InputError: it is not `owner/name`.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as exc:
        raise InputError(f"“{repo}” is not a repository name.", hint="Give owner/name.") from exc
    if repo.count("/") != 1:
        raise InputError(f"“{repo}” names no owner.", hint="Give owner/name.")


def _merged_files(run: Run, folder: Path) -> dict[str, int]:
    """Return the bytes of the files that the manifest of a merged model lists."""
    make_it = f"Make it first: orpo-qlora export {run.id} --merged DIR"
    try:
        about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        names = sorted({MANIFEST, *(Path(name).name for name in about["sha256"])})
        files = {name: (folder / name).stat().st_size for name in names}
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise InputError(f"{folder} is not a whole merged model.", hint=make_it) from exc
    if about.get("run") != run.id:
        raise InputError(f"{folder} is the merged model of another run.", hint=make_it)
    return files


def _upload(folder: Path, repo: str, files: dict[str, int], *, public: bool, dry_run: bool) -> Push:
    planned = Push(repo, not public, files)
    if dry_run:
        return planned
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise InputError(
            f"Uploading needs a token in {TOKEN}.",
            hint=f"Run: {TOKEN}=… orpo-qlora export … — or look first: --dry-run",
        )
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        is_private = bool(api.model_info(repo).private)
        if not is_private and not public:
            raise _is_public(repo)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=sorted(files),
            commit_message="Upload with orpo-qlora",
        )
    except HfHubHTTPError as exc:
        raise _refused(repo, exc) from exc
    except OSError as exc:
        raise ResourceError(
            f"The Hub ({constants.ENDPOINT}) cannot be reached, or the connection broke off.",
            hint="Check the network and push again: what arrived is kept.",
        ) from exc
    return Push(repo, is_private, files, str(commit.commit_url))


def _is_public(repo: str) -> InputError:
    return InputError(
        f"{repo} is public on the Hub: everybody could read the upload.",
        hint="Add --public to upload there, or name another repository.",
    )


def _refused(repo: str, error: HfHubHTTPError) -> OrpoQloraError:
    status = error.response.status_code if error.response is not None else 0
    if status in (401, 403):
        return InputError(
            f"The Hub does not let this token write to {repo}.",
            hint=f"Use a token with write access in {TOKEN}, or another owner.",
        )
    reason = without_secrets(error.server_message or str(error))[:300]
    return OrpoQloraError(f"The Hub refused the upload to {repo}: {reason}", hint="Push again.")
