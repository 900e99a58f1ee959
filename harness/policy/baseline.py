"""The limits that a blessed run adds: not worse than what was released before, by the policy's own bounds."""

from __future__ import annotations

import re
from dataclasses import replace

from harness.domain import Limit
from harness.errors import PolicyError
from harness.policy.metrics import METRICS
from harness.policy.reading import Policy

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What a baseline may be called."""


def with_baseline(policy: Policy, name: str) -> Policy:
    """The policy with a second limit ``ID@NAME`` for each limit on a change from the reference to the candidate.

    It has the same bound, severity and corpus; the blessed run's stored results stand in the reference's place. So no
    model is run for it, and slow decline is seen: each release may be within the bound of the one before, and the last
    far from the first, which the reference guards.

    Raises:
        PolicyError: no limit is on a change that can be measured again from stored results.
    """
    added = tuple(
        replace(limit, id=f"{limit.id}@{name}", baseline=name) for limit in policy.limits if can_be_held(limit)
    )
    if not added:
        raise PolicyError(
            f"{policy.path}: no limit is on a change between two models (such as refusal_rate_drop), so a baseline "
            "adds nothing; leave --baseline out"
        )
    return replace(policy, limits=policy.limits + added)


def can_be_held(limit: Limit) -> bool:
    """Whether any checkpoint's stored results can stand in the reference's place."""
    metric = METRICS.get(limit.metric)
    return metric is not None and metric.change == limit.metric
