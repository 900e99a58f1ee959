"""From limits to model outputs: what each checkpoint must do is planned, done once, and kept in the run's directory.

A checkpoint is opened once, does all its work, is closed before the next one is opened, whatever the order of the
cases. Results are read back from files, so that several pytest workers share one piece of work: the first to need
anything does everything, under a lock, and the others wait for it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from harness import corpus as corpora_module
from harness import errors, tables
from harness.domain import Checkpoint, Corpus, LabelledCompletion, Lexicon, Limit, PairScore, PreferencePair, Prompt
from harness.errors import CorpusError, HarnessError, MeasurementError, MismatchError
from harness.policy import Policy, Work
from harness.protocols import Engine, FirstTokens, Judge, Model, OnProgress, no_progress

log = logging.getLogger(__name__)

Result = TypeVar("Result")

Progress = Callable[[str, int], AbstractContextManager[OnProgress]]
"""``progress(what, total)`` -> a context that is told how many items were just finished."""


def silent(_what: str, _total: int) -> AbstractContextManager[OnProgress]:
    return nullcontext(no_progress)


@dataclass(frozen=True, slots=True, order=True)
class Task:
    """One piece of work for one checkpoint."""

    corpus: str
    work: Work


def plan(policy: Policy, selected: Iterable[tuple[str, Limit]]) -> dict[str, tuple[Task, ...]]:
    """candidate name -> what it must do so that its selected limits can be answered."""
    tasks: dict[str, set[Task]] = {}
    for candidate, limit in selected:
        tasks.setdefault(candidate, set()).add(Task(limit.corpus, policy.needs(limit)))
    return {candidate: tuple(sorted(items)) for candidate, items in tasks.items()}


def load_corpora(policy: Policy) -> dict[str, Corpus[Prompt] | Corpus[PreferencePair]]:
    """Every corpus that a limit names.

    Raises:
        CorpusError: the first one that cannot be used.
    """
    kinds = {limit.corpus: policy.needs(limit).corpus_kind for limit in policy.limits}
    return {name: corpora_module.load(name, policy.corpora[name], kind, policy.root) for name, kind in kinds.items()}


def write_corpora(directory: Path, corpora: Mapping[str, Corpus[Prompt] | Corpus[PreferencePair]]) -> None:
    """What was asked, as tables of the run: ``tables/corpora/NAME.prompts.parquet`` or ``NAME.pairs.parquet``."""
    for name, corpus in corpora.items():
        kind = "prompts" if isinstance(corpus.items[0], Prompt) else "pairs"
        rows = [asdict(item) for item in corpus.items]
        columns = {"prompt" if key == "text" else key: [row[key] for row in rows] for key in rows[0]}
        tables.write_frame(directory / "tables" / "corpora" / f"{name}.{kind}.parquet", columns)


@dataclass(eq=False)
class Bench:
    """The checkpoints of a run, and what they said."""

    directory: Path
    policy: Policy
    engine: Engine
    judge: Judge | None
    reference: Checkpoint
    candidates: Sequence[Checkpoint]
    corpora: dict[str, Corpus[Prompt] | Corpus[PreferencePair]]
    tasks: dict[str, tuple[Task, ...]]
    """candidate name -> its work (see ``plan``)."""
    allow_identical: bool = False
    progress: Progress = silent
    _done: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        names = [item.name for item in (self.reference, *self.candidates)]
        assert len({name.casefold() for name in names}) == len(names), f"results are kept by name: {names}"

    # ------------------------------------------------------------ asking

    def prompts(self, name: str) -> Corpus[Prompt]:
        corpus: Any = self.corpora[name]
        if not isinstance(corpus.items[0], Prompt):
            raise CorpusError(f"corpus {name!r} holds preference pairs, not prompts")
        return corpus  # type: ignore[no-any-return]

    def pairs(self, name: str) -> Corpus[PreferencePair]:
        corpus: Any = self.corpora[name]
        if not isinstance(corpus.items[0], PreferencePair):
            raise CorpusError(f"corpus {name!r} holds prompts, not preference pairs")
        return corpus  # type: ignore[no-any-return]

    @cached_property
    def lexicon(self) -> Lexicon:
        if self.policy.lexicon is None:
            raise CorpusError("the policy names no lexicon; add e.g. 'lexicon: lexicon.yaml'")
        return corpora_module.load_lexicon(self.policy.root / self.policy.lexicon)

    def labels(self, checkpoint: Checkpoint, corpus: str) -> list[LabelledCompletion]:
        """The checkpoint's answers to the corpus, each with what the judge read."""
        task = Task(corpus, Work.COMPLETIONS)
        completions = tables.read_completions(self._result(checkpoint, task))
        readings = tables.read_readings(self._existing(checkpoint, task, self._labels_path(checkpoint, corpus)))
        return [LabelledCompletion(c, r) for c, r in zip(completions, readings, strict=True)]

    def scores(self, checkpoint: Checkpoint, corpus: str) -> list[PairScore]:
        """Log-probabilities of the corpus' responses."""
        return tables.read_scores(self._result(checkpoint, Task(corpus, Work.SCORES)))

    def first_tokens(self, checkpoint: Checkpoint, corpus: str) -> FirstTokens:
        """The distribution over the first response token of each pair."""
        return tables.read_first_tokens(self._result(checkpoint, Task(corpus, Work.FIRST_TOKENS)))

    # ------------------------------------------------------------ doing

    def ensure(self) -> None:
        """Do all planned work that is not done yet; one process at a time."""
        if self._done:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / "work.lock"):
            waiting = {name: self._open_tasks(checkpoint) for name, checkpoint in self._by_name().items()}
            if any(waiting.values()):
                self._run(waiting)
        self._done = True

    def _by_name(self) -> dict[str, Checkpoint]:
        return {item.name: item for item in (*self.candidates, self.reference)}

    def _planned(self, checkpoint: Checkpoint) -> tuple[Task, ...]:
        if checkpoint.name == self.reference.name:
            return tuple(sorted({task for tasks in self.tasks.values() for task in tasks}))
        return self.tasks.get(checkpoint.name, ())

    def _open_tasks(self, checkpoint: Checkpoint) -> list[Task]:
        if self._error_path(checkpoint).exists():
            return []
        return [
            task
            for task in self._planned(checkpoint)
            if not self._finished(checkpoint, task) and not self._error_path(checkpoint, task).exists()
        ]

    def _finished(self, checkpoint: Checkpoint, task: Task) -> bool:
        paths = [self._path(checkpoint, task)]
        if task.work is Work.COMPLETIONS:
            paths.append(self._labels_path(checkpoint, task.corpus))
        return all(path.exists() for path in paths)

    def _run(self, waiting: dict[str, list[Task]]) -> None:
        """Candidates first: a broken one is found before the reference's long work, which it would waste."""
        order = [checkpoint for name, checkpoint in self._by_name().items() if waiting[name]]
        while order:
            models = self.engine.models(tuple(order))
            for checkpoint in tuple(order):
                order.remove(checkpoint)
                try:
                    model = next(models)
                    assert model.checkpoint == checkpoint, "an engine gives models in the order asked for"
                    self._keep(self._canary_path(checkpoint), list(model.canary))
                    for task in waiting[checkpoint.name]:
                        self._attempt(model, checkpoint, task)
                    del model
                except Exception as error:  # this checkpoint cannot run; the others still can
                    self._fail(error, checkpoint)
                    break
        self._compare()

    def _compare(self) -> None:
        """Equal weights in other files (re-sharded, re-saved) show only once both models have run."""
        mine = self._canary_path(self.reference)
        for checkpoint in self.candidates:
            theirs = self._canary_path(checkpoint)
            both = mine.exists() and theirs.exists()
            if both and mine.read_bytes() == theirs.read_bytes() and not self.allow_identical:
                self._fail(
                    MismatchError(
                        f"{checkpoint.spec} and {self.reference.spec} give exactly the same log-probabilities: "
                        "training changed nothing, or one model was named twice (--allow-identical measures noise)"
                    ),
                    checkpoint,
                )

    def _attempt(self, model: Model, checkpoint: Checkpoint, task: Task) -> None:
        try:
            self._do(model, checkpoint, task)
        except Exception as error:  # kept for every case that needs it; the other tasks go on
            self._fail(error, checkpoint, task)

    def _do(self, model: Model, checkpoint: Checkpoint, task: Task) -> None:
        path = self._path(checkpoint, task)
        what = f"{checkpoint.name}: {task.work.value.replace('_', ' ')} on {task.corpus}"
        if task.work is Work.COMPLETIONS:
            prompts = self.prompts(task.corpus)
            if not path.exists():
                with self.progress(what, len(prompts.items)) as on_progress:
                    completions = model.generate(prompts.items, self.policy.decoding, on_progress)
                asked = [(item.id, sample) for item in prompts.items for sample in range(self.policy.decoding.samples)]
                _check_answered(what, asked, [(item.prompt_id, item.sample) for item in completions])
                tables.write_completions(path, completions)
            self._judge(checkpoint, task, prompts)
        else:
            pairs = self.pairs(task.corpus)
            asked_pairs = [pair.id for pair in pairs.items]
            with self.progress(what, len(pairs.items)) as on_progress:
                if task.work is Work.SCORES:
                    scores = model.score(pairs.items, on_progress)
                    _check_answered(what, asked_pairs, [item.pair_id for item in scores])
                    tables.write_scores(path, scores)
                else:
                    tokens = model.first_tokens(pairs.items, on_progress)
                    _check_answered(what, asked_pairs, list(tokens.pair_ids))
                    tables.write_first_tokens(path, tokens)

    def _judge(self, checkpoint: Checkpoint, task: Task, prompts: Corpus[Prompt]) -> None:
        assert self.judge is not None, "the policy was checked: labels need a judge"
        completions = tables.read_completions(self._path(checkpoint, task))
        texts = {prompt.id: prompt.text for prompt in prompts.items}
        with self.progress(f"{checkpoint.name}: judging {task.corpus}", len(completions)) as on_progress:
            readings = []
            for item in completions:
                cut_off = item.finish.value == "length"
                readings.append(self.judge.read(texts[item.prompt_id], item.text, cut_off=cut_off))
                on_progress(1)
        tables.write_readings(self._labels_path(checkpoint, task.corpus), completions, readings)

    # ------------------------------------------------------------ keeping

    def _path(self, checkpoint: Checkpoint, task: Task) -> Path:
        if task.work is Work.FIRST_TOKENS:  # whole distributions: large, and gone once the record is written
            return self.directory / "work" / checkpoint.name / f"{task.corpus}.first_tokens.safetensors"
        return self.directory / "tables" / checkpoint.name / f"{task.corpus}.{task.work.value}.parquet"

    def _labels_path(self, checkpoint: Checkpoint, corpus: str) -> Path:
        return self.directory / "tables" / checkpoint.name / f"{corpus}.labels.parquet"

    def _error_path(self, checkpoint: Checkpoint, task: Task | None = None) -> Path:
        name = f"{task.corpus}.{task.work.value}.error.json" if task else "error.json"
        return self.directory / "work" / checkpoint.name / name

    def _canary_path(self, checkpoint: Checkpoint) -> Path:
        return self.directory / "work" / checkpoint.name / "canary.json"

    def _fail(self, error: Exception, checkpoint: Checkpoint, task: Task | None = None) -> None:
        """Keep an error, so that every case that needs this result gets the same one."""
        what = f"{task.work.value} on {task.corpus}" if task else "opening"
        log.debug("%s: %s failed", checkpoint.name, what, exc_info=error)
        if isinstance(error, HarnessError):
            kind, text = type(error).__name__, str(error)
        else:
            kind, text = "MeasurementError", f"{checkpoint.name}: {what} failed: {type(error).__name__}: {error}"
        self._keep(self._error_path(checkpoint, task), {"kind": kind, "text": text})

    def _keep(self, path: Path, content: object) -> None:
        text = json.dumps(content)
        tables.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _result(self, checkpoint: Checkpoint, task: Task) -> Path:
        if task not in self._planned(checkpoint):
            raise MeasurementError(
                f"{task.work.value} on corpus {task.corpus!r} were not planned for {checkpoint.name}: a case gets what "
                "its own limit's metric and corpus need"
            )
        self.ensure()
        return self._existing(checkpoint, task, self._path(checkpoint, task))

    def _existing(self, checkpoint: Checkpoint, task: Task, path: Path) -> Path:
        for error_path in (self._error_path(checkpoint), self._error_path(checkpoint, task)):
            if error_path.exists():
                content = json.loads(error_path.read_text(encoding="utf-8"))
                raise getattr(errors, content["kind"], MeasurementError)(content["text"])
        return path


def _check_answered(what: str, asked: Sequence[object], answered: Sequence[object]) -> None:
    """An engine that leaves items out, or mixes them up, has measured something else."""
    if list(asked) != list(answered):
        raise MeasurementError(
            f"{what}: the engine gave {len(answered)} results for {len(asked)} items, or in another order; nothing can "
            "be concluded from part of a corpus"
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """A candidate and its reference: what a case asks. Every method returns (reference's, candidate's)."""

    bench: Bench
    candidate: Checkpoint
    limit: Limit
    """What the case answers; results of another corpus than its own are refused."""

    @property
    def reference(self) -> Checkpoint:
        return self.bench.reference

    @property
    def lexicon(self) -> Lexicon:
        return self.bench.lexicon

    def prompts(self, corpus: str) -> tuple[Prompt, ...]:
        return self.bench.prompts(corpus).items

    def pairs(self, corpus: str) -> tuple[PreferencePair, ...]:
        return self.bench.pairs(corpus).items

    def labels(self, corpus: str) -> tuple[list[LabelledCompletion], list[LabelledCompletion]]:
        return self._both(self.bench.labels, corpus)

    def scores(self, corpus: str) -> tuple[list[PairScore], list[PairScore]]:
        return self._both(self.bench.scores, corpus)

    def first_tokens(self, corpus: str) -> tuple[FirstTokens, FirstTokens]:
        return self._both(self.bench.first_tokens, corpus)

    def keep(self, kind: str, corpus: str, rows: Sequence[Any]) -> None:
        """Keep per-item results (flat dataclass objects of one type) as a table of the run, for the report."""
        if not kind.isidentifier():
            raise ValueError(f"{kind!r} cannot name a table; use letters, digits and underscores")
        if not rows:
            return
        tables.write_rows(self.bench.directory / "tables" / self.candidate.name / f"{corpus}.{kind}.parquet", rows)

    def _both(self, read: Callable[[Checkpoint, str], Result], corpus: str) -> tuple[Result, Result]:
        if corpus != self.limit.corpus:
            raise MeasurementError(
                f"limit {self.limit.id!r} is on corpus {self.limit.corpus!r}, but its case asked for {corpus!r}; "
                "ask for limit.corpus"
            )
        candidate = read(self.candidate, corpus)
        return read(self.reference, corpus), candidate
