"""pytest's side: options, cases, fixtures and ``check``.

A case marked ``@pytest.mark.limits("metric", ...)`` is run once for each limit of the policy on one of these metrics
and for each candidate. It measures, and hands the measurement to ``check``. What happens before the first case and
after the last one stands in ``session.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import asking, baselines, calibration, engines, judging, plan, policy, record, work
from harness.domain import EngineOptions, Finding, Lexicon, Limit, Measurement, Outcome, printable
from harness.engines import runs
from harness.errors import HarnessError, OptionError
from harness.protocols import Engine, Judge, OnProgress
from harness.session import CASE, FINDING, Case, Gatekeeper, Run, case_of, name_checkpoints, settle

_EXAMPLES = 5

# ---------------------------------------------------------------- options


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("harness", "gate a DPO checkpoint against its reference")
    group.addoption(
        "--candidate",
        action="append",
        default=[],
        metavar="CKPT",
        help="checkpoint under test: a directory, a hub id with @revision, a PEFT adapter directory, a training run "
        "(all its checkpoints), a quoted pattern, or URL#MODEL (--engine openai); repeatable",
    )
    group.addoption(
        "--reference",
        metavar="CKPT",
        help="what the candidate must not be worse than (default: what its training run says that it started from)",
    )
    group.addoption("--policy", metavar="FILE", help="what must hold (default: policy.yaml beside the cases)")
    group.addoption("--engine", metavar="NAME", help="what runs the checkpoints (default: the policy's, else hf)")
    group.addoption(
        "--engine-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the engine, before the policy's; repeatable",
    )
    group.addoption("--judge", metavar="NAME", help="what reads the answers (default: the policy's)")
    group.addoption("--repeats", type=int, metavar="K", help="answers per prompt, each with a seed of its own")
    group.addoption("--temperature", type=float, metavar="T", help="of the answers (default: the policy's)")
    group.addoption("--max-new-tokens", type=int, metavar="N", help="longest answer (default: the policy's)")
    group.addoption(
        "--early-stop",
        action="store_true",
        help="stop generating once the limits on a corpus are settled; keeps both models open",
    )
    group.addoption("--reuse", metavar="RUN", help="take answers and scores over from a stored run of the same models")
    group.addoption(
        "--baseline",
        metavar="NAME",
        help="hold candidates also against a blessed run (python -m harness bless): a second limit ID@NAME for each on "
        "a change from the reference",
    )
    group.addoption("--base", default="", metavar="CKPT", help="base of adapters, overriding their own config")
    group.addoption(
        "--chat-template",
        default="",
        metavar="FILE",
        help="Jinja template used for every checkpoint; raw: none, prompt and answer as they are",
    )
    group.addoption("--model-dtype", default="auto", metavar="DTYPE", help="auto, float32, bfloat16 or float16")
    group.addoption("--model-device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N")
    group.addoption("--batch-tokens", type=int, default=8192, metavar="N", help="padded tokens per forward pass")
    group.addoption("--trust-remote-code", action="store_true", help="run code that comes with a checkpoint")
    group.addoption("--allow-unsafe-weights", action="store_true", help="load pickle weights, which can run code")
    group.addoption("--allow-identical", action="store_true", help="compare a checkpoint with itself (A/A run)")
    group.addoption("--partial", action="store_true", help="only part of the policy is wanted; there is no verdict")
    group.addoption("--run-dir", default="reports", metavar="DIR", help="where run directories land (default: reports)")
    group.addoption("--run-name", default="", metavar="NAME", help="name of the run (default: time and candidate)")
    parser.addini("harness_policy", "the policy where none lies beside the cases", default="evals/policy.yaml")


RUN = pytest.StashKey[Run]()
POLICY = pytest.StashKey[policy.Policy]()
ENGINE = pytest.StashKey[Engine]()
"""An engine that another plugin puts in before ours is configured, in place of ``--engine``."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "limits(*metrics): answers the policy's limits on these metrics, a case for each limit and candidate"
    )
    if config.option.candidate or config.option.reference or config.option.baseline is not None:
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
        given = "--reference" if option.reference else "--baseline"
        raise OptionError(f"{given} without --candidate: name the checkpoint under test")
    _check_places(config)
    if ENGINE in config.stash:  # its checkpoints are no directories
        chosen = runs.Chosen(option.reference, tuple(option.candidate))
    else:
        chosen = runs.choose(option.reference, option.candidate, option.base)
    rules = _decoding(_policy(config), option)
    if option.baseline is not None:
        baselines.find(config.invocation_params.dir / option.run_dir, option.baseline)
        rules = policy.with_baseline(rules, option.baseline)
    config.stash[POLICY] = rules
    engine_source = judging.choose_engine(option.engine, option.engine_option, rules)
    options = EngineOptions(
        dtype=option.model_dtype,
        device=option.model_device,
        trust_remote_code=option.trust_remote_code,
        unsafe_weights=option.allow_unsafe_weights,
        chat_template=option.chat_template,
        base=option.base,
        batch_tokens=option.batch_tokens,
        allow_identical=option.allow_identical,
        settings=engine_source.options,
    )
    openers = judging.openers(rules.root, engine_source.name, options)
    source = rules.judge
    if option.judge and (source is None or source.name != option.judge):
        source = judging.choose_judge(option.judge, (), rules)
    judge = judging.create(source, openers) if source else None
    second = judging.create(rules.second_judge, openers) if rules.second_judge and judge else None
    reference_name, names = name_checkpoints(chosen.reference, chosen.candidates)
    specs = dict(zip(names, chosen.candidates, strict=True))
    engine = config.stash.get(ENGINE, None) or engines.create(engine_source.name, options)
    return Run(
        config,
        rules,
        options,
        engine,
        judge,
        specs,
        reference_name,
        chosen,
        second_judge=second,
        sentinels=judging.load_sentinels(source, rules.root),
        calibration=calibration.load(rules.root / source.calibration) if source and source.calibration else None,
    )


def _check_places(config: pytest.Config) -> None:
    """A pattern that the shell took apart leaves all checkpoints but the first where cases are named.

    Raises:
        OptionError: a checkpoint stands there.
    """
    for argument in config.args:
        path = config.invocation_params.dir / str(argument).split("::")[0]
        if path.is_dir() and runs.holds_model(path):
            raise OptionError(
                f"{argument} is a checkpoint and stands where cases are named, so it would not be tested; write "
                "--candidate before each, or quote the pattern: --candidate 'RUN/checkpoint-*'"
            )


def _decoding(rules: policy.Policy, option: Any) -> policy.Policy:
    """The policy with what the command line says of decoding.

    Raises:
        OptionError: several answers per prompt without a temperature, or a value out of range.
    """
    asked = {"samples": option.repeats, "temperature": option.temperature, "max_new_tokens": option.max_new_tokens}
    given = {name: value for name, value in asked.items() if value is not None}
    try:
        return replace(rules, decoding=replace(rules.decoding, **given)) if given else rules
    except ValueError as error:
        cure = "; add e.g. --temperature 0.7 (the paper's)" if option.repeats and not option.temperature else ""
        raise OptionError(f"--repeats, --temperature, --max-new-tokens: {error}{cure}") from None


def _policy(config: pytest.Config) -> policy.Policy:
    if POLICY not in config.stash:
        config.stash[POLICY] = policy.load(_policy_path(config))
    return config.stash[POLICY]


def _policy_path(config: pytest.Config) -> Path:
    """``--policy``; else the policy.yaml nearest to the cases asked for; else the ini option.

    pytest's root directory alone would not do: it takes checkpoint paths on the command line into account, and can so
    come to lie in another project, whose policy must not be taken for this one's.

    Raises:
        OptionError: the cases lie beside several policies.
    """
    here = config.invocation_params.dir.resolve()
    if config.option.policy:
        return here / str(config.option.policy)
    beside: set[Path] = set()
    for argument in config.args:
        start = (here / str(argument).split("::")[0]).resolve()
        upwards = [folder for folder in (start, *start.parents) if folder == here or here in folder.parents]
        near = [folder / "policy.yaml" for folder in upwards or (start, start.parent)]
        beside.update([path for path in near if path.is_file()][:1])
    if len(beside) > 1:
        names = ", ".join(sorted(os.path.relpath(path) for path in beside))
        raise OptionError(f"the cases asked for lie beside several policies ({names}); name one with --policy")
    if beside:
        return beside.pop()
    inside = config.rootpath == here or config.rootpath in here.parents
    return (config.rootpath if inside else here) / str(config.getini("harness_policy"))


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


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Leave out functions the policy has no limit for."""
    made = yield
    if isinstance(made, list):
        return [item for item in made if item.get_closest_marker("limits") is None or case_of(item) is not None]
    return made


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tell each case's report which limit it answers."""
    for item in items:
        if case := case_of(item):
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
    assert run.reference is not None
    if engine is not run.engine or judge is not run.judge:  # the suite has put its own in
        run.engine, run.judge = engine, judge
        try:
            if judge is not None:
                judging.check(judge)
            settle(run)
        except HarnessError as error:
            pytest.fail(str(error), pytrace=False)
    return work.Bench(
        directory=run.directory,
        policy=run.policy,
        engine=engine,
        judge=judge,
        reference=run.reference,
        candidates=run.candidates,
        corpora=run.corpora,
        tasks=plan.plan(run.policy, [(case.candidate, case.limit) for case in run.selected]),
        allow_identical=run.options.allow_identical,
        second_judge=run.second_judge,
        sentinels=run.sentinels,
        calibration=run.calibration,
        early_stop=run.early_stop,
        earlier=run.earlier,
        progress=_progress(pytestconfig),
        baseline=run.held,
    )


@pytest.fixture
def comparison(case: Case, bench: work.Bench) -> work.Comparison:
    """This case's candidate beside the reference, or the baseline: ``labels``, ``scores``, ... of a corpus."""
    candidate = next(item for item in bench.candidates if item.name == case.candidate)
    return work.Comparison(bench, candidate, case.limit)


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
        run = node.config.stash[RUN]
        if why := run.unlike(case.limit) or run.unasked(case.candidate, case.limit):
            finding = Finding(case.limit, case.candidate, Outcome.INVALID, why)
            _answer(node, finding)
            return finding
        if run.early_stop and not measurement.planned and run.follows(case.limit):
            problem = "generation may have stopped early, and its interval does not hold then (early=comparison.early)"
            measurement = replace(measurement, problem=measurement.problem or problem)
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
    if finding.measurement and finding.outcome is Outcome.FAIL:
        flips = [
            f"{change.replace('->', ' -> ')} {count:g}"
            for change, count in finding.measurement.counts.items()
            if count and len(set(change.split("->"))) == 2
        ]
        examples = ", ".join(map(visible, finding.measurement.examples[:_EXAMPLES]))
        yield "  " + "; ".join(filter(None, [", ".join(flips), examples and f"for example {examples}"]))
    yield f"  report: {os.path.relpath(config.stash[RUN].directory / 'report.html')}"


def _properties(finding: Finding) -> Iterator[tuple[str, object]]:
    """Flat JUnit properties."""
    yield "limit", finding.limit.id
    yield "candidate", finding.candidate
    yield "severity", finding.limit.severity.value
    yield "outcome", finding.outcome.value
    yield "bound", finding.limit.describe()
    if finding.limit.baseline:
        yield "baseline", finding.limit.baseline
    if m := finding.measurement:
        yield from (("metric", m.metric), ("value", m.value), ("low", m.low), ("high", m.high), ("n", m.n))
        yield from (("reference_value", m.reference), ("candidate_value", m.candidate), ("unreadable", m.unreadable))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """What could not be measured is INVALID, in one line, instead of a traceback."""
    case = case_of(pyfuncitem)
    try:
        return (yield)
    except HarnessError as error:
        if case is None or any(name == FINDING for name, _ in pyfuncitem.user_properties):
            raise
        unlike = pyfuncitem.config.stash[RUN].unlike(case.limit)
        reason = unlike or printable(f"{case.limit.metric} could not be measured: INVALID; {error}")
    _answer(pyfuncitem, Finding(case.limit, case.candidate, Outcome.INVALID, reason))
    return True


def _progress(config: pytest.Config) -> asking.Progress:
    """Bars with an ETA on a terminal, through pytest's capturing; nothing elsewhere."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None or capture is None or not reporter.isatty or hasattr(config, "workerinput"):
        return asking.silent

    @contextmanager
    def bar(what: str, total: int) -> Iterator[OnProgress]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with capture.global_and_fixture_disabled(), Progress(*columns, transient=True) as progress:
            task = progress.add_task(what, total=total or None)  # of a task not known before
            yield lambda count: progress.advance(task, count)

    return bar
