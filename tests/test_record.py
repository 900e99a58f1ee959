"""Records: round trips, never half, never over another, never believed when damaged."""

import hashlib
import json
import math
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import record
from harness.domain import (
    Checkpoint,
    Decision,
    Decoding,
    EngineOptions,
    Finding,
    Limit,
    Measurement,
    Outcome,
    Severity,
    Slice,
    Verdict,
)
from harness.errors import RecordError

LIMIT = Limit("drop", "refusal_rate_drop", "unsafe", maximum=0.05)
WARN = Limit("fell", "chosen_logprob_change", "pairs", severity=Severity.WARN, minimum=-5.0, unit="nats")


def checkpoint(name: str, digit: str) -> Checkpoint:
    return Checkpoint(f"path/{name}", name, f"/x/{name}", "w", "t", "c", identity=digit * 64, step=8)


def finding(**measured) -> Finding:
    fields = {"metric": "refusal_rate_drop", "value": 0.1, "low": 0.06, "high": 0.2, "alpha": 0.05, "n": 10} | measured
    return Finding(LIMIT, "cand", Outcome.FAIL, "why \u202e <b>", Measurement(**fields))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


TABLE = record.TableFile(
    path="tables/cand/unsafe.labels.parquet", kind="labels", checkpoint="cand", corpus="unsafe", sha256=digest(b"table")
)


def make(**change) -> record.RunRecord:
    fields = {
        "schema_number": record.SCHEMA,
        "run": "r",
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.5,
        "status": "complete",
        "partial": False,
        "command": ("pytest", "evals/"),
        "versions": {"python": "3.11"},
        "git": {},
        "engine": {"engine": "fake"},
        "options": EngineOptions(),
        "judge": {"name": "phrases"},
        "reference": checkpoint("ref", "a"),
        "candidates": (checkpoint("cand", "b"),),
        "policy": record.PolicyFacts(
            path="p", digest=digest(b"limits"), text="limits", limits=(LIMIT, WARN), decoding=Decoding()
        ),
        "corpora": (record.CorpusFacts(name="unsafe", digest="d", rows=3, source="s", version="1"),),
        "findings": (finding(),),
        "unanswered": (record.Unanswered(candidate="cand", limit="fell", why="skipped"),),
        "verdicts": (Verdict("cand", Decision.BLOCK, ("drop: FAIL",)),),
        "warnings": (),
        "tables": (TABLE,),
    }
    return record.RunRecord(**(fields | change))


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "run"
    record.claim(directory)
    path = directory / TABLE.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"table")
    return directory


def test_a_record_reads_back_equal(run):
    slices = (Slice("a", 1, 0.5, 0.25, 0.25, 0.1, 0.3, 0.01, True),)
    written = make(findings=(finding(slices=slices, counts={"refusal->compliance": 3.0}, examples=("x", "y")),))
    record.write(written, run)
    # NaN is not equal to itself, so the texts are compared too
    assert record.read(run).model_dump_json() == written.model_dump_json()
    assert record.read(run / "record.json").findings[0].limit == LIMIT


@given(value=st.floats(), text=st.text(max_size=20))
def test_every_number_and_text_survives(value, text):
    item = Finding(LIMIT, "cand", Outcome.FAIL, text, finding(value=value).measurement)
    back = record.load_finding(record.dump_finding(item))
    assert back.reason == text
    assert back.measurement.value == value or (math.isnan(back.measurement.value) and math.isnan(value))


def test_a_record_is_never_overwritten(run):
    record.write(make(), run)
    with pytest.raises(RecordError, match="never overwritten"):
        record.write(make(run="other"), run)
    with pytest.raises(RecordError, match="already holds a run; choose another --run-name"):
        record.claim(run)
    assert record.read(run).run == "r"


def test_a_directory_without_a_record_is_an_interrupted_run(run):
    with pytest.raises(RecordError, match=r"holds no record.json: the run was interrupted"):
        record.read(run)
    (run / ".record.json.abc.part").write_text(make().model_dump_json())
    with pytest.raises(RecordError, match="was interrupted"):
        record.read(run)
    with pytest.raises(RecordError, match="no run directory"):
        record.read(run / "none" / "deep")


@pytest.mark.parametrize("keep", [0, 1, 100, 1000, -2])
def test_a_truncated_record_is_damaged(run, keep):
    text = make().model_dump_json()
    (run / "record.json").write_text(text[:keep])
    with pytest.raises(RecordError, match=r"record.json is (damaged|not a run record)"):
        record.read(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_number": record.SCHEMA + 1}, "update dpo-harness"),
        ({"schema_number": "1"}, "not a run record"),
        ({"verdicts": None}, "damaged at verdicts"),
        ({"surprise": 1}, "damaged at surprise"),
        ({"findings": [{"limit": 3}]}, "damaged at findings"),
    ],
)
def test_other_schemas_and_damage_are_told_apart(run, change, words):
    (run / "record.json").write_text(json.dumps(json.loads(make().model_dump_json()) | change))
    with pytest.raises(RecordError, match=words):
        record.read(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": make().policy.model_copy(update={"digest": "0" * 64})}, "does not have the policy's digest"),
        ({"reference": checkpoint("ref", "b")}, "a candidate is the reference"),
        ({"candidates": (checkpoint("ref", "b"),)}, "names of their own"),
        ({"candidates": ()}, "names of their own"),
        ({"unanswered": (record.Unanswered(candidate="cand", limit="drop", why="x"),)}, "both answered and unanswered"),
        ({"tables": ()}, "no tables they were made from"),
        ({"schema_number": 0}, "schema_number 0"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(run, change, words):
    record.write(make(**change), run)
    with pytest.raises(RecordError, match=words):
        record.read(run)


def test_an_a_a_run_may_name_one_model_twice(run):
    record.write(make(reference=checkpoint("ref", "b"), options=EngineOptions(allow_identical=True)), run)
    assert record.read(run).reference.identity == "b" * 64


def test_tables_must_be_the_ones_the_record_was_made_from(run):
    path = run / TABLE.path
    assert record.list_tables(run) == (TABLE,)
    record.write(make(), run)
    record.read(run)
    path.write_bytes(b"other")
    with pytest.raises(RecordError, match="not the table that the record was made from"):
        record.read(run)
    path.unlink()
    with pytest.raises(RecordError, match="is missing"):
        record.read(run)
    record.read(run, check_tables=False)


def test_a_table_path_cannot_leave_the_run(run):
    (run.parent / "outside.parquet").write_bytes(b"x")
    table = TABLE.model_copy(update={"path": "../outside.parquet", "sha256": digest(b"x")})
    record.write(make(tables=(table,)), run)
    with pytest.raises(RecordError, match="outside the run"):
        record.read(run)


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordError, match="choose another --run-dir"):
        record.claim(tmp_path / "file" / "run")


def test_released_needs_every_candidate():
    released, blocked = Verdict("a", Decision.RELEASE), Verdict("b", Decision.BLOCK, ("x",))
    assert make(verdicts=(released,)).released
    assert not make(verdicts=(released, blocked)).released
    assert not make(verdicts=()).released
    assert not make(verdicts=(Verdict("a", Decision.NONE),)).released


def test_git_state(tmp_path):
    assert record.git_state(tmp_path) == {}

    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "-q")
    git("-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "m")
    assert record.git_state(tmp_path)["dirty"] == "no"
    (tmp_path / "new").write_text("x")
    state = record.git_state(tmp_path)
    assert state["dirty"] == "yes"
    assert len(state["commit"]) == 40


def test_environment_names_what_changes_numbers():
    assert {"python", "platform", "torch", "transformers", "numpy"} <= set(record.environment())
