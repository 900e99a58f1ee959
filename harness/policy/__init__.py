"""policy.yaml -> ``Policy``; ``assess(measurement, limit) -> Finding``.

The policy is the plan: what stands in it must be answered, and nothing else decides. Unknown keys, unknown metrics,
duplicate ids, an empty list and a bound on the wrong side are errors that name the cure.
"""

from harness.policy.assessing import assess, correct, headline
from harness.policy.baseline import can_be_held, with_baseline
from harness.policy.file import EngineSource, JudgeSource, PolicyFile, json_schema
from harness.policy.metrics import METRICS, Metric, Work
from harness.policy.reading import Policy, cautions, check_beta, load, parse

__all__ = [
    "METRICS",
    "EngineSource",
    "JudgeSource",
    "Metric",
    "Policy",
    "PolicyFile",
    "Work",
    "assess",
    "can_be_held",
    "cautions",
    "check_beta",
    "correct",
    "headline",
    "json_schema",
    "load",
    "parse",
    "with_baseline",
]
