"""``index.html``: the runs of a run directory, newest first.

A side file, ``index.json``, keeps what the page says of each run, so that a thousand runs are not read again for one
new. It is keyed by size and time of ``record.json``; nothing is decided from it, and one that cannot be read is made
anew.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout
from markupsafe import Markup

from harness import baselines, record
from harness.domain import Decision, printable
from harness.errors import HarnessError, RecordError
from harness.report import history_side, html
from harness.report.history_side import Kept, Recorded, Side, recorded
from harness.report.rows import Answer
from harness.report.text import counted
from harness.tables import write_atomically

FILE = "index.html"
SIDE_FILE = history_side.FILE
LOCK = ".index.lock"
MARK = '<meta name="generator" content="dpo-harness history">'
"""Stands in every page that this module wrote: another ``index.html`` is never replaced."""
WAIT = 60
"""Seconds to wait while other runs write the page."""


class State(StrEnum):
    """What a directory holds."""

    RECORDED = "recorded"
    UNFINISHED = "interrupted or running"
    DAMAGED = "damaged"


class Word(StrEnum):
    """A run in a word. Only the first one says that all its candidates may be released."""

    RELEASE = "release"
    BLOCK = "block"
    NONE = "no verdict"
    UNFINISHED = "unfinished"
    DAMAGED = "damaged"


SYMBOLS: Mapping[Word, str] = {
    Word.RELEASE: "✓",
    Word.BLOCK: "✗",
    Word.NONE: "?",
    Word.UNFINISHED: "…",
    Word.DAMAGED: "!",
}


_CLASSES = {word: "none" if word is Word.NONE else word.value for word in Word}
_SCRIPTS = ("history.js",)


@dataclass(frozen=True, slots=True)
class Row:
    """One directory of the run directory."""

    name: str
    state: State
    when: datetime
    """Start of the run; of one without a record, the last change of its directory. UTC."""
    run: Recorded | None
    """None where there is no record that can be read."""
    problem: str
    """Why there is none; '' where there is."""
    link: str
    """Of its page, relative to the run directory; '' where it has none."""
    blessed: tuple[str, ...]
    """Names of the baselines that are this run."""

    @property
    def word(self) -> Word:
        if self.run is None:
            return Word.DAMAGED if self.state is State.DAMAGED else Word.UNFINISHED
        decisions = {item.decision for item in self.run.candidates}
        if Decision.BLOCK in decisions or not decisions:
            return Word.BLOCK
        return Word.RELEASE if decisions == {Decision.RELEASE} else Word.NONE

    @property
    def not_kept(self) -> tuple[tuple[str, str], ...]:
        """``broken``, ``refusal-drop (2 of 3)``: blocking limits that were not kept, over all candidates."""
        candidates = self.run.candidates if self.run else ()
        found = []
        for answer in Answer:
            count = Counter(name for item in candidates for name in item.not_kept.get(answer, ()))
            several = len(candidates) > 1
            names = [f"{name} ({n} of {len(candidates)})" if several else name for name, n in count.items()]
            if names:
                found.append((answer.meaning, ", ".join(names)))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class History:
    """A run directory, ready to be drawn."""

    directory: str
    rows: tuple[Row, ...]
    """Newest first."""
    others: tuple[str, ...]
    """Directories that hold no run."""
    deeper: tuple[tuple[str, str], ...]
    """Directories with a list of runs of their own (a training's evaluations), and the link to it."""
    trouble: tuple[str, ...]
    """What could not be read beside the runs."""
    made: datetime

    @property
    def counts(self) -> str:
        """``3 runs: 1 release, 2 block``."""
        words = Counter(row.word for row in self.rows)
        said = ", ".join(f"{words[word]:,} {word}" for word in Word if words[word])
        return counted(len(self.rows), "run") + (f": {said}" if said else "")


def update(directory: Path) -> Path:
    """Write ``index.html`` and ``index.json`` of a run directory; only records that are new or changed are read.

    Raises:
        RecordError: no such directory, another program's files in these places, or others hold the lock for too long.
    """
    if not directory.is_dir():
        raise RecordError(f"no run directory {directory}; name the one that --run-dir wrote to")
    _check_ours(directory)
    try:
        with FileLock(directory / LOCK, timeout=WAIT):
            history, side = read(directory)
            _write(directory / SIDE_FILE, side.model_dump_json(indent=None) + "\n")
            _write(directory / FILE, render(history))
    except Timeout:
        raise RecordError(
            f"{directory / LOCK} was held by other runs for {WAIT} s; once they have ended: python -m harness index "
            f"{directory}"
        ) from None
    return directory / FILE


def _write(path: Path, text: str) -> None:
    data = text.encode("utf-8")
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def _check_ours(directory: Path) -> None:
    """Nothing that somebody else put there is replaced. A damaged side file beside our page is ours."""
    page, side = directory / FILE, directory / SIDE_FILE
    if page.exists():
        if not _is_ours(page):
            raise RecordError(
                f"{page} was not written by this tool and is left alone; move it, or use another --run-dir"
            )
    elif side.exists() and history_side.load(side) is None:
        raise RecordError(f"{side} was not written by this tool and is left alone; move it, or use another --run-dir")


def _is_ours(page: Path) -> bool:
    """Whether a page is a list of runs that this module wrote."""
    try:
        with page.open("rb") as file:
            return MARK.encode() in file.read(4000)
    except OSError:
        return False


def _link(place: Path, name: str) -> str:
    return f"{quote(os.fsencode(place.name))}/{name}"


def render(history: History) -> str:
    """The page as text."""
    template = html.environment().get_template("history.html.j2")
    return template.render(
        history=history,
        symbols=SYMBOLS,
        symbol_of=lambda decision: SYMBOLS[Word(decision.value)],
        classes=_CLASSES,
        mark=Markup(MARK),  # noqa: S704 - this module's own text
        scripts=_SCRIPTS,
    )


# ---------------------------------------------------------------- what is in the directory


def read(directory: Path) -> tuple[History, Side]:
    """All runs of a directory, and what is to be kept of them for the next time."""
    earlier = history_side.load(directory / SIDE_FILE)
    known = dict(earlier.runs) if earlier else {}
    blessed, trouble = _blessed(directory)
    found: list[Row] = []
    others: list[Path] = []
    kept: dict[str, Kept] = {}
    with os.scandir(directory) as entries:
        places = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and _is_directory(entry)]
    for place in places:
        row, keep = _row(place, known.get(place.name), blessed.get(place.name, ()))
        if row is None:
            others.append(place)
        else:
            found.append(row)
        if keep is not None and printable(place.name) == place.name:
            kept[place.name] = keep
    found.sort(key=lambda row: (row.when, row.name), reverse=True)
    history = History(
        directory=printable(directory.resolve().name),
        rows=tuple(found),
        others=tuple(printable(place.name) for place in sorted(others) if not _is_ours(place / FILE)),
        deeper=tuple((printable(place.name), _link(place, FILE)) for place in sorted(others) if _is_ours(place / FILE)),
        trouble=trouble,
        made=datetime.now(UTC),
    )
    return history, history_side.make(kept)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """False also for a link that leads nowhere or to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _row(place: Path, known: Kept | None, blessed: tuple[str, ...]) -> tuple[Row | None, Kept | None]:
    """A directory's row, None where it holds no run; and what to keep, None where it is to be read again."""
    name, path = printable(place.name), place / record.FILE
    try:
        stat = path.stat()
    except OSError:
        return _unrecorded(place, blessed), None
    kept = known if known and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns) else None
    link = _link(place, html.FILE) if (place / html.FILE).is_file() else ""
    try:
        kept = kept or Kept(
            size=stat.st_size, mtime_ns=stat.st_mtime_ns, run=recorded(record.read(place, check_tables=False), place)
        )
        when = _time(kept.run.started)
    except (HarnessError, OSError, OverflowError, ValueError) as error:  # a reason to show, never to hide the run
        changed = datetime.fromtimestamp(stat.st_mtime, UTC)
        return Row(name, State.DAMAGED, changed, None, printable(str(error)), "", blessed), None
    return Row(name, State.RECORDED, when, kept.run, "", link, blessed), kept


def _unrecorded(place: Path, blessed: tuple[str, ...]) -> Row | None:
    """The row of a directory without a record, None where it holds no run or was removed meanwhile."""
    name = printable(place.name)
    try:
        begun, changed = _begun(place), datetime.fromtimestamp(place.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Row(name, State.DAMAGED, datetime.fromtimestamp(0, UTC), None, printable(str(error)), "", blessed)
    return Row(name, State.UNFINISHED, changed, None, f"no {record.FILE}", "", blessed) if begun else None


def _begun(place: Path) -> bool:
    """Whether a directory without a record looks like a run: it is empty, or has a run's tables or work."""
    names = {item.name for item in place.iterdir()}
    return not names or bool(names & {"tables", "work"})


def _time(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def _replaced(path: Path, digest: str) -> bool:
    try:
        return record.file_digest(path) != digest
    except OSError:
        return False


def _blessed(directory: Path) -> tuple[Mapping[str, tuple[str, ...]], tuple[str, ...]]:
    """Directory name -> names of the baselines that it holds; and what is wrong with the baselines."""
    try:
        holders = baselines.read(directory)
    except HarnessError as error:
        return {}, (f"Baselines are not shown: {error}",)
    found: dict[str, tuple[str, ...]] = {}
    for name, holder in sorted(holders.items()):
        shown = name + (f" (although {holder.although})" if holder.although else "")
        if _replaced(directory / holder.run / record.FILE, holder.sha256):
            shown += " (another record lies here now)"
        found[holder.run] = (*found.get(holder.run, ()), shown)
    return found, ()
