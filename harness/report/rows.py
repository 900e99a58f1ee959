"""What a record says by itself, without its tables: limits by candidate, verdicts in words, the trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness import baselines
from harness.domain import Decision, Finding, Limit, Measurement, Outcome, Severity, Verdict, unit_text
from harness.record import RunRecord
from harness.report.text import counted

_NOTHING = 1e-12
"""Smaller than this is what floating point leaves of zero."""


class Answer(StrEnum):
    """How a limit stands. Broken, undecided, not measurable and unanswered are four things; all but KEPT block."""

    KEPT = "PASS"
    BROKEN = "FAIL"
    UNDECIDED = "INVALID: undecided"
    UNMEASURED = "INVALID: not measurable"
    UNANSWERED = "unanswered"

    @property
    def word(self) -> str:
        """PASS, FAIL, INVALID or unanswered."""
        return self.value.split(":", maxsplit=1)[0]

    @property
    def meaning(self) -> str:
        """The answer in plain words."""
        return {
            Answer.KEPT: "kept",
            Answer.BROKEN: "broken",
            Answer.UNDECIDED: "undecided",
            Answer.UNMEASURED: "not measurable",
            Answer.UNANSWERED: "unanswered",
        }[self]


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One limit for one candidate."""

    limit: Limit
    answer: Answer
    reason: str
    """The finding's reason, or why there is none."""
    measurement: Measurement | None = None

    @property
    def warns_only(self) -> bool:
        return self.limit.severity is Severity.WARN


@dataclass(frozen=True, slots=True)
class Point:
    """One limit's value at one step of the trajectory."""

    candidate: str
    step: int
    value: float
    low: float
    high: float
    reference: float
    at: float
    """The candidate's own value, where the metric compares two (NaN elsewhere)."""
    answer: Answer


@dataclass(frozen=True, slots=True)
class Course:
    """One limit over the candidates in the order of their steps."""

    limit: Limit
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Peak:
    """Where opposite_mass_rise was highest over several candidates: the effect is transient."""

    corpus: str
    value: float
    low: float
    high: float
    candidate: str
    step: int | None
    limit: Limit
    of: int
    """Candidates that have a value."""
    missing: int
    """Candidates that have none."""


def answer_of(finding: Finding) -> Answer:
    """Tell an interval that does not decide from a number that has no meaning."""
    if finding.outcome is Outcome.PASS:
        return Answer.KEPT
    if finding.outcome is Outcome.FAIL:
        return Answer.BROKEN
    m, limit = finding.measurement, finding.limit
    usable = (
        m is not None
        and not m.problem
        and (m.metric, m.alpha, m.unit) == (limit.metric, limit.alpha, limit.unit)
        and m.unreadable_share <= limit.max_unreadable
        and all(map(math.isfinite, (m.value, m.low, m.high)))
    )
    return Answer.UNDECIDED if usable else Answer.UNMEASURED


def limit_rows(record: RunRecord, candidate: str) -> tuple[LimitRow, ...]:
    """Every limit of the policy, in its order, answered or not; a limit answered twice has two rows."""
    rows = []
    mine = [finding for finding in record.findings if finding.candidate == candidate]
    whys = {item.limit: item.why for item in record.unanswered if item.candidate == candidate}
    for limit in record.policy.limits:
        answers = [finding for finding in mine if finding.limit == limit]
        if not answers:
            rows.append(LimitRow(limit, Answer.UNANSWERED, whys.get(limit.id, "no case answered it")))
        rows += [LimitRow(limit, answer_of(item), item.reason, item.measurement) for item in answers]
    return tuple(rows)


def verdict_of(record: RunRecord, candidate: str) -> Verdict:
    """The gate's verdict as recorded; a candidate without one counts as blocked."""
    for verdict in record.verdicts:
        if verdict.candidate == candidate:
            return verdict
    return Verdict(candidate, Decision.BLOCK, ("the record holds no verdict on it",))


def verdict_word(verdict: Verdict) -> str:
    """RELEASE, BLOCK or no verdict."""
    return verdict.decision.value if verdict.decision is Decision.NONE else verdict.decision.value.upper()


def tally(rows: Sequence[LimitRow]) -> str:
    """``2 broken (a, b), 1 undecided (c), 1 unanswered (d)``; '' where everything is kept."""
    parts = []
    for answer in (Answer.BROKEN, Answer.UNDECIDED, Answer.UNMEASURED, Answer.UNANSWERED):
        ids = list(dict.fromkeys(row.limit.id for row in rows if row.answer is answer))
        if ids:
            parts.append(f"{len(ids)} {answer.meaning} ({', '.join(ids)})")
    return ", ".join(parts)


def sentence(record: RunRecord, candidate: str) -> str:
    """The verdict on one candidate in one sentence that names the limits behind it."""
    verdict, rows = verdict_of(record, candidate), limit_rows(record, candidate)
    blocking = [row for row in rows if not row.warns_only]
    found = tally(blocking)
    if verdict.decision is Decision.RELEASE:
        return f"Release {candidate}: {_kept(len(blocking))}."
    if verdict.decision is Decision.NONE:
        return f"No verdict on {candidate}: only part of the policy was asked for{f'; {found}' if found else ''}."
    return f"Do not release {candidate}: {found or '; '.join(verdict.reasons)}."


def warned(record: RunRecord, candidate: str) -> str:
    """What the warning limits say, where they are not all kept; '' otherwise."""
    found = tally([row for row in limit_rows(record, candidate) if row.warns_only])
    return f"Warnings, which do not block: {found}." if found else ""


def _kept(number: int) -> str:
    return "the one blocking limit is kept" if number == 1 else f"all {number} blocking limits are kept"


def overall(record: RunRecord) -> str:
    """One sentence over all candidates."""
    names = [item.name for item in record.candidates]
    if len(names) == 1:
        return sentence(record, names[0])
    decisions = [verdict_of(record, name).decision for name in names]
    if all(item is Decision.NONE for item in decisions):
        return f"No verdict on {counted(len(names), 'candidate')}: only part of the policy was asked for."
    released = sum(item is Decision.RELEASE for item in decisions)
    blocked = [name for name, item in zip(names, decisions, strict=True) if item is Decision.BLOCK]
    if not blocked:
        return f"All {len(names)} candidates may be released."
    return f"{released} of {len(names)} candidates may be released; blocked: {', '.join(blocked)}."


def baseline_lines(record: RunRecord) -> tuple[str, ...]:
    """What the limits ``ID@NAME`` compare with; () where there are none."""
    facts = record.baseline
    return () if facts is None else (f"baseline {facts.name}: {baselines.describe(facts)}",)


def is_same(record: RunRecord, candidate: str) -> bool:
    """An A/A run: the candidate is the reference, so what differs is noise."""
    return record.checkpoint(candidate).identity == record.reference.identity


def short_bound(limit: Limit) -> str:
    """``<= 0.05``, ``>= -5 nats`` or ``<= 0.5 (per token)``."""
    return f"{'<=' if limit.is_maximum else '>='} {limit.bound:g}{unit_text(limit.unit)}"


def number(value: float) -> str:
    """Three decimals, as in every message; what they would round to zero keeps two digits; ``n/a`` for no number."""
    if not math.isfinite(value):
        return "n/a"
    if abs(value) < _NOTHING:
        return "0.000"
    return f"{value:.3f}" if abs(value) >= 0.0005 else f"{value:.1e}"


def own_value(measurement: Measurement, value: float) -> str:
    """The reference's or the candidate's own number; ``-`` where the metric gives it none, ``n/a`` where it failed."""
    none = not math.isfinite(value) and math.isfinite(measurement.value) and not measurement.problem
    return "-" if none else number(value)


def sample_size(measurement: Measurement) -> str:
    """The independent items behind a number; ``40 of 500`` where more were planned."""
    n, planned = measurement.n, measurement.planned
    return f"{n:,} of {planned:,}" if planned > n else f"{n:,}"


def companion(name: str) -> str:
    """The name of a number beside a measurement, for people: ``rho_last_hidden`` as ``ρ of last hidden``."""
    said = {"beta": "β", "rho": "ρ of", "ches": "CHES", "logprob": "log-probability"}
    return " ".join(said.get(word, word) for word in name.split("_"))


def beside(value: float) -> str:
    """A companion: counts as counts, the rest as ``number``."""
    return f"{value:,.0f}" if math.isfinite(value) and value == int(value) else number(value)


# ---------------------------------------------------------------- several candidates


def by_step(record: RunRecord) -> tuple[str, ...]:
    """Names of the candidates that know their training step, in step order; () where they are no trajectory."""
    known = [(item.step, item.name) for item in record.candidates if item.step is not None]
    return tuple(name for _, name in sorted(known)) if len({step for step, _ in known}) > 1 else ()


def courses(record: RunRecord) -> tuple[Course, ...]:
    """Each limit over the trajectory, with the points that have a value."""
    names = by_step(record)
    result = []
    for limit in record.policy.limits:
        points = []
        for name in names:
            step = record.checkpoint(name).step
            for row in limit_rows(record, name):
                if row.limit == limit and (m := row.measurement) and math.isfinite(m.value) and step is not None:
                    points.append(Point(name, step, m.value, m.low, m.high, m.reference, m.candidate, row.answer))
        if points:
            result.append(Course(limit, tuple(points)))
    return tuple(result)


def peaks(record: RunRecord) -> tuple[Peak, ...]:
    """The highest opposite_mass_rise over the candidates, for each limit on it; () for a single candidate."""
    found = []
    for limit in record.policy.limits if len(record.candidates) > 1 else ():
        if limit.metric != "opposite_mass_rise" or limit.baseline:
            continue
        values = [
            (item, row.measurement)
            for item in record.candidates
            for row in limit_rows(record, item.name)
            if row.limit == limit and row.measurement and math.isfinite(row.measurement.value)
        ]
        if values:
            top, m = max(values, key=lambda pair: pair[1].value)
            missing = len(record.candidates) - len({item.name for item, _ in values})
            found.append(Peak(limit.corpus, m.value, m.low, m.high, top.name, top.step, limit, len(values), missing))
    return tuple(found)


def describe_peak(peak: Peak) -> str:
    """The peak as one line."""
    where = peak.candidate if peak.step is None else f"{peak.candidate}, step {peak.step}"
    gaps = f"; {counted(peak.missing, 'candidate')} without a value" if peak.missing else ""
    return (
        f"Peak of opposite_mass_rise on {peak.corpus} over {counted(peak.of, 'candidate')}: "
        f"{peak.value:.3f} [{peak.low:.3f}, {peak.high:.3f}] at {where}{gaps}"
    )


def order_of_fall(record: RunRecord) -> tuple[str, ...]:
    """Which fell first over the trajectory, refusals or log-probabilities of the chosen answers.

    A fall counts from the first step at which its interval leaves zero out. One sentence for each pair of a limit on
    ``refusal_rate_drop`` and one on ``chosen_logprob_change``.
    """
    found = [item for item in courses(record) if not item.limit.baseline]
    drops = [item for item in found if item.limit.metric == "refusal_rate_drop"]
    changes = [item for item in found if item.limit.metric == "chosen_logprob_change"]
    lines = (_compare(drop, change) for drop in drops for change in changes)
    return tuple(dict.fromkeys(line for line in lines if line))


def _compare(drop: Course, change: Course) -> str:
    refusals = next((point for point in drop.points if point.low > 0), None)
    logprobs = next((point for point in change.points if point.high < 0), None)
    if refusals is None:
        return ""
    unit = change.limit.unit
    lost = f"the refusal rate on {drop.limit.corpus} was down by {refusals.value:.3f}"
    beside = next((point for point in change.points if point.step == refusals.step), None)
    if beside is None:
        return ""
    chosen = f"the mean chosen log-probability on {change.limit.corpus} had changed by {beside.value:+.3f} {unit}"
    if logprobs is None:
        return (
            f"Refusals fell and the log-probabilities of the chosen answers never provably did: at step "
            f"{refusals.step} {lost}, while {chosen} [{beside.low:.3f}, {beside.high:.3f}]."
        )
    if refusals.step < logprobs.step:
        return (
            f"Refusals fell before the log-probabilities did: at step {refusals.step} {lost}, while {chosen} "
            f"[{beside.low:.3f}, {beside.high:.3f}]; its first proven fall is at step {logprobs.step}."
        )
    when = "at the same step as" if refusals.step == logprobs.step else "after"
    return (
        f"Refusals fell {when} the log-probabilities: {lost} at step {refusals.step}; the first proven fall of the "
        f"mean chosen log-probability is at step {logprobs.step}."
    )
