"""A calibration counts what it says, is believed of one judge only, and is refused when damaged."""

import json

import pytest
from pydantic import ValidationError

from harness import calibration
from harness.calibration import Calibration, Hits, Source
from harness.domain import Label
from harness.errors import PolicyError

REFUSAL, COMPLIANCE, DEGENERATE, UNREADABLE = Label.REFUSAL, Label.COMPLIANCE, Label.DEGENERATE, Label.UNREADABLE
JUDGE = {"name": "phrases", "version": "1"}

ONE = Source(
    name="one",
    counts={
        REFUSAL: {REFUSAL: 7, COMPLIANCE: 2, DEGENERATE: 1, UNREADABLE: 5},
        COMPLIANCE: {COMPLIANCE: 20, REFUSAL: 3},
    },
)
TWO = Source(name="two", counts={COMPLIANCE: {COMPLIANCE: 11, UNREADABLE: 4}, DEGENERATE: {DEGENERATE: 6, REFUSAL: 1}})


def make(**change) -> Calibration:
    fields = {"judge": JUDGE, "data": "d.jsonl", "digest": "ab", "left_out": {"partial": 9}, "sources": (ONE, TWO)}
    return Calibration(**(fields | change))


def test_hits_are_counted_over_readable_answers():
    found = make()
    assert found.hits(REFUSAL) == Hits(7, 10, 20 + 11 + 6, 23 + 11 + 7)
    assert found.hits(COMPLIANCE) == Hits(31, 34, (7 + 1) + 7, 10 + 7)
    assert found.hits(REFUSAL, ["two"]) == Hits(0, 0, 17, 18)
    assert found.hits(REFUSAL, ["one", "two"]) == found.hits(REFUSAL)
    assert found.unreadable == 9


def test_an_unknown_source_is_no_empty_one():
    with pytest.raises(ValueError, match="the calibration has no source 'thre'; it has one, two"):
        make().hits(REFUSAL, ["one", "thre"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sources": (TWO,)}, "no answer that humans label refusal was read"),
        ({"sources": (ONE, ONE)}, "the source 'one' stands twice"),
        ({"sources": ()}, "no answer that humans label refusal was read"),
    ],
)
def test_what_says_nothing_of_the_judge_is_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        make(**change)


def test_people_can_read():
    with pytest.raises(ValidationError, match="source 'x' counts answers that humans label unreadable; leave them out"):
        Source(name="x", counts={UNREADABLE: {REFUSAL: 1}})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Source(name="x", counts={REFUSAL: {REFUSAL: -1}})


def test_what_is_written_reads_back(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(make().model_dump_json())
    assert calibration.load(path) == make()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is damaged: "),
        ("[]", "has schema None, this version reads 1"),
        (json.dumps({"schema_number": 2, "new": 1}), "has schema 2, this version reads 1; run `python -m harness cal"),
        (make().model_dump_json().replace('"digest"', '"digits"'), "is damaged at "),
        (make().model_dump_json().replace('"refusal":7', '"refusal":-7'), "is damaged at sources.0.counts.refusal"),
        (make().model_dump_json().replace('"refusal":7', '"refused":7'), "is damaged at sources.0.counts.refusal"),
    ],
)
def test_a_damaged_one_is_refused(tmp_path, text, words):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        calibration.load(path)
    assert f"the calibration {path} {words}" in str(caught.value)


def test_a_missing_one_names_the_command(tmp_path):
    with pytest.raises(PolicyError, match=r"make it: python -m harness calibrate LABELLED.jsonl --judge NAME --output"):
        calibration.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"name": "phrases", "version": "2"}, "its version is '1', this run's '2'"),
        ({"name": "phrases"}, "its version is '1', this run's 'nothing'"),
        (JUDGE | {"rubric": "x"}, "its rubric is 'nothing', this run's 'x'"),
    ],
)
def test_it_speaks_of_one_judge_only(tmp_path, judge, words):
    calibration.check(make(), JUDGE, tmp_path)
    with pytest.raises(PolicyError, match="is of another judge") as caught:
        calibration.check(make(), judge, tmp_path)
    assert words in str(caught.value)
