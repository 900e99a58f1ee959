"""What a model can do: a task's accuracies, which questions were lost and gained, by subtask, and how it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.domain import Limit, Measurement
from harness.errors import HarnessError
from harness.probes.capability import MEASURES
from harness.report.rows import LimitRow

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Capability:
    """One task that a limit is on."""

    limit: Limit
    measurement: Measurement
    rates: tuple[Any, ...]
    """By subtask (``summarize.Rates``); () where there are none."""
    asked: str
    """Task, examples, metric and versions, for people; '' where the table is not kept."""

    @property
    def lost(self) -> float:
        """Questions whose score fell."""
        counts = self.measurement.counts
        return counts.get("right->wrong", counts.get("fell", 0.0))

    @property
    def gained(self) -> float:
        """Questions whose score rose."""
        counts = self.measurement.counts
        return counts.get("wrong->right", counts.get("rose", 0.0))

    @property
    def chance(self) -> float:
        return self.measurement.counts.get("chance", 0.0)

    @property
    def examples(self) -> tuple[str, ...]:
        """Ids of questions that were lost, or, of the accuracy alone, that the candidate has wrong."""
        return self.measurement.examples[:_SHOWN]


def capabilities(
    rows: Sequence[LimitRow], basis: Callable[[str], Mapping[str, str]], rates: Callable[[LimitRow], tuple[Any, ...]]
) -> tuple[Capability, ...]:
    """One item for each task; of several limits on one the change goes before the accuracy, and none is a baseline's.

    Args:
        rows: all limits of one candidate.
        basis: task -> what its result says of how it was asked; raises ``HarnessError`` or ``LookupError`` where the
            table is not kept.
        rates: a limit -> its measurement by subtask, ready to be drawn.
    """
    found: dict[str, LimitRow] = {}
    for name in MEASURES:
        for row in rows:
            if row.limit.metric == name and row.measurement is not None and not row.limit.baseline:
                found.setdefault(row.limit.corpus, row)
    return tuple(
        Capability(row.limit, row.measurement, rates(row), _asked(basis, task))
        for task, row in found.items()
        if row.measurement is not None
    )


def _asked(basis: Callable[[str], Mapping[str, str]], task: str) -> str:
    try:
        known = basis(task)
        name = json.loads(known["asked"])["task"]
    except (HarnessError, LookupError, ValueError):
        return ""
    shots = {"0": "no examples", "1": "1 example"}.get(known.get("num_fewshot", ""), "")
    parts = [
        f"{name}, version {known.get('version', 'unknown')}",
        shots or f"{known.get('num_fewshot', 'unknown')} examples (seed {known.get('fewshot_seed', 'unknown')})",
        f"metric {known.get('metric', 'unknown')}, filter {known.get('filter', 'unknown')}",
        "in no chat template" if known.get("template") == "none" else "in the chat template",
        f"lm-eval {known.get('lm-eval', 'unknown')}",
    ]
    return "; ".join(parts)
