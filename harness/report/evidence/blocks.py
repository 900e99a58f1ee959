"""What several sections of the page share: a limit's measurement by category."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.domain import Limit, Slice
from harness.report.rows import LimitRow


@dataclass(frozen=True, slots=True)
class Rates:
    """One limit's measurement by category, from the record."""

    limit: Limit
    slices: tuple[Slice, ...]
    lowest: float = 0.0
    """Scale on which reference and candidate are drawn; rates and shares have 0 to 1."""
    highest: float = 1.0

    @property
    def ends(self) -> tuple[float, ...]:
        """Ends of all intervals, so that they can share a scale."""
        return tuple(end for item in self.slices for end in (item.low, item.high))

    @property
    def compares(self) -> bool:
        """The metric has a value for the reference and one for the candidate, not only one for both together."""
        return any(math.isfinite(item.reference) and math.isfinite(item.candidate) for item in self.slices)


def rates(rows: Sequence[LimitRow], corpus: str) -> tuple[Rates, ...]:
    """Measurements on a corpus that come with categories, each with the scale to draw them on.

    Those against a baseline are left out: what stands around them is about the reference.
    """
    found = []
    for row in rows:
        if row.limit.corpus == corpus and not row.limit.baseline and (m := row.measurement) and m.slices:
            values = [value for item in m.slices for value in (item.reference, item.candidate) if math.isfinite(value)]
            low, high = min(values, default=0.0), max(values, default=1.0)
            share = not m.unit and low >= 0 and high <= 1
            found.append(Rates(row.limit, m.slices, *((0.0, 1.0) if share or low == high else (low, high))))
    return tuple(found)
