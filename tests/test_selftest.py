"""False alarms from swapped replicates: what is swapped, what counts, and that a real difference is not noise."""

import random

import pytest

from harness import selftest
from harness.domain import (
    Completion,
    Finding,
    FinishReason,
    Label,
    LabelledCompletion,
    Limit,
    Measurement,
    Outcome,
    PairScore,
    Reading,
    ResponseScore,
    Severity,
)
from harness.errors import MeasurementError

DROP = Limit("drop", "refusal_rate_drop", "unsafe", maximum=0.05)
FELL = Limit("fell", "chosen_logprob_change", "pairs", severity=Severity.WARN, minimum=-5.0, unit="nats")


def answers(rate, seed, samples=1, prompts=200):
    rng = random.Random(seed)
    return [
        LabelledCompletion(
            Completion(f"p{i}", sample, "x", 1, FinishReason.STOP, "abc"[i % 3]),
            Reading(Label.REFUSAL if rng.random() < rate else Label.COMPLIANCE, ""),
        )
        for i in range(prompts)
        for sample in range(samples)
    ]


class Results:
    def __init__(self, reference, candidate):
        self.both = reference, candidate

    def labels(self, _):
        return self.both

    def scores(self, _):
        rng = random.Random(0)
        one, other = (
            [PairScore(f"q{i}", ResponseScore((rng.gauss(-9, 1),)), ResponseScore((-9.0,))) for i in range(50)]
            for _ in range(2)
        )
        return one, other


def alarms(reference, candidate, *limits, replicates=60):
    return selftest._alarms(limits, lambda _: Results(reference, candidate), replicates)


def test_noise_within_the_bound_neither_fails_nor_holds_back():
    found = alarms(answers(0.7, 1), answers(0.7, 1), DROP)
    assert (found.replicates, found.failed, found.not_passed) == (60, 0, 0)


def test_noise_beyond_the_bound_holds_back_and_seldom_fails():
    found = alarms(answers(0.7, 1), answers(0.7, 2), DROP)
    assert found.failed <= 9  # 5 % of 60, and three standard errors
    assert found.not_passed > 30


def test_even_two_models_that_differ_are_swapped_into_the_same():
    """The null hypothesis is made true by swapping, whatever the data."""
    found = alarms(answers(1.0, 1), answers(0.5, 2), DROP)
    assert found.failed <= 9


def test_limits_that_a_model_equal_to_the_reference_breaks_do_not_count():
    better = Limit("better", "refusal_rate_drop", "unsafe", maximum=-0.1)
    rate = Limit("rate", "refusal_rate", "unsafe", minimum=0.9)
    found = alarms(answers(0.7, 1), answers(0.7, 2), DROP, better, rate, FELL)
    assert found.limits == ("drop", "fell")


def test_all_samples_of_a_prompt_are_swapped_together():
    rows = answers(0.5, 1, samples=4, prompts=50)
    swaps = selftest._swaps(rows, random.Random(0))
    for start in range(0, len(rows), 4):
        assert len(set(swaps[start : start + 4])) == 1
    assert 50 < sum(swaps) < 150


def test_pairs_on_one_prompt_are_swapped_together():
    response = ResponseScore((-1.0,))
    rows = [PairScore(f"q{i}", response, response, prompt_id=f"x{i // 2}") for i in range(40)]
    swaps = selftest._swaps(rows, random.Random(0))
    assert swaps[::2] == swaps[1::2]
    alone = selftest._swaps([PairScore(f"q{i}", response, response) for i in range(40)], random.Random(0))
    assert alone[::2] != alone[1::2]


def test_results_that_are_not_there_are_left_out():
    def missing(_):
        raise MeasurementError("not measured")

    results = Results([], [])
    results.labels = missing
    found = selftest._alarms([DROP], lambda _: results, 10)
    assert (found.replicates, found.limits) == (0, ())


def test_floors_are_of_changes_that_were_measured():
    def finding(limit, **fields):
        m = Measurement(
            limit.metric,
            **({"value": 0.0, "low": -0.02, "high": 0.03, "alpha": 0.05, "n": 9, "unit": limit.unit} | fields),
        )
        return Finding(limit, "cand", Outcome.PASS, "", m)

    rate = Limit("rate", "refusal_rate", "unsafe", minimum=0.1)
    found = selftest.measure(
        "aa",
        [],
        [finding(DROP), finding(rate), finding(FELL, problem="all equal"), Finding(FELL, "cand", Outcome.INVALID, "")],
        lambda _: pytest.fail("nothing to compare"),
        {"a": "b"},
        {"unsafe": "d"},
    )
    assert [(item.metric, item.floor) for item in found.floors] == [("refusal_rate_drop", 0.03)]
    assert (found.run, found.basis, found.corpora) == ("aa", {"a": "b"}, {"unsafe": "d"})
