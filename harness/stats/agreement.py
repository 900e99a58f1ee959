"""How far two judges agree, and how often one is right: ``kappa``, ``sensitivity_specificity``.

Cohen's κ (Educ. Psychol. Meas. 20, 1960) is (p - e)/(1 - e), with p the share of answers that both give the same label,
and e the share that two judges with these label frequencies would agree on by chance: 1 is always, 0 is as often as by
chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from harness.stats.intervals import DRAWS, SEED, Estimate, Floats, of_draws, proportion, unusable


def kappa(pairs: Iterable[tuple[str, str]]) -> Estimate:
    """Cohen's κ over the two labels of each answer.

    Bounds: random weights on the answers *and one more*, uniform on the simplex; the upper bound is the (1 - alpha)
    quantile of the weighted κ where the one more has the two labels that raise κ most, the lower one the alpha quantile
    where it has those that lower it most. It is Gaffke's idea (see ``intervals``) for a number that is not a mean: also
    complete agreement has width, and with n answers and no disagreement the bound is about that of Clopper-Pearson. Its
    error is measured, not proven: ``docs/statistics.md``.

    Unusable (with a ``problem``): no answers, or all of them with one and the same label from both judges, where
    agreement by chance is complete.
    """
    table = _table(list(pairs))
    n = int(table.sum())
    if n == 0:
        return unusable("no answers that both judges could read")
    value = float(_kappa(table))
    if np.isnan(value):
        return unusable(
            f"both judges gave all {n} answers the same label: agreement by chance is complete, kappa has no meaning",
            n=n,
        )
    method = f"Cohen's kappa, Dirichlet weights on answers and one more, {DRAWS} draws"

    @cache
    def draws() -> tuple[Floats, Floats]:
        rng = np.random.default_rng(SEED)
        weights = rng.standard_gamma(table, size=(DRAWS, *table.shape))
        extra = rng.standard_exponential(DRAWS)
        lowered, raised = [], []
        for cell in np.ndindex(table.shape):
            one = np.zeros(table.shape)
            one[cell] = 1.0
            after = float(_kappa(table + one))
            lowered.append((after, cell))
            raised.append((-after, cell))  # no sum is NaN: some cell already makes room for disagreement by chance
        found = []
        for cell in (min(lowered)[1], min(raised)[1]):
            more = weights.copy()
            more[(slice(None), *cell)] += extra
            found.append(np.sort(np.nan_to_num(_kappa(more), nan=1.0)))
        return found[0], found[1]

    found = of_draws(value, n, method, (-1.0, 1.0), draws)
    # with a handful of answers the median of the weighted κ may lie beyond κ itself
    return Estimate(value, n, method, lambda a: min(found.low(a), value), lambda a: max(found.high(a), value))


def sensitivity_specificity(hits: tuple[int, int, int, int]) -> tuple[Estimate, Estimate]:
    """Shares found/positives and rejected/negatives of (found, positives, rejected, negatives).

    ``hits`` is what ``calibration.Calibration.hits`` gives for one label. A share without answers is unusable. Raises
    ``ValueError`` for impossible counts.
    """
    found, positives, rejected, negatives = hits
    return proportion(found, positives), proportion(rejected, negatives)


def _table(pairs: list[tuple[str, str]]) -> Floats:
    """[labels, labels] first judge's label by second's, in order of the labels' names."""
    names = {name: at for at, name in enumerate(sorted({label for pair in pairs for label in pair}))}
    table = np.zeros((len(names), len(names)))
    for first, second in pairs:
        table[names[first], names[second]] += 1
    return table


def _kappa(table: Floats) -> npt.NDArray[np.float64]:
    """κ of tables of weights [..., labels, labels] -> [...]; NaN where agreement by chance is complete."""
    total = table.sum(axis=(-2, -1))
    first, second = table.sum(axis=-1), table.sum(axis=-2)
    same = np.trace(table, axis1=-2, axis2=-1) * total
    chance = (first * second).sum(axis=-1)
    room = total**2 - chance
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(room > 1e-12 * total**2, (same - chance) / room, np.nan)
