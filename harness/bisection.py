"""Which checkpoint of a training run is the first that the gate does not release? A binary search over its checkpoints.

Each step is a normal pytest run of its own with a record; the reference's answers and scores are taken over from the
first one (``--reuse``). The search assumes that checkpoints are released up to some step and blocked from there on. It
does not check that for all of them, but tests both ends, the two between which it changes, and one more on either side;
where what it saw contradicts the assumption, it says so.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any

from harness import baselines, plan, policy, record
from harness.domain import Checkpoint, Decision, Outcome, Severity
from harness.engines import checkpoints, runs
from harness.errors import HarnessError, MeasurementError, OptionError
from harness.policy import Policy, Work
from harness.reuse import asked_so

_OURS = ("--candidate", "--reference", "--policy", "--run-dir", "--run-name", "--reuse")
"""Options of pytest that the search gives itself."""
_TAIL = 25
"""Lines of a failed run's output that are shown."""


class State(StrEnum):
    """What the gate said of a checkpoint."""

    RELEASED = "released"
    FAILED = "failed"
    """Blocked: a blocking limit is proved broken."""
    UNDECIDED = "undecided"
    """Blocked, and no blocking limit is proved broken: undecided, not measurable or unanswered."""


@dataclass(frozen=True, slots=True)
class Step:
    """One checkpoint, tested."""

    checkpoint: str
    step: int | None
    """Training step, where the checkpoint says it."""
    state: State
    failed: tuple[str, ...]
    """Ids of blocking limits that are broken."""
    open: tuple[str, ...]
    """Ids of blocking limits that are neither kept nor broken."""
    record: str
    """The run's directory."""
    taken: bool = False
    """The run was there already."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search found."""

    run: str
    checkpoints: int
    """All of the run's, tested or not."""
    steps: tuple[Step, ...]
    """Those that were tested, in the order of training."""
    first_bad: str
    """The first of them that is bad; '' where all are good."""
    last_good: str
    """The one tested before it; '' where there is none."""
    monotone: bool
    """Nothing good that was tested comes after something bad."""
    undecided_is_bad: bool = True
    """Whether checkpoints that are blocked as undecided counted as bad."""

    @property
    def sentence(self) -> str:
        """The answer in words."""
        bad, good = ("blocked", "released") if self.undecided_is_bad else ("proved broken", "not proved broken")
        tested = f"{len(self.steps)} of {self.checkpoints} checkpoints were tested"
        assumed = f"assuming that they are {good} up to some step and {bad} from there on"
        if not self.first_bad:
            return (
                f"Nothing to find: the last checkpoint, {self.steps[-1].checkpoint}, is {good}, and so are "
                f"all, {assumed}. {tested}."
            )
        place = [item.checkpoint for item in self.steps].index(self.first_bad)
        found = self.steps[place]
        if not self.monotone:
            late = next(item for item in self.steps[place:] if not _is_bad(item, self.undecided_is_bad))
            return (
                f"Not monotone: {self.first_bad} is {bad} and {late.checkpoint}, after it, is {good}, so no single "
                f"step is where it broke. {tested}; test them all: "
                f"pytest evals/ --candidate '{Path(self.run) / 'checkpoint-*'}'"
            )
        why = (
            f"it breaks {', '.join(found.failed)}"
            if found.state is State.FAILED
            else f"because undecided or not measured: {', '.join(found.open)}; nothing is proved broken there"
        )
        if not self.last_good:
            cure = (
                "what broke it lies before it"
                if found.state is State.FAILED
                else "more items would decide, or look for the first that is proved broken with --only-failed"
            )
            return (
                f"The first checkpoint, {self.first_bad}, is {bad} already ({why}), so all of them may be: {cure}. "
                f"{tested}."
            )
        return (
            f"{self.first_bad} is the first that is {bad} ({why}), {self.last_good} the last that is {good}, "
            f"{assumed}. {tested}."
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"sentence": self.sentence}


def _is_bad(step: Step, strict: bool) -> bool:
    return step.state is State.FAILED or (strict and step.state is State.UNDECIDED)


def find(names: Sequence[str], test: Callable[[str], Step], *, run: str = "", undecided_is_bad: bool = True) -> Answer:
    """Search ``names``, which are in the order of training; ``test`` is called at most once for each."""
    known: dict[int, Step] = {}

    def bad(place: int) -> bool:
        if place not in known:
            known[place] = test(names[place])
        return _is_bad(known[place], undecided_is_bad)

    last = len(names) - 1
    if bad(last) and last and not bad(0):
        good, wrong = 0, last
        while wrong - good > 1:
            middle = (good + wrong) // 2
            good, wrong = (good, middle) if bad(middle) else (middle, wrong)
        for place in (good - 1, wrong + 1):
            if 0 <= place <= last:
                bad(place)
    steps = tuple(known[place] for place in sorted(known))
    kinds = [_is_bad(step, undecided_is_bad) for step in steps]
    first = kinds.index(True) if True in kinds else None
    return Answer(
        run=run,
        checkpoints=len(names),
        steps=steps,
        first_bad="" if first is None else steps[first].checkpoint,
        last_good=steps[first - 1].checkpoint if first else "",
        monotone=kinds == sorted(kinds),
        undecided_is_bad=undecided_is_bad,
    )


# ---------------------------------------------------------------- runs


@dataclass(eq=False)
class Gate:
    """Tests checkpoints: a pytest run for each, or the record of one that was made before."""

    run: Path
    reference: str
    evals: str = "evals/"
    policy: str | None = None
    run_dir: Path = Path("reports")
    options: Sequence[str] = ()
    """Further options of pytest."""
    say: Callable[[str], None] = lambda _: None
    first: Path | None = None
    """The run whose answers of the reference are taken over."""

    def __call__(self, name: str) -> Step:
        """Test ``RUN/name``.

        Raises:
            MeasurementError: no run could be made; holds the end of what pytest said.
        """
        directory, stored = self.place(name)
        if stored is not None:
            self.say(f"{name}: {directory} is such a run already")
        else:
            self.say(f"{name}: testing ({directory})")
            stored = self._make(name, directory)
        self.first = self.first or directory
        step = _read(name, stored, directory, taken=directory in self._taken)
        self.say(f"{name}: {_said(step)}")
        return step

    def __post_init__(self) -> None:
        self._taken: set[Path] = set()
        for option in self.options:
            if (ours := option.partition("=")[0]) in _OURS:
                raise OptionError(f"{ours} after --: the search gives it itself; see python -m harness bisect --help")
            if option == "--partial":
                raise OptionError("--partial after --: then there is no verdict to search for; leave it out")

    def place(self, name: str) -> tuple[Path, record.RunRecord | None]:
        """A directory that is free, or one that holds the very run that would be made."""
        stem = re.sub(r"[^A-Za-z0-9._@-]+", "-", f"bisect-{self.run.resolve().name}-{name}")
        for number in count(1):
            directory = self.run_dir / (stem if number == 1 else f"{stem}-{number}")
            if not directory.exists():
                return directory, None
            if (directory / record.FILE).is_file() and (stored := self._same(name, directory)) is not None:
                self._taken.add(directory)
                return directory, stored
        raise AssertionError("the numbers do not end")

    def _same(self, name: str, directory: Path) -> record.RunRecord | None:
        """A stored run, where it is the one that would be made: command, versions, bytes of models, policy and data are
        equal, and nothing that a record has no digest of is newer than it."""
        try:
            stored = record.read(directory)
            command = [part for part in stored.command[1:] if not part.startswith("--reuse=")]
            if command != self._command(name, directory)[2:] or stored.status != "complete":
                return None
            if stored.versions != record.environment() or stored.partial:
                return None
            now = [
                checkpoints.resolve(spec, "x", stored.options).identity
                for spec in (self.reference, str(self.run / name))
            ]
            if now != [stored.reference.identity, stored.candidates[0].identity]:
                return None
            rules = policy.load(Path(stored.policy.path))
            if rules.digest != stored.policy.digest:
                return None
            held = stored.baseline
            if held is not None and baselines.find(directory.parent, held.name).sha256 != held.sha256:
                return None
            if not self._older(directory / record.FILE, rules) or not _tasks_asked_so(stored, directory, rules):
                return None
            digests = {key: corpus.digest for key, corpus in plan.load_corpora(rules).items()}
        except (HarnessError, OSError):
            return None
        return stored if digests == {item.name: item.digest for item in stored.corpora} else None

    def _older(self, file: Path, rules: Policy) -> bool:
        """Whether the cases, and what the policy names beside corpora and tasks, were last written before a file."""
        judges = [judge for judge in (rules.judge, rules.second_judge) if judge]
        named = [
            rules.lexicon,
            rules.noise,
            *(name for judge in judges for name in (judge.calibration, judge.sentinels)),
        ]
        cases = Path(self.evals.split("::")[0])
        code = [*(cases.rglob("*.py") if cases.is_dir() else [cases]), *Path().glob("conftest.py")]
        made = file.stat().st_mtime_ns
        return all(item.stat().st_mtime_ns <= made for item in (*code, *(rules.root / name for name in named if name)))

    def _command(self, name: str, directory: Path) -> list[str]:
        return [
            sys.executable,
            "-mpytest",
            self.evals,
            f"--candidate={self.run / name}",
            f"--reference={self.reference}",
            *([f"--policy={self.policy}"] if self.policy else []),
            f"--run-dir={directory.parent}",
            f"--run-name={directory.name}",
            *self.options,
        ]

    def _make(self, name: str, directory: Path) -> record.RunRecord:
        command = self._command(name, directory)
        reuse = [] if self.first is None else [f"--reuse={self.first}"]
        done = subprocess.run([*command, *reuse], capture_output=True, text=True)  # noqa: S603 - our own, no shell
        if done.returncode == 4 and reuse and "--reuse" in done.stderr:  # nothing of it may be used
            self.say(f"{name}: {' '.join(done.stderr.split())}; the reference is measured again")
            done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - as above
        try:
            stored = record.read(directory) if done.returncode in (0, 1) else None
        except HarnessError as error:
            raise MeasurementError(f"{name}: {error}") from error
        if stored is None or stored.status != "complete" or stored.verdicts[0].decision is Decision.NONE:
            tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_TAIL:])
            raise MeasurementError(
                f"{name} could not be tested: pytest ended with {done.returncode}. What it said at last:\n{tail}"
            )
        return stored


def open_run(run: str, reference: str | None) -> tuple[list[str], str]:
    """The names of a run's checkpoints by number, and the reference: the one given, else what the run says.

    Raises:
        OptionError: no directory, no two checkpoints, or no reference.
        CheckpointError: a checkpoint that was not written to its end.
    """
    path = Path(run)
    if not path.is_dir():
        raise OptionError(f"no directory {run}; give the one that a trainer wrote its checkpoints into")
    found = runs.checkpoints_in(path)
    if len(found) < 2:
        raise OptionError(f"{run} holds {len(found)} checkpoints (checkpoint-N); a search needs at least two")
    runs.check_whole(found)
    return [item.name for item in found], runs.choose(reference, [str(item) for item in found]).reference


def _tasks_asked_so(stored: record.RunRecord, directory: Path, rules: Policy) -> bool:
    """Whether a stored run's tasks of lm-eval were asked as the policy's would be asked now."""
    tables = [item for item in stored.tables if item.kind == Work.TASK.value]
    return all(
        item.corpus in rules.tasks and asked_so(directory / item.path, rules.tasks[item.corpus]) for item in tables
    )


def _read(name: str, stored: record.RunRecord, directory: Path, *, taken: bool) -> Step:
    """What a run's record says of its one candidate."""
    candidate: Checkpoint = stored.candidates[0]
    blocking = [limit.id for limit in stored.policy.limits if limit.severity is Severity.BLOCK]
    outcomes = {item.limit.id: item.outcome for item in stored.findings if item.candidate == candidate.name}
    failed = tuple(item for item in blocking if outcomes.get(item) is Outcome.FAIL)
    passed = {item for item in blocking if outcomes.get(item) is Outcome.PASS}
    state = State.RELEASED if stored.released else State.FAILED if failed else State.UNDECIDED
    return Step(
        checkpoint=name,
        step=candidate.step,
        state=state,
        failed=failed,
        open=tuple(item for item in blocking if item not in passed and item not in failed),
        record=str(directory),
        taken=taken,
    )


def _said(step: Step) -> str:
    parts = [
        f"{', '.join(step.failed)} broken" if step.failed else "",
        f"{', '.join(step.open)} open" if step.open else "",
    ]
    told = "; ".join(filter(None, parts))
    return step.state.value + (f" ({told})" if told else "")


def table(answer: Answer) -> str:
    """What was tested, and the answer: lines of plain text."""
    rows = [("checkpoint", "verdict", "broken", "open", "record")]
    for step in answer.steps:
        rows.append((step.checkpoint, _verdict(step), _listed(step.failed), _listed(step.open), step.record))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*lines, "", answer.sentence]) + "\n"


def _verdict(step: Step) -> str:
    return {State.RELEASED: "RELEASE", State.FAILED: "BLOCK", State.UNDECIDED: "BLOCK (undecided)"}[step.state]


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids) or "-"
