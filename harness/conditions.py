"""When two numbers may be compared: everything that a number depends on, beside the model that it is about.

Two runs whose conditions differ for a limit have no difference on it: what they show beside each other is an ``x`` and
the reason, never a number. What a record does not say is not equal to anything.

Beside this, two runs' tables of an lm-eval task hold what was asked (``basis``), which the probe compares. The code of
a metric of a user's own is known by the commit that the run was started at, where nothing in it was changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from harness import policy
from harness.domain import Checkpoint, Decoding, EngineOptions, Limit, TaskSpec
from harness.errors import PolicyError
from harness.policy import METRICS, Metric, Policy, Work
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
    known: bool = True
    """False: the record does not say it, or what it says is no proof; then it is equal to nothing."""

    def __str__(self) -> str:
        return (self.shown or self.value or "none") if self.known else self.shown or "not known"


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run asked and measured: a record's, or that of a run not recorded yet."""

    policy: Policy
    """As it was written, with the limits of a baseline."""
    digests: Mapping[str, str]
    """Corpus -> digest of what is asked."""
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
    git: Mapping[str, str] = field(default_factory=dict)
    """``record.git_state``."""

    @classmethod
    def of(cls, record: RunRecord) -> Setting:
        """That of a recorded run.

        Raises:
            PolicyError: the policy in the record is none that this version reads, or it has other limits than the
                record.
        """
        rules = policy.parse(record.policy.text.encode("utf-8"), Path(record.policy.path))
        if record.baseline is not None:
            rules = policy.with_baseline(rules, record.baseline.name)
        if rules.limits != record.policy.limits:
            raise PolicyError(
                f"{record.policy.path}: the record's limits are not those of its policy; it was changed, or made by a "
                "version with other rules"
            )
        return cls(
            policy=rules,
            digests={item.name: item.digest for item in record.corpora},
            judge=record.judge,
            engine=record.engine,
            options=record.options,
            versions=record.versions,
            lexicon=record.policy.lexicon,
            decoding=record.policy.decoding,
            early_stop=record.early_stop,
            git=record.git,
        )


def conditions(setting: Setting, limit: Limit, reference: Checkpoint, candidate: Checkpoint) -> tuple[Condition, ...]:
    """Everything that a limit's number depends on, beside the candidate itself.

    For a limit against a baseline, what the change is measured from is left out: it is that run's, not the reference.

    Args:
        setting: how the run asked.
        limit: one of its limits.
        reference: what a change is measured from.
        candidate: for β, where its training recorded it, and for how prompts reach the model.
    """
    needs, metric = setting.policy.needs(limit), METRICS.get(limit.metric)
    found = [
        *_asked(setting, limit, needs, metric),
        Condition(Kind.CORPUS, "chat template", candidate.template, candidate.template[:12]),
        Condition(Kind.CORPUS, "tokenizer", candidate.tokenizer, candidate.tokenizer[:12]),
        Condition(Kind.POLICY, "metric", limit.metric),
        Condition(Kind.POLICY, "unit", limit.unit),
        Condition(Kind.POLICY, "alpha", repr(limit.alpha)),
        Condition(Kind.POLICY, "cluster", limit.cluster or "prompt"),
        Condition(Kind.POLICY, "baseline", limit.baseline),
    ]
    if metric is None or metric.beta:
        beta = setting.policy.beta if setting.policy.beta is not None else candidate.beta
        found.append(Condition(Kind.POLICY, "beta", "" if beta is None else repr(float(beta))))
    if metric is None or limit.metric == "rdpo_loss":
        found.append(Condition(Kind.POLICY, "label_flip_rate", str(setting.policy.label_flip_rate)))
    if Work.GRADIENTS in needs:
        found.append(Condition(Kind.POLICY, "gradient_pairs", str(setting.policy.gradient_pairs)))
    if Work.FIRST_TOKENS in needs:
        lexicon = setting.lexicon
        found.append(Condition(Kind.POLICY, "lexicon", lexicon, lexicon[:12], known=bool(lexicon)))
    if Work.COMPLETIONS in needs:
        found += [Condition(Kind.JUDGE, key, value) for key, value in sorted(setting.judge.items())]
        found += _decoding(setting.decoding, setting.early_stop)
    if not limit.baseline and not _of_candidate_alone(limit):
        served = ", a served model, whose bytes cannot be seen" if reference.served else ""
        shown = f"{reference.name} {reference.short}{served}"
        found.append(Condition(Kind.REFERENCE, "reference", reference.identity, shown, known=not reference.served))
    if metric is None:
        commit, clean = setting.git.get("commit", ""), setting.git.get("dirty") == "no"
        shown = commit[:12] if clean or not commit else f"{commit[:12]} with changes"
        found.append(Condition(Kind.VERSION, f"code of {limit.metric}", commit, shown, known=bool(commit) and clean))
    return (*found, *_engine(setting))


def _of_candidate_alone(limit: Limit) -> bool:
    """Whether the number is the candidate's own, so that the reference only stands beside it."""
    metric = METRICS.get(limit.metric)
    return metric is not None and metric.change not in ("", limit.metric)


def _asked(setting: Setting, limit: Limit, needs: Sequence[Work], metric: Metric | None) -> list[Condition]:
    """The corpus' digest, or how a task is asked; what its questions were stands in its tables only."""
    name = f"what is asked of {limit.corpus}"
    if Work.TASK not in needs:
        digest = setting.digests.get(limit.corpus, "")
        return [Condition(Kind.CORPUS, name, digest, digest[:12], known=bool(digest))]
    spec = setting.policy.tasks.get(limit.corpus, TaskSpec(limit.corpus, limit.corpus))
    keys = ("task", "metric", "filter", "num_fewshot", "fewshot_seed", "limit", "chat_template")
    found = [Condition(Kind.CORPUS, f"{key} of task {limit.corpus}", str(getattr(spec, key))) for key in keys]
    seen = metric is not None and bool(metric.change)
    return found if seen else [*found, Condition(Kind.CORPUS, name, "", known=False)]


_VERSIONS = ("dpo-harness", "tokenizers")
"""Versions that can change a number, beside those that the engine names."""

_OPTIONS = {"scoring": "way of scoring", "trust_remote_code": "the checkpoint's own code"}
"""Options that can change a number, beside those that the engine names, and what they are called."""


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
    versions |= {key: setting.versions.get(key, "") for key in _VERSIONS}
    others = {key: _plain(value, versions) for key, value in described.items() if key not in versions}
    others |= {name: str(getattr(setting.options, key)) for key, name in _OPTIONS.items()}
    return [
        *(Condition(Kind.ENGINE, key, value) for key, value in sorted(others.items())),
        *(Condition(Kind.VERSION, key, value, known=bool(value)) for key, value in sorted(versions.items())),
    ]


def _plain(value: str, versions: Mapping[str, str]) -> str:
    """``vllm`` for ``vllm 0.32.0``, whose version is a condition of its own."""
    for name, version in versions.items():
        value = value.replace(f"{name} {version}", name) if version else value
    return value


@dataclass(frozen=True, slots=True)
class Difference:
    """One condition in which two runs differ."""

    kind: Kind
    text: str
    """``torch 2.13.0, then 2.14.0``."""


def differences(
    before: Sequence[Condition], after: Sequence[Condition], *, one_run: bool = False
) -> tuple[Difference, ...]:
    """Where two limits' conditions differ, in the order of ``Kind``; () where their numbers may be compared.

    Args:
        before: of the first.
        after: of the other.
        one_run: both are of one run, where what the record does not say is still the same.
    """
    then, now = ({(item.kind, item.name): item for item in side} for side in (before, after))
    order = list(Kind)
    found = [
        Difference(key[0], f"{key[1]} {then.get(key, 'none')}, then {now.get(key, 'none')}")
        for key in dict.fromkeys([*then, *now])
        if _differ(then.get(key), now.get(key), one_run)
    ]
    return tuple(sorted(found, key=lambda item: order.index(item.kind)))


def _differ(then: Condition | None, now: Condition | None, one_run: bool) -> bool:
    """What only one side has differs, unless it says nothing there."""
    if not one_run and not all(item is None or item.known for item in (then, now)):
        return True
    return (then.value if then else "") != (now.value if now else "")
