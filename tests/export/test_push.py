"""Uploads to a Hub on the loopback interface."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from upload_hub import upload_hub

from orpo_qlora.errors import InputError
from orpo_qlora.export import push as push_module
from orpo_qlora.export.push import push

SECRET = "hf_" + 3 * "UploadToken"


def push_from_terminal(hub, run, *options, token=SECRET):
    """Run the command as a user does, who is online with that Hub alone."""
    kept = {n: v for n, v in os.environ.items() if n not in {"HF_HUB_OFFLINE", "HF_TOKEN"}}
    environment = {**kept, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "COLD": "1"}
    return subprocess.run(
        [sys.executable, "-m", "orpo_qlora.cli.main", "export", run.id, "--push", *options],
        env=environment | ({"HF_TOKEN": token} if token else {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_adapter_arrives_with_its_card_in_a_private_repository(copied_run):
    with upload_hub() as hub:
        done = push_from_terminal(hub, copied_run, "lab/tuned")
    assert done.returncode == 0, done.stderr
    assert "lab/tuned (private)" in done.stdout
    assert f"{hub.address}/lab/tuned/commit/" in done.stdout.replace("\n", "")
    repo = hub.repos["lab/tuned"]
    assert repo["private"]
    weights = copied_run.paths.adapter / "adapter_model.safetensors"
    assert repo["files"]["adapter_model.safetensors"] == weights.read_bytes()
    assert b"Loss passport" in repo["files"]["README.md"]
    assert hub.tokens - {""} == {SECRET}
    assert SECRET not in done.stdout + done.stderr


def test_a_dry_run_lists_the_files_and_sends_nothing(copied_run):
    planned = push(copied_run, "lab/tuned", dry_run=True)
    assert planned.url == ""
    assert planned.lines()[0].startswith("lab/tuned (private): ")
    assert any("README.md" in line for line in planned.lines())


def test_without_a_token_or_a_name_nothing_is_sent(copied_run, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(InputError, match="needs a token in HF_TOKEN"):
        push(copied_run, "lab/tuned")
    for name in ("tuned", "a/b/c", "lab/what is this"):
        with pytest.raises(InputError, match="Give owner/name") as caught:
            push(copied_run, name, dry_run=True)
        assert name in str(caught.value)
    with pytest.raises(InputError, match="not a whole merged model"):
        push(copied_run, "lab/tuned", merged=tmp_path, dry_run=True)


def test_of_a_merged_model_only_its_own_files_are_sent(copied_run, tmp_path):
    for name in ("README.md", "model.safetensors", "notes.txt"):
        (tmp_path / name).write_text(name)
    about = {"run": copied_run.id, "sha256": {"README.md": "", "model.safetensors": ""}}
    (tmp_path / "manifest.json").write_text(json.dumps(about))
    planned = push(copied_run, "lab/tuned", merged=tmp_path, dry_run=True)
    assert set(planned.files) == {"README.md", "manifest.json", "model.safetensors"}
    (tmp_path / "manifest.json").write_text(json.dumps(about | {"run": "other"}))
    with pytest.raises(InputError, match="of another run"):
        push(copied_run, "lab/tuned", merged=tmp_path, dry_run=True)


class PublicHub:
    """A Hub whose repositories are public."""

    def __init__(self, token):
        self.token = token

    def create_repo(self, repo, **_):
        return repo

    def model_info(self, repo):
        return SimpleNamespace(private=False)

    def upload_folder(self, **_):
        return SimpleNamespace(commit_url="https://hub/commit/1")


def test_an_existing_public_repository_needs_public(copied_run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(push_module, "HfApi", PublicHub)
    with pytest.raises(InputError, match="lab/tuned is public on the Hub") as caught:
        push(copied_run, "lab/tuned")
    assert "--public" in caught.value.hint
    assert not push(copied_run, "lab/tuned", public=True).is_private


def test_a_refused_token_is_named_by_its_variable(copied_run):
    with upload_hub() as hub:
        hub.refuses = True
        done = push_from_terminal(hub, copied_run, "lab/tuned")
    assert done.returncode == 2, done.stderr
    assert "does not let this token write to lab/tuned" in done.stderr
    assert "Traceback" not in done.stderr
