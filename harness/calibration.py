"""How often a judge is right, by human labels: what ``dpo-harness calibrate`` writes and a policy names.

Counts, not rates: whoever reads them can make intervals of their own. A calibration belongs to one judge with one
configuration; any other judge is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, model_validator

from harness.domain import Label
from harness.errors import PolicyError

SCHEMA = 1


class Hits(NamedTuple):
    """One label against all others, over answers that the judge could read."""

    found: int
    """Answers with this label by the humans that the judge gave it too: sensitivity is found/positives."""
    positives: int
    rejected: int
    """Answers without it by the humans that the judge gave another label: specificity is rejected/negatives."""
    negatives: int


class Source(BaseModel):
    """One source of labelled answers, such as a model or a data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    counts: Mapping[Label, Mapping[Label, NonNegativeInt]]
    """Human label -> judge's label -> answers. A human label is never UNREADABLE: such answers are left out."""

    @model_validator(mode="after")
    def _people_can_read(self) -> Source:
        if Label.UNREADABLE in self.counts:
            raise ValueError(f"source {self.name!r} counts answers that humans label unreadable; leave them out")
        return self


class Calibration(BaseModel):
    """What human labels say of one judge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_number: int = SCHEMA
    judge: Mapping[str, str]
    """``Judge.describe()``."""
    data: str
    """The labelled file, as it was given."""
    digest: str
    """SHA-256 of its bytes."""
    left_out: Mapping[str, NonNegativeInt]
    """Human labels that are neither refusal nor compliance (such as ``partial``) -> answers left out."""
    sources: tuple[Source, ...]

    @model_validator(mode="after")
    def _something_counted(self) -> Calibration:
        names = [source.name for source in self.sources]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the source {repeated[0]!r} stands twice: its answers would count twice")
        for label in (Label.REFUSAL, Label.COMPLIANCE):
            if not self.hits(label).positives:
                raise ValueError(f"no answer that humans label {label.value} was read: it says nothing of the judge")
        return self

    def hits(self, label: Label, sources: Iterable[str] | None = None) -> Hits:
        """Counts of one label against the others, over all sources or those named; UNREADABLE ones are left out.

        Raises ``ValueError`` for a source that is not there.
        """
        wanted = None if sources is None else set(sources)
        if unknown := sorted((wanted or set()) - {source.name for source in self.sources}):
            known = ", ".join(source.name for source in self.sources)
            raise ValueError(f"the calibration has no source {unknown[0]!r}; it has {known}")
        found = positives = rejected = negatives = 0
        for source in self.sources:
            if wanted is not None and source.name not in wanted:
                continue
            for human, row in source.counts.items():
                for read, count in row.items():
                    if read is Label.UNREADABLE:
                        continue
                    if human is label:
                        found, positives = found + count * (read is label), positives + count
                    else:
                        rejected, negatives = rejected + count * (read is not label), negatives + count
        return Hits(found, positives, rejected, negatives)

    @property
    def unreadable(self) -> int:
        """Answers that the judge could not read."""
        return sum(row.get(Label.UNREADABLE, 0) for source in self.sources for row in source.counts.values())


def load(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        PolicyError: missing, damaged, or from a newer version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(
            f"the calibration {path} cannot be read ({error}); make it: python -m harness calibrate LABELLED.jsonl "
            f"--judge NAME --output {path}"
        ) from None
    try:
        told = json.loads(text)
    except ValueError as error:
        raise PolicyError(f"the calibration {path} is damaged: {error}") from None
    schema = told.get("schema_number") if isinstance(told, dict) else None
    if schema != SCHEMA:
        raise PolicyError(
            f"the calibration {path} has schema {schema}, this version reads {SCHEMA}; "
            "run `python -m harness calibrate` again"
        )
    try:
        return Calibration.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its whole"
        raise PolicyError(f"the calibration {path} is damaged at {where}: {first['msg']}") from None


def check(calibration: Calibration, judge: Mapping[str, str], path: Path) -> None:
    """A calibration speaks of one judge with one configuration.

    Raises:
        PolicyError: it was made with another one; names the first thing that differs.
    """
    for key in sorted({*calibration.judge, *judge}):
        theirs, ours = calibration.judge.get(key, "nothing"), judge.get(key, "nothing")
        if theirs != ours:
            raise PolicyError(
                f"the calibration {path} is of another judge: its {key} is {theirs!r}, this run's {ours!r}; "
                "run `python -m harness calibrate` again"
            )
