"""Runs beside each other: one line per limit, one column per candidate, each held against the first column.

**Better, worse or noise** is decided on the two candidates themselves, item by item, wherever both runs kept what they
said: the metric that compares two checkpoints (``Metric.change``) is measured with the first column's candidate in the
reference's place. Elsewhere two intervals that do not overlap tell two numbers apart, which needs a larger difference.
Claims are corrected by Holm over the limits of a column. Numbers of other conditions (``conditions.py``) have no
difference at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.conditions import Difference
from harness.domain import Checkpoint, Finding, Limit, Measurement
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


@dataclass(frozen=True, slots=True)
class Cell:
    """One limit in one column."""

    finding: Finding | None
    """None: the column's run does not answer this limit (or has it not)."""
    why: str
    """Why there is no finding; '' where there is one."""
    mark: Mark
    change: Measurement | None = None
    """What the mark rests on where items could be paired: the change from the first column's candidate."""
    unlike: tuple[Difference, ...] = ()
    """What makes the two incomparable."""
    note: str = ""
    """Why the mark is what it is, where that is neither in ``change`` nor in ``unlike``; a bound that differs."""
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
    lines: tuple[Line, ...]
    accepted: tuple[str, ...] = ()
    """Kinds of difference that were to be overlooked (``--accept``)."""

    @property
    def worse(self) -> tuple[tuple[Line, Column], ...]:
        """Blocking limits that got worse than in the first column, and where."""
        raise NotImplementedError

    @property
    def unknown(self) -> tuple[tuple[Line, Column], ...]:
        """Blocking limits that could not be compared with the first column, and where."""
        raise NotImplementedError


def compare(runs: Sequence[Path], *, accept: Sequence[str] = ()) -> Pivot:
    """Read runs and hold each of their candidates against the first one.

    Args:
        runs: run directories, the basis first; several candidates of a run are a column each.
        accept: kinds of difference to overlook: ``version`` and ``engine`` only.
    """
    raise NotImplementedError
