"""Each column's numbers beside the first column's: marked better, worse, noise or not comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import stats
from harness.comparing import changes, reading
from harness.comparing.changes import Change, Stored, Unpaired, unusable
from harness.comparing.data import Cell, Column, Line, Mark, Pivot
from harness.conditions import Condition, Difference, Kind, Setting, conditions, differences
from harness.domain import Finding, Limit, Measurement, Outcome
from harness.errors import MeasurementError, OptionError, PolicyError
from harness.policy import METRICS, Work

CAN_BE_ACCEPTED = (Kind.VERSION, Kind.ENGINE)
"""Kinds of difference that change numbers a little or not at all; any other makes another question of it."""


def compare(runs: Sequence[Path], *, accept: Sequence[str] = (), basis: str = "") -> Pivot:
    """Read runs and hold each of their candidates against the first one.

    Args:
        runs: run directories, the basis first; several candidates of a run are a column each.
        accept: kinds of difference to overlook: ``version`` and ``engine`` only.
        basis: key of the column to hold the others against, which then goes first; '' for the first one.

    Raises:
        OptionError: a run given twice, fewer than two columns, no column ``basis``, another kind to overlook.
        RecordError: a run or one of its tables cannot be read.
    """
    accepted = _kinds(accept)
    columns = reading.columns(runs, basis)
    limits = {item.id: item for column in reversed(columns) for item in reversed(column.record.policy.limits)}
    ids = list(dict.fromkeys(item.id for column in columns for item in column.record.policy.limits))
    first = _side(columns[0])
    cells = [[_first(first.column, name) for name in ids]]
    cells += [_column(first, _side(other), ids, accepted) for other in columns[1:]]  # one column's tables at a time
    lines = (Line(limits[name], tuple(column[at] for column in cells)) for at, name in enumerate(ids))
    return Pivot(columns, tuple(lines), tuple(map(str, accepted)))


def _kinds(accept: Sequence[str]) -> tuple[Kind, ...]:
    names = [str(item) for item in CAN_BE_ACCEPTED]
    for name in accept:
        if name not in names:
            raise OptionError(
                f"--accept {name!r}: only {' and '.join(names)} can be overlooked; with another corpus, judge, "
                "decoding, policy or reference the numbers answer other questions: run one of the evaluations again"
            )
    return tuple(item for item in CAN_BE_ACCEPTED if item in accept)


# ---------------------------------------------------------------- one column


@dataclass(frozen=True, slots=True)
class _Side:
    """A column with what its numbers depend on."""

    column: Column
    setting: Setting | PolicyError
    stored: Stored

    def conditions(self, limit: Limit) -> tuple[Condition, ...]:
        """Of a limit of this column. Raises ``PolicyError`` where the record's policy cannot be read."""
        if isinstance(self.setting, PolicyError):
            raise self.setting
        stored, candidate = self.column.record, self.column.candidate
        found = conditions(self.setting, limit, stored.reference, candidate)
        if not limit.baseline:
            return found
        facts = stored.baseline
        identity = facts.identity if facts else ""
        shown = f"{facts.candidate} {identity[:12]} of run {facts.run}" if facts else ""
        return (*found, Condition(Kind.REFERENCE, f"baseline {limit.baseline}", identity, shown, known=bool(facts)))


def _side(column: Column) -> _Side:
    setting: Setting | PolicyError
    try:
        setting = Setting.of(column.record)
    except PolicyError as error:
        setting = error
    return _Side(column, setting, Stored(column))


@dataclass(slots=True)
class _Draft:
    """A cell before the claims of its column are corrected."""

    finding: Finding | None
    why: str
    mark: Mark
    change: Change | None = None
    unlike: tuple[Difference, ...] = ()
    notes: list[str] = field(default_factory=list)
    by_intervals: bool = False


def _first(column: Column, name: str) -> Cell:
    finding, why = _answer(column, name)
    return Cell(finding, why, Mark.FIRST)


def _column(first: _Side, side: _Side, ids: Sequence[str], accepted: Sequence[Kind]) -> list[Cell]:
    drafts = [_draft(first, side, name, accepted) for name in ids]
    blocks = [first.column.blocks(name) or side.column.blocks(name) for name in ids]
    for family in (True, False):
        _correct([draft for draft, blocking in zip(drafts, blocks, strict=True) if blocking is family])
    return [
        _cell(draft, _answer(first.column, name)[0], side.column.limit(name) is not None)
        for draft, name in zip(drafts, ids, strict=True)
    ]


def _cell(draft: _Draft, before: Finding | None, asked: bool) -> Cell:
    """``asked``: the column's policy has this limit; where it has not, nothing got worse, and nothing is known."""
    kept = before is not None and before.outcome is Outcome.PASS
    passes = draft.finding is not None and draft.finding.outcome is Outcome.PASS
    return Cell(
        finding=draft.finding,
        why=draft.why,
        mark=draft.mark,
        change=draft.change.measurement if draft.change else None,
        unlike=draft.unlike,
        note="; ".join(draft.notes),
        by_intervals=draft.by_intervals,
        got_worse=draft.mark is Mark.WORSE or (kept and asked and not passes),
    )


def _draft(first: _Side, side: _Side, name: str, accepted: Sequence[Kind]) -> _Draft:
    """One limit in one column: first whether its number may be compared, then how it compares."""
    before, after = first.column.limit(name), side.column.limit(name)
    then, why_then = _answer(first.column, name)
    now, why = _answer(side.column, name)
    draft = _Draft(now, why, Mark.INCOMPARABLE)
    if before is None or after is None:
        where = "this run" if after is None else f"the first column ({first.column.key})"
        draft.unlike = (Difference(Kind.POLICY, f"no limit {name!r} in {where}"),)
        return draft
    draft.notes += _terms(before, after)
    try:
        one_run = first.column.directory.resolve() == side.column.directory.resolve()
        found = differences(first.conditions(before), side.conditions(after), one_run=one_run)
    except PolicyError as error:
        draft.unlike = (Difference(Kind.POLICY, f"not readable by this version: {error}"),)
        return draft
    if before.is_maximum is not after.is_maximum:
        turned = f"bounded on the other side: {before.describe()}, then {after.describe()}"
        found = (*found, Difference(Kind.POLICY, turned))
    draft.unlike = tuple(item for item in found if item.kind not in accepted)
    if overlooked := [item.text for item in found if item.kind in accepted]:
        draft.notes.append(f"overlooked: {'; '.join(overlooked)}")
    if draft.unlike:
        return draft
    if then is None or now is None:
        draft.notes += [
            f"{column.key}: {text}" for column, text in ((first.column, why_then), (side.column, why)) if text
        ]
        return draft
    both = ((first.column, then), (side.column, now))
    lacking = [(column.key, unusable(finding.measurement, finding.limit)) for column, finding in both]
    if any(text for _, text in lacking):
        draft.notes += [f"no number of {key}: {text}" for key, text in lacking if text]
    else:
        _hold(first.stored, side.stored, then, now, draft)
    return draft


def _answer(column: Column, name: str) -> tuple[Finding | None, str]:
    """The one finding on a limit, or why there is none."""
    limit, candidate = column.limit(name), column.candidate.name
    if limit is None:
        return None, f"no limit {name!r} in the policy of this run"
    answers = [item for item in column.record.findings if item.candidate == candidate and item.limit == limit]
    if len(answers) == 1:
        return answers[0], ""
    if answers:
        return None, f"answered {len(answers)} times; exactly one case may answer a limit"
    mine = (item.why for item in column.record.unanswered if (item.candidate, item.limit) == (candidate, name))
    return None, f"unanswered ({next(mine, 'no case answered it')})"


def _terms(before: Limit, after: Limit) -> list[str]:
    """What is required otherwise of the same number."""
    said = [
        ("bound", before.describe(), after.describe()),
        ("severity", before.severity.value, after.severity.value),
        ("max_unreadable", f"{before.max_unreadable:g}", f"{after.max_unreadable:g}"),
        ("min_n", str(before.min_n), str(after.min_n)),
    ]
    return [f"{name} {then}, then {now}" for name, then, now in said if then != now]


# ---------------------------------------------------------------- better, worse or noise


def _hold(first: Stored, other: Stored, then: Finding, now: Finding, draft: _Draft) -> None:
    """Mark a draft by the change from one candidate to the other, or else by the two intervals."""
    limit = replace(
        now.limit,
        max_unreadable=min(then.limit.max_unreadable, now.limit.max_unreadable),
        min_n=max(then.limit.min_n, now.limit.min_n),
    )
    try:
        draft.change = changes.measure(first, other, limit)
    except MeasurementError as error:
        draft.notes.append(str(error))
        return
    except Unpaired as error:
        metric = METRICS.get(limit.metric)
        if metric is not None and Work.TASK in metric.works:
            draft.notes.append(f"{error}, so it is not known what was asked")
            return
        assert then.measurement is not None, "seen to be usable"
        assert now.measurement is not None, "seen to be usable"
        draft.mark, draft.by_intervals = _apart(then.measurement, now.measurement, limit), True
        draft.notes += [str(error)] if str(error) else []
        return
    draft.mark = Mark.NOISE
    if draft.change.note:
        draft.notes.append(draft.change.note)
    elif draft.change.p_worse <= limit.alpha:
        draft.mark = Mark.WORSE
    elif draft.change.p_better <= limit.alpha:
        draft.mark = Mark.BETTER


def _apart(before: Measurement, after: Measurement, limit: Limit) -> Mark:
    """Whether two intervals lie apart, and on which side of the first the second one lies."""
    if not (after.low > before.high or after.high < before.low):
        return Mark.NOISE
    return Mark.WORSE if (after.low > before.high) is limit.is_maximum else Mark.BETTER


def _correct(drafts: Sequence[_Draft]) -> None:
    """Holm's correction over claims of "worse", and over those of "better".

    Called for a column's limits that block, and again for the others: these must not take power from those.

    Limits that ask the same, as those with two bounds on one metric, count once.
    """
    asked = [(draft, _question(draft), draft.change) for draft in drafts if draft.change is not None and draft.finding]
    for mark, word in ((Mark.WORSE, "worse"), (Mark.BETTER, "better")):
        family: dict[object, float] = {}
        for _, question, change in asked:
            family.setdefault(question, change.p_worse if mark is Mark.WORSE else change.p_better)
        claimed = [
            (draft, question, draft.finding.limit.alpha)
            for draft, question, _ in asked
            if draft.mark is mark and draft.finding
        ]
        proven = {
            alpha: dict(zip(family, stats.holm(list(family.values()), alpha), strict=True))
            for alpha in {item[2] for item in claimed}
        }
        for draft, question, alpha in claimed:
            if not proven[alpha][question]:
                draft.mark = Mark.NOISE
                p = family[question]
                draft.notes.append(f"{word} (p = {p:.2g}) but for Holm's correction over {len(family)} limits")


def _question(draft: _Draft) -> tuple[object, ...]:
    """What is tested: limits on one metric and corpus with different bounds test one thing."""
    assert draft.finding is not None, "a change needs two findings"
    limit, _ = changes.claims(draft.finding.limit)
    return (limit.metric, limit.corpus, limit.unit, limit.alpha, limit.cluster, limit.is_maximum)
