"""What can be compared with a blessed run, and why the rest cannot."""

from __future__ import annotations

from collections.abc import Sequence

from harness.baselines.blessing import Blessed
from harness.baselines.file import as_written
from harness.conditions import Difference, Kind, Setting, conditions, differences
from harness.domain import Checkpoint, Limit, printable
from harness.errors import OptionError, PolicyError
from harness.outputs import Outputs
from harness.plan import Task
from harness.policy import Work
from harness.reuse import asked_so
from harness.work import Stored

TABLES: dict[Work, tuple[str, ...]] = {
    Work.COMPLETIONS: ("completions", "labels"),
    Work.SCORES: ("scores",),
    Work.FIRST_TOKENS: ("masses",),
    Work.TASK: ("task",),
}
"""What a blessed run must have kept of its candidate, by what a limit needs."""

_MOST_NAMED = 4
"""Differences that one reason names; the others are counted."""


def hold(blessed: Blessed, now: Setting, reference: Checkpoint, candidates: Sequence[Checkpoint]) -> Stored:
    """The blessed candidate's stored results, and the limits for which they cannot be compared, each with the reason.

    Args:
        blessed: the baseline.
        now: how the run in progress asks and measures; its policy has the limits of the baseline.
        reference: of the run in progress.
        candidates: likewise.

    Raises:
        OptionError: another tokenizer or chat template, or a table that the blessed run did not keep.
    """
    name = blessed.facts.name
    _check_tokens(blessed, reference, candidates)
    try:
        then = Setting.of(blessed.record)
    except PolicyError as error:
        raise OptionError(
            f"--baseline {name}: the policy of its run is none that this version reads: {error}"
        ) from error
    kept = {(item.checkpoint, item.corpus, item.kind) for item in blessed.record.tables}
    unlike = {}
    for limit in now.policy.limits:
        if not limit.baseline:
            continue
        if found := _unlike(blessed, limit, then, now, reference):
            unlike[limit.id] = printable(f"x: not comparable with baseline {name}: {found}")
            continue
        for kind in (kind for work in now.policy.needs(limit) for kind in TABLES[work]):
            if (blessed.facts.candidate, limit.corpus, kind) not in kept:
                path = blessed.directory / "tables" / blessed.facts.candidate / f"{limit.corpus}.{kind}.parquet"
                raise OptionError(
                    f"--baseline {name}: limit {limit.id!r} needs {as_written(path)}, which that run did not keep; "
                    f"{_again(blessed)} (its cases must be those of this version)"
                )
    digests = {blessed.directory / item.path: item.sha256 for item in blessed.record.tables}
    return Stored(name, blessed.checkpoint, blessed.directory, digests, unlike)


def _unlike(blessed: Blessed, limit: Limit, then: Setting, now: Setting, reference: Checkpoint) -> str:
    """In what the blessed run was asked otherwise for a limit, and what to do; '' where it was asked alike.

    The number is measured now, with this limit's own unit, alpha and clusters, so those of the blessed run's policy do
    not matter: the one limit is looked at under both settings.
    """
    early = Work.COMPLETIONS in now.policy.needs(limit)
    if early and now.early_stop:
        return "generation may stop early, and its answers are those to few prompts; leave --early-stop out"
    if early and then.early_stop:
        return "its generation may have stopped early; bless a run that was made without --early-stop"
    if Work.TASK in now.policy.needs(limit):
        table = Outputs(blessed.directory).path(blessed.checkpoint, Task(limit.corpus, Work.TASK))
        if table.exists() and not asked_so(table, now.policy.tasks[limit.corpus]):
            asked = "the task was asked otherwise (lm-eval's version, the task's files, its examples or settings)"
            return f"{Kind.CORPUS}: {asked}; {_again(blessed)}"
    found = differences(
        conditions(then, limit, blessed.record.reference, blessed.checkpoint),
        conditions(now, limit, reference, blessed.checkpoint),
    )
    return f"{_told(found)}; {_again(blessed, found)}" if found else ""


def _told(found: Sequence[Difference]) -> str:
    more = [f"{len(found) - _MOST_NAMED} more"] if len(found) > _MOST_NAMED else []
    return "; ".join([*(f"{item.kind}: {item.text}" for item in found[:_MOST_NAMED]), *more])


def _again(blessed: Blessed, found: Sequence[Difference] = ()) -> str:
    only_read = bool(found) and {item.kind for item in found} == {Kind.JUDGE}
    reuse = f" (with --reuse {as_written(blessed.directory)} its answers are only read again)" if only_read else ""
    return (
        f"gate {blessed.checkpoint.spec} as this run is made{reuse} and bless that run: "
        f"python -m harness bless RUN --as {blessed.facts.name} --force"
    )


def _check_tokens(blessed: Blessed, reference: Checkpoint, candidates: Sequence[Checkpoint]) -> None:
    """A run compares only checkpoints of one tokenizer and template (``preflight``), so that one equal pair of files
    between two runs shows that all four are alike."""
    theirs = (blessed.record.reference, blessed.checkpoint)
    for candidate in candidates:
        ours = (reference, candidate)
        for what, then, now in (
            ("tokenizer", {item.tokenizer for item in theirs}, {item.tokenizer for item in ours}),
            ("chat template", {item.template for item in theirs}, {item.template for item in ours}),
        ):
            if not then & now:
                raise OptionError(
                    f"--baseline {blessed.facts.name}: {blessed.checkpoint.spec} has another {what} than "
                    f"{candidate.spec}, so they were not asked the same; choose another baseline (python -m harness "
                    "bless --list), or leave --baseline out"
                )
