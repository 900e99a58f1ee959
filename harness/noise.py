"""The noise floor: how much a model differs from itself. What an A/A run measured, as a file that a policy names.

An A/A run (``--allow-identical``, candidate = reference) asks one model twice, in another order and with other seeds.
The floor of a limit is how far from zero its interval then reaches: a limit tighter than that would not pass even the
reference itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import (
    BaseModel,
    ConfigDict,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from harness.domain import Limit
from harness.errors import PolicyError

SCHEMA = 1

FILE = "noise.json"

CHANGES = ("_drop", "_rise", "_change")
"""Ends of the names of metrics that are differences between two models: only these have a floor."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Floor(_Facts):
    """What one limit's metric came to between a model and itself."""

    metric: str
    corpus: str
    unit: str
    alpha: FiniteFloat
    n: PositiveInt
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a floor of: metric, corpus and unit."""
        return (self.metric, self.corpus, self.unit)

    @property
    def floor(self) -> float:
        """How far from zero the interval reaches."""
        return max(abs(self.low), abs(self.high))


class Alarms(_Facts):
    """How often the gate would act on noise: both answers to each item swapped at random, many times."""

    replicates: NonNegativeInt
    failed: NonNegativeInt
    """Replicates in which some limit claimed FAIL: false alarms."""
    not_passed: NonNegativeInt
    """Replicates in which some blocking limit was not passed, so that the model would be held back."""
    limits: tuple[str, ...]
    """Ids of the limits that were measured again; the others do not compare answers or pairs item by item."""


class Noise(_Facts):
    """What an A/A run found."""

    schema_number: int = SCHEMA
    run: str
    basis: Mapping[str, str]
    """Everything that the noise depends on: two runs share a floor only where it is equal."""
    corpora: Mapping[str, str]
    """name -> digest."""
    floors: tuple[Floor, ...]
    without: tuple[tuple[str, str, str], ...] = ()
    """Metric, corpus and unit of changes that were asked for and could not be measured (no spread at all)."""
    alarms: Alarms
    seconds: NonNegativeFloat = 0.0
    """Time it took to measure the false alarms."""

    @model_validator(mode="after")
    def _one_floor_each(self) -> Noise:
        keys = [item.key for item in self.floors]
        if len(set(keys)) != len(keys):
            raise ValueError("two floors are of the same metric, corpus and unit")
        return self


def key(limit: Limit) -> tuple[str, str, str]:
    """What a limit's floor is found by: ``Floor.key``."""
    return (limit.metric, limit.corpus, limit.unit)


def load(path: Path) -> Noise:
    """Read a noise file.

    Raises:
        PolicyError: missing, damaged, or from another version.
    """
    try:
        found = Noise.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(
            f"the noise file {path} cannot be read ({error}); make it by an A/A run: pytest evals/ --candidate REF "
            "--reference REF --allow-identical"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its whole"
        raise PolicyError(f"the noise file {path} is damaged at {where}: {first['msg']}") from None
    if found.schema_number != SCHEMA:
        raise PolicyError(f"the noise file {path} has schema {found.schema_number}, this version reads {SCHEMA}")
    return found


def check(
    noise: Noise, limits: Iterable[Limit], basis: Mapping[str, str], corpora: Mapping[str, str], path: Path
) -> None:
    """No limit is tighter than the noise.

    Raises:
        PolicyError: the noise was measured under other conditions (names the first that differs), or a limit is tighter
            than its floor.
    """
    for name in sorted({*noise.basis, *basis}):
        then, now = noise.basis.get(name, "nothing"), basis.get(name, "nothing")
        if then != now:
            raise PolicyError(
                f"the noise in {path} was measured with {name} {then!r}, this run has {now!r}: repeat the A/A run"
            )
    floors = {item.key: item for item in noise.floors}
    for limit in limits:
        what = key(limit)
        if not limit.metric.endswith(CHANGES) or what in noise.without:
            continue
        if what not in floors:
            raise PolicyError(
                f"the noise in {path} says nothing of limit {limit.id!r} ({limit.metric} on {limit.corpus}): repeat "
                "the A/A run with this policy"
            )
        found = floors[what]
        if found.alpha > limit.alpha:
            raise PolicyError(
                f"limit {limit.id!r} has alpha {limit.alpha:g}, but the noise in {path} was measured with "
                f"{found.alpha:g}: repeat the A/A run"
            )
        if noise.corpora.get(limit.corpus) != corpora.get(limit.corpus):
            raise PolicyError(
                f"the noise in {path} was measured on another corpus {limit.corpus!r}: repeat the A/A run"
            )
        room = limit.bound if limit.is_maximum else -limit.bound
        if room < found.floor:
            raise PolicyError(
                f"limit {limit.id!r} is {limit.describe()}, but the same model differs from itself by up to "
                f"{found.floor:.3g} (A/A run {noise.run}, n={found.n}): such a limit is tighter than the noise floor. "
                "Ask more prompts, take more --repeats, or widen it"
            )
