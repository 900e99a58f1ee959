"""pytest's side: options, fixtures, ``check``, the gate at session end, the terminal summary.

A case marked ``@pytest.mark.limits("metric", ...)`` is run once for each limit of the policy on one of these metrics
and for each candidate. It measures, and hands the measurement to ``check``. What the cases answered travels on their
reports (so it survives pytest-xdist), and at the end of the session the gate decides from all of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from harness import corpus, engines, gate, judges, policy, record, work
from harness.domain import Checkpoint, EngineOptions, Finding, Lexicon, Limit, Measurement, Outcome
from harness.errors import HarnessError, OptionError
from harness.protocols import Engine, Judge, OnProgress

CASE = "harness-case"
FINDING = "harness-finding"
_EXAMPLES = 5

# ---------------------------------------------------------------- options


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("harness", "gate a DPO checkpoint against its reference")
    group.addoption(
        "--candidate",
        action="append",
        default=[],
        metavar="CKPT",
        help="checkpoint under test: a directory, a hub id with @revision, or a PEFT adapter directory; repeatable",
    )
    group.addoption("--reference", metavar="CKPT", help="what the candidate must not be worse than")
    group.addoption("--policy", metavar="FILE", help="what must hold (default: ini option 'policy', evals/policy.yaml)")
    group.addoption("--engine", default="hf", metavar="NAME", help="what runs the checkpoints (default: hf)")
    group.addoption("--judge", metavar="NAME", help="what reads the answers (default: the policy's)")
    group.addoption("--base", default="", metavar="CKPT", help="base of adapters, overriding their own config")
    group.addoption("--chat-template", default="", metavar="FILE", help="Jinja template used for every checkpoint")
    group.addoption("--model-dtype", default="auto", metavar="DTYPE", help="auto, float32, bfloat16 or float16")
    group.addoption("--model-device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N")
    group.addoption("--batch-tokens", type=int, default=8192, metavar="N", help="padded tokens per forward pass")
    group.addoption("--trust-remote-code", action="store_true", help="run code that comes with a checkpoint")
    group.addoption("--allow-unsafe-weights", action="store_true", help="load pickle weights, which can run code")
    group.addoption("--allow-identical", action="store_true", help="compare a checkpoint with itself (A/A run)")
    group.addoption("--partial", action="store_true", help="only part of the policy is wanted; there is no verdict")
    group.addoption("--run-dir", default="reports", metavar="DIR", help="where run directories land (default: reports)")
    group.addoption("--run-name", default="", metavar="NAME", help="name of the run (default: time and candidate)")
    parser.addini("policy", "the policy file, relative to the root directory", default="evals/policy.yaml")


# ---------------------------------------------------------------- one evaluation run


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
    reference: Checkpoint | None = None
    candidates: tuple[Checkpoint, ...] = ()
    corpora: dict[str, Any] = field(default_factory=dict)
    directory: Path = Path()
    started: datetime = field(default_factory=record.now)
    git: dict[str, str] = field(default_factory=dict)
    selected: list[Case] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    reports: dict[tuple[str, str], str] = field(default_factory=dict)
    """(candidate, limit id) -> why there is no finding, where a report says."""
    written: record.RunRecord | None = None
    trouble: list[str] = field(default_factory=list)
    """What went wrong beside the measurements (an unwritable report, ...)."""

    @property
    def collect_only(self) -> bool:
        return bool(self.config.option.collectonly)


RUN = pytest.StashKey[Run]()
POLICY = pytest.StashKey[policy.Policy]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "limits(*metrics): answers the policy's limits on these metrics, a case for each limit and candidate"
    )
    if config.option.candidate or config.option.reference:
        try:
            run = _start(config)
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from None
        config.stash[RUN] = run
        config.pluginmanager.register(Gatekeeper(run), "harness-gate")


def _start(config: pytest.Config) -> Run:
    """Read what was asked for; nothing heavy is imported or opened yet."""
    option = config.option
    if not option.candidate:
        raise OptionError("--reference without --candidate: name the checkpoint under test")
    if not option.reference:
        raise OptionError("--candidate without --reference: name what it is compared with (the model DPO started from)")
    plan = _policy(config)
    options = EngineOptions(
        dtype=option.model_dtype,
        device=option.model_device,
        trust_remote_code=option.trust_remote_code,
        unsafe_weights=option.allow_unsafe_weights,
        chat_template=option.chat_template,
        base=option.base,
        batch_tokens=option.batch_tokens,
        allow_identical=option.allow_identical,
    )
    source = plan.judge
    judge = None
    if option.judge:
        judge = judges.create(option.judge, source.options if source and source.name == option.judge else {})
    elif source:
        judge = judges.create(source.name, source.options)
    specs = dict(zip(_names(option.candidate, option.reference), option.candidate, strict=True))
    return Run(config, plan, options, engines.create(option.engine, options), judge, specs)


def _policy(config: pytest.Config) -> policy.Policy:
    if POLICY not in config.stash:
        given = config.option.policy
        path = config.invocation_params.dir / given if given else config.rootpath / config.getini("policy")
        config.stash[POLICY] = policy.load(path)
    return config.stash[POLICY]


def _names(specs: Sequence[str], reference: str) -> list[str]:
    """Short unique names that are safe in file names; as few path components as tell the candidates apart.

    Raises:
        OptionError: one candidate given twice.
    """
    if len(set(map(_normal, specs))) < len(specs):
        raise OptionError("one --candidate is given twice; each needs a verdict of its own")
    parts = [[part for part in re.split(r"[/\\]+", _normal(spec)) if part not in {"", "."}] for spec in specs]
    taken = _clean(_normal(reference).split("/")[-1])
    for depth in range(1, max(map(len, parts)) + 1):
        names = [_clean("-".join(item[-depth:])) for item in parts]
        if len(set(names)) == len(names):
            return [f"candidate-{name}" if name == taken or name == "corpora" else name for name in names]
    return [f"{_clean(item[-1])}-{number}" for number, item in enumerate(parts, start=1)]


def _normal(spec: str) -> str:
    return os.path.normpath(spec) if Path(spec).exists() else spec.rstrip("/")


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", text).strip("-.") or "checkpoint"


# ---------------------------------------------------------------- cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case for each limit on the marked metrics, and each candidate."""
    marker = metafunc.definition.get_closest_marker("limits")
    if marker is None:
        return
    if not marker.args or not all(isinstance(name, str) for name in marker.args):
        raise pytest.UsageError(f'{metafunc.definition.nodeid}: write @pytest.mark.limits("metric", ...)')
    if "case" not in metafunc.fixturenames:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: a case that answers limits must use the fixture 'check'"
        )
    run = metafunc.config.stash.get(RUN, None)
    try:
        limits = [limit for limit in _policy(metafunc.config).limits if limit.metric in marker.args]
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from None
    candidates = list(run.specs) if run else [""]
    cases = [Case(candidate, limit) for candidate in candidates for limit in limits]
    ids = [case.limit.id if len(candidates) == 1 else f"{case.candidate}-{case.limit.id}" for case in cases]
    metafunc.parametrize("case", cases or [None], ids=ids or ["no-limit"], indirect=True)


def _case_of(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("case") if callspec else None
    return case if isinstance(case, Case) else None


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Leave out functions the policy has no limit for."""
    made = yield
    if isinstance(made, list):
        return [item for item in made if item.get_closest_marker("limits") is None or _case_of(item) is not None]
    return made


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tell each case's report which limit it answers."""
    for item in items:
        if case := _case_of(item):
            if RUN not in config.stash and not config.option.collectonly:
                raise pytest.UsageError(
                    "these cases compare two checkpoints: give --candidate CKPT --reference CKPT "
                    "(to try it: --candidate fixtures/organism/dpo-healthy --reference fixtures/organism/reference)"
                )
            item.user_properties.append((CASE, json.dumps([case.candidate, case.limit.id])))


# ---------------------------------------------------------------- fixtures


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The limit and the candidate of this case."""
    if not isinstance(getattr(request, "param", None), Case):
        pytest.fail('only a case marked @pytest.mark.limits("metric", ...) has a limit to answer', pytrace=False)
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def limit(case: Case) -> Limit:
    """The limit that this case answers."""
    return case.limit


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Engine:
    """What runs the checkpoints (``--engine``). Override it to run them with your own."""
    return pytestconfig.stash[RUN].engine


@pytest.fixture(scope="session")
def judge(pytestconfig: pytest.Config) -> Judge | None:
    """What reads the answers (``--judge``, else the policy's). Override it to read them with your own."""
    return pytestconfig.stash[RUN].judge


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config, engine: Engine, judge: Judge | None) -> work.Bench:
    """All work of the run, planned from the selected cases and done when first needed."""
    run = pytestconfig.stash[RUN]
    run.engine, run.judge = engine, judge
    assert run.reference is not None
    return work.Bench(
        directory=run.directory,
        policy=run.policy,
        engine=engine,
        judge=judge,
        reference=run.reference,
        candidates=run.candidates,
        corpora=run.corpora,
        tasks=work.plan(run.policy, [(case.candidate, case.limit) for case in run.selected]),
        allow_identical=run.options.allow_identical,
        progress=_progress(pytestconfig),
    )


@pytest.fixture
def comparison(case: Case, bench: work.Bench) -> work.Comparison:
    """This case's candidate beside the reference: ``labels``, ``scores``, ``first_tokens`` of a corpus."""
    return work.Comparison(bench, next(item for item in bench.candidates if item.name == case.candidate))


@pytest.fixture
def lexicon(bench: work.Bench) -> Lexicon:
    """The policy's lexicon of meanings."""
    return bench.lexicon


@pytest.fixture
def check(request: pytest.FixtureRequest, case: Case) -> Callable[[Measurement], Finding]:
    """Answer the limit with a measurement: fails the case unless the interval proves the limit kept.

    A limit of ``severity: warn`` is reported and fails nothing.
    """
    node: pytest.Item = request.node

    def answer(measurement: Measurement) -> Finding:
        finding = policy.assess(measurement, case.limit, case.candidate)
        _answer(node, finding)
        return finding

    return answer


def _answer(node: pytest.Item, finding: Finding) -> None:
    """Put a finding on the case's report, and fail the case where it blocks."""
    if any(name == FINDING for name, _ in node.user_properties):
        pytest.fail(f"{finding.limit.id} was answered already: a case answers its limit once", pytrace=False)
    node.user_properties.append((FINDING, record.dump_finding(finding)))
    node.user_properties.extend(_properties(finding))
    if finding.blocks:
        pytest.fail("\n".join(_message(node.config, finding)), pytrace=False)


def _message(config: pytest.Config, finding: Finding) -> Iterator[str]:
    from harness.report.text import visible

    yield visible(finding.reason)
    if finding.measurement and finding.measurement.examples and finding.outcome is Outcome.FAIL:
        examples = finding.measurement.examples
        more = f" and {len(examples) - _EXAMPLES} more" if len(examples) > _EXAMPLES else ""
        yield f"  items: {', '.join(map(visible, examples[:_EXAMPLES]))}{more}"
    yield f"  report: {config.stash[RUN].directory / 'report.html'}"


def _properties(finding: Finding) -> Iterator[tuple[str, object]]:
    """Flat JUnit properties."""
    yield "limit", finding.limit.id
    yield "candidate", finding.candidate
    yield "severity", finding.limit.severity.value
    yield "outcome", finding.outcome.value
    yield "bound", finding.limit.describe()
    if m := finding.measurement:
        yield from (("metric", m.metric), ("value", m.value), ("low", m.low), ("high", m.high), ("n", m.n))
        yield from (("reference_value", m.reference), ("candidate_value", m.candidate), ("unreadable", m.unreadable))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """What could not be measured is INVALID, in one line, instead of a traceback."""
    case = _case_of(pyfuncitem)
    try:
        return (yield)
    except HarnessError as error:
        if case is None or any(name == FINDING for name, _ in pyfuncitem.user_properties):
            raise
        reason = f"{case.limit.metric} could not be measured: INVALID; {error}"
    _answer(pyfuncitem, Finding(case.limit, case.candidate, Outcome.INVALID, reason))
    return True


def _progress(config: pytest.Config) -> work.Progress:
    """Bars with an ETA on a terminal, through pytest's capturing; nothing elsewhere."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None or not reporter.isatty or hasattr(config, "workerinput"):
        return work.silent

    @contextmanager
    def bar(what: str, total: int) -> Iterator[OnProgress]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with capture.global_and_fixture_disabled(), Progress(*columns, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda count: progress.advance(task, count)

    return bar


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
        taken = {item.name for item in run.candidates}
        name = _clean(_normal(run.config.option.reference).split("/")[-1])
        run.reference = run.engine.resolve(run.config.option.reference, f"reference-{name}" if name in taken else name)
        run.corpora = dict(work.load_corpora(run.policy))
        if run.policy.lexicon is not None:
            corpus.load_lexicon(run.policy.root / run.policy.lexicon)
        if self.worker is not None:
            run.directory = Path(self.worker["harness_directory"])
            return
        for checkpoint in (run.reference, *run.candidates):
            corpus.verify_directory(Path(checkpoint.path))
        run.engine.preflight(run.reference, run.candidates)
        parent = run.config.invocation_params.dir / run.config.option.run_dir
        stamp = f"{run.started:%Y%m%dT%H%M%S}-{next(iter(run.specs))}"
        name = run.config.option.run_name or stamp
        if _clean(name) != name:
            raise OptionError(f"--run-name {name!r}: use letters, digits, '.', '_', '@' and '-' only")
        record.claim(parent / name)
        run.directory = parent / name
        run.git = record.git_state(run.config.rootpath)
        work.write_corpora(run.directory, run.corpora)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """pytest-xdist: tell each worker where the run's directory is."""
        node.workerinput["harness_directory"] = str(self.run.directory)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.run.selected = [case for item in session.items if (case := _case_of(item)) is not None]

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            if case := _case_of(item):
                self.run.reports[case.candidate, case.limit.id] = "deselected"

    def pytest_report_header(self) -> list[str]:
        run = self.run
        lines = [f"policy: {run.policy.path} ({run.policy.digest[:12]}, {len(run.policy.limits)} limits)"]
        if run.reference is not None:
            for role, item in (("reference", run.reference), *(("candidate", item) for item in run.candidates)):
                lines.append(f"{role}: {item.spec} ({item.short}{', adapter on ' + item.base if item.base else ''})")
            lines.append("engine: " + ", ".join(f"{k} {v}" for k, v in run.engine.describe().items()))
            judge = run.judge.describe() if run.judge else {"name": "none"}
            lines.append("judge: " + ", ".join(f"{k} {v}" for k, v in judge.items()))
            lines.append(f"run: {run.directory}")
        return lines

    # ------------------------------------------------------------ while cases run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what the case answered off its report; a PASS counts only where the case itself passed."""
        if self.worker is not None:
            return
        properties = dict(report.user_properties)
        key = tuple(json.loads(str(properties[CASE]))) if CASE in properties else None
        finding = record.load_finding(str(properties[FINDING])) if FINDING in properties else None
        report.user_properties = [item for item in report.user_properties if item[0] not in {CASE, FINDING}]
        if key is None:
            return
        run = self.run
        if finding is not None and report.when == "call":
            if finding.outcome is Outcome.PASS and (not report.passed or hasattr(report, "wasxfail")):
                run.reports[key] = f"its case did not pass: {_why(report)}"
            else:
                run.findings.append(finding)
        elif report.when == "teardown" and not report.passed:
            run.findings = [item for item in run.findings if (item.candidate, item.limit.id) != key]
            run.reports[key] = f"its teardown failed: {_why(report)}"
        elif finding is None and (report.when == "call" or not report.passed):
            run.reports[key] = _why(report) or "the case handed nothing to check()"

    # ------------------------------------------------------------ at the end

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        run = self.run
        if self.worker is not None or run.collect_only or run.reference is None or not run.directory.name:
            return
        run.written = self._record(session, exitstatus)
        record.write(run.written, run.directory)
        self._clear_work()
        if not run.written.partial and not run.written.released and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._publish(run.written)

    def _record(self, session: pytest.Session, exitstatus: int) -> record.RunRecord:
        run = self.run
        assert run.reference is not None
        names = [item.name for item in run.candidates]
        findings = policy.correct(run.findings)
        answered = {(item.candidate, item.limit.id) for item in findings}
        ended = exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
        unanswered = {
            (name, limit.id): self._unanswered(name, limit, ended)
            for name in names
            for limit in run.policy.limits
            if (name, limit.id) not in answered
        }
        partial = bool(run.config.option.partial)
        return record.RunRecord(
            schema_number=record.SCHEMA,
            run=run.directory.name,
            started=run.started.isoformat(timespec="seconds"),
            seconds=(record.now() - run.started).total_seconds(),
            status="interrupted" if ended else "complete",
            partial=partial,
            command=("pytest", *map(str, run.config.invocation_params.args)),
            versions=record.environment(),
            git=run.git,
            engine=dict(run.engine.describe()),
            options=run.options,
            judge=dict(run.judge.describe()) if run.judge else {},
            reference=run.reference,
            candidates=run.candidates,
            policy=record.PolicyFacts(
                path=run.policy.path,
                digest=run.policy.digest,
                text=run.policy.text,
                limits=run.policy.limits,
                decoding=run.policy.decoding,
            ),
            corpora=tuple(
                record.CorpusFacts(
                    name=name, digest=item.digest, rows=len(item.items), source=item.source, version=item.version
                )
                for name, item in run.corpora.items()
            ),
            findings=tuple(findings),
            unanswered=tuple(
                record.Unanswered(candidate=name, limit=limit, why=why) for (name, limit), why in unanswered.items()
            ),
            verdicts=gate.decide_all(run.policy.limits, names, findings, unanswered, partial=partial),
            warnings=tuple(run.trouble),
            tables=record.list_tables(run.directory),
        )

    def _unanswered(self, candidate: str, limit: Limit, ended: bool) -> str:
        if why := self.run.reports.get((candidate, limit.id)):
            return why
        if ended:
            return "the run was interrupted"
        return f"no case for {limit.metric} ran to its end (not collected, deselected, or its worker died)"

    def _clear_work(self) -> None:
        """Whole first-token distributions are large; what was read off them is kept."""
        import shutil

        shutil.rmtree(self.run.directory / "work", ignore_errors=True)
        (self.run.directory / "work.lock").unlink(missing_ok=True)

    def _publish(self, written: record.RunRecord) -> None:
        """The page and the step summary; if one fails the verdict stands, and the run says so."""
        from harness.report import html, markdown

        try:
            html.write(written, self.run.directory)
        except Exception as error:  # the verdict is in the record and must reach the user
            self.run.trouble.append(
                f"the report could not be written ({type(error).__name__}: {error}); the record is whole: "
                f"python -m harness report {self.run.directory}"
            )
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            try:
                with Path(summary).open("a", encoding="utf-8") as file:
                    file.write(markdown.step_summary(written))
            except OSError as error:
                self.run.trouble.append(f"$GITHUB_STEP_SUMMARY could not be written: {error}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.run.written is None:
            return
        from harness.report.terminal import closing_table

        terminalreporter.section("verdict")
        width = terminalreporter.fullwidth if hasattr(terminalreporter, "fullwidth") else 80
        width = getattr(terminalreporter._tw, "fullwidth", width)
        terminalreporter.write(closing_table(self.run.written, width=width, color=terminalreporter.hasmarkup))
        for line in self.run.trouble:
            terminalreporter.write_line(f"warning: {line}", yellow=True)
        terminalreporter.write_line(f"record: {self.run.directory / record.FILE}")
        terminalreporter.write_line(f"report: {self.run.directory / 'report.html'}")


def _why(report: pytest.TestReport) -> str:
    """One line of why a report is not a plain pass."""
    if hasattr(report, "wasxfail"):
        return f"xfail: {report.wasxfail or 'no reason'}"
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr or "failed")
    return text.strip().splitlines()[0] if text.strip() else "failed"
