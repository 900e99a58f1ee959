"""Runs against a blessed one, from outside: the cases, what models are asked, the verdict and what is shown of it.

All runs are made in one place with fake checkpoints (``fakes.py``); everything else is real.
"""

import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from blessing import Place
from fakes import write_checkpoint

from harness import record, tables
from harness.domain import Decision, Label, Outcome
from harness.report.rows import peaks
from harness.report.summarize import summarize

USAGE = int(pytest.ExitCode.USAGE_ERROR)
LIMITS = ["drop", "over", "yes-for-no", "fell"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """``first`` was released and is blessed as ``prod``."""
    place = Place(tmp_path_factory.mktemp("place"))
    assert place.gate("first").returncode == 0
    blessed = place.harness("bless", "reports/first", "--as", "prod")
    assert (blessed.returncode, blessed.stderr) == (0, "")
    identity = place.stored("first").candidates[0].short
    assert f"baseline prod is run first, candidate good ({identity})" in blessed.stdout
    assert "written to reports/baselines.json" in blessed.stdout
    place.asked()
    return place


def findings(stored):
    return {item.limit.id: item for item in stored.findings}


def rate(place, run, checkpoint, corpus, label):
    """The share of a label, counted in the tables."""
    folder = place.runs / run / "tables" / checkpoint
    rows = tables.read_labelled(*(folder / f"{corpus}.{kind}.parquet" for kind in ("completions", "labels")))
    return sum(row.label is label for row in rows) / len(rows)


# ---------------------------------------------------------------- against a baseline


def test_a_worse_candidate_is_blocked_by_the_baseline_s_limits_too(place):
    write_checkpoint(place.path / "worse", refuse=0.3, opposite=0.2, chosen=-9.5, wobble=0.2)
    done = place.gate("second", "--baseline=prod", "--junitxml=junit.xml", "-v", candidate="worse")
    assert done.returncode == 1, done.stdout
    assert {line.split()[1] for line in place.asked()} == {"worse", "ref"}, "no model is run for the baseline"
    stored = place.stored("second")
    found = findings(stored)
    assert [item.id for item in stored.policy.limits] == [*LIMITS, *(f"{name}@prod" for name in LIMITS)]
    assert [stored.verdicts[0].decision, *{item.outcome for key, item in found.items() if "drop" in key}] == [
        Decision.BLOCK,
        Outcome.FAIL,
    ]
    assert any(reason.startswith("drop@prod: refusal_rate_drop") for reason in stored.verdicts[0].reasons)
    assert "test_refusal_rate[drop@prod] FAILED" in done.stdout

    before, after = (rate(place, *where, "unsafe", Label.REFUSAL) for where in (("first", "good"), ("second", "worse")))
    m = found["drop@prod"].measurement
    assert (m.reference, m.candidate) == pytest.approx((before, after))
    assert m.value == pytest.approx(before - after)
    scores = [
        [item.chosen.logprob for item in tables.read_scores(place.runs / run / f"tables/{name}/pairs.scores.parquet")]
        for run, name in (("first", "good"), ("second", "worse"))
    ]
    assert found["fell@prod"].measurement.value == pytest.approx(np.mean(np.subtract(scores[1], scores[0])))
    mass = found["yes-for-no@prod"].measurement
    assert (mass.reference, mass.candidate) == pytest.approx((0.06, 0.2), abs=1e-6), "the fakes' own"
    assert found["yes-for-no"].measurement.reference == pytest.approx(0.05, abs=1e-6)

    line = f"baseline prod: run first, candidate good ({place.stored('first').candidates[0].short})"
    header, closing = done.stdout.split("= verdict =")
    assert (header.count(line), closing.count(line)) == (1, 1)
    assert "power: drop@prod" not in done.stdout
    assert "4 limits, 4 more by the baseline" in header
    assert stored.baseline.model_dump() == {
        "name": "prod",
        "run": "first",
        "candidate": "good",
        "identity": place.stored("first").candidates[0].identity,
        "sha256": record.file_digest(place.runs / "first" / "record.json"),
        "although": "",
    }
    named = {
        properties["limit"]: properties.get("baseline")
        for case in ElementTree.parse(place.path / "junit.xml").iter("testcase")
        if (properties := {item.get("name"): item.get("value") for item in case.iter("property")})
    }
    assert named == {**dict.fromkeys(LIMITS), **{f"{name}@prod": "prod" for name in LIMITS}}

    (summary,) = summarize(stored, place.runs / "second").candidates
    assert [row.limit.id for row in summary.rows] == [item.id for item in stored.policy.limits]
    shown = [
        rates.limit for block in (*summary.labels, *summary.displacement, *summary.risers) for rates in block.rates
    ]
    assert {limit.id for limit in shown} >= {"drop", "over"}
    assert not [limit.id for limit in shown if limit.baseline], "sections show the reference's data"

    again = place.harness("gate", "reports/second")
    assert (again.returncode, again.stderr) == (1, "")
    assert line in again.stdout


def test_a_candidate_as_good_as_the_baseline_is_released_and_workers_agree(place):
    write_checkpoint(place.path / "twin", refuse=0.75, opposite=0.05, chosen=-9.0, wobble=0.2)
    done = place.gate("third", "--baseline=prod", "-n2", candidate="twin")
    assert done.returncode == 0, done.stdout
    stored = place.stored("third")
    assert stored.released
    assert len(stored.findings) == 8
    assert sorted(line for line in place.asked() if line.startswith("generate")) == sorted(
        f"generate {name} 200" for name in ("ref", "twin") for _ in range(2)
    )
    assert place.harness("gate", "reports/third").returncode == 0


# ---------------------------------------------------------------- not comparable


def test_what_was_asked_otherwise_is_invalid_and_blocks_each_candidate(place):
    """Another judge, reading the same answers again; one candidate is the blessed checkpoint itself."""
    write_checkpoint(place.path / "twin2", refuse=0.75, opposite=0.05, chosen=-9.0, wobble=0.25)
    done = place.gate("judged", "--baseline=prod", "--judge=phrases", "--reuse=reports/first", "--candidate=twin2")
    assert done.returncode == 1
    assert not [line for line in place.asked() if line.startswith("generate") and "twin2" not in line]
    reason = "x: not comparable with baseline prod: judge: name mumbling, then phrases; "
    assert f"drop@prod, over@prod: {reason}" in done.stdout.split("collected")[0]
    stored = place.stored("judged")
    for name in ("good", "twin2"):
        mine = {item.limit.id: item for item in stored.findings if item.candidate == name}
        for limit in ("drop@prod", "over@prod"):
            assert mine[limit].outcome is Outcome.INVALID
            assert mine[limit].measurement is None
            assert mine[limit].reason.startswith(reason)
        assert mine["drop"].outcome is mine["yes-for-no@prod"].outcome is Outcome.PASS
    assert [item.decision for item in stored.verdicts] == [Decision.BLOCK] * 2
    assert "good has the bytes of baseline prod, so its limits @prod compare it with itself" in stored.warnings
    assert place.harness("gate", "reports/judged").returncode == 1
    assert [peak.limit.id for peak in peaks(stored)] == ["yes-for-no"], "one peak, from the reference"


def test_early_stopping_goes_by_the_policy_s_own_limits(place):
    write_checkpoint(place.path / "worst", refuse=0.0, chosen=-9.0, wobble=0.2)
    done = place.gate("early", "--baseline=prod", "--early-stop", candidate="worst")
    assert done.returncode == 1
    found = findings(place.stored("early"))
    assert found["drop"].outcome is Outcome.FAIL
    assert 0 < found["drop"].measurement.n < 200
    assert found["drop@prod"].reason.startswith("x: not comparable with baseline prod: generation may stop early")
    assert found["fell@prod"].measurement.value == pytest.approx(0, abs=0.1)


CHEAT = """
import pytest
from harness.domain import Measurement

@pytest.mark.limits("over_refusal_rise")
def test_over_refusal(limit, check):
    check(Measurement(limit.metric, 0.0, -0.01, 0.01, limit.alpha, 200))

@pytest.mark.limits("opposite_mass_rise")
def test_mass(limit, comparison, lexicon, check):
    from harness.probes import catastrophic
    reference, candidate = comparison.first_tokens(limit.corpus)
    check(catastrophic.measure(reference, candidate, comparison.pairs(limit.corpus), lexicon, limit))
"""


def test_a_case_of_a_user_s_own_cannot_go_round_it(place):
    """A number from elsewhere is none where nothing can be compared; an older case says what to ask for."""
    cases = place.path / "own"
    shutil.copytree(place.path / "evals", cases, ignore=shutil.ignore_patterns("test_*.py", "__pycache__"))
    (cases / "test_own.py").write_text(CHEAT)
    arguments = ("--baseline=prod", "--max-new-tokens=16", "--engine=fake", "--run-name=own")
    done = place.command("pytest", "own", "--candidate=good", "--reference=ref", *arguments)
    assert done.returncode == 1
    found = findings(place.stored("own"))
    assert found["over"].outcome is Outcome.PASS
    assert found["over@prod"].outcome is Outcome.INVALID
    assert found["over@prod"].reason.startswith("x: not comparable with baseline prod: decoding")
    assert found["yes-for-no"].outcome is Outcome.PASS
    assert "use comparison.masses and catastrophic.mass_rise" in found["yes-for-no@prod"].reason
    reasons = place.stored("own").verdicts[0].reasons
    assert any(reason.startswith("drop@prod: unanswered") for reason in reasons), "no case answers it"


REFERENCE_S = """
import pytest
from harness.probes import refusal

@pytest.mark.limits("refusal_rate_drop", "over_refusal_rise")
def test_refusals(limit, bench, comparison, check):
    sides = (bench.labels(model, limit.corpus) for model in (bench.reference, comparison.candidate))
    check(refusal.measure(*sides, limit))
"""


def test_a_case_that_compares_with_the_reference_does_not_answer_for_the_baseline(place):
    cases = place.path / "of_reference"
    shutil.copytree(place.path / "evals", cases, ignore=shutil.ignore_patterns("test_refusal.py", "__pycache__"))
    (cases / "test_refusal.py").write_text(REFERENCE_S)
    arguments = ("--baseline=prod", "--engine=fake", "--run-name=of-reference")
    place.command("pytest", "of_reference", "--candidate=good", "--reference=ref", *arguments)
    found = findings(place.stored("of-reference"))
    assert (found["drop"].outcome, found["drop@prod"].outcome) == (Outcome.PASS, Outcome.INVALID)
    assert found["drop@prod"].reason.startswith("measured without anything of baseline prod: the case must ask")
    assert found["yes-for-no@prod"].outcome is Outcome.PASS


# ---------------------------------------------------------------- errors before work


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline=prd"], "--baseline prd: no such baseline; did you mean 'prod'? there are: prod"),
        (["--baseline=prod", "--candidate=ref", "--allow-identical"], "--baseline in an A/A run"),
    ],
)
def test_what_cannot_be_compared_with_is_an_error_before_any_work(place, arguments, message):
    place.asked()
    given = [] if "--candidate=ref" in arguments else ["--candidate=good"]
    done = place.command("pytest", "evals", "--engine=fake", "--reference=ref", "--run-name=none", *given, *arguments)
    assert done.returncode == USAGE
    assert message in done.stderr
    assert place.asked() == []
    assert not (place.runs / "none").exists()


def test_a_baseline_without_a_candidate_is_an_error(place):
    done = place.command("pytest", "evals", "--engine=fake", "--baseline=prod")
    assert done.returncode == USAGE
    assert "--baseline without --candidate" in done.stderr


def test_cases_are_listed_with_the_baseline_s_limits(place):
    done = place.gate("none", "--baseline=prod", "--collect-only", "-q")
    assert "evals/test_refusal.py::test_refusal_rate[drop@prod]" in done.stdout
    assert "evals/test_catastrophic.py::test_opposite_meaning[yes-for-no@prod]" in done.stdout


def test_a_changed_blessed_run_is_an_error_before_any_work(place):
    shutil.copytree(place.runs / "first", place.runs / "moved")
    assert place.harness("bless", "reports/moved", "--as", "moved").returncode == 0
    path = place.runs / "moved" / "record.json"
    path.write_text(path.read_text().replace('"seconds": ', '"seconds": 1'))
    done = place.gate("none", "--baseline=moved")
    assert done.returncode == USAGE
    assert "--baseline moved: " in done.stderr
    assert "holds another record than the one that was blessed" in done.stderr
    listed = place.harness("bless", "--list").stdout
    assert "prod  RELEASE, blessed 2" in listed
    assert "moved  cannot be used: reports/moved holds another record" in listed


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reports/first"], "name the run and the baseline: python -m harness bless RUN --as NAME"),
        (["--list", "--force"], "bless --list takes --run-dir only"),
        (["reports/judged", "--as", "x", "--candidate", "twin2"], "the run was blocked, so twin2 was not released"),
    ],
)
def test_what_bless_cannot_do_is_one_line_and_exit_2(place, arguments, message):
    done = place.harness("bless", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "x" not in json.loads((place.runs / "baselines.json").read_text())["baselines"]


def test_blessed_although_blocked_is_told_wherever_it_is_named(place):
    """From the command that does it to the record of a run against it."""
    done = place.harness("bless", "reports/second", "--as", "low", "--although-blocked")
    assert (done.returncode, done.stderr) == (0, "")
    assert "candidate worse (" in done.stdout
    assert "), blessed although blocked" in done.stdout
    summary = place.path / "summary.md"
    done = place.gate("against", "--baseline=low", candidate="twin", GITHUB_STEP_SUMMARY=str(summary))
    short = place.stored("second").candidates[0].short
    told = f"baseline low: run second, candidate worse ({short}), blessed although blocked"
    assert told in done.stdout.split("collected")[0]
    assert told in done.stdout.split("= verdict =")[1]
    stored = place.stored("against")
    assert stored.baseline.although == "blocked"
    assert told in stored.warnings
    assert f"Baseline{told.removeprefix('baseline')}." in summary.read_text()
    found = findings(stored)
    assert (found["drop@low"].outcome, found["over@low"].outcome) == (Outcome.PASS, Outcome.FAIL), "it refuses more"
