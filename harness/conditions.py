"""When two numbers may be compared: everything that a number depends on, beside the model that it is about.

Two runs whose conditions differ for a limit have no difference on it: what they show beside each other is an ``x`` and
the reason, never a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness import engines, policy
from harness.domain import Checkpoint, Decoding, EngineOptions, Limit
from harness.policy import METRICS, Policy, Work
from harness.record import RunRecord
from harness.reuse import engine_settings


class Kind(StrEnum):
    """What two runs may differ in."""

    CORPUS = "corpus"
    """What was asked."""
    JUDGE = "judge"
    DECODING = "decoding"
    POLICY = "policy"
    """How the number is computed: metric, unit, alpha, clusters, β, lexicon, ..."""
    REFERENCE = "reference"
    """What a change is measured from."""
    ENGINE = "engine"
    """Engine, device, dtype, settings."""
    VERSION = "version"
    """Of this project and of the libraries that run the model."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that a limit's number depends on."""

    kind: Kind
    name: str
    value: str
    shown: str = ""
    """How people see the value, where that is shorter."""

    def __str__(self) -> str:
        return self.shown or self.value or "none"


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run asked and measured: a record's, or that of a run not recorded yet."""

    policy: Policy
    """As it was written, with the limits of a baseline."""
    digests: Mapping[str, str]
    """Corpus or task -> digest of what is asked."""
    judge: Mapping[str, str]
    engine: Mapping[str, str]
    """``Engine.describe``."""
    options: EngineOptions
    versions: Mapping[str, str]
    """``record.environment``."""
    lexicon: str
    """Its digest."""
    decoding: Decoding
    early_stop: bool

    @classmethod
    def of(cls, record: RunRecord) -> Setting:
        """That of a recorded run.

        Raises:
            PolicyError: the policy in the record is none that this version reads.
        """
        rules = policy.parse(record.policy.text.encode("utf-8"), Path(record.policy.path))
        return cls(
            policy=rules,
            digests={item.name: item.digest for item in record.corpora} | engines.task_digests(rules.tasks),
            judge=record.judge,
            engine=record.engine,
            options=record.options,
            versions=record.versions,
            lexicon=record.policy.lexicon,
            decoding=record.policy.decoding,
            early_stop=record.early_stop,
        )


def conditions(setting: Setting, limit: Limit, reference: Checkpoint, candidate: Checkpoint) -> tuple[Condition, ...]:
    """Everything that a limit's number depends on, beside the candidate itself.

    Args:
        setting: how the run asked.
        limit: one of its limits.
        reference: what a change is measured from.
        candidate: for β, where its training recorded it.
    """
    needs, metric = setting.policy.needs(limit), METRICS.get(limit.metric)
    found = [
        Condition(
            Kind.CORPUS,
            f"what is asked of {limit.corpus}",
            digest := setting.digests.get(limit.corpus, ""),
            digest[:12],
        ),
        Condition(Kind.POLICY, "metric", limit.metric),
        Condition(Kind.POLICY, "unit", limit.unit),
        Condition(Kind.POLICY, "alpha", f"{limit.alpha:g}"),
        Condition(Kind.POLICY, "cluster", limit.cluster or "prompt"),
        Condition(Kind.POLICY, "baseline", limit.baseline),
    ]
    if metric is None or metric.beta:
        beta = setting.policy.beta if setting.policy.beta is not None else candidate.beta
        found.append(Condition(Kind.POLICY, "beta", "" if beta is None else f"{beta:g}"))
    if limit.metric == "rdpo_loss":
        found.append(Condition(Kind.POLICY, "label_flip_rate", str(setting.policy.label_flip_rate)))
    if Work.GRADIENTS in needs:
        found.append(Condition(Kind.POLICY, "gradient_pairs", str(setting.policy.gradient_pairs)))
    if Work.FIRST_TOKENS in needs:
        found.append(Condition(Kind.POLICY, "lexicon", setting.lexicon, setting.lexicon[:12]))
    if Work.COMPLETIONS in needs:
        found += [Condition(Kind.JUDGE, key, value) for key, value in sorted(setting.judge.items())]
        found += _decoding(setting.decoding, setting.early_stop)
    if metric is None or metric.change != limit.metric or not limit.baseline:
        found.append(Condition(Kind.REFERENCE, "reference", reference.identity, f"{reference.name} {reference.short}"))
    return (*found, *_engine(setting))


def _decoding(decoding: Decoding, early_stop: bool) -> list[Condition]:
    return [
        Condition(Kind.DECODING, "temperature", f"{decoding.temperature:g}"),
        Condition(Kind.DECODING, "max_new_tokens", str(decoding.max_new_tokens)),
        Condition(Kind.DECODING, "samples", str(decoding.samples)),
        Condition(Kind.DECODING, "seed", str(decoding.seed if decoding.temperature else "none: greedy")),
        Condition(Kind.DECODING, "early stop", "yes" if early_stop else "no"),
    ]


def _engine(setting: Setting) -> list[Condition]:
    """What ran the model, and in which versions; what only says how much memory is taken is left out."""
    described = engine_settings(setting.engine, setting.options)
    versions = {key: value for key, value in described.items() if key in setting.versions}
    versions["dpo-harness"] = setting.versions.get("dpo-harness", "unknown")
    others = {key: value for key, value in described.items() if key not in versions}
    return [
        *(Condition(Kind.ENGINE, key, value) for key, value in sorted(others.items())),
        *(Condition(Kind.VERSION, key, value) for key, value in sorted(versions.items())),
    ]


@dataclass(frozen=True, slots=True)
class Difference:
    """One condition in which two runs differ."""

    kind: Kind
    text: str
    """``torch 2.13.0, then 2.14.0``."""


def differences(before: Sequence[Condition], after: Sequence[Condition]) -> tuple[Difference, ...]:
    """Where two limits' conditions differ, in the order of ``Kind``; () where their numbers may be compared."""
    then, now = ({(item.kind, item.name): item for item in side} for side in (before, after))
    order = list(Kind)
    found = [
        Difference(key[0], f"{key[1]} {then.get(key, 'none')}, then {now.get(key, 'none')}")
        for key in dict.fromkeys([*then, *now])
        if _value(then.get(key)) != _value(now.get(key))
    ]
    return tuple(sorted(found, key=lambda item: order.index(item.kind)))


def _value(condition: Any) -> str:
    return condition.value if condition is not None else ""
