"""The change from one stored candidate to another, item by item: measured again from what both runs kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from harness import tables
from harness.comparing.data import Column
from harness.domain import Limit, Measurement
from harness.errors import MeasurementError, RecordError
from harness.policy import METRICS, Work
from harness.probes import capability, catastrophic, displacement, preference, refusal
from harness.work import read_masses


@dataclass(frozen=True, slots=True)
class Change:
    """From the first column's candidate to another's."""

    measurement: Measurement | None
    """Of the metric that compares two checkpoints; None: the same checkpoint gave the same answers."""
    p_worse: float
    """One-sided p-value of "it got worse"; 1 where there is nothing to claim."""
    p_better: float
    note: str = ""


class Unpaired(Exception):
    """Items cannot be paired, though numbers may be compared. The message says why, where it is not the metric."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a column's candidate said, read from its run's tables once."""

    column: Column
    known: dict[tuple[Work, str], Any] = field(default_factory=dict)

    def rows(self, work: Work, corpus: str) -> Any:
        """Labelled completions, scores, masses or a task's result, as the probes take them.

        Raises:
            Unpaired: the run kept no such table.
            RecordError: a table that cannot be read.
        """
        if (work, corpus) not in self.known:
            self.known[work, corpus] = self._read(work, corpus)
        return self.known[work, corpus]

    def _read(self, work: Work, corpus: str) -> Any:
        kinds, read = _TABLES[work]
        mine = [item for item in self.column.record.tables if item.checkpoint == self.column.candidate.name]
        listed = {item.kind: self.column.directory / item.path for item in mine if item.corpus == corpus}
        if missing := [kind for kind in kinds if kind not in listed]:
            raise Unpaired(f"run {self.column.run} kept no table of {missing[0]} on {corpus}")
        paths = [listed[kind] for kind in kinds]
        try:
            return read(*paths)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, RecordError):
                raise
            raise RecordError(f"{paths[-1]} is no table of {kinds[-1]} that this version reads ({error!r})") from None


_TABLES: Mapping[Work, tuple[tuple[str, ...], Callable[..., Any]]] = {
    Work.COMPLETIONS: (("completions", "labels"), tables.read_labelled),
    Work.SCORES: (("scores",), tables.read_scores),
    Work.FIRST_TOKENS: (("masses",), read_masses),
    Work.TASK: (("task",), tables.read_task),
}
"""Work -> kinds of the tables that keep it, and what reads them."""


def measure(before: Stored, after: Stored, limit: Limit) -> Change:
    """The change from one candidate to another, by the metric that compares two checkpoints.

    Args:
        before: the first column's candidate, in the reference's place.
        after: the other one.
        limit: what is compared; its alpha, unit, clusters, ``max_unreadable`` and ``min_n`` hold for the change too.

    Raises:
        Unpaired: no metric compares this one between two checkpoints, or the items of both are not there.
        MeasurementError: they pair up, and there is no change to be measured; says why.
    """
    metric = METRICS.get(limit.metric)
    if metric is None or not metric.change:
        raise Unpaired
    work = metric.works[0]
    if work is Work.COMPLETIONS and (before.column.record.early_stop or after.column.record.early_stop):
        raise Unpaired("generation could stop early, so that not the same prompts were asked")
    ours, theirs = before.rows(work, limit.corpus), after.rows(work, limit.corpus)
    if before.column.candidate.identity == after.column.candidate.identity and ours == theirs:
        return Change(None, 1.0, 1.0, "the same checkpoint, and the same answers")
    worse, better = claims(limit)
    what = f"{worse.metric} from {before.column.key} (as reference) to {after.column.key}"
    try:
        measured = _measure(ours, theirs, worse)
    except MeasurementError as error:
        raise MeasurementError(f"{what}: {error}") from None
    opposite = None
    if measured.problem:
        # A probe refuses a limit that this basis leaves no room to break, on one side only: no fault of the numbers.
        opposite = _measure(ours, theirs, better)
        if not opposite.problem:
            measured = replace(measured, problem="")
        elif ours == theirs:
            return Change(None, 1.0, 1.0, "the same answers, item by item")
    if why := unusable(measured, limit):
        raise MeasurementError(f"{what}: {why}")
    rose = measured.high < 0 if worse.is_maximum else measured.low > 0
    if rose and opposite is None:
        opposite = _measure(ours, theirs, better)
    return Change(measured, _p(measured), _p(opposite) if rose and opposite else 1.0)


def claims(limit: Limit) -> tuple[Limit, Limit]:
    """Limits on the change that are broken where it shows "worse", and where it shows "better": at most or at least 0.

    A metric that is a change itself is worse on the side that its limit keeps it from. So is one that is a checkpoint's
    own, but for those whose change is counted as a drop, which has the other sign.
    """
    change = METRICS[limit.metric].change
    turned = change != limit.metric and change.endswith("_drop")
    at_most, at_least = (
        replace(limit, metric=change, maximum=high, minimum=low, baseline="")
        for high, low in ((0.0, None), (None, 0.0))
    )
    return (at_most, at_least) if limit.is_maximum is not turned else (at_least, at_most)


def unusable(measured: Measurement | None, limit: Limit) -> str:
    """Why a measurement gives no number to compare; '' where it does. As ``policy.assess`` sees it."""
    if measured is None:
        return "there is no measurement"
    if measured.problem:
        return measured.problem
    if measured.unreadable_share > limit.max_unreadable:
        return (
            f"the judge could not read {measured.unreadable} of {measured.labelled} answers "
            f"({measured.unreadable_share:.1%}; at most {limit.max_unreadable:.1%} allowed)"
        )
    if measured.n < limit.min_n:
        return f"{measured.n} items, fewer than the policy asks for (min_n: {limit.min_n})"
    if not all(map(math.isfinite, (measured.value, measured.low, measured.high))):
        return "not a finite number"
    return ""


def _p(measured: Measurement) -> float:
    return 1.0 if math.isnan(measured.p_broken) else measured.p_broken


def _measure(ours: Any, theirs: Any, limit: Limit) -> Measurement:
    for probe in (refusal, displacement, preference, capability):
        if limit.metric in probe.MEASURES:
            measured: Measurement = probe.measure(ours, theirs, limit)
            return measured
    return catastrophic.mass_rise(ours, theirs, limit)
