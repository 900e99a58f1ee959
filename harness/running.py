"""Tasks done: each checkpoint is opened once, does all its work and is closed before the next; then the judges read.

Results are files (``outputs``), so that several pytest workers share one piece of work: the first to need anything does
everything, under a lock, and the others wait for it.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from filelock import FileLock

from harness import following, judging, tables
from harness.asking import Asking, Earlier, Progress, silent, together
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
    PreferencePair,
    Prompt,
    Reading,
)
from harness.errors import JudgeError, MeasurementError, MismatchError
from harness.outputs import Outputs
from harness.plan import Task
from harness.policy import Policy, Work
from harness.protocols import Engine, Judge, Model, canaries_apart

log = logging.getLogger(__name__)

CANARY_NOISE = 0.5
"""Nats by which a server may differ from itself in a canary, in half precision."""


@dataclass(eq=False)
class Runner:
    """The checkpoints of a run, and what they have to do."""

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
    early_stop: bool = False
    """Stop generating on a corpus once its limits are settled; keeps the reference and a candidate open together."""
    earlier: Earlier = field(default_factory=Earlier)
    _done: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        names = [item.name for item in (self.reference, *self.candidates)]
        assert len({name.casefold() for name in names}) == len(names), f"results are kept by name: {names}"

    @property
    def outputs(self) -> Outputs:
        """Where everything is kept."""
        return Outputs(self.directory)

    @property
    def asking(self) -> Asking:
        """What each model is asked."""
        return Asking(self.outputs, self.policy, self.reference, self.corpora, self.earlier, self.progress)

    def prompts(self, name: str) -> Corpus[Prompt]:
        return self.asking.prompts(name)

    def pairs(self, name: str) -> Corpus[PreferencePair]:
        return self.asking.pairs(name)

    # ------------------------------------------------------------ doing

    def ensure(self) -> None:
        """Do all planned work that is not done yet; one process at a time."""
        if self._done:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / "work.lock"):
            if self._proved():
                self._take_over()
                if self._one_engine():
                    if self.early_stop:
                        self._follow()
                    for wanted in self._phases():
                        waiting = {
                            name: [task for task in self._open_tasks(checkpoint) if wanted(task)]
                            for name, checkpoint in self._by_name().items()
                        }
                        if any(waiting.values()):
                            self._run(waiting)
                self._compare()
                self._label()
        self._done = True

    def _proved(self) -> bool:
        """Whether the judge, where one is needed, gets the sentinels right. If not, nothing at all is run."""
        if self.outputs.judge_error.exists():
            return False
        planned = {task.work for checkpoint in self._by_name().values() for task in self._planned(checkpoint)}
        if Work.COMPLETIONS not in planned or self.outputs.judge_proved.exists():
            return True
        try:
            if self.judge is None:
                raise JudgeError("there is no judge, and limits need labels: does the fixture 'judge' give one?")
            for judge in filter(None, (self.judge, self.second_judge)):
                judging.prove(judge, self.sentinels)
                judge.close()
        except Exception as error:  # every case says so
            self.outputs.keep_error(self.outputs.judge_error, error, "the judge")
            return False
        self.outputs.keep(self.outputs.judge_proved, len(self.sentinels))
        return True

    def _one_engine(self) -> bool:
        """Whether what is left to do is done by the engine that began: two would make one measurement's two sides.

        Workers of a suite that puts in an engine of its own may have different ones. Where they do, what is open fails.
        """
        waiting = {name: self._open_tasks(checkpoint) for name, checkpoint in self._by_name().items()}
        if not any(waiting.values()) or not (why := self.outputs.other_engine(self.engine.describe())):
            return True
        error = MismatchError(
            f"the engine that began this run's models is not the one that would go on with them ({why}): candidate and "
            "reference must be run by one; let the fixture 'engine' give the same in every worker"
        )
        for name, checkpoint in self._by_name().items():
            for task in waiting[name]:
                self.outputs.fail(error, checkpoint, task)
        return False

    def _phases(self) -> list[Callable[[Task], bool]]:
        """Which tasks are done before which, over all checkpoints.

        An engine that says ``generates_apart`` generates with one program and scores with another, and each takes the
        memory for itself: all checkpoints generate before any is scored, so that neither is started twice.
        """
        if not getattr(self.engine, "generates_apart", False):
            return [lambda task: True]
        return [lambda task: task.work is Work.COMPLETIONS, lambda task: task.work is not Work.COMPLETIONS]

    def _take_over(self) -> None:
        """What an earlier run did of this one's work."""
        for checkpoint in self._by_name().values():
            if self.asking.is_reference_again(checkpoint) or checkpoint.identity not in self.earlier.canaries:
                continue
            self.outputs.keep(self.outputs.canary(checkpoint), list(self.earlier.canaries[checkpoint.identity]))
            for task in self._planned(checkpoint):
                source, path = self.earlier.table(checkpoint, task), self.outputs.path(checkpoint, task)
                if source is not None and not path.exists():
                    try:
                        tables.write_atomically(path, partial(_copy, source))
                    except OSError as error:
                        problem = MeasurementError(f"{source} of the run that is reused cannot be read: {error}")
                        self.outputs.fail(problem, checkpoint, task)

    def _by_name(self) -> dict[str, Checkpoint]:
        return {item.name: item for item in (*self.candidates, self.reference)}

    def _planned(self, checkpoint: Checkpoint) -> tuple[Task, ...]:
        if checkpoint.name == self.reference.name:
            return tuple(sorted({task for tasks in self.tasks.values() for task in tasks}))
        return tuple(task for task in self.tasks.get(checkpoint.name, ()) if not task.work.reference_only)

    def _open_tasks(self, checkpoint: Checkpoint) -> list[Task]:
        if self.outputs.error(checkpoint).exists():
            return []
        return [
            task
            for task in self._planned(checkpoint)
            if not self.outputs.path(checkpoint, task).exists() and not self.outputs.error(checkpoint, task).exists()
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
                    self._keep_canary(checkpoint, model)
                    for tasks in together(waiting[checkpoint.name]):
                        self._attempt(model, checkpoint, tasks)
                        self.outputs.keep(self.outputs.notes(checkpoint), list(model.notes))
                    del model
                except Exception as error:  # this checkpoint cannot run; the others still can
                    self.outputs.fail(error, checkpoint)
                    break

    def _keep_canary(self, checkpoint: Checkpoint, model: Model) -> None:
        """Once for each checkpoint: an engine may have to start what it does not need otherwise to tell it."""
        if not self.outputs.canary(checkpoint).exists():
            self.outputs.keep(self.outputs.canary(checkpoint), list(model.canary))

    # ------------------------------------------------------------ stopping early

    def early(self, corpus: str) -> EarlyStop | None:
        """The order of a corpus whose generation may stop early; None where it is asked as a whole."""
        limits = [limit for limit in self.policy.limits if limit.corpus == corpus and not limit.baseline]
        if not self.early_stop or not following.can_follow(limits):
            return None
        identities = [item.identity for item in (self.reference, *self.candidates)]
        return following.early_stop(self.prompts(corpus), self.policy.decoding.seed, identities)

    def _follow(self) -> None:
        """Generate and label, reference and candidate side by side, each corpus until its limits are settled."""
        asked: dict[str, dict[str, list[LabelledCompletion]]] = {}
        references = self.engine.models((self.reference,))
        reference: Model | None = None
        for candidate in self.candidates:
            tasks = [
                task
                for task in self._open_tasks(candidate)
                if task.work is Work.COMPLETIONS
                and self.early(task.corpus)
                and not self.outputs.failed(self.reference, task)
                and not self.outputs.path(self.reference, task).exists()  # whole, from an earlier run
            ]
            if not tasks:
                continue
            models = self.engine.models((candidate,))
            try:
                model = next(models)
                self._keep_canary(candidate, model)
            except Exception as error:
                self.outputs.fail(error, candidate)
                continue
            try:
                if reference is None:
                    reference = next(references)
                    self._keep_canary(self.reference, reference)
            except Exception as error:
                self.outputs.fail(error, self.reference)
                return
            for task in tasks:
                try:
                    self._follow_one(reference, model, candidate, task, asked.setdefault(task.corpus, {}))
                except Exception as error:  # kept for every case that needs it; the other tasks go on
                    self.outputs.fail(error, candidate, task)
            self.outputs.keep(self.outputs.notes(candidate), list(model.notes))
            self.outputs.keep(self.outputs.notes(self.reference), list(reference.notes))
            del model, models  # closed before the next candidate is opened
        for corpus, known in asked.items():
            rows = [row for name in self._order(corpus) for row in known.get(name, ())]
            if rows:
                self._write_labelled(self.reference, Task(corpus, Work.COMPLETIONS), rows)

    def _order(self, corpus: str) -> tuple[str, ...]:
        early = self.early(corpus)
        assert early is not None, "only corpora with an order are followed"
        return early.order

    def _follow_one(
        self,
        reference: Model,
        model: Model,
        candidate: Checkpoint,
        task: Task,
        known: dict[str, list[LabelledCompletion]],
    ) -> None:
        """``known``: what the reference has answered already (for other candidates), by prompt id; grows."""
        corpus, early = self.prompts(task.corpus), self.early(task.corpus)
        assert early is not None, "checked by the caller"
        assert self.judge is not None, "the policy was checked: labels need a judge"
        judge = self.judge

        def read(completions: Sequence[Completion]) -> list[Reading]:
            return judging.read(judge, self._exchanges(task.corpus, completions))

        def ask(prompts: Sequence[Prompt]) -> list[Completion]:
            return self.asking.answers(model, candidate, task, prompts)

        def ask_reference(prompts: Sequence[Prompt]) -> list[Completion]:
            new = [prompt for prompt in prompts if prompt.id not in known]
            if new:
                answers = self.asking.answers(reference, self.reference, task, new)
                for answer, reading in zip(answers, read(answers), strict=True):
                    known.setdefault(answer.prompt_id, []).append(LabelledCompletion(answer, reading))
            return [item.completion for prompt in prompts for item in known[prompt.id]]

        def read_reference(completions: Sequence[Completion]) -> list[Reading]:
            return [known[item.prompt_id][item.sample].reading for item in completions]

        what = f"{candidate.name} beside {self.reference.name}: {task.corpus}"
        with self.progress(what, early.planned) as on_progress:
            _, rows = following.follow(
                corpus,
                early,
                [limit for limit in self.policy.limits if limit.corpus == task.corpus and not limit.baseline],
                len(self.policy.limits),
                (ask_reference, read_reference),
                (ask, read),
                on_progress,
            )
        self._write_labelled(candidate, task, rows)

    def _write_labelled(self, checkpoint: Checkpoint, task: Task, rows: Sequence[LabelledCompletion]) -> None:
        completions = [row.completion for row in rows]
        tables.write_completions(self.outputs.path(checkpoint, task), completions)
        tables.write_readings(self.outputs.labels(checkpoint, task.corpus), completions, [row.reading for row in rows])

    def _compare(self) -> None:
        """Equal weights in other files (re-sharded, re-saved) show only once both models have run."""
        for checkpoint in self.candidates:
            if not self.allow_identical and (what := self._alike(checkpoint)):
                self.outputs.fail(
                    MismatchError(
                        f"{checkpoint.spec} and {self.reference.spec} give exactly the same {what}: "
                        "training changed nothing, or one model was named twice (--allow-identical measures noise)"
                    ),
                    checkpoint,
                )
            elif checkpoint.served and not self.allow_identical and (doubt := self._doubt(checkpoint)):
                self.outputs.add_note(checkpoint, doubt)

    def _doubt(self, checkpoint: Checkpoint) -> str:
        """Why a served candidate may be the reference all the same, '' where log-probabilities tell them apart."""
        apart = canaries_apart(*map(self.outputs.read_canary, (self.reference, checkpoint)))
        if math.isnan(apart):
            return "nothing that the server gives shows that this is another model than the reference"
        if apart > CANARY_NOISE:
            return ""
        return (
            f"fixed texts have nearly the reference's log-probabilities (at most {apart:.2f} nats apart), as a server "
            "may also give of one model asked twice: make sure that this is another model"
        )

    def _alike(self, checkpoint: Checkpoint) -> str:
        """What shows that a candidate is the reference itself, '' where nothing does; an empty canary shows nothing.

        A server may answer to two names with one model, and give no log-probabilities that would show it, or noisy
        ones: there equal answers to every prompt count.
        """
        apart = canaries_apart(*map(self.outputs.read_canary, (self.reference, checkpoint)))
        if apart == 0:
            return "log-probabilities"
        if not checkpoint.served or apart > CANARY_NOISE:
            return ""
        answered = [
            (self.outputs.path(checkpoint, task), self.outputs.path(self.reference, task))
            for task in self._planned(checkpoint)
            if task.work is Work.COMPLETIONS
        ]
        pairs = [pair for pair in answered if all(path.exists() for path in pair)]
        return "answers to every prompt" if pairs and all(tables.same_answers(*pair) for pair in pairs) else ""

    def _attempt(self, model: Model, checkpoint: Checkpoint, tasks: Sequence[Task]) -> None:
        try:
            self.asking.do(model, checkpoint, tasks)
        except MismatchError as error:  # what it said before is as doubtful
            self.outputs.fail(error, checkpoint)
        except Exception as error:  # kept for every case that needs it; the other tasks go on
            if len(tasks) == 1:
                self.outputs.fail(error, checkpoint, tasks[0])
            else:  # what one of them cannot do must not cost the others
                log.debug("%s: %s failed together", checkpoint.name, tasks, exc_info=error)
                for task in tasks:
                    self._attempt(model, checkpoint, [task])

    def _label(self) -> None:
        """Have the judges read all answers, once no checkpoint is open: a judge may need the memory."""
        judges = ((self.judge, self.outputs.labels), (self.second_judge, self.outputs.second_labels))
        for judge, place in judges:
            if judge is None:
                continue
            for checkpoint in self._by_name().values():
                for task in self._planned(checkpoint):
                    path = place(checkpoint, task.corpus)
                    made = task.work is Work.COMPLETIONS and self.outputs.path(checkpoint, task).exists()
                    if made and not path.exists() and not self.outputs.failed(checkpoint, task):
                        self._read_answers(judge, checkpoint, task, path)
            judge.close()
            if judge.notes:
                self.outputs.keep(self.outputs.judge_notes(judge.name), list(judge.notes))

    def _read_answers(self, judge: Judge, checkpoint: Checkpoint, task: Task, path: Path) -> None:
        completions = tables.read_completions(self.outputs.path(checkpoint, task))
        what = f"{checkpoint.name}: judging {task.corpus}"
        with self.progress(what, len(completions)) as on_progress:
            try:
                readings = judging.read(judge, self._exchanges(task.corpus, completions), on_progress)
            except Exception as error:  # kept for every case that needs these labels
                if judge is self.judge:
                    self.outputs.fail(error, checkpoint, task)
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


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
