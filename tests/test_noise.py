"""The noise floor as a file: what it says, and which limits and runs it does not fit."""

import json

import pytest

from harness import noise
from harness.domain import Limit
from harness.errors import PolicyError
from harness.noise import Alarms, Floor, Noise

BASIS = {"reference": "abc", "temperature": "0.7"}
CORPORA = {"unsafe": "d1", "pairs": "d2"}


def floor(metric="refusal_rate_drop", corpus="unsafe", unit="", value=0.01, low=-0.03, high=0.06):
    return Floor(metric=metric, corpus=corpus, unit=unit, alpha=0.05, n=100, value=value, low=low, high=high)


def made(*floors):
    alarms = Alarms(replicates=200, failed=3, not_passed=9, limits=("drop",))
    return Noise(run="aa", basis=BASIS, corpora=CORPORA, floors=floors, alarms=alarms)


def check(found, *limits, basis=BASIS, corpora=CORPORA, tmp_path="noise.json"):
    noise.check(found, limits, basis, corpora, tmp_path)


def test_what_is_written_reads_back(tmp_path):
    (tmp_path / "noise.json").write_text(made(floor()).model_dump_json())
    assert noise.load(tmp_path / "noise.json") == made(floor())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read.*--allow-identical"),
        ("{", "is damaged"),
        ('{"run": "x"}', "is damaged at basis"),
        (made().model_dump_json().replace('"schema_number":1', '"schema_number":9'), "has schema 9"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, content, message):
    if content is not None:
        (tmp_path / "noise.json").write_text(content)
    with pytest.raises(PolicyError, match=message):
        noise.load(tmp_path / "noise.json")


def test_a_limit_tighter_than_the_floor_is_an_error():
    tight = Limit("drop", "refusal_rate_drop", "unsafe", maximum=0.05)
    with pytest.raises(PolicyError, match=r"limit 'drop' is at most 0.05.*differs from itself by up to 0.06 .*n=100"):
        check(made(floor()), tight)
    check(made(floor()), Limit("drop", "refusal_rate_drop", "unsafe", maximum=0.06))
    with pytest.raises(PolicyError, match="tighter than the noise floor"):
        check(made(floor(low=-0.07, high=0.03)), tight)


def test_a_limit_from_below_has_its_room_below_zero():
    sinking = floor("chosen_logprob_change", "pairs", "nats", 0.0, -0.5, 0.4)
    check(made(sinking), Limit("fell", "chosen_logprob_change", "pairs", minimum=-5.0, unit="nats"))
    with pytest.raises(PolicyError, match="limit 'fell' is at least -0.25 nats"):
        check(made(sinking), Limit("fell", "chosen_logprob_change", "pairs", minimum=-0.25, unit="nats"))


def test_a_change_without_a_floor_is_an_error_unless_it_had_no_spread():
    """A floor is of one metric, corpus and unit."""
    for limit in (
        Limit("over", "over_refusal_rise", "unsafe", maximum=0.01),
        Limit("drop", "refusal_rate_drop", "pairs", maximum=0.01),
        Limit("drop", "refusal_rate_drop", "unsafe", maximum=0.01, unit="per token"),
    ):
        with pytest.raises(PolicyError, match=f"says nothing of limit '{limit.id}'.*repeat the A/A run"):
            check(made(floor()), limit)
        key = (limit.metric, limit.corpus, limit.unit)
        check(made(floor()).model_copy(update={"without": (key,)}), limit)
    check(made(floor()), Limit("rate", "refusal_rate", "unsafe", minimum=0.9))  # no change: has no floor


def test_a_floor_measured_at_a_laxer_alpha_does_not_hold():
    with pytest.raises(PolicyError, match="has alpha 0.001, but the noise in .* was measured with 0.05"):
        check(made(floor()), Limit("drop", "refusal_rate_drop", "unsafe", maximum=0.5, alpha=0.001))
    check(made(floor()), Limit("drop", "refusal_rate_drop", "unsafe", maximum=0.5, alpha=0.1))


@pytest.mark.parametrize("hostile", [{"low": "NaN"}, {"high": "Infinity"}, {"n": 0}])
def test_a_floor_that_is_no_number_is_refused(tmp_path, hostile):
    data = json.loads(made(floor()).model_dump_json())
    data["floors"][0] |= hostile
    (tmp_path / "noise.json").write_text(json.dumps(data))
    with pytest.raises(PolicyError, match="is damaged at floors.0"):
        noise.load(tmp_path / "noise.json")


def test_two_floors_of_one_thing_are_refused(tmp_path):
    data = json.loads(made(floor()).model_dump_json())
    data["floors"].append(data["floors"][0] | {"low": -0.001, "high": 0.001})
    (tmp_path / "noise.json").write_text(json.dumps(data))
    with pytest.raises(PolicyError, match="two floors are of the same metric"):
        noise.load(tmp_path / "noise.json")


@pytest.mark.parametrize("basis", [{**BASIS, "temperature": "0"}, {"reference": "abc"}, {**BASIS, "judge name": "api"}])
def test_noise_of_other_conditions_is_an_error(basis):
    with pytest.raises(PolicyError, match="was measured with .*: repeat the A/A run"):
        check(made(floor()), Limit("drop", "refusal_rate_drop", "unsafe", maximum=0.5), basis=basis)


def test_noise_of_another_corpus_is_an_error():
    with pytest.raises(PolicyError, match="measured on another corpus 'unsafe'"):
        check(made(floor()), Limit("d", "refusal_rate_drop", "unsafe", maximum=0.5), corpora={"unsafe": "new"})
