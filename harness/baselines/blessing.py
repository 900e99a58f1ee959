"""Naming a stored run, and finding it again as it was when it was named."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from filelock import FileLock

from harness import record, verdicts
from harness.baselines.file import FILE, Holder, as_written, check_name, describe, read, read_file, replaced
from harness.domain import Checkpoint, Decision
from harness.errors import HarnessError, OptionError, RecordError
from harness.record import BaselineFacts, RunRecord
from harness.tables import write_atomically


@dataclass(frozen=True, slots=True)
class Blessing:
    """What ``bless`` did."""

    name: str
    holder: Holder
    file: Path
    replaced: Holder | None = None
    new: bool = True
    """False: the name stood for this very run already, and nothing was written."""
    note: str = ""
    """What of the run limits how it can be used."""


@dataclass(frozen=True, slots=True)
class Blessed:
    """A baseline that was opened: its run is there, whole and unchanged."""

    facts: BaselineFacts
    record: RunRecord
    directory: Path

    @property
    def checkpoint(self) -> Checkpoint:
        return self.record.checkpoint(self.facts.candidate)


def bless(
    run: Path,
    name: str,
    *,
    candidate: str | None = None,
    run_dir: Path | None = None,
    force: bool = False,
    although_blocked: bool = False,
) -> Blessing:
    """Name a candidate of a stored run.

    Args:
        run: the run's directory, or its ``record.json``.
        name: of the baseline.
        candidate: which of the run's; may be left out where there is one.
        run_dir: where ``baselines.json`` is kept; None: beside the run.
        force: take the name from the run that has it.
        although_blocked: also where the candidate was not released.

    Raises:
        OptionError: a name or candidate that cannot be; a name that is taken; a candidate that was not released, that
            is the reference itself, or whose bytes were not seen.
        RecordError: no whole, unchanged run there, or a file that cannot be read or written.
    """
    check_name("--as", name)
    directory = (run.parent if run.name == record.FILE else run).resolve()
    stored = record.read(directory)
    verdicts.check(stored, directory)
    chosen = _candidate(stored, candidate, run)
    _check_usable(stored, chosen, f"{run}: ")
    although = _although(stored, chosen)
    if although and not although_blocked:
        raise OptionError(
            f"{run}: the run was {although}, so {chosen.name} was not released; bless one that was, or say "
            "--although-blocked, which is shown wherever the baseline is named"
        )
    home = run_dir.resolve() if run_dir is not None else directory.parent
    holder = Holder(
        run=Path(os.path.relpath(directory, home)).as_posix(),
        candidate=chosen.name,
        identity=chosen.identity,
        sha256=record.file_digest(directory / record.FILE),
        blessed=record.now().isoformat(timespec="seconds"),
        although=although,
    )
    shown = Path(as_written(home / FILE))
    note = ""
    if stored.early_stop:
        note = "its generation may have stopped early, so limits on answers are not comparable with it"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f".{FILE}.lock"):
            before = read_file(home)
            taken = before.baselines.get(name)
            if taken is not None and taken.same == holder.same:
                return Blessing(name, taken, shown, new=False, note=note)
            if taken is not None and not force:
                raise OptionError(
                    f"baseline {name!r} is {describe(taken)} already, blessed {taken.blessed}; another --as NAME, or "
                    "--force to replace it (it is kept in the history)"
                )
            text = replaced(before, name, holder).model_dump_json(indent=1) + "\n"
            write_atomically(home / FILE, lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"cannot write {shown} ({error.strerror}); choose another --run-dir") from error
    return Blessing(name, holder, shown, replaced=taken, note=note)


def _candidate(stored: RunRecord, name: str | None, run: Path) -> Checkpoint:
    names = [item.name for item in stored.candidates]
    if name is None and len(names) > 1:
        raise OptionError(f"{run} has {len(names)} candidates; name one with --candidate: {', '.join(names)}")
    if name is not None and name not in names:
        raise OptionError(f"{run} has no candidate {name!r}; it has: {', '.join(names)}")
    return stored.checkpoint(name or names[0])


def _check_usable(stored: RunRecord, chosen: Checkpoint, where: str) -> None:
    if chosen.served:
        raise OptionError(
            f"{where}{chosen.name} was a served model: which weights answered was not seen, so it cannot be a "
            "baseline; gate the checkpoint itself"
        )
    if chosen.identity == stored.reference.identity:
        raise OptionError(
            f"{where}{chosen.name} is the reference itself (an A/A run, which measures noise), so it cannot be a "
            "baseline; every candidate is compared with the reference anyway"
        )


def _although(stored: RunRecord, chosen: Checkpoint) -> str:
    if stored.status != "complete":
        return "interrupted"
    if stored.partial:
        return "partial"
    decisions = {item.candidate: item.decision for item in stored.verdicts}
    return "" if decisions.get(chosen.name) is Decision.RELEASE else "blocked"


# ---------------------------------------------------------------- finding it again


def find(run_dir: Path, name: str) -> Holder:
    """What a name stands for.

    Raises:
        OptionError: no such name.
        RecordError: the file cannot be read.
    """
    check_name("--baseline", name)
    known = read(run_dir)
    if name in known:
        return known[name]
    listed = f"python -m harness bless --list --run-dir {as_written(run_dir)}"
    if not known:
        raise OptionError(
            f"--baseline {name}: nothing is blessed in {as_written(run_dir)}; name a run there: python -m harness "
            f"bless RUN --as {name} ({listed} shows what is)"
        )
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise OptionError(f"--baseline {name}: no such baseline; {hint}there are: {', '.join(known)} ({listed})")


def open_baseline(run_dir: Path, name: str) -> Blessed:
    """The run that a name stands for, as it was when it was blessed.

    Raises:
        OptionError: no such name, or its run is gone, damaged or another one than was blessed.
        RecordError: ``baselines.json`` cannot be read.
    """
    holder = find(run_dir, name)
    listed = f"see python -m harness bless --list --run-dir {as_written(run_dir)}"
    directory = run_dir / holder.run
    try:
        stored = record.read(directory)
        if record.file_digest(directory / record.FILE) != holder.sha256:
            raise RecordError(f"{as_written(directory)} holds another record than the one that was blessed")
        verdicts.check(stored, directory)
        chosen = _candidate(stored, holder.candidate, directory)
        if chosen.identity != holder.identity or holder.although != _although(stored, chosen):
            raise RecordError(f"{FILE} says something else of {holder.candidate} than the record does")
        _check_usable(stored, chosen, "")
    except HarnessError as error:
        raise OptionError(f"--baseline {name}: {error}; {listed}") from error
    facts = BaselineFacts(
        name=name,
        run=holder.run,
        candidate=holder.candidate,
        identity=holder.identity,
        sha256=holder.sha256,
        although=holder.although,
    )
    return Blessed(facts, stored, directory)
