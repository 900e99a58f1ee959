"""From what a user wrote to a directory: typos, and what can go wrong with the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from harness.domain import EngineOptions
from harness.engines import checkpoints, locate
from harness.errors import CheckpointError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What the hub was asked for; it answers with ``tmp_path``."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(repo: str, **arguments: Any) -> str:
        calls.append((repo, arguments))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_hub_id_with_a_revision(asked: list[tuple[str, dict[str, Any]]], tmp_path: Path) -> None:
    assert locate.directory("someone/model@refs/pr/3") == tmp_path
    repo, arguments = asked[0]
    assert (repo, arguments["revision"]) == ("someone/model", "refs/pr/3")
    risky = [pattern for pattern in arguments["allow_patterns"] if pattern.endswith((".bin", ".py"))]
    assert risky == ["training_args.bin"], "which is read as text and never unpickled"
    locate.directory("someone/model", unsafe=True, remote_code=True)
    repo, arguments = asked[1]
    assert arguments["revision"] is None
    assert {"*.py", "adapter_model.bin"} <= set(arguments["allow_patterns"])


def test_an_adapters_base_on_the_hub(
    asked: list[tuple[str, dict[str, Any]]], adapter: Path, reference: Path, tmp_path: Path
) -> None:
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    copy = shutil.copytree(adapter, tmp_path / "adapter")
    config = (copy / "adapter_config.json").read_text().replace(str(reference), "someone/base")
    (copy / "adapter_config.json").write_text(config.replace('"revision": null', '"revision": "abc"'))
    assert checkpoints.resolve(str(copy), "x", EngineOptions()).base == str(tmp_path)
    assert [(repo, arguments["revision"]) for repo, arguments in asked] == [("someone/base", "abc")]


def response(code: int) -> Any:
    """As much of one as the hub's errors look at."""
    return SimpleNamespace(status_code=code, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError("gated", response=response(403)),
         r"someone/model@v1 is gated: accept its licence at https://huggingface.co/someone/model and set HF_TOKEN"),
        (RepositoryNotFoundError("none", response=response(404)),
         r"someone/model@v1 is neither a directory here nor a repository at .*/someone/model; .*HF_TOKEN"),
        (RevisionNotFoundError("none", response=response(404)),
         r"someone/model has no revision 'v1'; its revisions are at https://huggingface.co/someone/model/commits"),
        (LocalEntryNotFoundError("not in the cache"),
         r"someone/model@v1 is no directory here, .* cannot be read \(not in the cache\).*hf download someone/m"),
        (OfflineModeIsEnabled("offline"), r"cannot be read \(offline\).*HF_HUB_OFFLINE unset; set HF_TOKEN"),
        (errors.HTTPError("no network"), r"cannot be read \(no network\).*give a local directory"),
    ],
)  # fmt: skip
def test_what_goes_wrong_with_the_hub_is_said(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=message):
        locate.directory("someone/model@v1")


def test_a_missing_directory_suggests_near_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dpo-healthy", "dpo-displaced", "reference"):
        (tmp_path / "organism" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no directory organism/dpo-heathy; did you mean organism/dpo-healthy"):
        locate.directory("organism/dpo-heathy")
    with pytest.raises(CheckpointError, match=r"no directory \./xyz; \. holds organism"):
        locate.directory("./xyz")
    with pytest.raises(CheckpointError, match=r"no directory \S+/a/b \(nor \S+/a\); check the path"):
        locate.directory(str(tmp_path / "a" / "b"))
    with pytest.raises(CheckpointError, match=r"no directory organism/a/b"):
        locate.directory("organism/a/b")
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(CheckpointError, match=r"model.safetensors is a file; give the directory that holds it"):
        locate.directory(str(tmp_path / "model.safetensors"))
    with pytest.raises(CheckpointError, match="no directory some model"):
        locate.directory("some model")
