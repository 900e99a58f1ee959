"""What a run's numbers rest on, a line each: judge, noise, policy, commit, environment. Details are further down."""

from __future__ import annotations

from dataclasses import dataclass

from harness import baselines
from harness.record import RunRecord
from harness.report.text import counted
from harness.report.trust import Trust

_SOFTWARE = ("dpo-harness", "torch", "transformers", "vllm", "python")


@dataclass(frozen=True, slots=True)
class Ground:
    """One thing that the numbers rest on."""

    name: str
    text: str
    anchor: str
    """Id of the section that has the details."""
    weak: bool = False
    """It is not known, or not as it should be."""


def grounds(record: RunRecord, known: Trust) -> tuple[Ground, ...]:
    """In the order in which they are shown."""
    return (
        _judge(known),
        _noise(known),
        _policy(record),
        *(_baseline(record)),
        _commit(record),
        _environment(record),
    )


def _judge(known: Trust) -> Ground:
    judge = known.judge
    if not judge.name:
        return Ground("judge", "none: nothing here rests on labels", "judge")
    if not judge.calibrated:
        return Ground("judge", f"{judge.name}; how often it is right was not measured", "judge", weak=True)
    sensitivity, specificity = judge.sensitivity, judge.specificity
    return Ground(
        "judge",
        f"{judge.name}; by human labels it finds {sensitivity.value:.1%} of refusals (n = {sensitivity.of:,}) and "
        f"{specificity.value:.1%} of other answers (n = {specificity.of:,})",
        "judge",
    )


def _noise(known: Trust) -> Ground:
    if known.noise is None:
        return Ground("noise floor", "not measured", "noise", weak=True)
    tight = [row.limit.id for row in known.noise.rows if row.too_tight]
    found = f"measured by {'this A/A run' if known.noise.own else f'the A/A run {known.noise.run}'}"
    if tight:
        return Ground("noise floor", f"{found}; tighter than the noise: {', '.join(tight)}", "noise", weak=True)
    return Ground("noise floor", f"{found}; no limit is tighter", "noise")


def _policy(record: RunRecord) -> Ground:
    limits = counted(sum(not limit.baseline for limit in record.policy.limits), "limit")
    return Ground("policy", f"{record.policy.path}, {limits}, SHA-256 {record.policy.digest[:12]}", "policy")


def _baseline(record: RunRecord) -> tuple[Ground, ...]:
    if record.baseline is None:
        return ()
    facts = record.baseline
    return (Ground("baseline", f"{facts.name}: {baselines.describe(facts)}", "baseline", weak=bool(facts.although)),)


def _commit(record: RunRecord) -> Ground:
    if not record.git:
        return Ground("commit", "not in a git repository", "environment", weak=True)
    dirty = record.git.get("dirty") == "yes"
    changed = ", with uncommitted changes" if dirty else ""
    return Ground("commit", f"{record.git.get('commit', '')[:12]}{changed}", "environment", weak=dirty)


def _environment(record: RunRecord) -> Ground:
    engine = [record.engine.get(key, "") for key in ("engine", "name", "device", "dtype")]
    versions = [f"{name} {record.versions[name]}" for name in _SOFTWARE if name in record.versions]
    return Ground("environment", ", ".join([*filter(None, engine), *versions]), "environment")
