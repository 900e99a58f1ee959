"""The search for the first checkpoint that is blocked: against a plain scan, and on real runs of a fake engine."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeEngine, write_checkpoint
from project import generated, stored

from harness import baselines, bisection, record
from harness.bisection import State, Step, find
from harness.domain import EngineOptions
from harness.engines.capability import tasks as capability_tasks
from harness.errors import MeasurementError, OptionError

NAMES = [f"checkpoint-{number}" for number in range(10, 90, 10)]


def step(name, state):
    limits = ("drop",)
    return Step(name, None, state, limits if state is State.FAILED else (), (), f"reports/{name}")


def search(states, **options):
    """The answer on checkpoints in these states, and the names in the order they were asked."""
    asked = []

    def test(name):
        asked.append(name)
        return step(name, states[NAMES.index(name)])

    return find(NAMES[: len(states)], test, run="run", **options), asked


@pytest.mark.parametrize(("good", "count"), [(g, n) for n in range(2, 9) for g in range(n + 1)])
def test_it_finds_what_a_scan_finds(good, count):
    states = [State.RELEASED] * good + [State.FAILED] * (count - good)
    answer, asked = search(states)
    first = next((name for name, state in zip(NAMES, states, strict=False) if state is State.FAILED), "")
    assert (answer.first_bad, answer.monotone) == (first, True)
    assert len(set(asked)) == len(asked), "nothing is tested twice"
    assert asked[0] == NAMES[count - 1]
    tested = [item.checkpoint for item in answer.steps]
    assert tested == sorted(asked, key=NAMES.index)
    if 0 < good < count:
        assert answer.last_good == NAMES[good - 1]
        assert set(NAMES[max(0, good - 2) : min(count, good + 2)]) <= set(asked), "the neighbours are tested"


def test_any_contradiction_that_was_seen_is_said():
    for states in itertools.product((State.RELEASED, State.FAILED), repeat=5):
        answer, asked = search(list(states))
        seen = [states[NAMES.index(name)] for name in sorted(asked, key=NAMES.index)]
        ordered = seen == sorted(seen, key=lambda state: state is State.FAILED)
        assert answer.monotone == ordered
        assert answer.sentence.startswith("Not monotone") == (not ordered)


def test_the_answer_in_words():
    released, failed, undecided = State.RELEASED, State.FAILED, State.UNDECIDED
    answer, _ = search([released, released, failed, failed, failed, failed, failed, failed])
    assert answer.sentence == (
        "checkpoint-30 is the first that is blocked (it breaks drop), checkpoint-20 the last that is released, "
        "assuming that they are released up to some step and blocked from there on. 5 of 8 checkpoints were tested."
    )
    answer, _ = search([released, failed, released, failed])
    assert answer.sentence == (
        "Not monotone: checkpoint-20 is blocked and checkpoint-30, after it, is released, so no single step is where "
        "it broke. 4 of 4 checkpoints were tested; test them all: pytest evals/ --candidate 'run/checkpoint-*'"
    )
    answer, asked = search([failed, released])
    assert asked == ["checkpoint-20"]
    assert answer.sentence.startswith(
        "Nothing to find: the last checkpoint, checkpoint-20, is released, and so are all,"
    )
    answer, _ = search([failed, failed])
    assert "checkpoint-10, is blocked already (it breaks drop), so all of them may be: what broke" in answer.sentence

    mixed = [undecided, undecided, failed, failed]
    answer, _ = search(mixed)
    assert answer.first_bad == "checkpoint-10"
    assert "because undecided or not measured" in answer.sentence
    answer, _ = search(mixed, undecided_is_bad=False)
    assert (answer.last_good, answer.first_bad) == ("checkpoint-20", "checkpoint-30")
    assert "checkpoint-20 the last that is not proved broken" in answer.sentence


# ---------------------------------------------------------------- with runs


@pytest.fixture
def trained(project):
    """A run of three checkpoints: in the last one refusals have fallen."""
    for number, refuse in ((8, 0.75), (16, 0.74), (104, 0.2)):
        folder = project.path / "run" / f"checkpoint-{number}"
        write_checkpoint(folder, refuse=refuse, step=number, wobble=0.3, chosen=-9.0 - number / 1000)
        (folder / "model.safetensors").write_bytes(b"whole")
        (folder / "trainer_state.json").write_text("{}")
    return project


def bisect(project, *arguments):
    command = [sys.executable, "-m", "harness", "bisect", "run", "--reference=ref", *arguments]
    return subprocess.run(
        command, cwd=project.path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )


def test_each_step_is_a_run_and_the_reference_is_measured_once(trained):
    done = bisect(trained, "--json", "--", "--engine=fake")
    assert done.returncode == 1, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["last_good"], answer["first_bad"], answer["monotone"]) == ("checkpoint-16", "checkpoint-104", True)
    assert [item["step"] for item in answer["steps"]] == [8, 16, 104]
    assert answer["steps"][2]["failed"] == ["drop"]
    for item in answer["steps"]:
        kept = stored(trained, item["record"].removeprefix("reports/"))
        assert kept.candidates[0].spec == f"run/{item['checkpoint']}"
        assert kept.released == (item["state"] == "released")
    asked = generated(trained)
    assert len([line for line in asked if line.startswith("generate ref ")]) == 2, "once for each corpus of prompts"
    assert "checkpoint-104: failed (drop broken)" in done.stderr


def test_a_search_goes_on_from_its_own_runs_while_nothing_has_changed(trained, monkeypatch):
    monkeypatch.chdir(trained.path)
    engine = FakeEngine(EngineOptions())
    monkeypatch.setattr(bisection.checkpoints, "resolve", lambda spec, name, _: engine.resolve(spec, name))
    said: list[str] = []

    def gate(*options):
        return bisection.Gate(trained.path / "run", "ref", options=("--engine=fake", *options), say=said.append)

    name = "checkpoint-104"
    first = gate()(name)
    assert (first.state, first.taken) == (State.FAILED, False)
    assert "testing" in said[0]
    again = gate()(name)
    assert (again.taken, again.record, again.state) == (True, first.record, State.FAILED)
    assert "is such a run already" in said[2]

    free = (Path(f"{first.record}-2"), None)
    assert gate("--max-new-tokens=7").place(name) == free, "other options are another run"
    for file, old, new in (
        ("ref/fake.json", "{", '{"seed": 1'),
        (f"run/{name}/fake.json", "{", '{"seed": 1, '),
        ("evals/unsafe.jsonl", "How 1?", "Why 1?"),
        ("evals/policy.yaml", "0.05", "0.06"),
    ):
        path = trained.path / file
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1))
        assert gate().place(name) == free, f"{file} has changed"
        path.write_text(before)
    assert gate().place(name)[1] is not None
    for file in ("evals/test_refusal.py", "evals/lexicon.yaml", "conftest.py"):
        old = Path(file).stat().st_mtime_ns
        os.utime(file)
        assert gate().place(name) == free, f"{file} was written since, and the record has no digest of it"
        os.utime(file, ns=(old, old))
    versions = record.environment()
    monkeypatch.setattr(bisection.record, "environment", lambda: versions | {"torch": "0"})
    assert gate().place(name) == free, "another torch may give other answers"
    monkeypatch.setattr(bisection.record, "environment", lambda: versions)
    assert gate().place(name)[1] is not None
    (Path(first.record) / "record.json").unlink()
    assert gate().place(name) == free, "an interrupted run is left alone"


def test_a_task_that_would_be_asked_otherwise_now_is_another_run(trained, monkeypatch):
    monkeypatch.chdir(trained.path)
    engine = FakeEngine(EngineOptions())
    monkeypatch.setattr(bisection.checkpoints, "resolve", lambda spec, name, _: engine.resolve(spec, name))
    Path("evals/policy.yaml").write_text("limits: [{id: quiz, metric: task_accuracy_drop, task: quiz, max: 0.1}]\n")
    gate = bisection.Gate(trained.path / "run", "ref", options=("--engine=fake",))
    assert not gate("checkpoint-8").taken
    assert gate("checkpoint-8").taken
    monkeypatch.setattr(capability_tasks, "_version", lambda package: "other")
    assert gate.place("checkpoint-8")[1] is None, "the data and the questions of a task are lm-eval's"


def test_a_baseline_that_stands_for_another_run_now_is_another_question(trained, monkeypatch):
    monkeypatch.chdir(trained.path)
    engine = FakeEngine(EngineOptions())
    monkeypatch.setattr(bisection.checkpoints, "resolve", lambda spec, name, _: engine.resolve(spec, name))

    def gate(*options):
        return bisection.Gate(trained.path / "run", "ref", options=("--engine=fake", *options))

    released = [Path(gate()(f"checkpoint-{step}").record) for step in (8, 16)]
    baselines.bless(released[0], "prod")
    held = gate("--baseline=prod")
    assert not held("checkpoint-104").taken
    assert held("checkpoint-104").taken
    baselines.bless(released[1], "prod", force=True)
    assert held.place("checkpoint-104")[1] is None


def test_a_run_that_cannot_be_made_stops_the_search_with_its_output(trained):
    done = bisect(trained, "--", "--engine=fake", "--judge=nobody")
    assert done.returncode == 2
    assert "checkpoint-104 could not be tested: pytest ended with 4" in done.stderr
    assert "there is no judge 'nobody'" in done.stderr


def test_a_run_without_a_verdict_is_no_answer(trained, monkeypatch):
    monkeypatch.chdir(trained.path)
    (trained.path / "evals/conftest.py").write_text(
        "def pytest_sessionfinish(session):\n    session.config.option.partial = True\n"
    )
    gate = bisection.Gate(trained.path / "run", "ref", options=("--engine=fake",))
    with pytest.raises(MeasurementError, match="checkpoint-8 could not be tested"):
        gate("checkpoint-8")


@pytest.mark.parametrize(
    ("option", "message"),
    [("--partial", "no verdict to search for"), ("--candidate=x", "the search gives it itself")],
)
def test_options_that_are_the_searchs_own(tmp_path, option, message):
    with pytest.raises(OptionError, match=message):
        bisection.Gate(tmp_path, "ref", options=(option,))


def test_a_run_needs_two_checkpoints(tmp_path):
    with pytest.raises(OptionError, match="holds 0 checkpoints"):
        bisection.open_run(str(tmp_path), "ref")
    with pytest.raises(OptionError, match="no directory"):
        bisection.open_run(str(tmp_path / "x"), "ref")
