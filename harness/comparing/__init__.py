"""Runs beside each other: one line per limit, one column per candidate, each held against the first column.

**Better, worse or noise** is decided on the two candidates themselves, item by item, wherever both runs kept what they
said: the metric that compares two checkpoints (``Metric.change``) is measured with the first column's candidate in the
reference's place, and its interval must leave zero out. Elsewhere (shares of pairs that fell, correlations, answers of
a run that could stop early) two intervals that do not overlap tell two numbers apart, which needs a larger difference.

**Claims are corrected** by Holm over the limits of a column that block, and apart from these over those that warn:
claims of "worse" as one family, those of "better" as another, each at its limit's alpha. So the chance that a column
which differs from the first in nothing has any "worse" among its blocking limits is at most alpha, and so it is among
the others. It is not corrected over columns. Intervals that do not overlap are not part of a family: each errs with a
probability of at most twice alpha, and with much less where both runs measured on the same items.

**Numbers of other conditions** (``harness.conditions``) have no difference at all. A bound or a severity that differs
changes no number, and is told.
"""

from harness.comparing.data import Cell, Column, Line, Mark, Pivot
from harness.comparing.marking import compare

__all__ = ["Cell", "Column", "Line", "Mark", "Pivot", "compare"]
