"""Stored runs -> the columns of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness import policy, record
from harness.comparing.data import Column
from harness.domain import Outcome
from harness.errors import OptionError, RecordError
from harness.record import RunRecord


def columns(runs: Sequence[Path], basis: str = "") -> tuple[Column, ...]:
    """A column for each candidate of each run, in the order given; the one that is called ``basis`` goes first.

    Raises:
        OptionError: a run given twice, fewer than two columns, or no column of that name.
        RecordError: a run that is missing, interrupted, damaged, or whose tables or findings changed.
    """
    seen: dict[Path, Path] = {}
    found = []
    for run in runs:
        directory = run.parent if run.name == record.FILE else run
        if (whole := directory.resolve()) in seen:
            raise OptionError(f"{run} is given twice (as {seen[whole]}); name each run once")
        seen[whole] = run
        stored = record.read(run)
        _check_passes(stored, run)
        found += [Column(item.name, stored.run, directory, stored, item) for item in stored.candidates]
    if len(found) < 2:
        raise OptionError("nothing to compare: one run with one candidate; name a second run to hold against it")
    named = tuple(replace(item, key=key) for item, key in zip(found, _keys(found), strict=True))
    if not basis:
        return named
    first = [item for item in named if item.key == basis]
    if not first:
        raise OptionError(f"--basis {basis!r} is no column; there are {', '.join(item.key for item in named)}")
    return (*first, *(item for item in named if item.key != basis))


def _check_passes(stored: RunRecord, run: Path) -> None:
    """What a record says was kept, its measurement shows. Raises ``RecordError``."""
    for finding in stored.findings:
        limit, measured = finding.limit, finding.measurement
        shown = None if measured is None else policy.assess(measured, limit, finding.candidate).outcome
        if finding.outcome is Outcome.PASS and shown is not Outcome.PASS:
            raise RecordError(
                f"{run}: {limit.id} is said to be kept by {finding.candidate}, and its measurement does not show it; "
                "the record was changed, or it was made by a version with other rules"
            )


def _keys(found: Sequence[Column]) -> list[str]:
    """The candidates' names; with the run's, or the directory's, those that several have."""
    levels = [
        [item.candidate.name for item in found],
        [f"{item.run}/{item.candidate.name}" for item in found],
        [f"{item.directory.name}/{item.candidate.name}" for item in found],
        [f"{item.directory}/{item.candidate.name}" for item in found],
    ]
    counts = [Counter(level) for level in levels]
    keys = [
        next((level[at] for level, count in zip(levels, counts, strict=True) if count[level[at]] == 1), "")
        for at in range(len(found))
    ]
    if all(keys) and len(set(keys)) == len(keys):
        return keys
    return [f"{number}:{item.candidate.name}" for number, item in enumerate(found, start=1)]
