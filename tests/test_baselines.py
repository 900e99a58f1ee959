"""Naming a stored run as a baseline, finding it again unchanged, and telling what cannot be compared with it."""

import hashlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from blessing import Place
from project import POLICY

from harness import baselines, gate, noise, policy, record, session, tables, verdicts, work
from harness.conditions import Setting
from harness.domain import Decision, Decoding, Limit, TaskItem, TaskResult, TaskSpec
from harness.errors import MeasurementError, OptionError, PolicyError, RecordError
from harness.record import BaselineFacts, TableFile
from harness.report.commands import baselines as page
from harness.reuse import asked_so


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Where one run was made, whose candidate was released."""
    place = Place(tmp_path_factory.mktemp("place"))
    done = place.gate("first")
    assert done.returncode == 0, done.stdout
    return place


@pytest.fixture
def runs(made, tmp_path):
    """A run directory of a test's own, with that run in it."""
    shutil.copytree(made.runs / "first", tmp_path / "first")
    return tmp_path


def remake(run, **changes):
    """The run, otherwise; its verdicts are those that follow."""
    stored = record.read(run, check_tables=False).model_copy(update=changes)
    names = [item.name for item in stored.candidates]
    unanswered = {
        (name, limit.id): "never ran"
        for name in names
        for limit in stored.policy.limits
        if (name, limit.id) not in {(item.candidate, item.limit.id) for item in stored.findings}
    }
    given = [record.Unanswered(candidate=name, limit=limit, why=why) for (name, limit), why in unanswered.items()]
    found = gate.decide_all(
        stored.policy.limits,
        names,
        stored.findings,
        unanswered,
        partial=stored.partial,
        interrupted=stored.status != "complete",
    )
    (run / record.FILE).unlink()
    record.write(stored.model_copy(update={"verdicts": found, "unanswered": tuple(given)}), run)


def of(run):
    return record.read(run, check_tables=False)


# ---------------------------------------------------------------- bless


def test_a_blessed_run_stands_in_the_file_by_what_it_is(runs):
    done = baselines.bless(runs / "first", "prod")
    stored = of(runs / "first")
    holder = baselines.read(runs)["prod"]
    assert (holder.run, holder.candidate, holder.although) == ("first", "good", "")
    assert holder.identity == stored.candidates[0].identity
    assert holder.sha256 == hashlib.sha256((runs / "first" / "record.json").read_bytes()).hexdigest()
    assert (done.new, done.replaced, done.note) == (True, None, "")
    assert json.loads((runs / "baselines.json").read_text())["schema_number"] == 1


def test_the_file_may_lie_elsewhere_and_the_run_is_found_from_there(runs):
    baselines.bless(runs / "first" / "record.json", "prod", run_dir=runs / "names")
    assert baselines.read(runs / "names")["prod"].run == "../first"
    assert baselines.read(runs) == {}
    assert baselines.open_baseline(runs / "names", "prod").checkpoint.name == "good"


def other_candidate(run):
    (good,) = of(run).candidates
    remake(run, candidates=(good, replace(good, name="second", identity="5" * 64)))


def itself(run):
    stored = of(run)
    (good,) = stored.candidates
    again = replace(good, identity=stored.reference.identity)
    remake(run, candidates=(again,), options=replace(stored.options, allow_identical=True))


def served(run):
    (good,) = of(run).candidates
    remake(run, candidates=(replace(good, served="http://localhost:8000"),))


def damaged(run):
    (run / "record.json").write_text('{"schema_number": 4}')


def changed_table(run):
    path = next(run.glob("tables/good/*.labels.parquet"))
    path.write_bytes(path.read_bytes() + b"x")


def changed_verdict(run):
    text = (run / "record.json").read_text()
    (run / "record.json").write_text(text.replace('"decision": "release"', '"decision": "no verdict"'))


@pytest.mark.parametrize(
    ("change", "given", "error", "message"),
    [
        (
            None,
            {"name": "-prod"},
            OptionError,
            r"--as '-prod': a baseline's name is of letters.*harness bless RUN --as",
        ),
        (None, {"name": "a@b"}, OptionError, "--as 'a@b'"),
        (shutil.rmtree, {}, RecordError, "no run directory"),
        (damaged, {}, RecordError, "record.json is damaged at"),
        (changed_table, {}, RecordError, "labels.parquet is missing or not the table"),
        (changed_verdict, {}, RecordError, "does not follow from the findings"),
        (other_candidate, {}, OptionError, "has 2 candidates; name one with --candidate: good, second"),
        (None, {"candidate": "best"}, OptionError, "has no candidate 'best'; it has: good"),
        (
            other_candidate,
            {"candidate": "second"},
            OptionError,
            "the run was blocked, so second was not released;.*--although-blocked",
        ),
        (lambda run: remake(run, partial=True), {}, OptionError, "the run was partial"),
        (lambda run: remake(run, status="interrupted"), {}, OptionError, "the run was interrupted"),
        (served, {}, OptionError, "good was a served model: which weights answered was not seen"),
        (itself, {}, OptionError, r"good is the reference itself \(an A/A run"),
        (itself, {"although_blocked": True}, OptionError, r"good is the reference itself \(an A/A run"),
    ],
)
def test_what_cannot_be_a_baseline_is_said_and_nothing_is_written(runs, change, given, error, message):
    if change is not None:
        change(runs / "first")
    with pytest.raises(error, match=message):
        baselines.bless(runs / "first", **{"name": "prod", **given})
    assert not (runs / "baselines.json").exists()


def test_of_several_candidates_the_released_one_can_be_named(runs):
    other_candidate(runs / "first")
    assert baselines.bless(runs / "first", "prod", candidate="good").holder.although == ""


@pytest.mark.parametrize(
    ("changes", "word"), [({"partial": True}, "partial"), ({"status": "interrupted"}, "interrupted")]
)
def test_what_was_not_released_is_blessed_on_demand_and_it_stays_on_it(runs, changes, word):
    remake(runs / "first", **changes)
    done = baselines.bless(runs / "first", "prod", although_blocked=True)
    assert done.holder.although == word
    assert baselines.describe(done.holder).endswith(f", blessed although {word}")
    assert baselines.open_baseline(runs, "prod").facts.although == word


def test_a_name_is_taken_from_its_run_only_by_force_and_the_history_keeps_it(runs):
    shutil.copytree(runs / "first", runs / "second")
    remake(runs / "second", seconds=1.5)
    first = baselines.bless(runs / "first", "prod").holder
    before = (runs / "baselines.json").read_bytes()
    with pytest.raises(OptionError, match=r"'prod' is run first, candidate good \([0-9a-f]{12}\) already.*--force"):
        baselines.bless(runs / "second", "prod")
    assert (runs / "baselines.json").read_bytes() == before
    done = baselines.bless(runs / "second", "prod", force=True)
    assert (done.replaced, baselines.read(runs)["prod"].run) == (first, "second")
    (former,) = json.loads((runs / "baselines.json").read_text())["history"]
    (runs / "second").rename(runs / "third")
    with pytest.raises(OptionError, match="'prod' is run second"):
        baselines.bless(runs / "third", "prod")
    assert (former["name"], former["run"], former["until"]) == ("prod", "first", done.holder.blessed)


def test_blessing_the_same_again_changes_nothing(runs):
    baselines.bless(runs / "first", "prod")
    before = (runs / "baselines.json").read_bytes()
    assert not baselines.bless(runs / "first", "prod").new
    assert (runs / "baselines.json").read_bytes() == before


def test_blessings_at_the_same_time_are_all_kept(runs):
    names = [f"n{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: baselines.bless(runs / "first", name), names))
    assert sorted(baselines.read(runs)) == names


def test_a_run_that_stopped_early_is_blessed_with_a_note(runs):
    remake(runs / "first", early_stop=True)
    assert "limits on answers are not comparable" in baselines.bless(runs / "first", "prod").note


def test_what_was_done_is_told_with_what_it_replaced(runs):
    shutil.copytree(runs / "first", runs / "second")
    remake(runs / "second", partial=True)
    baselines.bless(runs / "second", "prod", although_blocked=True)
    done = baselines.bless(runs / "first", "prod", force=True)
    said = page.blessed(done, width=300, color=False).splitlines()
    short = done.holder.identity[:12]
    assert said[0] == f"baseline prod is run first, candidate good ({short})"
    before = f"before: run second, candidate good ({short}), blessed although partial, blessed {done.replaced.blessed}"
    assert said[1] == before
    again = page.blessed(baselines.bless(runs / "first", "prod"), width=300, color=False)
    assert again.startswith(f"baseline prod is already run first, candidate good ({short})\n")
    assert "written to" not in again


def test_the_list_shows_what_cannot_be_used_and_no_control_characters(runs):
    baselines.bless(runs / "first", "prod")
    baselines.bless(runs / "first", "gone")
    path = runs / "baselines.json"
    data = json.loads(path.read_text())
    data["baselines"]["gone"]["run"] = "\x1b[31mnone\u202e"
    path.write_text(json.dumps(data))
    said = page.listed(baselines.read(runs), runs, width=300, color=False)
    assert f"prod  RELEASE, blessed {data['baselines']['prod']['blessed']}" in said
    assert "gone  cannot be used: no run directory" in said
    assert r"run \x1b[31mnone\u202e, candidate good" in said
    assert not {"\x1b", "\u202e"} & set(said)
    assert "nothing is blessed in" in page.listed({}, runs, width=80, color=False)


# ---------------------------------------------------------------- finding it again


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"baselines.json is damaged at its whole .*; restore it, or remove it and bless again"),
        ('{"schema_number": 1, "baselines": {"prod": {"run": "first"}}}', "damaged at baselines.prod.candidate"),
        ('{"schema_number": 2}', "has schema 2, this version reads 1; update dpo-harness"),
        ('{"schema_number": 0}', "damaged"),
        ('{"schema_number": 1, "default": "prod"}', "damaged at default"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_and_never_an_empty_one(runs, text, message):
    (runs / "baselines.json").write_text(text)
    for ask in (lambda: baselines.find(runs, "prod"), lambda: baselines.bless(runs / "first", "prod", force=True)):
        with pytest.raises(RecordError, match=message):
            ask()
    assert (runs / "baselines.json").read_text() == text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reports/first", "--baseline 'reports/first': a baseline's name is .*gets one by python -m harness bless"),
        ("prd", r"--baseline prd: no such baseline; did you mean 'prod'\? there are: prod .*bless --list --run-dir"),
        ("", "--baseline ''"),
    ],
)
def test_an_unknown_name_is_an_error_that_says_which_there_are(runs, name, message):
    baselines.bless(runs / "first", "prod")
    with pytest.raises(OptionError, match=message):
        baselines.find(runs, name)


def test_where_nothing_is_blessed_the_command_that_does_it_is_named(tmp_path):
    with pytest.raises(OptionError, match="nothing is blessed in .*python -m harness bless RUN --as prod"):
        baselines.find(tmp_path, "prod")


def edit(runs, **fields):
    path = runs / "baselines.json"
    data = json.loads(path.read_text())
    data["baselines"]["prod"] |= fields
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda runs: shutil.rmtree(runs / "first"),
            "--baseline prod: no run directory .*; see python -m harness bless",
        ),
        (lambda runs: changed_table(runs / "first"), "--baseline prod: .*labels.parquet is missing or not the table"),
        (lambda runs: remake(runs / "first", seconds=1.5), "another record than the one that was blessed"),
        (lambda runs: edit(runs, identity="0" * 64), "says something else of good than the record does"),
        (lambda runs: edit(runs, although="blocked"), "says something else of good than the record does"),
        (lambda runs: edit(runs, candidate="ref"), "has no candidate 'ref'"),
    ],
)
def test_a_baseline_that_is_not_what_was_blessed_is_refused(runs, change, message):
    baselines.bless(runs / "first", "prod")
    change(runs)
    with pytest.raises(OptionError, match=message):
        baselines.open_baseline(runs, "prod")


def test_a_blocked_run_whose_file_says_it_was_released_is_refused(runs):
    remake(runs / "first", partial=True)
    baselines.bless(runs / "first", "prod", although_blocked=True)
    edit(runs, although="")
    with pytest.raises(OptionError, match="says something else of good"):
        baselines.open_baseline(runs, "prod")


# ---------------------------------------------------------------- holding candidates against it


def opened(runs):
    baselines.bless(runs / "first", "prod")
    return baselines.open_baseline(runs, "prod")


def now_of(blessed, **changes):
    """A run in progress that asks as the blessed one did, but for ``changes``."""
    then = Setting.of(blessed.record)
    return replace(then, policy=policy.with_baseline(then.policy, "prod"), **changes)


def hold(blessed, now, candidate=None):
    return baselines.hold(blessed, now, blessed.record.reference, (candidate or blessed.checkpoint,))


def test_what_is_asked_alike_is_comparable(runs):
    held = hold(blessed := opened(runs), now_of(blessed))
    assert held.unlike == {}
    before = tables.read_labelled(
        *(runs / f"first/tables/good/unsafe.{kind}.parquet" for kind in ("completions", "labels"))
    )
    assert held.labels("unsafe") == before
    assert [row.pair_id for row in held.masses("pairs")] == [f"q{number:03d}" for number in range(200)]
    assert held.scores("pairs") == tables.read_scores(runs / "first/tables/good/pairs.scores.parquet")


ANSWERS, PAIRS = {"drop@prod", "over@prod"}, {"yes-for-no@prod", "fell@prod"}


@pytest.mark.parametrize(
    ("changes", "limits", "message"),
    [
        (
            {"decoding": Decoding(max_new_tokens=16)},
            ANSWERS,
            "decoding: max_new_tokens 128, then 16; gate .*good as this",
        ),
        ({"judge": {"name": "phrases"}}, ANSWERS, "judge: name mumbling, then phrases.*with --reuse .*only read again"),
        ({"lexicon": "f" * 64}, {"yes-for-no@prod"}, "policy: lexicon .*then ffffffffffff"),
        ({"engine": {"engine": "fake", "device": "cuda"}}, ANSWERS | PAIRS, "engine: device none, then cuda"),
        ({"versions": {"dpo-harness": "9"}}, ANSWERS | PAIRS, "version: dpo-harness .*, then 9"),
        ({"early_stop": True}, ANSWERS, "generation may stop early.*leave --early-stop out"),
    ],
)
def test_what_is_asked_otherwise_has_a_reason_and_no_number(runs, changes, limits, message):
    held = hold(blessed := opened(runs), now_of(blessed, **changes))
    assert set(held.unlike) == limits
    for why in held.unlike.values():
        assert why.startswith("x: not comparable with baseline prod: ")
    assert re.search(message, next(iter(held.unlike.values())))


def test_another_corpus_of_that_name_is_not_comparable(runs):
    blessed = opened(runs)
    now = now_of(blessed)
    held = hold(blessed, replace(now, digests={**now.digests, "unsafe": "f" * 64}))
    assert list(held.unlike) == ["drop@prod"]
    assert "corpus: what is asked of unsafe" in held.unlike["drop@prod"]


def test_a_baseline_that_stopped_early_says_so_also_where_this_run_may_too(runs):
    remake(runs / "first", early_stop=True)
    blessed = opened(runs)
    assert set(hold(blessed, now_of(blessed, early_stop=False)).unlike) == ANSWERS
    assert set(hold(blessed, now_of(blessed)).unlike) == ANSWERS


def test_a_bound_alpha_or_unit_that_changed_since_is_no_hindrance(runs):
    """The number is measured now, from what was kept."""
    blessed = opened(runs)
    text = POLICY.replace("max: 0.05", "max: 0.1, alpha: 0.01").replace("min: -5.0", "min: -5.0, unit: nats/token")
    rules = policy.with_baseline(policy.parse(text.encode(), Path(blessed.record.policy.path)), "prod")
    assert rules.limits[0].alpha != blessed.record.policy.limits[0].alpha
    assert hold(blessed, replace(now_of(blessed), policy=rules)).unlike == {}


@pytest.mark.parametrize(("field", "word"), [("tokenizer", "tokenizer"), ("template", "chat template")])
def test_another_tokenizer_or_template_is_an_error_before_work(runs, field, word):
    blessed = opened(runs)
    reference, candidate = (
        replace(item, **{field: "other"}) for item in (blessed.record.reference, blessed.checkpoint)
    )
    with pytest.raises(OptionError, match=f"--baseline prod: .* has another {word} than .*choose another baseline"):
        baselines.hold(blessed, now_of(blessed), reference, (candidate,))
    saved_again = baselines.hold(blessed, now_of(blessed), blessed.record.reference, (candidate,))
    assert saved_again.unlike == {}, "the run's own preflight compares it with the reference"


@pytest.mark.parametrize(
    ("kind", "limit"), [("labels", "over@prod"), ("masses", "yes-for-no@prod"), ("scores", "fell@prod")]
)
def test_a_table_that_the_baseline_did_not_keep_is_an_error_before_work(runs, kind, limit):
    corpus = {"labels": "benign"}.get(kind, "pairs")
    kept = [
        item
        for item in of(runs / "first").tables
        if (item.checkpoint, item.corpus, item.kind) != ("good", corpus, kind)
    ]
    remake(runs / "first", tables=tuple(kept))
    blessed = opened(runs)
    with pytest.raises(
        OptionError, match=f"limit '{limit}' needs .*tables/good/{corpus}.{kind}.parquet, which that run"
    ):
        hold(blessed, now_of(blessed))


TASKS = POLICY + "  - {id: arc, metric: task_accuracy_drop, task: arc_easy, max: 0.05}\n"


def test_a_task_is_comparable_where_it_was_asked_alike(runs):
    stored = of(runs / "first")
    rules = policy.parse(TASKS.encode(), Path(stored.policy.path))
    asked = rules.tasks["arc_easy"]
    path = runs / "first/tables/good/arc_easy.task.parquet"
    facts = stored.policy.model_copy(update={"text": TASKS, "digest": rules.digest, "limits": rules.limits})
    for few_shot, unlike in ((asked.num_fewshot, []), (5, ["arc@prod"])):
        result = TaskResult((TaskItem("t0", "d", 1.0),), _basis(replace(asked, num_fewshot=few_shot)))
        tables.write_task(path, result)
        assert asked_so(path, asked) is not bool(unlike)
        table = TableFile(
            path="tables/good/arc_easy.task.parquet",
            kind="task",
            checkpoint="good",
            corpus="arc_easy",
            sha256=record.file_digest(path),
        )
        remake(runs / "first", policy=facts, tables=(*stored.tables, table))
        baselines.bless(runs / "first", "prod", although_blocked=True, force=True)
        blessed = baselines.open_baseline(runs, "prod")
        held = hold(blessed, now_of(blessed))
        assert list(held.unlike) == unlike
    assert "the task was asked otherwise" in held.unlike["arc@prod"]


def _basis(spec: TaskSpec) -> dict[str, str]:
    from harness.engines.capability.tasks import asked

    return {**asked(spec), "version": "1"}


# ---------------------------------------------------------------- what a case is given


def comparison(limit, stored=None):
    none = dict.fromkeys(("labels", "scores", "task", "first_tokens"))
    bench = SimpleNamespace(baseline=stored, reference="the reference", early=lambda corpus: "early", **none)
    return work.Comparison(bench, SimpleNamespace(name="c"), limit)


HELD = Limit("yes@prod", "opposite_mass_rise", "pairs", maximum=0.05, baseline="prod")


def test_a_case_gets_only_what_a_stored_run_has(runs):
    stored = work.Stored("prod", SimpleNamespace(name="good"), runs / "first")
    case = comparison(HELD, stored)
    assert (case.reference, case.early) == (stored.checkpoint, None)
    with pytest.raises(MeasurementError, match=r"'prod' has none: for a limit with a baseline use comparison.masses"):
        case.first_tokens("pairs")
    for ask in (case.similarities, case.gradients):
        with pytest.raises(MeasurementError, match="are the reference's own"):
            ask("pairs")
    with pytest.raises(MeasurementError, match="asked for 'other'"):
        case.labels("other")
    with pytest.raises(MeasurementError, match="'yes' is not one of a baseline: ask for comparison.first_tokens"):
        comparison(replace(HELD, id="yes", baseline="")).masses("pairs")


def test_a_limit_whose_baseline_is_not_open_or_not_comparable_has_no_data(runs):
    for stored, message in (
        (None, "baseline 'prod', which is not open"),
        (work.Stored("last", SimpleNamespace(name="good"), runs / "first"), "baseline 'prod', which is not open"),
        (work.Stored("prod", SimpleNamespace(name="good"), runs, {}, {"yes@prod": "x: other"}), "^x: other$"),
    ):
        for ask in ("labels", "scores", "task", "masses", "first_tokens"):
            with pytest.raises(MeasurementError, match=message):
                getattr(comparison(HELD, stored), ask)("pairs")


def test_masses_with_other_columns_are_damage(runs):
    path = runs / "first/tables/good/pairs.masses.parquet"
    tables.write_frame(path, {"pair_id": ["q"], "mass": [0.1]})
    with pytest.raises(RecordError, match="masses.parquet has other columns"):
        work.Stored("prod", SimpleNamespace(name="good"), runs / "first", {path: tables.file_digest(path)}).masses(
            "pairs"
        )


def test_a_table_that_changed_after_the_baseline_was_opened_is_not_read(runs):
    path = runs / "first/tables/good/pairs.masses.parquet"
    stored = work.Stored("prod", SimpleNamespace(name="good"), runs / "first", {path: tables.file_digest(path)})
    assert stored.masses("pairs")
    tables.write_frame(path, {"pair_id": ["q"], "mass": [0.1]})
    with pytest.raises(RecordError, match="is missing or not the table that the record of baseline 'prod' was made"):
        stored.masses("pairs")
    path.unlink()
    with pytest.raises(RecordError, match="is missing or not the table"):
        stored.masses("pairs")


# ---------------------------------------------------------------- record, policy, noise


def test_a_record_with_limits_of_a_baseline_names_it_and_the_other_way_round(runs):
    stored = of(runs / "first")
    facts = BaselineFacts(name="prod", run="r", candidate="c", identity="0" * 64, sha256="1" * 64)
    more = policy.with_baseline(Setting.of(stored).policy, "prod").limits
    for limits, baseline in (
        (more, None),
        (stored.policy.limits, facts),
        (more, facts.model_copy(update={"name": "x"})),
    ):
        changed = stored.policy.model_copy(update={"limits": limits})
        remake(runs / "first", policy=changed, baseline=baseline)
        with pytest.raises(RecordError, match="the baseline of its limits is not the one that it names"):
            of(runs / "first")
        (runs / "first" / "record.json").write_text(stored.model_dump_json())


def test_the_verdict_is_decided_again_with_the_limits_of_the_baseline(runs):
    stored = of(runs / "first")
    facts = BaselineFacts(name="prod", run="r", candidate="c", identity="0" * 64, sha256="1" * 64)
    limits = policy.with_baseline(Setting.of(stored).policy, "prod").limits
    remake(runs / "first", policy=stored.policy.model_copy(update={"limits": limits}), baseline=facts)
    again = of(runs / "first")
    verdicts.check(again, runs)
    assert again.verdicts[0].decision is Decision.BLOCK
    assert "drop@prod: unanswered (never ran)" in again.verdicts[0].reasons
    released = again.model_copy(update={"verdicts": stored.verdicts})
    with pytest.raises(RecordError, match="does not follow"):
        verdicts.check(released, runs)


def test_a_policy_without_changes_has_nothing_to_hold_against_a_baseline():
    text = "corpora: {a: {path: a}}\njudge: {name: phrases}\n"
    text += "limits: [{id: d, metric: degenerate_rate, corpus: a, max: 0.1}]\n"
    with pytest.raises(PolicyError, match="a baseline adds nothing; leave --baseline out"):
        policy.with_baseline(policy.parse(text.encode(), Path("p.yaml")), "prod")


def test_a_noise_floor_holds_for_the_limits_of_a_baseline_too():
    rules = policy.with_baseline(policy.parse(POLICY.encode(), Path("p.yaml")), "prod")
    floors = [
        noise.Floor(
            metric=item.metric, corpus=item.corpus, unit=item.unit, alpha=item.alpha, n=9, value=0, low=-0.01, high=0.01
        )
        for item in rules.limits
        if not item.baseline
    ]
    alarms = noise.Alarms(replicates=0, failed=0, not_passed=0, limits=())
    found = noise.Noise(run="aa", basis={}, corpora={}, floors=tuple(floors), alarms=alarms)
    noise.check(found, rules.limits, {}, {}, Path("noise.json"))
    tight = [replace(item, maximum=0.001) if item.id == "drop@prod" else item for item in rules.limits]
    with pytest.raises(PolicyError, match="limit 'drop@prod' is at most 0.001, but the same model differs from itself"):
        noise.check(found, tight, {}, {}, Path("noise.json"))


def test_a_worker_that_finds_another_baseline_than_the_controller_stops(runs):
    baselines.bless(runs / "first", "prod")
    facts = baselines.open_baseline(runs, "prod").facts
    run = SimpleNamespace(
        config=SimpleNamespace(workerinput={"harness_baseline": facts.model_dump()}),
        same_twice=False,
        run_dir=runs,
        candidates=(),
        trouble=[],
    )
    assert session.Gatekeeper(run)._open_baseline("prod").facts == facts
    run.config.workerinput["harness_baseline"] = facts.model_dump() | {"sha256": "0" * 64}
    with pytest.raises(OptionError, match="another run was blessed while this one started"):
        session.Gatekeeper(run)._open_baseline("prod")
