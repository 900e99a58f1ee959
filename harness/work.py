"""What a case asks: a candidate's results beside the reference's. Work not done yet is done when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from harness import corpus as corpora_module
from harness import judging, tables
from harness.calibration import Calibration
from harness.domain import (
    Checkpoint,
    EarlyStop,
    Label,
    LabelledCompletion,
    Lexicon,
    Limit,
    PairGradient,
    PairScore,
    PairSimilarity,
    PreferencePair,
    Prompt,
    Reading,
    TaskResult,
)
from harness.errors import CorpusError, MeasurementError, RecordError
from harness.outputs import Outputs
from harness.plan import Task
from harness.policy import Work
from harness.probes import catastrophic
from harness.probes.catastrophic import MassRow
from harness.protocols import FirstTokens
from harness.running import Runner

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """What an earlier run kept of one checkpoint: it stands in the reference's place for the limits of a baseline."""

    baseline: str
    """Its name."""
    checkpoint: Checkpoint
    directory: Path
    """Of that run."""
    digests: Mapping[Path, str] = field(default_factory=dict)
    """Its tables, as its record lists them -> SHA-256."""
    unlike: Mapping[str, str] = field(default_factory=dict)
    """Id of a limit -> why nothing of that run can be compared for it."""
    asked: set[tuple[str, str]] = field(default_factory=set)
    """(candidate's name, id of a limit) whose case asked for something of that run."""

    def labels(self, corpus: str) -> list[LabelledCompletion]:
        labels = self._unchanged(Outputs(self.directory).labels(self.checkpoint, corpus))
        return tables.read_labelled(self._path(Task(corpus, Work.COMPLETIONS)), labels)

    def scores(self, corpus: str) -> list[PairScore]:
        return tables.read_scores(self._path(Task(corpus, Work.SCORES)))

    def task(self, name: str) -> TaskResult:
        return tables.read_task(self._path(Task(name, Work.TASK)))

    def masses(self, corpus: str) -> list[MassRow]:
        return read_masses(
            self._unchanged(self.directory / "tables" / self.checkpoint.name / f"{corpus}.masses.parquet")
        )

    def _path(self, task: Task) -> Path:
        return self._unchanged(Outputs(self.directory).path(self.checkpoint, task))

    def _unchanged(self, path: Path) -> Path:
        """The path, once its table is seen to be the one in the record: a run takes hours, and files may change."""
        if not path.is_file() or tables.file_digest(path) != self.digests.get(path):
            raise RecordError(
                f"{path} is missing or not the table that the record of baseline {self.baseline!r} was made from"
            )
        return path


def read_masses(path: Path) -> list[MassRow]:
    """Raises ``RecordError`` where the table is damaged, or from a version with other columns."""
    rows = tables.read_frame(path).to_dict(orient="records")
    try:
        return [MassRow(**{str(key): value for key, value in row.items()}) for row in rows]
    except TypeError as error:
        raise RecordError(f"{path} has other columns than this version reads ({error})") from error


@dataclass(eq=False)
class Bench(Runner):
    """The checkpoints of a run, and what they said."""

    baseline: Stored | None = None
    """What the limits of a baseline compare the candidates with."""

    @cached_property
    def lexicon(self) -> Lexicon:
        if self.policy.lexicon is None:
            raise CorpusError("the policy names no lexicon; add e.g. 'lexicon: lexicon.yaml'")
        return corpora_module.load_lexicon(self.policy.root / self.policy.lexicon)

    def labels(self, checkpoint: Checkpoint, corpus: str) -> list[LabelledCompletion]:
        """The checkpoint's answers to the corpus, each with what the judge read."""
        task = Task(corpus, Work.COMPLETIONS)
        completions = self._result(checkpoint, task)
        labels = self.outputs.existing(checkpoint, task, self.outputs.labels(checkpoint, corpus))
        return tables.read_labelled(completions, labels)

    def scores(self, checkpoint: Checkpoint, corpus: str) -> list[PairScore]:
        """Log-probabilities of the corpus' responses."""
        return tables.read_scores(self._result(checkpoint, Task(corpus, Work.SCORES)))

    def first_tokens(self, checkpoint: Checkpoint, corpus: str) -> FirstTokens:
        """The distribution over the first response token of each pair."""
        return tables.read_first_tokens(self._result(checkpoint, Task(corpus, Work.FIRST_TOKENS)))

    def task(self, checkpoint: Checkpoint, name: str) -> TaskResult:
        """The checkpoint's answers to the questions of an lm-eval task."""
        return tables.read_task(self._result(checkpoint, Task(name, Work.TASK)))

    def similarities(self, corpus: str) -> list[PairSimilarity]:
        """How alike the reference finds each pair's responses."""
        return tables.read_similarities(self._result(self.reference, Task(corpus, Work.SIMILARITIES)))

    def gradients(self, corpus: str) -> list[PairGradient]:
        """The reference's gradients over all weights, on the policy's sample of pairs."""
        return tables.read_gradients(self._result(self.reference, Task(corpus, Work.GRADIENTS)))

    def response_labels(self, corpus: str) -> list[tuple[Label, Label]] | None:
        """What the judge reads in each pair's (chosen, rejected); None without a quick judge. Needs no model."""
        if self.judge is None or not self.judge.quick:
            return None
        path = self.directory / "tables" / "corpora" / f"{corpus}.responses.parquet"
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / "work.lock"):
            if not path.exists():
                pairs = self.pairs(corpus).items
                read = judging.read_pairs(self.judge, pairs)
                tables.write_rows(path, [_JudgedPair.of(pair, *both) for pair, both in zip(pairs, read, strict=True)])
        rows = tables.read_frame(path)
        return [(Label(a), Label(b)) for a, b in zip(rows["chosen"], rows["rejected"], strict=True)]

    def _result(self, checkpoint: Checkpoint, task: Task) -> Path:
        if task not in self._planned(checkpoint):
            raise MeasurementError(
                f"{task.work.value} on corpus {task.corpus!r} were not planned for {checkpoint.name}: a case gets what "
                "its own limit's metric and corpus need"
            )
        self.ensure()
        return self.outputs.existing(checkpoint, task, self.outputs.path(checkpoint, task))


def _no_first_tokens(stored: Stored, corpus: str) -> FirstTokens:
    raise MeasurementError(
        f"whole distributions over the first token of {corpus} are not kept with a run, so baseline "
        f"{stored.baseline!r} has none: for a limit with a baseline use comparison.masses and catastrophic.mass_rise, "
        "as the shipped evals/test_catastrophic.py does"
    )


@dataclass(frozen=True, slots=True)
class _JudgedPair:
    """What the judge read in a pair's two responses."""

    pair_id: str
    chosen: str
    rejected: str
    chosen_reason: str
    rejected_reason: str

    @classmethod
    def of(cls, pair: PreferencePair, chosen: Reading, rejected: Reading) -> _JudgedPair:
        return cls(pair.id, chosen.label.value, rejected.label.value, chosen.reason, rejected.reason)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A candidate and its reference: what a case asks. Every method returns (reference's, candidate's).

    For a limit of a baseline the blessed run's candidate is in the reference's place, by what that run kept.
    """

    bench: Bench
    candidate: Checkpoint
    limit: Limit
    """What the case answers; results of another corpus than its own are refused."""

    @property
    def reference(self) -> Checkpoint:
        return self._stored.checkpoint if self.limit.baseline else self.bench.reference

    @property
    def lexicon(self) -> Lexicon:
        return self.bench.lexicon

    def prompts(self, corpus: str) -> tuple[Prompt, ...]:
        return self.bench.prompts(corpus).items

    def pairs(self, corpus: str) -> tuple[PreferencePair, ...]:
        return self.bench.pairs(corpus).items

    def labels(self, corpus: str) -> tuple[list[LabelledCompletion], list[LabelledCompletion]]:
        reference, candidate = self._both(self.bench.labels, Stored.labels, corpus)
        if self.early:  # the reference may have gone on for another candidate
            asked = {item.key for item in candidate}
            reference = [item for item in reference if item.key in asked]
        return reference, candidate

    def scores(self, corpus: str) -> tuple[list[PairScore], list[PairScore]]:
        return self._both(self.bench.scores, Stored.scores, corpus)

    def first_tokens(self, corpus: str) -> tuple[FirstTokens, FirstTokens]:
        return self._both(self.bench.first_tokens, _no_first_tokens, corpus)

    def masses(self, corpus: str) -> tuple[list[MassRow], list[MassRow]]:
        """Where the first token's probability went, pair by pair: (the baseline's, the candidate's).

        Both have their candidate's numbers as ``candidate_opposite`` and ``candidate_benign``.

        Raises:
            MeasurementError: the limit is not one of a baseline; or no token means an opposite.
        """
        self._own(corpus)
        if not self.limit.baseline:
            raise MeasurementError(
                f"limit {self.limit.id!r} is not one of a baseline: ask for comparison.first_tokens, which hold more"
            )
        before = self._stored.masses(corpus)
        reference, candidate = (
            self.bench.first_tokens(model, corpus) for model in (self.bench.reference, self.candidate)
        )
        pairs, lexicon = self.pairs(corpus), self.lexicon
        if problem := catastrophic.opposite_mass_rise(reference, candidate, pairs, lexicon, self.limit).problem:
            raise MeasurementError(problem)
        return before, catastrophic.masses(reference, candidate, pairs, lexicon)

    def task(self, name: str) -> tuple[TaskResult, TaskResult]:
        return self._both(self.bench.task, Stored.task, name)

    def similarities(self, corpus: str) -> list[PairSimilarity]:
        """How alike the *reference* finds each pair's responses: it is where training starts."""
        self._of_reference(corpus, "similarities")
        return self.bench.similarities(corpus)

    def gradients(self, corpus: str) -> list[PairGradient]:
        """The *reference's* gradients over all weights, on the policy's sample of the corpus' pairs."""
        self._of_reference(corpus, "gradients")
        return self.bench.gradients(corpus)

    def response_labels(self, corpus: str) -> list[tuple[Label, Label]] | None:
        """What the judge reads in each pair's (chosen, rejected), in the corpus' order; None without a quick judge."""
        self._own(corpus)
        return self.bench.response_labels(corpus)

    @property
    def beta(self) -> float | None:
        """DPO's β: the policy's, else what the candidate's training recorded, else None."""
        return self.bench.policy.beta if self.bench.policy.beta is not None else self.candidate.beta

    @property
    def calibration(self) -> Calibration | None:
        """What human labels say of the judge; None where the policy names no calibration."""
        return self.bench.calibration

    @property
    def early(self) -> EarlyStop | None:
        """What an interval must know where generation may have stopped early (``--early-stop``), else None."""
        return None if self.limit.baseline else self.bench.early(self.limit.corpus)

    @property
    def label_flip_rate(self) -> float | None:
        """The policy's share of pairs whose labels are believed to be swapped."""
        return self.bench.policy.label_flip_rate

    def keep(self, kind: str, corpus: str, rows: Sequence[Any]) -> None:
        """Keep per-item results (flat dataclass objects of one type) as a table of the run, for the report."""
        if not kind.isidentifier():
            raise ValueError(f"{kind!r} cannot name a table; use letters, digits and underscores")
        if not rows:
            return
        tables.write_rows(self.bench.directory / "tables" / self.candidate.name / f"{corpus}.{kind}.parquet", rows)

    def _both(
        self, read: Callable[[Checkpoint, str], Result], stored: Callable[[Stored, str], Result], corpus: str
    ) -> tuple[Result, Result]:
        self._own(corpus)
        if self.limit.baseline:
            return stored(self._stored, corpus), read(self.candidate, corpus)
        candidate = read(self.candidate, corpus)
        return read(self.reference, corpus), candidate

    @property
    def _stored(self) -> Stored:
        stored = self.bench.baseline
        if stored is None or stored.baseline != self.limit.baseline:
            raise MeasurementError(
                f"limit {self.limit.id!r} is one of baseline {self.limit.baseline!r}, which is not open"
            )
        if why := stored.unlike.get(self.limit.id):
            raise MeasurementError(why)
        stored.asked.add((self.candidate.name, self.limit.id))
        return stored

    def _of_reference(self, corpus: str, what: str) -> None:
        self._own(corpus)
        if self.limit.baseline:
            raise MeasurementError(
                f"limit {self.limit.id!r} is one of a baseline, and {what} are the reference's own: ask for them in a "
                "case of the policy's own limit"
            )

    def _own(self, corpus: str) -> None:
        if corpus != self.limit.corpus:
            raise MeasurementError(
                f"limit {self.limit.id!r} is on corpus {self.limit.corpus!r}, but its case asked for {corpus!r}; "
                "ask for limit.corpus"
            )
