"""Long work of a command: finished blocks are kept in ``OUTPUT.parts``, so that an ended run goes on where it was.

Blocks belong to exactly one question and are refused for another. Only one process at a time works on an output.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness import tables
from harness.errors import OptionError
from harness.protocols import OnProgress, no_progress

_KEY, _LOCK = "key.json", "lock"

Progress = Callable[[str, int, int], AbstractContextManager[OnProgress]]
"""``progress(what, total, done)`` -> a context that is told how many more items were just finished."""

Say = Callable[[str], None]
"""Takes one line for the user."""


def silent(_what: str, _total: int, _done: int) -> AbstractContextManager[OnProgress]:
    return nullcontext(no_progress)


def column_names(columns: Sequence[str], known: Sequence[str], example: str) -> dict[str, str]:
    """``["chosen=preferred"]`` as a dict: our name -> the data's.

    Raises:
        OptionError: one that says nothing, names none of ``known``, or contradicts another; shows the ``example``.
    """
    names: dict[str, str] = {}
    for text in columns:
        ours, found, theirs = text.partition("=")
        if not found or not ours or not theirs:
            raise OptionError(f"--column {text}: write OURS=THEIRS, e.g. --column {example}")
        if ours not in known:
            raise OptionError(f"--column {text}: {ours!r} is none of {', '.join(known)}")
        if names.setdefault(ours, theirs) != theirs:
            raise OptionError(f"--column {ours} is given twice, as {names[ours]!r} and {theirs!r}")
    return names


def check_output(path: Path, suffixes: Sequence[str], *, force: bool, unlike: Sequence[Path | None] = ()) -> None:
    """A file that is about to be written can and may be.

    Args:
        path: the file.
        suffixes: endings that its name may have.
        force: it may replace a file that is there.
        unlike: files that it is made from.

    Raises:
        OptionError: another ending, one of the files it is made from, a directory, or there already.
    """
    if path.suffix.lower() not in suffixes:
        raise OptionError(f"{path}: the name must end in {' or '.join(suffixes)}")
    if any(other is not None and path.resolve() == other.resolve() for other in unlike):
        raise OptionError(f"{path} would be written over what it is made from; give another name")
    if path.is_dir():
        raise OptionError(f"{path} is a directory; give a file")
    if any((folder / "record.json").is_file() for folder in path.resolve().parents):
        raise OptionError(f"{path} lies in a stored run, which is never changed; give another name")
    if path.exists() and not force:
        raise OptionError(f"{path} is there already; give another name, or --force to overwrite it")


def place(output: Path) -> Path:
    """The directory of an output's finished blocks."""
    return output.with_name(output.name + ".parts")


@contextmanager
def kept(output: Path, key: Mapping[str, Any], *, restart: bool = False) -> Iterator[Path]:
    """The directory of finished blocks, for this process alone; removed when all went well, or nothing was finished.

    Args:
        output: what the blocks will become.
        key: everything that the blocks depend on, as JSON has it.
        restart: throw away what an earlier run left, whatever it was about.

    Raises:
        OptionError: it cannot be made, another process works there, or what lies there answers another question.
    """
    parts = place(output)
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{output} cannot be written: {error}") from None
    try:
        with FileLock(parts / _LOCK, timeout=0):
            _claim(parts, key, restart=restart)
            yield parts
    except Timeout:
        raise OptionError(f"another run is writing {output}; wait for it, or give another name") from None
    except BaseException:
        if not _blocks(parts):
            shutil.rmtree(parts)
        raise
    shutil.rmtree(parts)


def answers(output: Path, key: Mapping[str, Any]) -> bool:
    """Whether an earlier run's blocks are there and answer the same question; nothing is changed."""
    file = place(output) / _KEY
    return file.is_file() and _read(file) == key


def write(path: Path, content: object) -> None:
    """Keep one block: JSON, whole or not at all."""
    text = json.dumps(content)
    tables.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _claim(parts: Path, key: Mapping[str, Any], *, restart: bool) -> None:
    """Make the blocks in ``parts`` the answer to ``key``, or refuse."""
    file, blocks = parts / _KEY, _blocks(parts)
    before = _read(file) if file.is_file() else None
    if blocks and before is None:
        raise OptionError(f"{parts} is not from an earlier run of this command; move it away, or give another --output")
    if blocks and before != key and not restart:
        assert before is not None, "refused above"
        differing = ", ".join(name for name in key if before.get(name) != key[name]) or "more"
        raise OptionError(
            f"{parts} holds the beginning of another run (differing: {differing}); --restart throws it away, another "
            "--output leaves it alone"
        )
    if restart:
        for path in blocks:
            path.unlink()
    write(file, key)


def _blocks(parts: Path) -> list[Path]:
    """What was finished; temporary files are hidden ones."""
    return [path for path in parts.iterdir() if path.name not in (_KEY, _LOCK) and not path.name.startswith(".")]


def _read(file: Path) -> dict[str, Any] | None:
    """A key, None where the file holds none."""
    try:
        key = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return key if isinstance(key, dict) else None
