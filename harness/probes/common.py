"""What probes share: the unit a limit asks for, and the same number by category."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from harness.domain import Limit, Measurement, Slice
from harness.errors import MeasurementError, PolicyError
from harness.policy import METRICS
from harness.stats import Estimate, holm, measurement

MAX_EXAMPLES = 50
"""Ids kept as examples."""
NO_CATEGORY = "(no category)"
"""Where items without a category land when others have one."""

Metric = TypeVar("Metric")
P = ParamSpec("P")

MeasureItems = Callable[[npt.NDArray[np.intp]], tuple[Estimate, float, float]]
"""Positions of some items -> their estimate, reference value and candidate value."""


def probe(function: Callable[P, Measurement]) -> Callable[P, Measurement]:
    """Marks the function that measures the built-in metric of its own name; limits on another one are refused.

    Without this, a slip in a case (measuring over-refusal for a limit on lost refusals) would answer another
    question. A metric of a user's own may be measured by any function.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Measurement:
        for limit in (*args, *kwargs.values()):
            if isinstance(limit, Limit) and limit.metric in METRICS and limit.metric != function.__name__:
                raise MeasurementError(
                    f"{function.__name__} was measured for limit {limit.id!r}, which is on {limit.metric}"
                )
        return function(*args, **kwargs)

    return checked


def unit_of(limit: Limit, default: str = "", *others: str) -> str:
    """The unit a limit asks for, or the default. Raises ``PolicyError`` for one that the metric does not have."""
    if limit.unit in ("", default):
        return default
    if limit.unit in others:
        return limit.unit
    known = " or ".join(repr(unit) for unit in (default, *others) if unit) or "no unit at all: a share from 0 to 1"
    raise PolicyError(f"limit {limit.id!r}: {limit.metric} has no unit {limit.unit!r}; it is measured in {known}")


def metric_of(metrics: Mapping[str, Metric], limit: Limit) -> Metric:
    """The function that measures what a limit names. Raises ``PolicyError`` for a metric of another probe."""
    if limit.metric not in metrics:
        raise PolicyError(
            f"limit {limit.id!r}: {limit.metric!r} is not measured here; this probe has {', '.join(metrics)}"
        )
    return metrics[limit.metric]


def by_category(categories: Sequence[str], limit: Limit, measure: MeasureItems) -> tuple[Slice, ...]:
    """One slice per category, by name; none where no item has a category.

    ``categories`` [items]. A slice is ``broken`` where its claim survives Holm's correction over all slices at
    ``limit.alpha``; its bounds are at ``limit.alpha``, uncorrected. A category too small to be measured has NaN bounds.
    """
    if not any(categories):
        return ()
    names = np.array([category or NO_CATEGORY for category in categories])
    slices = []
    for name in sorted(set(names.tolist())):
        estimate, reference, candidate = measure(np.flatnonzero(names == name))
        m = measurement(limit, estimate)
        slices.append(Slice(name, m.n, reference, candidate, m.value, m.low, m.high, m.p_broken))
    broken = holm([s.p_broken for s in slices], limit.alpha)
    return tuple(replace(s, broken=b) for s, b in zip(slices, broken, strict=True))
