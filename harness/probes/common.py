"""What probes share: the unit a limit asks for, what is independent of what, and the same number by category."""

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

Positions = npt.NDArray[np.intp]
Clusters = npt.NDArray[np.str_]
"""[items] labels: items with the same one are not independent of each other."""

MeasureItems = Callable[[Positions, Clusters], tuple[Estimate, float, float]]
"""Positions of some items and their clusters -> their estimate, reference value and candidate value."""


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


def prompt_clusters(prompts: Sequence[str]) -> Clusters:
    """Clusters [items] by the items' prompt ids; an item whose prompt is not known ('') stands alone."""
    return np.array([prompt or f"item {i}" for i, prompt in enumerate(prompts)], dtype=np.str_)


def clusters_of(limit: Limit, prompts: Sequence[str], categories: Sequence[str]) -> Clusters:
    """What counts as one independent item for a limit: [items] clusters, by prompt or by category.

    By category, items without one go by their prompt: nothing says that they belong together.

    Raises:
        MeasurementError: the limit asks for categories, and no item has one, or a prompt has items in two of them.
    """
    alone = prompt_clusters(prompts)
    if limit.cluster != "category":
        return alone
    if not any(categories):
        raise MeasurementError(
            f"limit {limit.id!r} has 'cluster: category', but no item of corpus {limit.corpus!r} has a category: give "
            "the corpus a column 'category', or leave 'cluster' out"
        )
    where: dict[str, str] = {}
    for prompt, category in zip(alone.tolist(), categories, strict=True):
        if where.setdefault(prompt, category) != category:
            raise MeasurementError(
                f"limit {limit.id!r} has 'cluster: category', but one prompt of corpus {limit.corpus!r} has items in "
                f"the categories {where[prompt]!r} and {category!r}: give all items of a prompt the same one"
            )
    named = [f"category {c}" if c else prompt for c, prompt in zip(categories, alone.tolist(), strict=True)]
    return np.array(named, dtype=np.str_)


def by_category(
    categories: Sequence[str], prompts: Sequence[str], limit: Limit, measure: MeasureItems
) -> tuple[Slice, ...]:
    """One slice per category, by name; none where no item has a category.

    ``categories`` and ``prompts`` [items]; within a category its prompts are what is independent, whatever the limit's
    ``cluster`` is. A slice is ``broken`` where its claim survives Holm's correction over all slices at ``limit.alpha``;
    its bounds are at ``limit.alpha``, uncorrected. A category too small to be measured has NaN bounds.
    """
    if not any(categories):
        return ()
    names = np.array([category or NO_CATEGORY for category in categories])
    clusters = prompt_clusters(prompts)
    slices = []
    for name in sorted(set(names.tolist())):
        at = np.flatnonzero(names == name)
        estimate, reference, candidate = measure(at, clusters[at])
        m = measurement(limit, estimate)
        slices.append(Slice(name, m.n, reference, candidate, m.value, m.low, m.high, m.p_broken))
    broken = holm([s.p_broken for s in slices], limit.alpha)
    return tuple(replace(s, broken=b) for s, b in zip(slices, broken, strict=True))
