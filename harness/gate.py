"""The gate: findings in, verdict out.

Release needs every blocking limit answered exactly once by a passing finding. Everything else blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.domain import Decision, Finding, Limit, Outcome, Severity, Verdict


def decide(
    limits: Iterable[Limit],
    candidate: str,
    findings: Iterable[Finding],
    *,
    unanswered: Mapping[str, str] | None = None,
    partial: bool = False,
    interrupted: bool = False,
) -> Verdict:
    """The verdict on one candidate.

    Args:
        limits: all limits of the policy, whatever was selected.
        candidate: its name.
        findings: all findings of the run; those of other candidates are left aside.
        unanswered: limit id -> why it has no answer, where that is known (skipped, deselected, crashed).
        partial: only part of the policy was asked for; then there is no verdict.
        interrupted: the run did not come to its end; then nothing is released.
    """
    if partial:
        return Verdict(candidate, Decision.NONE)
    blocking = [limit for limit in limits if limit.severity is Severity.BLOCK]
    if not blocking:
        return Verdict(candidate, Decision.BLOCK, ("the policy has no blocking limit, so nothing was required",))
    mine = [finding for finding in findings if finding.candidate == candidate]
    reasons = ["the run was interrupted"] if interrupted else []
    for limit in blocking:
        answers = [finding for finding in mine if finding.limit == limit]
        if not answers:
            reasons.append(f"{limit.id}: unanswered ({(unanswered or {}).get(limit.id, 'no case answered it')})")
        elif len(answers) > 1:
            reasons.append(f"{limit.id}: answered {len(answers)} times; exactly one case may answer a limit")
        elif answers[0].outcome is not Outcome.PASS:
            reasons.append(f"{limit.id}: {answers[0].reason}")
        elif answers[0].measurement is None:
            reasons.append(f"{limit.id}: passed without a measurement")
    return Verdict(candidate, Decision.BLOCK if reasons else Decision.RELEASE, tuple(reasons))


def decide_all(
    limits: Sequence[Limit],
    candidates: Sequence[str],
    findings: Sequence[Finding],
    unanswered: Mapping[tuple[str, str], str],
    *,
    partial: bool = False,
    interrupted: bool = False,
) -> tuple[Verdict, ...]:
    """A verdict for each candidate; ``unanswered`` is keyed by (candidate, limit id)."""
    return tuple(
        decide(
            limits,
            name,
            findings,
            unanswered={limit: why for (candidate, limit), why in unanswered.items() if candidate == name},
            partial=partial,
            interrupted=interrupted,
        )
        for name in candidates
    )
