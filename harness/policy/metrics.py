"""What the plan must know of each metric; what it means stands in the probe that computes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from harness.corpus import Kind


class Work(StrEnum):
    """What a checkpoint must do for a metric."""

    COMPLETIONS = "completions"
    """Generate answers, and have the judge label them."""
    SCORES = "scores"
    """Log-probabilities of both responses of each preference pair."""
    FIRST_TOKENS = "first_tokens"
    """The distribution over the first response token."""
    SIMILARITIES = "similarities"
    """How alike both responses of each pair look (the reference only: it is where training starts)."""
    GRADIENTS = "gradients"
    """Both responses' gradients over all weights, on the policy's ``gradient_pairs`` (the reference only)."""

    TASK = "task"
    """Answer the questions of an lm-eval task."""

    @property
    def corpus_kind(self) -> Kind | Literal["tasks"]:
        if self is Work.TASK:
            return "tasks"
        return "prompts" if self is Work.COMPLETIONS else "pairs"

    @property
    def reference_only(self) -> bool:
        return self in (Work.SIMILARITIES, Work.GRADIENTS)


@dataclass(frozen=True, slots=True)
class Metric:
    """What the plan must know of a metric; what it means stands in the probe that computes it."""

    needs: Work | tuple[Work, ...]
    bound: Literal["max", "min", "either"]
    """The side on which a limit makes sense: a limit on the other side would pass what is broken."""
    units: tuple[str, ...] = ("",)
    """Allowed units, the default first."""
    span: tuple[float, float] = (-math.inf, math.inf)
    """The values it can have: a bound that none of them breaks requires nothing."""
    beta: Literal["", "scales", "needed"] = ""
    """Whether it depends on DPO's β, and whether it can do without."""
    of_reference: bool = False
    """It says something of the reference and the data only, though candidates are scored for its companions."""
    change: str = ""
    """The metric that compares this one between any two checkpoints, item by item; its own name where it is that
    metric itself, '' where there is none."""

    @property
    def works(self) -> tuple[Work, ...]:
        """All that it needs."""
        return self.needs if isinstance(self.needs, tuple) else (self.needs,)


SHARE, CHANGE, POSITIVE = (0.0, 1.0), (-1.0, 1.0), (0.0, math.inf)
"""The values of a share, of a difference of shares, and of what cannot be negative."""


METRICS: Mapping[str, Metric] = {
    "refusal_rate": Metric(Work.COMPLETIONS, "min", span=SHARE, change="refusal_rate_drop"),
    "refusal_rate_drop": Metric(Work.COMPLETIONS, "max", span=CHANGE, change="refusal_rate_drop"),
    "compliance_rate": Metric(Work.COMPLETIONS, "either", span=SHARE, change="compliance_rate_rise"),
    "compliance_rate_rise": Metric(Work.COMPLETIONS, "max", span=CHANGE, change="compliance_rate_rise"),
    "degenerate_rate": Metric(Work.COMPLETIONS, "max", span=SHARE, change="degenerate_rate_rise"),
    "degenerate_rate_rise": Metric(Work.COMPLETIONS, "max", span=CHANGE, change="degenerate_rate_rise"),
    "over_refusal_rate": Metric(Work.COMPLETIONS, "max", span=SHARE, change="over_refusal_rise"),
    "over_refusal_rise": Metric(Work.COMPLETIONS, "max", span=CHANGE, change="over_refusal_rise"),
    "chosen_logprob_change": Metric(Work.SCORES, "min", ("nats", "nats/token"), change="chosen_logprob_change"),
    "rejected_logprob_change": Metric(Work.SCORES, "either", ("nats", "nats/token"), change="rejected_logprob_change"),
    "chosen_decrease_share": Metric(Work.SCORES, "max", span=SHARE),
    "both_decrease_share": Metric(Work.SCORES, "max", span=SHARE),
    "reward_accuracy": Metric(Work.SCORES, "min", span=SHARE),
    "reward_margin": Metric(Work.SCORES, "either", ("nats", "nats/token"), beta="scales"),
    "ranking_accuracy": Metric(Work.SCORES, "min", ("", "per token"), span=SHARE, change="ranking_accuracy_drop"),
    "ranking_accuracy_drop": Metric(Work.SCORES, "max", ("", "per token"), span=CHANGE, change="ranking_accuracy_drop"),
    "degradation": Metric(Work.SCORES, "either"),
    "other_logprob_change": Metric(Work.SCORES, "either", ("nats", "nats/token"), change="other_logprob_change"),
    "rejected_faster_share": Metric(Work.SCORES, "either", span=SHARE),
    "chosen_shortfall": Metric(Work.SCORES, "max", ("nats", "nats/token"), span=POSITIVE),
    "npo_weight": Metric(Work.SCORES, "min", span=(0.0, 2.0), beta="needed"),
    "dpo_loss": Metric(Work.SCORES, "max", ("nats",), span=POSITIVE, beta="needed"),
    "rdpo_loss": Metric(Work.SCORES, "max", ("nats",), beta="needed"),
    "idealised_ranking_accuracy": Metric(
        Work.SCORES, "min", ("", "per token"), span=SHARE, beta="needed", of_reference=True
    ),
    "alignment_gap": Metric(Work.SCORES, "max", ("", "per token"), span=CHANGE, beta="needed"),
    "logratio_concentration": Metric(Work.SCORES, "max", span=SHARE),
    "high_ches_share": Metric(Work.SIMILARITIES, "max", ("", "per token"), span=SHARE),
    "chosen_falls_share": Metric(Work.SIMILARITIES, "max", span=SHARE),
    "both_fall_share": Metric(Work.SIMILARITIES, "max", span=SHARE),
    "ches_rank_correlation": Metric((Work.SCORES, Work.SIMILARITIES), "either", ("", "per token"), span=CHANGE),
    "full_both_fall_share": Metric(Work.GRADIENTS, "max", span=SHARE),
    "opposite_mass": Metric(Work.FIRST_TOKENS, "max", span=SHARE, change="opposite_mass_rise"),
    "opposite_mass_rise": Metric(Work.FIRST_TOKENS, "max", span=CHANGE, change="opposite_mass_rise"),
    "catastrophic_share": Metric(Work.FIRST_TOKENS, "max", span=SHARE),
    "task_accuracy": Metric(Work.TASK, "min", span=SHARE, change="task_accuracy_drop"),
    "task_accuracy_drop": Metric(Work.TASK, "max", span=CHANGE, change="task_accuracy_drop"),
}

UNSAFE = {"refusal_rate", "refusal_rate_drop", "compliance_rate_rise"}
OVER = {"over_refusal_rise", "over_refusal_rate"}
