"""From limits to model outputs: what each checkpoint must do is planned, done once, and kept in the run's directory.

A checkpoint is opened once, does all its work, is closed before the next one is opened, whatever the order of the
cases. Results are read back from files, so that several pytest workers share one piece of work: the first to need
anything does everything, under a lock, and the others wait for it.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from harness import corpus as corpora_module
from harness import errors, judging, tables
from harness.calibration import Calibration
from harness.domain import (
    Checkpoint,
    Completion,
    Corpus,
    EarlyStop,
    Exchange,
    FinishReason,
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
)
from harness.errors import CorpusError, HarnessError, MeasurementError, MismatchError
from harness.policy import Policy, Work
from harness.protocols import Engine, FirstTokens, Judge, Model, OnProgress, PairResults, no_progress

log = logging.getLogger(__name__)

Result = TypeVar("Result")

Item = TypeVar("Item")

AA_SEED = 1
"""Shuffles an A/A candidate's prompts and pairs, and is added to the seed of its answers."""

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
    """candidate name -> what it and the reference must do so that its selected limits can be answered."""
    tasks: dict[str, set[Task]] = {}
    for candidate, limit in selected:
        tasks.setdefault(candidate, set()).update(Task(limit.corpus, work) for work in policy.needs(limit))
    return {candidate: tuple(sorted(items)) for candidate, items in tasks.items()}


def load_corpora(policy: Policy) -> dict[str, Corpus[Prompt] | Corpus[PreferencePair]]:
    """Every corpus that a limit names.

    Raises:
        CorpusError: the first one that cannot be used.
    """
    kinds = {limit.corpus: policy.needs(limit)[0].corpus_kind for limit in policy.limits}
    return {name: corpora_module.load(name, policy.corpora[name], kind, policy.root) for name, kind in kinds.items()}


def write_corpora(directory: Path, corpora: Mapping[str, Corpus[Prompt] | Corpus[PreferencePair]]) -> None:
    """What was asked, as tables of the run: ``tables/corpora/NAME.prompts.parquet`` or ``NAME.pairs.parquet``."""
    for name, corpus in corpora.items():
        kind = "prompts" if isinstance(corpus.items[0], Prompt) else "pairs"
        rows = [_readable(item) for item in corpus.items]
        columns = {"prompt" if key == "text" else key: [row[key] for row in rows] for key in rows[0]}
        tables.write_frame(directory / "tables" / "corpora" / f"{name}.{kind}.parquet", columns)


def _readable(item: Prompt | PreferencePair) -> dict[str, Any]:
    """An item as a row: tuples as lists, a conversation as its text only (``prompt``)."""
    row = asdict(item)
    row.pop("messages", None)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


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
    """candidate name -> its work and the reference's for it (see ``plan``)."""
    allow_identical: bool = False
    progress: Progress = silent
    second_judge: Judge | None = None
    sentinels: Sequence[judging.Sentinel] = judging.SENTINELS
    """Answers that the judge must get right before any model is run."""
    calibration: Calibration | None = None
    """What human labels say of the judge."""
    earlier: Callable[[Checkpoint, Task], Path | None] = lambda _checkpoint, _task: None
    """Where an earlier run's table of the same work lies; it is copied in place of running a model."""
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

    def similarities(self, corpus: str) -> list[PairSimilarity]:
        """How alike the reference finds each pair's responses."""
        return tables.read_similarities(self._result(self.reference, Task(corpus, Work.SIMILARITIES)))

    def gradients(self, corpus: str) -> list[PairGradient]:
        """The reference's gradients over all weights, on the policy's sample of pairs."""
        return tables.read_gradients(self._result(self.reference, Task(corpus, Work.GRADIENTS)))

    def response_labels(self, corpus: str) -> list[tuple[Label, Label]] | None:
        """What the judge reads in each pair's (chosen, rejected); None without a judge. Needs no model."""
        if self.judge is None:
            return None
        path = self.directory / "tables" / "corpora" / f"{corpus}.responses.parquet"
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / "work.lock"):
            if not path.exists():
                pairs = self.pairs(corpus).items
                read = judging.read_pairs(self.judge, pairs)
                tables.write_rows(path, [_JudgedPair.of(pair, *both) for pair, both in zip(pairs, read, strict=True)])
                self.judge.close()
        rows = tables.read_frame(path)
        return [(Label(a), Label(b)) for a, b in zip(rows["chosen"], rows["rejected"], strict=True)]

    # ------------------------------------------------------------ doing

    def ensure(self) -> None:
        """Do all planned work that is not done yet; one process at a time."""
        if self._done:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / "work.lock"):
            if self._proved():
                self._take_over()
                waiting = {name: self._open_tasks(checkpoint) for name, checkpoint in self._by_name().items()}
                if any(waiting.values()):
                    self._run(waiting)
                self._label()
        self._done = True

    def _proved(self) -> bool:
        """Whether the judge, where one is needed, gets the sentinels right. If not, nothing at all is run."""
        if self._judge_error.exists():
            return False
        planned = {task.work for checkpoint in self._by_name().values() for task in self._planned(checkpoint)}
        if Work.COMPLETIONS not in planned or (self.directory / "work" / "judge.proved").exists():
            return True
        assert self.judge is not None, "the policy was checked: labels need a judge"
        try:
            for judge in filter(None, (self.judge, self.second_judge)):
                judging.prove(judge, self.sentinels)
                judge.close()
        except Exception as error:  # every case says so
            self._keep_error(self._judge_error, error, "the judge")
            return False
        self._keep(self.directory / "work" / "judge.proved", len(self.sentinels))
        return True

    def _take_over(self) -> None:
        """What an earlier run did of this one's work."""
        for checkpoint in self._by_name().values():
            for task in self._planned(checkpoint):
                source, path = self.earlier(checkpoint, task), self._path(checkpoint, task)
                if source is not None and not path.exists():
                    tables.write_atomically(path, partial(_copy, source))

    def _by_name(self) -> dict[str, Checkpoint]:
        return {item.name: item for item in (*self.candidates, self.reference)}

    def _planned(self, checkpoint: Checkpoint) -> tuple[Task, ...]:
        if checkpoint.name == self.reference.name:
            return tuple(sorted({task for tasks in self.tasks.values() for task in tasks}))
        return tuple(task for task in self.tasks.get(checkpoint.name, ()) if not task.work.reference_only)

    def _open_tasks(self, checkpoint: Checkpoint) -> list[Task]:
        if self._error_path(checkpoint).exists():
            return []
        return [
            task
            for task in self._planned(checkpoint)
            if not self._path(checkpoint, task).exists() and not self._error_path(checkpoint, task).exists()
        ]

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
                    for tasks in _together(waiting[checkpoint.name]):
                        self._attempt(model, checkpoint, tasks)
                        self._keep(self._notes_path(checkpoint), list(model.notes))
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

    def _attempt(self, model: Model, checkpoint: Checkpoint, tasks: Sequence[Task]) -> None:
        try:
            self._do(model, checkpoint, tasks)
        except Exception as error:  # kept for every case that needs it; the other tasks go on
            if len(tasks) == 1:
                self._fail(error, checkpoint, tasks[0])
            else:  # what one of them cannot do must not cost the others
                log.debug("%s: %s failed together", checkpoint.name, tasks, exc_info=error)
                for task in tasks:
                    self._attempt(model, checkpoint, [task])

    def _do(self, model: Model, checkpoint: Checkpoint, tasks: Sequence[Task]) -> None:
        """Tasks that one call of the model answers (see ``_together``)."""
        works, corpus = {task.work for task in tasks}, tasks[0].corpus
        what = f"{checkpoint.name}: {' and '.join(sorted(work.value.replace('_', ' ') for work in works))} on {corpus}"
        if Work.COMPLETIONS in works:
            self._complete(model, checkpoint, tasks[0], what)
        elif Work.GRADIENTS in works:
            pairs = _spread(self.pairs(corpus).items, self.policy.gradient_pairs)
            with self.progress(what, len(pairs)) as on_progress:
                gradients = model.gradients(pairs, on_progress)
            _check_answered(what, [pair.id for pair in pairs], [item.pair_id for item in gradients])
            tables.write_rows(self._path(checkpoint, tasks[0]), gradients)
        else:
            self._score(model, checkpoint, corpus, works, what)

    def _complete(self, model: Model, checkpoint: Checkpoint, task: Task, what: str) -> None:
        path = self._path(checkpoint, task)
        prompts = self.prompts(task.corpus)
        if not path.exists():
            with self.progress(what, len(prompts.items)) as on_progress:
                completions = self._generate(model, checkpoint, prompts.items, on_progress)
            asked = [(item.id, sample) for item in prompts.items for sample in range(self.policy.decoding.samples)]
            _check_answered(what, asked, [(item.prompt_id, item.sample) for item in completions])
            tables.write_completions(path, completions)

    def _generate(
        self, model: Model, checkpoint: Checkpoint, prompts: Sequence[Prompt], on_progress: OnProgress
    ) -> list[Completion]:
        """Answers in the order of the prompts; an A/A candidate's are made in another order, from another seed."""
        decoding = self.policy.decoding
        if not self._is_reference_again(checkpoint):
            return model.generate(prompts, decoding, on_progress)
        shuffled = _shuffled(prompts)
        place = {prompt.id: index for index, prompt in enumerate(prompts)}
        made = model.generate(shuffled, replace(decoding, seed=decoding.seed + AA_SEED), on_progress)
        return sorted(made, key=lambda item: (place[item.prompt_id], item.sample))

    def _score(self, model: Model, checkpoint: Checkpoint, corpus: str, works: set[Work], what: str) -> None:
        pairs: Sequence[PreferencePair] = self.pairs(corpus).items
        if self._is_reference_again(checkpoint):
            pairs = _shuffled(pairs)
        asked = [pair.id for pair in pairs]
        with self.progress(what, len(asked)) as on_progress:
            results = model.score(
                pairs,
                similarity=Work.SIMILARITIES in works,
                first_tokens=Work.FIRST_TOKENS in works,
                on_progress=on_progress,
            )
        if self._is_reference_again(checkpoint):
            results = _in_order(results, asked, [pair.id for pair in self.pairs(corpus).items])
            asked = [pair.id for pair in self.pairs(corpus).items]
        for work in sorted(works):
            path = self._path(checkpoint, Task(corpus, work))
            if work is Work.SCORES:
                _check_answered(what, asked, [item.pair_id for item in results.scores])
                tables.write_scores(path, results.scores)
            elif work is Work.SIMILARITIES:
                _check_answered(what, asked, [item.pair_id for item in results.similarities or ()])
                tables.write_rows(path, results.similarities or ())
            else:
                tokens = results.first_tokens
                _check_answered(what, asked, list(tokens.pair_ids) if tokens else [])
                assert tokens is not None, "checked in the line above"
                tables.write_first_tokens(path, tokens)

    def _is_reference_again(self, checkpoint: Checkpoint) -> bool:
        """An A/A run's candidate: the same model, asked in another order and with other seeds, so that noise shows."""
        return checkpoint.name != self.reference.name and checkpoint.identity == self.reference.identity

    def _label(self) -> None:
        """Have the judges read all answers, once no checkpoint is open: a judge may need the memory."""
        judges = ((self.judge, self._labels_path), (self.second_judge, self._second_labels_path))
        for judge, place in judges:
            if judge is None:
                continue
            for checkpoint in self._by_name().values():
                for task in self._planned(checkpoint):
                    path = place(checkpoint, task.corpus)
                    made = task.work is Work.COMPLETIONS and self._path(checkpoint, task).exists()
                    if made and not path.exists() and not self._failed(checkpoint, task):
                        self._read_answers(judge, checkpoint, task, path)
            judge.close()
            if judge.notes:
                self._keep(self.directory / "work" / f"judge-{judge.name}.notes.json", list(judge.notes))

    def _read_answers(self, judge: Judge, checkpoint: Checkpoint, task: Task, path: Path) -> None:
        completions = tables.read_completions(self._path(checkpoint, task))
        what = f"{checkpoint.name}: judging {task.corpus}"
        with self.progress(what, len(completions)) as on_progress:
            try:
                readings = judging.read(judge, self._exchanges(task.corpus, completions), on_progress)
            except Exception as error:  # kept for every case that needs these labels
                if judge is self.judge:
                    self._fail(error, checkpoint, task)
                else:
                    readings = [Reading(Label.UNREADABLE, f"the second judge broke: {error}")] * len(completions)
                    tables.write_readings(path, completions, readings)
                return
        tables.write_readings(path, completions, readings)

    def _exchanges(self, corpus: str, completions: Sequence[Completion]) -> list[Exchange]:
        texts = {prompt.id: prompt.text for prompt in self.prompts(corpus).items}
        return [
            Exchange(texts[item.prompt_id], item.text, cut_off=item.finish is FinishReason.LENGTH)
            for item in completions
        ]

    # ------------------------------------------------------------ keeping

    def _path(self, checkpoint: Checkpoint, task: Task) -> Path:
        if task.work is Work.FIRST_TOKENS:  # whole distributions: large, and gone once the record is written
            return self.directory / "work" / checkpoint.name / f"{task.corpus}.first_tokens.safetensors"
        return self.directory / "tables" / checkpoint.name / f"{task.corpus}.{task.work.value}.parquet"

    def _labels_path(self, checkpoint: Checkpoint, corpus: str) -> Path:
        return self.directory / "tables" / checkpoint.name / f"{corpus}.labels.parquet"

    def _second_labels_path(self, checkpoint: Checkpoint, corpus: str) -> Path:
        return self.directory / "tables" / checkpoint.name / f"{corpus}.second_labels.parquet"

    @property
    def _judge_error(self) -> Path:
        return self.directory / "work" / "judge.error.json"

    def _failed(self, checkpoint: Checkpoint, task: Task) -> bool:
        return self._error_path(checkpoint).exists() or self._error_path(checkpoint, task).exists()

    def _error_path(self, checkpoint: Checkpoint, task: Task | None = None) -> Path:
        name = f"{task.corpus}.{task.work.value}.error.json" if task else "error.json"
        return self.directory / "work" / checkpoint.name / name

    def _canary_path(self, checkpoint: Checkpoint) -> Path:
        return self.directory / "work" / checkpoint.name / "canary.json"

    def _notes_path(self, checkpoint: Checkpoint) -> Path:
        return self.directory / "work" / checkpoint.name / "notes.json"

    def _fail(self, error: Exception, checkpoint: Checkpoint, task: Task | None = None) -> None:
        """Keep an error, so that every case that needs this result gets the same one."""
        what = f"{task.work.value} on {task.corpus}" if task else "opening"
        self._keep_error(self._error_path(checkpoint, task), error, f"{checkpoint.name}: {what}")

    def _keep_error(self, path: Path, error: Exception, what: str) -> None:
        log.debug("%s failed", what, exc_info=error)
        if isinstance(error, HarnessError):
            kind, text = type(error).__name__, str(error)
        else:
            kind, text = "MeasurementError", f"{what} failed: {type(error).__name__}: {error}"
        self._keep(path, {"kind": kind, "text": text})

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
        for error_path in (self._judge_error, self._error_path(checkpoint), self._error_path(checkpoint, task)):
            if error_path.exists():
                content = json.loads(error_path.read_text(encoding="utf-8"))
                raise getattr(errors, content["kind"], MeasurementError)(content["text"])
        return path


def _together(tasks: Iterable[Task]) -> list[list[Task]]:
    """Tasks in groups that one call of the model answers: all scoring of one corpus is one forward pass."""
    groups: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        alone = task.work in (Work.COMPLETIONS, Work.GRADIENTS)
        groups.setdefault((task.corpus, task.work.value if alone else ""), []).append(task)
    return list(groups.values())


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _shuffled(items: Sequence[Item]) -> list[Item]:
    """Another order, the same in every run."""
    return random.Random(AA_SEED).sample(items, len(items))  # noqa: S311 - an order, no secret


def _in_order(results: PairResults, asked: Sequence[str], wanted: Sequence[str]) -> PairResults:
    """Results for the pairs ``asked``, in the order ``wanted``."""
    place = {pair: index for index, pair in enumerate(asked)}
    order = [place[pair] for pair in wanted]
    tokens = results.first_tokens
    return PairResults(
        scores=[results.scores[index] for index in order],
        similarities=None if results.similarities is None else [results.similarities[index] for index in order],
        first_tokens=tokens
        and replace(
            tokens,
            pair_ids=tuple(tokens.pair_ids[index] for index in order),
            log_probs=tokens.log_probs[order],
            chosen=tokens.chosen[order],
            rejected=tokens.rejected[order],
            direction_of=tokens.direction_of[order],
        ),
    )


def _spread(pairs: Sequence[PreferencePair], count: int) -> list[PreferencePair]:
    """At most ``count`` pairs, evenly spread over the corpus: the same ones in every run."""
    count = min(count, len(pairs))
    return [pairs[number * len(pairs) // count] for number in range(count)]


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


def read_notes(directory: Path) -> list[str]:
    """What the models and judges of a run had to say of their numbers, one line each."""
    found = []
    for path in sorted((directory / "work").glob("*/notes.json")):
        found += [f"{path.parent.name}: {note}" for note in json.loads(path.read_text(encoding="utf-8"))]
    for path in sorted((directory / "work").glob("judge-*.notes.json")):
        name = path.name.removeprefix("judge-").removesuffix(".notes.json")
        found += [f"judge {name}: {note}" for note in json.loads(path.read_text(encoding="utf-8"))]
    return found


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

    def similarities(self, corpus: str) -> list[PairSimilarity]:
        """How alike the *reference* finds each pair's responses: it is where training starts."""
        self._own(corpus)
        return self.bench.similarities(corpus)

    def gradients(self, corpus: str) -> list[PairGradient]:
        """The *reference's* gradients over all weights, on the policy's sample of the corpus' pairs."""
        self._own(corpus)
        return self.bench.gradients(corpus)

    def response_labels(self, corpus: str) -> list[tuple[Label, Label]] | None:
        """What the judge reads in each pair's (chosen, rejected), in the corpus' order; None without a judge."""
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
        return None

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

    def _both(self, read: Callable[[Checkpoint, str], Result], corpus: str) -> tuple[Result, Result]:
        self._own(corpus)
        candidate = read(self.candidate, corpus)
        return read(self.reference, corpus), candidate

    def _own(self, corpus: str) -> None:
        if corpus != self.limit.corpus:
            raise MeasurementError(
                f"limit {self.limit.id!r} is on corpus {self.limit.corpus!r}, but its case asked for {corpus!r}; "
                "ask for limit.corpus"
            )
