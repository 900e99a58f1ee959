"""The verdict of a stored run, decided again from its findings alone."""

from __future__ import annotations

from pathlib import Path

from harness import gate, policy
from harness.errors import RecordError
from harness.record import RunRecord


def check(stored: RunRecord, where: Path) -> None:
    """The stored limits, findings and verdicts follow from the policy's text, the measurements and the rules.

    Args:
        stored: the record.
        where: what messages name.

    Raises:
        RecordError: they do not: the record was changed, or made by a version with other rules.
        PolicyError: the policy in the record is none that this version reads.
    """
    rules = policy.parse(stored.policy.text.encode("utf-8"), Path(stored.policy.path))
    if stored.baseline is not None:
        rules = policy.with_baseline(rules, stored.baseline.name)
    findings = policy.correct(
        [
            item if item.measurement is None else policy.assess(item.measurement, item.limit, item.candidate)
            for item in stored.findings
        ]
    )
    again = gate.decide_all(
        rules.limits,
        [candidate.name for candidate in stored.candidates],
        findings,
        {(item.candidate, item.limit): item.why for item in stored.unanswered},
        partial=stored.partial,
        interrupted=stored.status != "complete",
    )
    if (rules.limits, again, tuple(findings)) != (stored.policy.limits, stored.verdicts, stored.findings):
        raise RecordError(
            f"{where}: the verdict stored does not follow from the findings stored; the record was changed, or it was "
            "made by a version with other rules"
        )
