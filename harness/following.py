"""Early stopping: both models are asked prompt by prompt, and generation ends once the verdict on a corpus is settled.

The order of the prompts is fixed before the run: random, from the decoding's seed and the checkpoints' identities.
After each step every limit on the corpus is measured with an interval that holds at any stopping time
(``stats.sequential``), so looking often costs nothing in error. Generation stops

- where a blocking limit is proven broken, by a p-value that Holm's correction over the whole policy cannot undo;
- where every limit on the corpus is decided, and the judge could read every answer (how many it cannot read is held
  against a share without an interval, which must not be looked at until it suits).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from harness.domain import (
    Completion,
    Corpus,
    EarlyStop,
    Label,
    LabelledCompletion,
    Limit,
    Outcome,
    Prompt,
    Reading,
    Severity,
)
from harness.errors import MeasurementError
from harness.policy import assess
from harness.probes import refusal
from harness.protocols import OnProgress

FIRST_LOOK, STEP, STEADY = 16, 8, 64
"""Prompts before the first look; between looks up to ``STEADY`` of them; later half of what was asked. Each look is
free in error, but a short batch of prompts costs a model nearly as much time as a long one."""

Ask = Callable[[Sequence[Prompt]], list[Completion]]
"""Prompts -> their answers (all samples), in the order of the prompts."""
Read = Callable[[Sequence[Completion]], list[Reading]]


def early_stop(corpus: Corpus[Prompt], seed: int, identities: Sequence[str]) -> EarlyStop:
    """The order in which a corpus is asked.

    It depends on the checkpoints' ``identities`` too: nobody can train a model on the prompts that come first for it.
    """
    ids = [prompt.id for prompt in corpus.items]
    key = " ".join([str(seed), corpus.digest, *identities])
    return EarlyStop(tuple(random.Random(key).sample(ids, len(ids))))  # noqa: S311 - an order, no secret


def can_follow(limits: Sequence[Limit]) -> bool:
    """Whether every one of these limits on a corpus has an interval that holds at any stopping time."""
    return bool(limits) and all(limit.metric in refusal.MEASURES and not limit.cluster for limit in limits)


def steps(planned: int) -> Iterator[slice]:
    """Which prompts to ask between two looks."""
    asked = 0
    while asked < planned:
        size = FIRST_LOOK if not asked else STEP if asked < STEADY else asked // 2
        size = min(size, planned - asked)
        yield slice(asked, asked + size)
        asked += size


def follow(
    corpus: Corpus[Prompt],
    early: EarlyStop,
    limits: Sequence[Limit],
    claims: int,
    reference: tuple[Ask, Read],
    candidate: tuple[Ask, Read],
    on_progress: OnProgress,
) -> tuple[list[LabelledCompletion], list[LabelledCompletion]]:
    """Ask until the limits on this corpus are settled; (reference's, candidate's) labelled answers, as asked.

    ``claims`` is the number of limits that Holm's correction counts. Raises what the models and the judge raise.
    """
    prompts = {prompt.id: prompt for prompt in corpus.items}
    sides: tuple[list[LabelledCompletion], list[LabelledCompletion]] = ([], [])
    for step in steps(early.planned):
        batch = [prompts[name] for name in early.order[step]]
        for rows, (ask, read) in zip(sides, (reference, candidate), strict=True):
            completions = ask(batch)
            rows += map(LabelledCompletion, completions, read(completions))
        on_progress(len(batch))
        if settled(*sides, limits, early, claims):
            break
    return sides


def settled(
    reference: Sequence[LabelledCompletion],
    candidate: Sequence[LabelledCompletion],
    limits: Sequence[Limit],
    early: EarlyStop,
    claims: int,
) -> bool:
    """Whether more answers cannot change the verdict: a blocking limit is broken for good, or all are decided."""
    readable = all(item.label is not Label.UNREADABLE for rows in (reference, candidate) for item in rows)
    ours, theirs = map(refusal.uncategorised, (reference, candidate))  # slices take time, and settle nothing
    outcomes = []
    for limit in limits:
        try:
            measured = refusal.measure(ours, theirs, limit, early=early)
        except MeasurementError:
            return False
        finding = assess(measured, limit, "")
        broken = finding.outcome is Outcome.FAIL and measured.p_broken <= limit.alpha / claims
        if broken and limit.severity is Severity.BLOCK:
            return True
        outcomes.append(readable and (finding.outcome is Outcome.PASS or broken))
    return all(outcomes)
