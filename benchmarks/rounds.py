"""Who computes when: one process per engine, one of them computing at a time, in turns (A B C A B C ...).

Order of a profile: the reference; each case once with all scores (its warm-up and the run that is checked; where
settings are looked for, once with each); then the measured rounds, with a measurement of the matmul rate in each.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import floor
from benchmarks.cases import Case, Settings
from benchmarks.floor import Shape
from benchmarks.pairs import Pair

ROOT = Path(__file__).resolve().parents[1]

PATIENCE = 1800
"""Seconds an engine may take over one command."""

VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
"""Environment of vLLM: one process, 1 GiB for keys and values (counted as loaded memory on the CPU), no telemetry."""

VLLM_CPU = {"TORCHDYNAMO_DISABLE": "1"}


class EngineFailed(Exception):
    """An engine cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and where."""

    cases: tuple[Case, ...]
    profiles: tuple[tuple[str, tuple[Pair, ...]], ...]
    shape: Shape
    device: str
    dtype: str
    threads: int
    repeats: int
    vllm_python: str


@dataclass(frozen=True, slots=True)
class Timing:
    """One case on one profile."""

    case: Case
    settings: Settings
    """The ones taken."""
    tried: tuple[tuple[Settings, float], ...]
    """(settings, seconds) of the sweep; infinite where it failed."""
    prepare: float
    """Seconds to bring the pairs into the engine's input types; not part of the rounds."""
    seconds: tuple[float, ...]
    """Of each round."""
    peak: int | None
    """Bytes above the loaded engine, the most of all rounds; None where it cannot be known."""
    token_error: float | None
    """Largest difference from the reference, nats per token; None for CHES. See ``token_exact``."""
    token_exact: bool
    """False where the engine gives sums only: ``token_error`` is then the largest error of a sum over its tokens."""
    sum_error: float | None
    """Largest difference of a response's log-probability, nats; None for CHES."""
    ches_error: float | None
    """Largest difference of CHES, as a share of the mean magnitude of CHES; None where it was not asked for."""
    path: str = ""
    """The back end used, of ours only."""


@dataclass(frozen=True, slots=True)
class ProfileTimings:
    """One table."""

    name: str
    pairs: tuple[Pair, ...]
    rates: tuple[float, ...]
    """FLOP/s of matrix products, a measurement per round."""
    timings: tuple[Timing, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded engine."""

    seconds: float
    """To import and load."""
    loaded: int | None
    """Bytes, once loaded."""
    threads: int
    device: str
    versions: dict[str, str]


@dataclass(slots=True)
class Results:
    """Everything a run measured."""

    profiles: list[ProfileTimings] = field(default_factory=list)
    opened: dict[str, Opened] = field(default_factory=dict)
    """By case name."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Case name (and profile, where it failed there) -> why."""


class Process:
    """The parent's end of a worker."""

    def __init__(self, python: str, log: Path, environment: dict[str, str]) -> None:
        self._log = log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [python, "-m", "benchmarks.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                text=True,
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ask it to end; end it where it does not. Safe to call again."""
        if self._process.poll() is None:
            try:
                self._tell({"do": "quit"})
                self._process.wait(timeout=20)
            except (subprocess.TimeoutExpired, OSError):
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Give a command and wait for its answer. Raises ``EngineFailed``, with the end of its log where it died."""
        try:
            self._tell({"do": do, **fields})
        except OSError as error:
            raise EngineFailed(f"its process is gone: {self._last_words()}") from error
        pipe = self._process.stdout
        assert pipe is not None
        ready, _, _ = select.select([pipe], [], [], PATIENCE)
        if not ready:
            self._process.kill()
            raise EngineFailed(f"no answer to {do!r} within {PATIENCE} s")
        line = pipe.readline()
        if not line:
            raise EngineFailed(f"its process died: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineFailed(str(answer["error"]))
        return answer

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.poll()}"


def measure(plan: Plan, say: Callable[[str], None]) -> Results:
    """Run the whole plan. ``say`` is told what is being done."""
    results = Results()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, ExitStack() as stack:
        work = Path(folder)
        model = work / "model"
        say(f"making a checkpoint of {plan.shape.body + 2 * plan.shape.head:,} random weights")
        with _process("write", plan, work) as maker:
            maker.ask("write", directory=str(model), shape=asdict(plan.shape), device=plan.device, dtype=plan.dtype)
        files = []
        for name, pairs in plan.profiles:
            files.append(work / f"{name}.json")
            files[-1].write_text(json.dumps([[p.prompt, p.chosen, p.rejected] for p in pairs]), encoding="utf-8")
        truths = _reference(plan, work, model, files, say)
        matmul = stack.enter_context(_process("matmul", plan, work))
        _open(matmul, "matmul", plan, model)
        processes = _open_all(plan, work, model, results, stack, say)
        for (name, pairs), file, truth in zip(plan.profiles, files, truths, strict=True):
            say(f"{name}: {len(pairs)} pairs")
            results.profiles.append(_profile(plan, name, pairs, file, truth, processes, matmul, results.skipped, say))
    return results


def _reference(
    plan: Plan, work: Path, model: Path, files: Sequence[Path], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Float32 scores of each profile's pairs; its process is closed before others are opened."""
    with _process("reference", plan, work) as process:
        _open(process, "reference", plan, model)
        truths = []
        for file in files:
            say(f"reference: {file.stem}")
            process.ask("prepare", pairs=str(file), settings={})
            truths.append(process.ask("run", settings={}, scores=True)["scores"])
    return truths


def _open_all(
    plan: Plan, work: Path, model: Path, results: Results, stack: ExitStack, say: Callable[[str], None]
) -> dict[str, Process]:
    """A process per case, on CUDA per group of cases. Cases that cannot be opened are left out, with the reason."""
    processes: dict[str, Process] = {}
    groups: dict[str, tuple[Process, Opened]] = {}
    failed: dict[str, str] = {}
    opened: dict[str, Opened] = {}
    for case in sorted(plan.cases, key=lambda case: case.engine != "vllm"):  # vLLM wants its share of memory first
        group = (case.group or case.engine) if plan.device == "cuda" else case.name
        if case.engine in failed:
            results.skipped[case.name] = failed[case.engine]
            continue
        if group not in groups:
            say(f"opening {case.name}")
            try:
                process = stack.enter_context(_process(case.engine, plan, work, case.name))
                groups[group] = process, _open(process, case.engine, plan, model)
            except (EngineFailed, OSError) as error:
                failed[case.engine] = results.skipped[case.name] = str(error)
                continue
        processes[case.name], opened[case.name] = groups[group]
    results.opened = {case.name: opened[case.name] for case in plan.cases if case.name in opened}
    return processes


def _process(engine: str, plan: Plan, work: Path, name: str = "") -> Process:
    cuda = plan.device == "cuda"
    threads = {} if cuda else {"OMP_NUM_THREADS": str(plan.threads), "MKL_NUM_THREADS": str(plan.threads)}
    environment = {**threads, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if engine != "vllm":
        return Process(sys.executable, work / f"{name or engine}.log", environment)
    if not Path(plan.vllm_python).is_file():
        raise EngineFailed(f"there is no {plan.vllm_python}; `make bench` makes it, or pass --vllm-python")
    return Process(plan.vllm_python, work / f"{name}.log", environment | VLLM | ({} if cuda else VLLM_CPU))


def _open(process: Process, engine: str, plan: Plan, model: Path) -> Opened:
    return Opened(
        **process.ask(
            "open", engine=engine, model=str(model), device=plan.device, dtype=plan.dtype, threads=plan.threads
        )
    )


def _profile(
    plan: Plan,
    name: str,
    pairs: tuple[Pair, ...],
    file: Path,
    truth: dict[str, Any],
    processes: dict[str, Process],
    matmul: Process,
    skipped: dict[str, str],
    say: Callable[[str], None],
) -> ProfileTimings:
    timings: dict[str, Timing] = {}
    for case in plan.cases:
        if case.name in processes:
            say(f"{name}: {case.name}: warm-up{' and sweep' if case.sweep else ''}")
            try:
                timings[case.name] = _warm_up(case, processes[case.name], pairs, file, truth)
            except EngineFailed as error:
                skipped[f"{case.name} ({name})"] = str(error)
    own = {timing.path for timing in timings.values() if "path" not in timing.settings}
    for case_name in [key for key, timing in timings.items() if timing.settings.get("path") in own - {""}]:
        del timings[case_name]  # the choice made without force is in the table already
    matmul.ask("prepare", pairs=str(file), settings={})
    rates = []
    for round_ in range(plan.repeats):
        say(f"{name}: round {round_ + 1} of {plan.repeats}")
        rates.append(float(matmul.ask("run", settings={}, scores=True)["scores"]["rate"]))
        for case_name, timing in list(timings.items()):
            try:
                answer = processes[case_name].ask("run", settings=timing.settings, scores=False)
            except EngineFailed as error:
                skipped[f"{case_name} ({name})"] = str(error)
                del timings[case_name]
                continue
            timings[case_name] = replace(
                timing,
                seconds=(*timing.seconds, answer["seconds"]),
                peak=None if answer["peak"] is None else max(answer["peak"], timing.peak or 0),
            )
    return ProfileTimings(name, pairs, tuple(rates), tuple(timings.values()))


def _warm_up(case: Case, process: Process, pairs: Sequence[Pair], file: Path, truth: dict[str, Any]) -> Timing:
    """Run once with each of the settings; the fastest that works is kept and checked. Raises ``EngineFailed``."""
    candidates = case.sweep or (case.settings,)
    process.ask("prepare", pairs=str(file), settings=candidates[0])
    if case.sweep:  # the first run of a process is slow whatever its settings
        process.ask("run", settings=candidates[0], scores=False)
    tried: list[tuple[Settings, float]] = []
    best: tuple[float, Settings, float, dict[str, Any]] | None = None
    why: EngineFailed | None = None
    for settings in candidates:
        try:
            prepare = process.ask("prepare", pairs=str(file), settings=settings)["seconds"]
            answer = process.ask("run", settings=settings, scores=True)
        except EngineFailed as error:  # such as too large a batch
            why = error
            tried.append((settings, float("inf")))
            continue
        tried.append((settings, answer["seconds"]))
        if best is None or answer["seconds"] < best[0]:
            best = answer["seconds"], settings, prepare, answer["scores"]
    if best is None:
        assert why is not None
        raise why
    _, settings, prepare, scores = best
    token_error, exact, sum_error, ches_error = errors(scores, truth, pairs)
    return Timing(
        case=case,
        settings=settings,
        tried=tuple(tried) if case.sweep else (),
        prepare=prepare,
        seconds=(),
        peak=None,
        token_error=token_error,
        token_exact=exact,
        sum_error=sum_error,
        ches_error=ches_error,
        path=scores["path"],
    )


def errors(
    scores: dict[str, Any], truth: dict[str, Any], pairs: Sequence[Pair]
) -> tuple[float | None, bool, float | None, float | None]:
    """(nats per token, whether that is a token's own, nats per response, share of mean |CHES|), the largest of each.

    ``scores`` and ``truth`` have the fields of ``engines.Scores``. A number that is not finite is an infinite error.
    """
    token_error = sum_error = ches_error = None
    exact = scores["tokens"] is not None
    if scores["sums"] is not None:
        lengths = [len(response) for pair in pairs for response in (pair.chosen, pair.rejected)]
        apart = [_apart(a, b) for a, b in zip(scores["sums"], truth["sums"], strict=True)]
        sum_error = max(apart)
        if exact:
            token_error = max(
                _apart(a, b)
                for found, right in zip(scores["tokens"], truth["tokens"], strict=True)
                for a, b in zip(found, right, strict=True)
            )
        else:
            token_error = max(difference / length for difference, length in zip(apart, lengths, strict=True))
    if scores["ches"] is not None:
        scale = sum(map(abs, truth["ches"])) / len(truth["ches"])
        ches_error = max(_apart(a, b) for a, b in zip(scores["ches"], truth["ches"], strict=True)) / scale
    return token_error, exact, sum_error, ches_error


def _apart(found: float, right: float) -> float:
    difference = abs(found - right)
    return difference if difference == difference else float("inf")  # NaN is unequal to itself


def least_flops(shape: Shape, pairs: Sequence[Pair]) -> int:
    """Floating-point operations nobody can do without, all pairs."""
    return sum(floor.flops(shape, floor.minimal(pair)) for pair in pairs)


def load_average() -> float:
    """Processes that wanted a core during the last minute; 0 where the system does not say."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def now() -> str:
    """Today's date and the time, UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
