"""``baselines.json``: which run and candidate a name stands for, and what it stood for before."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import OptionError, RecordError
from harness.policy.baseline import NAME
from harness.record import BaselineFacts

FILE = "baselines.json"
SCHEMA = 1


class Holder(BaseModel):
    """What a name stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    """Its directory, relative to the run directory that holds ``baselines.json``, with forward slashes."""
    candidate: str
    """A candidate of that run."""
    identity: str
    """That candidate's."""
    sha256: str
    """Of the run's record."""
    blessed: str
    """When: ISO 8601, UTC."""
    although: str = ""
    """What the run was, where its candidate was not released: ``blocked``, ``partial`` or ``interrupted``."""

    @property
    def same(self) -> tuple[str, str, str]:
        """Equal for two blessings of one candidate of one run that lies where it lay."""
        return self.run, self.sha256, self.candidate


class Former(Holder):
    """What a name stood for before."""

    name: str
    until: str
    """When another run took the name."""


class File(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_number: int
    baselines: dict[str, Holder] = {}
    history: tuple[Former, ...] = ()
    """Oldest first."""


def read(run_dir: Path) -> dict[str, Holder]:
    """Name -> what it stands for; {} where nothing was blessed in this run directory.

    Raises:
        RecordError: the file is damaged, or of a newer version.
    """
    return read_file(run_dir).baselines


def read_file(run_dir: Path) -> File:
    """The names with their history; an empty one where there is no file. Raises as ``read``."""
    path = run_dir / FILE
    if not path.exists():
        return File(schema_number=SCHEMA)
    cure = f"restore it, or remove it and bless again (python -m harness bless RUN --as NAME --run-dir {run_dir})"
    try:
        found = File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its whole"
        raise RecordError(f"{path} is damaged at {where} ({first['msg']}); {cure}") from None
    if found.schema_number > SCHEMA:
        raise RecordError(f"{path} has schema {found.schema_number}, this version reads {SCHEMA}; update dpo-harness")
    bad = [name for name in found.baselines if not NAME.fullmatch(name)]
    if found.schema_number < 1 or bad:
        raise RecordError(f"{path} is damaged ({bad[0] if bad else 'schema_number'!r}); {cure}")
    return found


def replaced(before: File, name: str, holder: Holder) -> File:
    """The file with a name given to a holder; the one that had it goes into the history."""
    taken = before.baselines.get(name)
    former = () if taken is None else (Former(**taken.model_dump(), name=name, until=holder.blessed),)
    return File(schema_number=SCHEMA, baselines=before.baselines | {name: holder}, history=(*before.history, *former))


def describe(holder: Holder | BaselineFacts) -> str:
    """``run R, candidate C (identity)``, and what it was blessed in spite of."""
    although = f", blessed although {holder.although}" if holder.although else ""
    return f"run {holder.run}, candidate {holder.candidate} ({holder.identity[:12]}){although}"


def check_name(option: str, name: str) -> None:
    """Raises ``OptionError`` for what cannot be a baseline's name, such as a path."""
    if not NAME.fullmatch(name):
        raise OptionError(
            f"{option} {name!r}: a baseline's name is of letters, digits, '.', '_' and '-', and begins with a "
            "letter or digit; a run gets one by python -m harness bless RUN --as NAME"
        )


def as_written(path: Path) -> str:
    """As people would write it from here."""
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near
