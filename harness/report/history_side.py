"""``index.json``: what the list of runs keeps of each run, so that its record is not read again.

Nothing is decided from it. A run's part holds for a record of one size and time; a file that cannot be read, or is of
another schema, counts as none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness import record, verdicts
from harness.domain import Decision
from harness.errors import RecordError
from harness.record import RunRecord
from harness.report import rows
from harness.report.rows import Answer

FILE = "index.json"
SCHEMA = 1
"""Raised when what it says of a run changes its meaning or shape."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Candidate(_Data):
    """What the page says of one candidate."""

    name: str
    decision: Decision
    not_kept: Mapping[Answer, tuple[str, ...]]
    """Answer -> ids of blocking limits that have it."""


class Recorded(_Data):
    """What the page says of a run whose record is whole."""

    run: str
    started: str
    """ISO 8601, UTC."""
    status: str
    partial: bool
    candidates: tuple[Candidate, ...]
    limits: int
    """Blocking ones."""
    reference: str
    reference_identity: str
    policy: str
    policy_digest: str
    baseline: str
    """The blessed run that it was held against; '' for none."""


class Kept(_Data):
    size: int
    mtime_ns: int
    run: Recorded


class Side(_Data):
    dpo_harness_index: int
    record_schema: int
    runs: Mapping[str, Kept]


def make(runs: Mapping[str, Kept]) -> Side:
    """The file for these runs, of this version."""
    return Side(dpo_harness_index=SCHEMA, record_schema=record.SCHEMA, runs=runs)


def load(path: Path) -> Side | None:
    """What an earlier page kept; None where there is none, or it is damaged, foreign or of another schema."""
    try:
        side = Side.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return side if (side.dpo_harness_index, side.record_schema) == (SCHEMA, record.SCHEMA) else None


def recorded(run: RunRecord, where: Path) -> Recorded:
    """What the page says of a record; ``where`` it lies.

    Raises:
        RecordError: it says release of a candidate, and that does not follow from what it measured.
        PolicyError: it says release, and its policy is none that this version reads.
    """
    candidates = tuple(_candidate(run, item.name) for item in run.candidates)
    if any(item.decision is Decision.RELEASE for item in candidates):
        verdicts.check(run, where)
    return Recorded(
        run=run.run,
        started=run.started,
        status=run.status,
        partial=run.partial,
        candidates=candidates,
        limits=sum(limit.severity == "block" for limit in run.policy.limits),
        reference=run.reference.name,
        reference_identity=run.reference.short,
        policy=run.policy.path,
        policy_digest=run.policy.digest,
        baseline=run.baseline.name if run.baseline else "",
    )


def _candidate(run: RunRecord, name: str) -> Candidate:
    not_kept: dict[Answer, tuple[str, ...]] = {}
    for row in rows.limit_rows(run, name):
        if row.answer is not Answer.KEPT and not row.warns_only and row.limit.id not in not_kept.get(row.answer, ()):
            not_kept[row.answer] = (*not_kept.get(row.answer, ()), row.limit.id)
    decision = rows.verdict_of(run, name).decision
    if decision is Decision.RELEASE and not_kept:
        raise RecordError(
            f"the record says release of {name}, and blocking limits are not kept; see `python -m harness gate`"
        )
    return Candidate(name=name, decision=decision, not_kept=not_kept)
