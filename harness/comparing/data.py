"""What a comparison is, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.conditions import Difference
from harness.domain import Checkpoint, Finding, Limit, Measurement, Severity
from harness.record import RunRecord


class Mark(StrEnum):
    """A column's number beside the first column's."""

    FIRST = ""
    """It is the first column."""
    BETTER = "+"
    WORSE = "-"
    NOISE = "~"
    """The interval of the difference holds zero: neither is shown."""
    INCOMPARABLE = "x"
    """Another basis, or no number on one side: there is no difference."""


@dataclass(frozen=True, slots=True)
class Column:
    """One candidate of one run."""

    key: str
    """Unique among the columns: the candidate's name, with its run's where several have that name."""
    run: str
    directory: Path
    record: RunRecord
    candidate: Checkpoint

    def limit(self, name: str) -> Limit | None:
        """The limit of that id in the run's policy."""
        return next((item for item in self.record.policy.limits if item.id == name), None)

    def blocks(self, name: str) -> bool:
        """Whether the limit of that id blocks in this run."""
        limit = self.limit(name)
        return limit is not None and limit.severity is Severity.BLOCK


@dataclass(frozen=True, slots=True)
class Cell:
    """One limit in one column."""

    finding: Finding | None
    """None: the column's run does not answer this limit (or has it not)."""
    why: str
    """Why there is no finding; '' where there is one."""
    mark: Mark
    change: Measurement | None = None
    """What the mark rests on where items could be paired: the change from the first column's candidate. Its
    ``p_broken`` is the p-value of "worse"."""
    unlike: tuple[Difference, ...] = ()
    """What makes the two incomparable."""
    note: str = ""
    """Why the mark is what it is, where that is neither in ``change`` nor in ``unlike``; a bound that differs."""
    by_intervals: bool = False
    """The mark rests on whether two intervals overlap, which takes a larger difference than ``change`` would."""
    got_worse: bool = False
    """Worse by its mark, or kept in the first column and no longer here: what ``compare`` exits with 1 for."""


@dataclass(frozen=True, slots=True)
class Line:
    """One limit over all columns."""

    limit: Limit
    """As the first column that has it has it."""
    cells: tuple[Cell, ...]
    """[columns]"""


@dataclass(frozen=True, slots=True)
class Pivot:
    """Runs beside each other."""

    columns: tuple[Column, ...]
    """The first is the one that all others are held against."""
    lines: tuple[Line, ...]
    accepted: tuple[str, ...] = ()
    """Kinds of difference that were to be overlooked (``--accept``)."""

    @property
    def worse(self) -> tuple[tuple[Line, Column], ...]:
        """Blocking limits that got worse than in the first column, and where."""
        return tuple((line, column) for line, column, cell in self._blocking() if cell.got_worse)

    @property
    def unknown(self) -> tuple[tuple[Line, Column], ...]:
        """Blocking limits that could not be compared with the first column, and where.

        Limits of a baseline are not among them: another release is blessed each time, and the policy's own limit, which
        asks the same of these two candidates, has a line of its own.
        """
        return tuple(
            (line, column)
            for line, column, cell in self._blocking()
            if cell.mark is Mark.INCOMPARABLE and not line.limit.baseline
        )

    def _blocking(self) -> list[tuple[Line, Column, Cell]]:
        """Cells beside the first column whose limit blocks in either run."""
        first = self.columns[0]
        return [
            (line, column, cell)
            for line in self.lines
            for column, cell in zip(self.columns[1:], line.cells[1:], strict=True)
            if first.blocks(line.limit.id) or column.blocks(line.limit.id)
        ]
