"""A candidate's results as one flat dict of numbers: what trackers log and other programs ingest."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from harness.domain import Decision
from harness.errors import OptionError, RecordError
from harness.record import RunRecord
from harness.report.rows import Answer, limit_rows, verdict_of

MEASURED = (Answer.KEPT, Answer.BROKEN, Answer.UNDECIDED)
"""Answers that come with a number that has a meaning."""


def flat(record: RunRecord, candidate: str) -> dict[str, float]:
    """``{"refusal-drop/value": 0.41, "refusal-drop/low": 0.35, ..., "refusal-drop/pass": 0, "released": 0}``.

    ``ID/value``, ``/low``, ``/high``, ``/reference`` and ``/candidate`` are the measurement's own, in its unit; what is
    no finite number is left out, and so are the numbers of a limit that could not be measured. ``ID/pass`` is 1 where
    exactly one finding answers the limit, and it passes; a limit that is undecided, not measurable or unanswered has 0.
    ``released`` is 1 for the verdict "release" alone.

    Raises:
        RecordError: two limits get the same name.
    """
    found: dict[str, float] = {}
    rows = limit_rows(record, candidate)
    for limit in record.policy.limits:
        name, mine = safe_name(limit.id), [row for row in rows if row.limit == limit]
        if f"{name}/pass" in found:
            raise RecordError(f"{record.run}: two limits are called {name!r} here; give one of them another id")
        only = mine[0] if len(mine) == 1 else None
        m = only.measurement if only is not None and only.answer in MEASURED else None
        found[f"{name}/pass"] = int(m is not None and only is not None and only.answer is Answer.KEPT)
        if m is not None:
            numbers = (m.value, m.low, m.high, m.reference, m.candidate)
            named = zip(("value", "low", "high", "reference", "candidate"), numbers, strict=True)
            found |= {f"{name}/{key}": value for key, value in named if math.isfinite(value)}
    return found | {"released": int(verdict_of(record, candidate).decision is Decision.RELEASE)}


def candidate_names(record: RunRecord, asked: Sequence[str]) -> tuple[str, ...]:
    """Those asked for, or all of the run.

    Raises:
        OptionError: the run has no such candidate.
    """
    names = tuple(item.name for item in record.candidates)
    for name in asked:
        if name not in names:
            raise OptionError(f"--candidate {name}: the run {record.run} has {', '.join(names)}")
    return tuple(dict.fromkeys(asked)) or names


def safe_name(text: str) -> str:
    """A name that every tracker takes: letters, digits, ``_``, ``.`` and ``-``; ``ID@NAME`` becomes ``ID_vs_NAME``."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text.replace("@", "_vs_"))


def as_data(record: RunRecord, names: tuple[str, ...]) -> dict[str, object]:
    """The flat numbers of several candidates, and whose they are, for JSON."""
    return {
        "schema": 1,
        "run": record.run,
        "started": record.started,
        "status": record.status,
        "partial": record.partial,
        "policy": record.policy.digest,
        "reference": {"name": record.reference.name, "identity": record.reference.identity},
        "candidates": [
            {
                "name": name,
                "identity": record.checkpoint(name).identity,
                "step": record.checkpoint(name).step,
                "decision": verdict_of(record, name).decision.value,
                "numbers": flat(record, name),
            }
            for name in names
        ],
    }
