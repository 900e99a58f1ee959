"""SHA-256 of large files, remembered between runs so that a 16 GB model is read once.

A digest is remembered by path, size, mtime, ctime and inode. Overwriting a file in place changes at least one of
them. The one case in which it might not is a file written within the clock's resolution of being hashed, so files
younger than ``SETTLED_S`` are hashed but not remembered. The memory is an optimisation: where it is damaged, locked or
read-only, files are hashed again and nothing else happens.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

FORMAT = 1
SETTLED_S = 2.0
MOST_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What is worth knowing about a weights file without reading it again."""

    sha256: str
    """Over the file's bytes, hex."""
    nonfinite: str = ""
    """The first tensor that holds NaN or infinity, '' where all are finite (or could not be read as tensors)."""


def cache_directory() -> Path:
    """``$HARNESS_CACHE``, else ``dpo-harness`` in the platform's user cache directory."""
    if chosen := os.environ.get("HARNESS_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dpo-harness"


def remembered(path: Path, compute: Callable[[Path], FileDigest]) -> FileDigest:
    """The digest of ``path``, from memory where the file is unchanged, else from ``compute``.

    What ``compute`` raises is passed on and nothing is remembered.
    """
    path = path.resolve()
    before = _fingerprint(path)
    try:
        memory = cache_directory() / "digests.json"
        known = _read(memory).get(str(path))
    except (OSError, RuntimeError):  # no home directory, no permission
        return compute(path)
    if known is not None and known[0] == before:
        return known[1]
    digest = compute(path)
    settled = time.time_ns() - max(before[1], before[2]) > SETTLED_S * 1e9
    if settled and _fingerprint(path) == before:
        _remember(memory, path, before, digest)
    return digest


Fingerprint = tuple[int, int, int, int]


def _fingerprint(path: Path) -> Fingerprint:
    """(size, mtime_ns, ctime_ns, inode)."""
    stat = path.stat()
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def _read(memory: Path) -> dict[str, tuple[Fingerprint, FileDigest]]:
    """What is remembered; entries that make no sense are left out, a file that makes no sense is empty."""
    try:
        raw = json.loads(memory.read_text(encoding="utf-8"))
        files = raw["files"] if raw["format"] == FORMAT else {}
        items = list(files.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    known: dict[str, tuple[Fingerprint, FileDigest]] = {}
    for path, entry in items:
        try:
            size, mtime, ctime, inode = (int(number) for number in entry["fingerprint"])
            sha256, nonfinite = entry["sha256"], entry["nonfinite"]
            if isinstance(nonfinite, str) and len(bytes.fromhex(sha256)) == 32:
                known[path] = ((size, mtime, ctime, inode), FileDigest(sha256, nonfinite))
        except (ValueError, TypeError, KeyError):
            continue
    return known


def _remember(memory: Path, path: Path, fingerprint: Fingerprint, digest: FileDigest) -> None:
    """Add one entry: read, change and replace the file under a lock. Failing is not an error."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{memory}.lock", timeout=5):
            known = _read(memory)
            known.pop(str(path), None)
            known[str(path)] = (fingerprint, digest)
            if len(known) > MOST_ENTRIES:
                known = dict(list(known.items())[-MOST_ENTRIES:])
            files = {
                name: {"fingerprint": mark, "sha256": value.sha256, "nonfinite": value.nonfinite}
                for name, (mark, value) in known.items()
            }
            handle, temporary = tempfile.mkstemp(dir=memory.parent, prefix="digests-", suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump({"format": FORMAT, "files": files}, file)
                Path(temporary).replace(memory)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
    except (OSError, Timeout, RuntimeError):
        return
