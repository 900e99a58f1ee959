"""An evaluation run inside a pytest session: prepared before the first case, decided and recorded at its end.

What the cases answered is taken off their reports, so it survives pytest-xdist. A PASS counts only where its case
passed.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest

from harness import (
    baselines,
    calibration,
    corpus,
    engines,
    following,
    gate,
    judging,
    noise,
    outputs,
    plan,
    policy,
    record,
    reuse,
    selftest,
    tables,
    work,
)
from harness.asking import Earlier
from harness.calibration import Calibration
from harness.conditions import Setting
from harness.domain import SERVED, Checkpoint, EngineOptions, Finding, Label, Limit, Outcome, printable
from harness.engines import runs
from harness.errors import CheckpointError, HarnessError, OptionError
from harness.noise import Noise
from harness.protocols import Engine, Judge
from harness.stats.agreement import kappa
from harness.stats.power import describe
from harness.stats.sequential import SPENT_EARLY

CASE = "harness-case"
FINDING = "harness-finding"
"""Names under which a case's limit and its finding travel on its report; taken off before JUnit sees them."""


@dataclass(frozen=True, slots=True)
class Case:
    """One limit to be answered for one candidate (by its name within the run)."""

    candidate: str
    limit: Limit


@dataclass(eq=False)
class Run:
    """The state of an evaluation run, on the controller and on every worker."""

    config: pytest.Config
    policy: policy.Policy
    options: EngineOptions
    engine: Engine
    judge: Judge | None
    specs: dict[str, str]
    """candidate name -> as the user wrote it."""
    reference_name: str
    chosen: runs.Chosen
    """What the command line names, training runs taken apart."""
    second_judge: Judge | None = None
    sentinels: Sequence[judging.Sentinel] = judging.SENTINELS
    calibration: Calibration | None = None
    earlier: Earlier = field(default_factory=Earlier)
    """What is taken over from a stored run (``--reuse``)."""
    reused: dict[str, str] = field(default_factory=dict)
    blessed: baselines.Blessed | None = None
    """The baseline (``--baseline``), once it is open."""
    held: work.Stored | None = None
    """What its limits compare the candidates with."""
    power: tuple[str, ...] = ()
    noise: Noise | None = None
    reference: Checkpoint | None = None
    candidates: tuple[Checkpoint, ...] = ()
    corpora: dict[str, Any] = field(default_factory=dict)
    lexicon: str = ""
    """Digest of the policy's lexicon."""
    directory: Path = Path()
    started: datetime = field(default_factory=record.now)
    git: dict[str, str] = field(default_factory=dict)
    selected: list[Case] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    """node id of a case -> (candidate, limit id)."""
    reports: dict[tuple[str, str], str] = field(default_factory=dict)
    """(candidate, limit id) -> why there is no finding, where a report says."""
    spoiled: dict[tuple[str, str], str] = field(default_factory=dict)
    """(candidate, limit id) -> why a PASS of its case does not count."""
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    """What engine and judge said of themselves on a pytest-xdist worker, where a suite may have put in its own."""
    written: record.RunRecord | None = None
    trouble: list[str] = field(default_factory=list)
    """What went wrong beside the measurements (an unwritable report, ...)."""

    @property
    def digests(self) -> dict[str, str]:
        """Corpus name -> digest; task name -> digest of what is asked."""
        return {name: item.digest for name, item in self.corpora.items()} | engines.task_digests(self.policy.tasks)

    @property
    def same_twice(self) -> bool:
        """An A/A run: the one candidate is the reference."""
        names = {item.identity for item in self.candidates}
        return self.reference is not None and names == {self.reference.identity}

    @property
    def basis(self) -> dict[str, str]:
        """What the noise between a model and itself depends on, beside the corpora."""
        assert self.reference is not None, "known once the session has started"
        engine, decoding = self.engine.describe(), self.policy.decoding
        judge = self.judge.describe() if self.judge else {}
        return {
            "reference": self.reference.identity,
            "device": engine.get("device", ""),
            "dtype": engine.get("dtype", ""),
            "temperature": f"{decoding.temperature:g}",
            "max_new_tokens": str(decoding.max_new_tokens),
            "samples": str(decoding.samples),
            "early_stop": str(self.early_stop),
            **{f"judge {key}": value for key, value in sorted(judge.items())},
        }

    @property
    def baseline(self) -> record.BaselineFacts | None:
        return self.blessed.facts if self.blessed else None

    @property
    def run_dir(self) -> Path:
        """Where run directories land, and ``baselines.json`` is looked for."""
        return self.config.invocation_params.dir / str(self.config.option.run_dir)

    @property
    def setting(self) -> Setting:
        """How this run asks and measures."""
        return Setting(
            policy=self.policy,
            digests=self.digests,
            judge={str(key): str(value) for key, value in self.judge.describe().items()} if self.judge else {},
            engine=dict(self.engine.describe()),
            options=self.options,
            versions=record.environment(),
            lexicon=self.lexicon,
            decoding=self.policy.decoding,
            early_stop=self.early_stop,
            git=self.git,
        )

    def unlike(self, limit: Limit) -> str:
        """Why a limit of the baseline has no number; '' where it may have one, and for every other limit."""
        if not limit.baseline:
            return ""
        if self.held is None:
            return f"x: not comparable with baseline {limit.baseline}: it is not open"
        return self.held.unlike.get(limit.id, "")

    def unasked(self, candidate: str, limit: Limit) -> str:
        """Why a case's number says nothing of the baseline; '' where it may, and for every other limit."""
        if not limit.baseline or (self.held is not None and (candidate, limit.id) in self.held.asked):
            return ""
        return (
            f"measured without anything of baseline {limit.baseline}: the case must ask comparison for labels, scores, "
            "task or masses, which give the baseline's in the reference's place"
        )

    @property
    def early_stop(self) -> bool:
        return bool(self.config.option.early_stop)

    def follows(self, limit: Limit) -> bool:
        """Whether generation on the limit's corpus may stop early."""
        return following.can_follow(
            [item for item in self.policy.limits if item.corpus == limit.corpus and not item.baseline]
        )

    @property
    def collect_only(self) -> bool:
        """Nothing is run: cases or fixtures are only listed."""
        option = self.config.option
        return any(getattr(option, name, False) for name in ("collectonly", "showfixtures", "show_fixtures_per_test"))


def case_of(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("case") if callspec else None
    return case if isinstance(case, Case) else None


# ---------------------------------------------------------------- names


def name_checkpoints(reference: str, candidates: Sequence[str]) -> tuple[str, list[str]]:
    """Names of the reference and the candidates: short, unique, safe in file names.

    As few path components as tell them apart; a candidate that *is* the reference (an A/A run) is numbered.

    Raises:
        OptionError: one candidate given twice.
    """
    specs = [os.path.normpath(spec) if Path(spec).exists() else spec.rstrip("/") for spec in (reference, *candidates)]
    if len(set(specs[1:])) < len(candidates):
        raise OptionError("one --candidate is given twice; each needs a verdict of its own")
    parts = [[part for part in _split(spec) if part not in {"", "."}] or [spec] for spec in specs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [clean("-".join(item[-depth:])) for item in parts]
        if len({name.casefold() for name in (*names, "corpora")}) == len(names) + 1:
            return names[0], names[1:]
    names, taken = [], {"corpora"}
    for item in parts:
        numbered = (f"{clean(item[-1])}-{number}" for number in count(1))
        name = next(name for name in chain([clean(item[-1])], numbered) if name.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names[0], names[1:]


def _split(spec: str) -> list[str]:
    """The components of a path; the last one of URL#MODEL is in the model's name."""
    return re.split(r"[/\\#]+" if "://" in spec else r"[/\\]+", spec)


def clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", text).strip("-.") or "checkpoint"


# ---------------------------------------------------------------- the gate


class Gatekeeper:
    """Collects what the cases answered, and decides at the end of the session."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.worker: dict[str, Any] | None = getattr(run.config, "workerinput", None)

    # ------------------------------------------------------------ before the first case

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Everything that can be known to be wrong before long work is an error now."""
        run = self.run
        if run.collect_only:
            return
        try:
            self._prepare()
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from None

    def _prepare(self) -> None:
        run = self.run
        run.candidates = tuple(run.engine.resolve(spec, name) for name, spec in run.specs.items())
        run.reference = _resolve_reference(run)
        for judge in filter(None, (run.judge, run.second_judge)):
            judge.describe()  # a model that is not there, or a label that it does not have, is an error now
        policy.check_beta(run.policy, {item.name: item.beta for item in run.candidates})
        run.corpora = dict(plan.load_corpora(run.policy))
        run.trouble += [*_dropped(run), *_twice(run.candidates), *policy.cautions(run.policy)]
        if run.early_stop and run.same_twice:
            raise OptionError("--early-stop in an A/A run: its noise floor would be that of few prompts; leave it out")
        if run.policy.lexicon is not None:
            run.lexicon = corpus.load_lexicon(run.policy.root / run.policy.lexicon).digest
        if run.config.option.baseline:
            run.blessed = self._open_baseline(run.config.option.baseline)
        settle(run)
        if self.worker is not None:
            run.directory = Path(self.worker["harness_directory"])
            return
        for checkpoint in (run.reference, *run.candidates):
            if checkpoint.path:  # a served model has none
                corpus.verify_directory(Path(checkpoint.path))
        run.engine.preflight(run.reference, run.candidates)
        if run.early_stop and (check_together := getattr(run.engine, "check_together", None)):
            check_together((run.reference, *run.candidates))
        run.power = _power(run)
        parent = run.run_dir
        stamp = f"{run.started:%Y%m%dT%H%M%S}-{next(iter(run.specs))}"
        name = run.config.option.run_name or stamp
        if clean(name) != name:
            raise OptionError(f"--run-name {name!r}: use letters, digits, '.', '_', '@' and '-' only")
        record.claim(parent / name)
        run.directory = parent / name
        run.git = record.git_state(run.config.invocation_params.dir)
        plan.write_corpora(run.directory, run.corpora)

    def _open_baseline(self, name: str) -> baselines.Blessed:
        """The baseline, with what is to be said of it in the record.

        Raises:
            OptionError: it cannot be used, or this worker finds another one than the controller did.
        """
        run = self.run
        if run.same_twice:
            raise OptionError("--baseline in an A/A run, which measures the reference's own noise; leave it out")
        blessed = baselines.open_baseline(run.run_dir, name)
        if self.worker is not None and self.worker["harness_baseline"] != blessed.facts.model_dump():
            raise OptionError(f"--baseline {name}: another run was blessed while this one started; start it again")
        if blessed.facts.although:
            run.trouble.append(f"baseline {name}: {baselines.describe(blessed.facts)}")
        same = [item.name for item in run.candidates if item.identity == blessed.facts.identity]
        run.trouble += [
            f"{item} has the bytes of baseline {name}, so its limits @{name} compare it with itself" for item in same
        ]
        return blessed

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """pytest-xdist: tell each worker where the run's directory is, and which run the baseline is."""
        node.workerinput["harness_directory"] = str(self.run.directory)
        node.workerinput["harness_baseline"] = self.run.baseline.model_dump() if self.run.baseline else None

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """pytest-xdist: a worker that ended says what its engine and judge were."""
        self.run.facts.update(getattr(node, "workeroutput", {}).get("harness_facts", {}))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.run.selected = [case for item in session.items if (case := case_of(item)) is not None]

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            if case := case_of(item):
                self.run.reports[case.candidate, case.limit.id] = "deselected"

    def pytest_report_header(self) -> list[str]:
        run = self.run
        own = sum(not limit.baseline for limit in run.policy.limits)
        more = f", {len(run.policy.limits) - own} more by the baseline" if run.blessed else ""
        lines = [f"policy: {os.path.relpath(run.policy.path)} ({run.policy.digest[:12]}, {own} limits{more})"]
        if run.reference is not None:
            for role, item in (("reference", run.reference), *(("candidate", item) for item in run.candidates)):
                said = f", as {run.chosen.source} says" if role == "reference" and run.chosen.source else ""
                base = f", adapter on {item.base}" if item.base else ""
                served = f", {SERVED}" if item.served else ""
                lines.append(f"{role}: {item.spec} ({item.short}{base}{served}){said}")
            lines += run.chosen.notes
            lines.append("engine: " + ", ".join(f"{k} {v}" for k, v in run.engine.describe().items()))
            judge = run.judge.describe() if run.judge else {"name": "none"}
            lines.append("judge: " + ", ".join(f"{k} {v}" for k, v in judge.items()))
            if run.second_judge:
                lines.append("second judge: " + ", ".join(f"{k} {v}" for k, v in run.second_judge.describe().items()))
            decoding = run.policy.decoding
            lines.append(
                f"decoding: temperature {decoding.temperature:g}, {decoding.max_new_tokens} new tokens, "
                f"{decoding.samples} per prompt, seed {decoding.seed}"
            )
            lines += filter(None, (_asked(name, item) for name, item in run.corpora.items()))
            lines += [f"power: {line}" for line in run.power]
            lines += _baseline_lines(run)
            lines.append(f"run: {os.path.relpath(run.directory)}")
        return lines

    # ------------------------------------------------------------ while cases run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what the case answered off its report.

        A PASS counts only where nothing of its case failed: not the case after it, not its teardown, not a subtest,
        not another run of it.
        """
        if self.worker is not None:
            return
        run = self.run
        properties = dict(getattr(report, "user_properties", ()))
        if CASE in properties:
            candidate, limit = json.loads(str(properties[CASE]))
            run.keys[report.nodeid] = (candidate, limit)
        finding = record.load_finding(str(properties[FINDING])) if FINDING in properties else None
        report.user_properties = [item for item in report.user_properties if item[0] not in {CASE, FINDING}]
        key = run.keys.get(report.nodeid)
        if key is None:
            return
        subtest = type(report) is not pytest.TestReport  # they have report classes of their own
        if finding is not None and report.when == "call" and not subtest:
            run.findings.append(finding)
        if not report.passed or hasattr(report, "wasxfail"):
            why = _why(report)
            run.spoiled[key] = f"its teardown failed: {why}" if report.when == "teardown" else why
        elif finding is None and report.when == "call" and not subtest:
            run.reports[key] = "the case handed nothing to check()"

    # ------------------------------------------------------------ at the end

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """The gate has the last word: whatever made the exit code green before, a blocked candidate makes it red."""
        result = yield
        run = self.run
        if run.collect_only or run.reference is None or not run.directory.name:
            return result
        if self.worker is not None:
            run.config.workeroutput["harness_facts"] = self._facts()  # type: ignore[attr-defined]
            return result
        try:
            run.trouble += outputs.read_notes(run.directory)
            written = self._record(int(session.exitstatus))
            record.write(written, run.directory)
        except Exception as error:  # no record, no verdict: this must not end green
            what = (
                error if isinstance(error, OSError | ValueError | HarnessError) else f"{type(error).__name__}: {error}"
            )
            run.trouble.append(f"NO VERDICT: the record could not be written to {run.directory} ({what})")
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            return result
        run.written = written
        if written.noise is not None and run.same_twice:
            text = written.noise.model_dump_json(indent=1) + "\n"
            tables.write_atomically(run.directory / noise.FILE, lambda path: path.write_text(text, encoding="utf-8"))
        self._clear_work()
        green = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if green and not written.partial and not written.released:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if written.released and session.exitstatus != pytest.ExitCode.OK:
            run.trouble.append(
                f"the policy is kept, but the session ended with exit code {int(session.exitstatus)}: something that "
                "answers no blocking limit failed; see above"
            )
        self._publish(written)
        return result

    def _facts(self) -> dict[str, dict[str, str]]:
        run = self.run
        judge = {str(key): str(value) for key, value in run.judge.describe().items()} if run.judge else {}
        return {"engine": dict(run.engine.describe()), "judge": judge} | run.facts

    def _record(self, exitstatus: int) -> record.RunRecord:
        run = self.run
        assert run.reference is not None
        names = [item.name for item in run.candidates]
        counted = [
            item
            for item in run.findings
            if item.outcome is not Outcome.PASS or (item.candidate, item.limit.id) not in run.spoiled
        ]
        findings = policy.correct(counted)
        answered = {(item.candidate, item.limit.id) for item in findings}
        ended = exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
        unanswered = {
            (name, limit.id): self._unanswered(name, limit, ended)
            for name in names
            for limit in run.policy.limits
            if (name, limit.id) not in answered
        }
        partial = bool(run.config.option.partial)
        noise_found = self._noise(findings) if run.same_twice and not ended else run.noise
        return record.RunRecord(
            schema_number=record.SCHEMA,
            run=run.directory.name,
            started=run.started.isoformat(timespec="seconds"),
            seconds=(record.now() - run.started).total_seconds(),
            status="interrupted" if ended else "complete",
            partial=partial,
            command=("pytest", *(printable(str(arg)) for arg in run.config.invocation_params.args)),
            versions=record.environment(),
            git=run.git,
            options=run.options,
            **self._facts(),
            reference=run.reference,
            reference_source=run.chosen.source,
            candidates=run.candidates,
            policy=record.PolicyFacts(
                path=os.path.relpath(run.policy.path, run.config.invocation_params.dir),
                digest=run.policy.digest,
                text=run.policy.text,
                limits=run.policy.limits,
                decoding=run.policy.decoding,
                lexicon=run.lexicon,
            ),
            corpora=tuple(
                record.CorpusFacts(
                    name=name,
                    digest=item.digest,
                    rows=len(item.items),
                    source=item.source,
                    version=item.version,
                    available=item.available,
                    dropped=item.dropped,
                )
                for name, item in run.corpora.items()
            ),
            findings=tuple(findings),
            unanswered=tuple(
                record.Unanswered(candidate=name, limit=limit, why=why) for (name, limit), why in unanswered.items()
            ),
            verdicts=gate.decide_all(
                run.policy.limits, names, findings, unanswered, partial=partial, interrupted=ended
            ),
            warnings=tuple(run.trouble),
            tables=record.list_tables(run.directory),
            canaries=outputs.read_canaries(run.directory),
            reused=run.reused,
            early_stop=run.early_stop,
            power=run.power,
            second_judge=dict(run.second_judge.describe()) if run.second_judge else {},
            agreements=agreements(run.directory) if run.second_judge else (),
            calibration=_calibration_facts(run),
            noise=noise_found,
            baseline=run.baseline,
        )

    def _noise(self, findings: Sequence[Finding]) -> Noise | None:
        """What this A/A run says of the noise; None, with a warning, where it cannot be told."""
        run = self.run
        assert run.reference is not None
        first = run.candidates[0]
        mine = [item for item in findings if item.candidate == first.name]
        measured = {item.limit.id for item in mine if item.measurement}
        answered = [limit for limit in run.policy.limits if limit.id in measured]
        bench = work.Bench(
            directory=run.directory,
            policy=run.policy,
            engine=run.engine,
            judge=run.judge,
            reference=run.reference,
            candidates=run.candidates,
            corpora=run.corpora,
            tasks=plan.plan(run.policy, [(first.name, limit) for limit in answered]),
            allow_identical=True,
        )
        try:
            return selftest.measure(
                run.directory.name,
                answered,
                mine,
                lambda limit: work.Comparison(bench, first, limit),
                run.basis,
                run.digests,
            )
        except Exception as error:  # the run's own results stand
            run.trouble.append(f"the noise could not be measured ({type(error).__name__}: {error})")
            return None

    def _unanswered(self, candidate: str, limit: Limit, ended: bool) -> str:
        if why := self.run.spoiled.get((candidate, limit.id)) or self.run.reports.get((candidate, limit.id)):
            return why
        if ended:
            return "the run was interrupted"
        return f"no case for {limit.metric} ran to its end (not collected, deselected, or its worker died)"

    def _clear_work(self) -> None:
        """Whole first-token distributions are large; what was read off them is kept."""
        shutil.rmtree(self.run.directory / "work", ignore_errors=True)
        (self.run.directory / "work.lock").unlink(missing_ok=True)

    def _publish(self, written: record.RunRecord) -> None:
        """The page, the run directory's list of runs and the step summary; if one fails the verdict stands, and the
        run says so."""
        from harness.report import history, html, markdown

        try:
            html.write(written, self.run.directory)
        except Exception as error:  # the verdict is in the record and must reach the user
            self.run.trouble.append(
                f"the report could not be written ({type(error).__name__}: {error}); the record is whole: "
                f"python -m harness report {self.run.directory}"
            )
        try:
            history.update(self.run.directory.parent)
        except Exception as error:  # as above
            what = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            self.run.trouble.append(f"the list of runs could not be written ({what})")
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            try:
                with Path(summary).open("a", encoding="utf-8") as file:
                    file.write(markdown.step_summary(written))
            except OSError as error:
                self.run.trouble.append(f"$GITHUB_STEP_SUMMARY could not be written: {error}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        run = self.run
        if run.written is None and not run.trouble:
            return
        terminalreporter.section("verdict")
        if run.written is not None:
            from harness.report.terminal import closing_table

            width = shutil.get_terminal_size().columns
            terminalreporter.write(closing_table(run.written, width=width, color=terminalreporter.hasmarkup))
            directory = Path(os.path.relpath(run.directory))
            terminalreporter.write_line(f"record: {directory / record.FILE}")
            terminalreporter.write_line(f"report: {directory / 'report.html'}")
        told = run.written.warnings if run.written is not None else ()  # these stand in the table's text
        for line in run.trouble:
            if line not in told:
                terminalreporter.write_line(f"warning: {line}", yellow=True)


def _resolve_reference(run: Run) -> Checkpoint:
    """Raises ``CheckpointError``, which says what named the reference where the user did not."""
    try:
        return run.engine.resolve(run.chosen.reference, run.reference_name)
    except CheckpointError as error:
        if not run.chosen.source:
            raise
        raise OptionError(
            f"the reference is {run.chosen.reference}, as {run.chosen.source} says, and cannot be used ({error}); name "
            "it with --reference CKPT"
        ) from error


def settle(run: Run) -> None:
    """What depends on the engine and the judge: a suite may put its own in their place, and then this is asked again.

    Raises:
        MissingExtraError: limits on tasks, and no lm-eval.
        PolicyError: a task that is not there; a calibration of another judge; noise of other conditions, or a limit
            tighter than its floor.
        OptionError, RecordError: a run that cannot be reused, or that the candidates cannot be held against.
    """
    rules = run.policy
    assert run.reference is not None, "known once the session has started"
    engines.check_tasks(run.engine, rules.tasks.values())
    if run.calibration is not None and rules.judge is not None and run.judge is not None:
        calibration.check(run.calibration, run.judge.describe(), rules.root / str(rules.judge.calibration))
    if rules.noise is not None and not run.same_twice:
        path = rules.root / rules.noise
        run.noise = noise.load(path)
        noise.check(run.noise, rules.limits, run.basis, run.digests, path)
    if run.config.option.reuse:
        run.earlier, run.reused = reuse.open_run(
            run.config.invocation_params.dir / run.config.option.reuse,
            engine=run.engine.describe(),
            options=run.options,
            decoding=rules.decoding,
            digests=run.digests,
            tasks=rules.tasks,
        )
        note = f"answers and scores of the same models were taken over from the run {run.reused['run']} (--reuse)"
        run.trouble += [note] if note not in run.trouble else []
    if run.blessed is not None:
        run.held = baselines.hold(run.blessed, run.setting, run.reference, run.candidates)


def _baseline_lines(run: Run) -> list[str]:
    """What the candidates are also held against, and for which limits they cannot be: a line for each reason."""
    if run.baseline is None or run.held is None:
        return []
    limits: dict[str, list[str]] = {}
    for limit, why in run.held.unlike.items():
        limits.setdefault(why, []).append(limit)
    told = [f"{', '.join(ids)}: {why}" for why, ids in limits.items()]
    return [printable(f"baseline {run.baseline.name}: {baselines.describe(run.baseline)}"), *told]


def _asked(name: str, item: Any) -> str:
    """A line on a corpus that is not all of its data; '' where it is."""
    return corpus.describe(name, len(item.items), item.available, item.dropped)


def _twice(candidates: Sequence[Checkpoint]) -> list[str]:
    """A line for each candidate whose bytes are those of one before it."""
    first: dict[str, Checkpoint] = {}
    told = [(item, first.setdefault(item.identity, item)) for item in candidates]
    return [f"{item.name} has the same bytes as {other.name}" for item, other in told if item is not other]


def _dropped(run: Run) -> list[str]:
    """A line for each corpus that rows were left out of because they cannot be used."""
    return [_asked(name, item) for name, item in run.corpora.items() if item.dropped]


def _power(run: Run) -> tuple[str, ...]:
    """What the plan can tell, a line for each limit on paired shares of whole corpora."""
    lines: list[str] = []
    # A task's items are not known yet, and a limit of a baseline needs what its own limit of the policy needs.
    limits = [limit for limit in run.policy.limits if limit.corpus in run.corpora and not limit.baseline]
    for limit in limits if run.policy.decoding.samples == 1 else ():
        shares = SPENT_EARLY if run.early_stop and run.follows(limit) else None
        count = len(run.corpora[limit.corpus].items)
        lines.append(describe(limit, count, run.policy.discordance, spent_early=shares))
    return tuple(filter(None, lines))


def agreements(directory: Path) -> tuple[record.Agreement, ...]:
    """How far the two judges of a run agree, by checkpoint and corpus."""
    found = []
    for path in sorted((directory / "tables").glob("*/*.second_labels.parquet")):
        name = path.name.removesuffix(".second_labels.parquet")
        answers = path.with_name(f"{name}.completions.parquet")
        first = tables.read_labelled(answers, path.with_name(f"{name}.labels.parquet"))
        second = tables.read_labelled(answers, path)
        pairs = [(a.label, b.label) for a, b in zip(first, second, strict=True)]
        both = [pair for pair in pairs if Label.UNREADABLE not in pair]
        estimate = kappa(both)
        low, high = (math.nan, math.nan) if estimate.problem else estimate.bounds(0.025)
        found.append(
            record.Agreement(
                checkpoint=path.parent.name,
                corpus=name,
                n=len(both),
                kappa=estimate.value,
                low=low,
                high=high,
                disagree=sum(a is not b for a, b in both),
                unreadable=len(pairs) - len(both),
                problem=estimate.problem,
            )
        )
    return tuple(found)


def _calibration_facts(run: Run) -> record.CalibrationFacts | None:
    if run.calibration is None or run.policy.judge is None:
        return None
    hits = run.calibration.hits(Label.REFUSAL)
    return record.CalibrationFacts(
        path=str(run.policy.judge.calibration),
        sources=tuple(source.name for source in run.calibration.sources),
        positives=hits.positives,
        sensitivity=hits.found / hits.positives,
        negatives=hits.negatives,
        specificity=hits.rejected / hits.negatives,
    )


def _why(report: pytest.TestReport) -> str:
    """One line of why a report is not a plain pass."""
    if hasattr(report, "wasxfail"):
        return f"xfail: {report.wasxfail or 'no reason'}"
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return printable(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr or "")).strip().splitlines()
    return printable(lines[0]) if lines else "failed"
