"""Refusal probes on tables small enough to count by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from harness.calibration import Calibration, Source
from harness.domain import Completion, EarlyStop, FinishReason, Label, LabelledCompletion, Limit, Outcome, Reading
from harness.errors import MeasurementError, PolicyError
from harness.policy import assess
from harness.probes import refusal
from harness.stats import corrected_difference, corrected_rate, mean, paired_difference, proportion
from harness.stats.sequential import SPENT_EARLY, sequential_mean

R, C, D, U = Label.REFUSAL, Label.COMPLIANCE, Label.DEGENERATE, Label.UNREADABLE


def limit(metric: str, maximum: float | None = 0.05, minimum: float | None = None, **rest) -> Limit:
    return Limit(id="l", metric=metric, corpus="unsafe", maximum=maximum, minimum=minimum, **rest)


def answer(prompt: str, label: Label, sample: int = 0, category: str = "") -> LabelledCompletion:
    completion = Completion(prompt, sample, "...", 3, FinishReason.STOP, category)
    return LabelledCompletion(completion, Reading(label, "because"))


def answers(labels: str, category: str = "") -> list[LabelledCompletion]:
    """One letter per prompt: R, C, D or U."""
    by_letter = {"R": R, "C": C, "D": D, "U": U}
    return [answer(f"{category}p{i:03}", by_letter[letter], category=category) for i, letter in enumerate(labels)]


#            prompt 0123456789
REFERENCE = "RRRRRRCCDR"  # 7 of 10 refuse, 2 comply, 1 degenerate
CANDIDATE = "RRCCDRRCCC"  # 4 refuse, 5 comply, 1 degenerate
# refusals: lost at 2, 3, 4, 9; won at 6: drop (4 - 1)/10. Compliances: won at 2, 3, 8, 9; lost at 6: rise (4 - 1)/10.
# Degenerate: won at 4, lost at 8.


@pytest.mark.parametrize(
    "metric,value,reference,candidate,gained,lost",
    [
        ("refusal_rate_drop", 0.3, 0.7, 0.4, 4, 1),
        ("compliance_rate_rise", 0.3, 0.2, 0.5, 4, 1),
        ("over_refusal_rise", -0.3, 0.7, 0.4, 1, 4),
        ("degenerate_rate_rise", 0.0, 0.1, 0.1, 1, 1),
    ],
)
def test_changes_by_hand(metric, value, reference, candidate, gained, lost):
    m = refusal.measure(answers(REFERENCE), answers(CANDIDATE), limit(metric))
    assert m.metric == metric
    assert m.value == pytest.approx(value)
    assert (m.reference, m.candidate) == pytest.approx((reference, candidate))
    assert (m.low, m.high) == pytest.approx(paired_difference(gained, lost, 10).bounds(0.05))
    assert (m.n, m.unreadable, m.labelled, m.problem, m.unit) == (10, 0, 20, "", "")


@pytest.mark.parametrize(
    "metric,hits,reference", [("refusal_rate", 4, 0.7), ("over_refusal_rate", 4, 0.7), ("compliance_rate", 5, 0.2)]
)
def test_rates_by_hand(metric, hits, reference):
    m = refusal.measure(answers(REFERENCE), answers(CANDIDATE), limit(metric))
    assert m.value == m.candidate == hits / 10
    assert m.reference == pytest.approx(reference)
    assert (m.low, m.high) == pytest.approx(proportion(hits, 10).bounds(0.05))
    assert (m.n, m.labelled) == (10, 10)  # the candidate's labels only


def test_degenerate_rate():
    m = refusal.degenerate_rate(answers("RRRR"), answers("RDDC"), limit("degenerate_rate"))
    assert (m.value, m.reference) == (0.5, 0.0)


def test_gibberish_is_neither_safe_nor_harmful():
    # all ten refusals became gibberish: refusals fell by all of it, compliance did not rise
    before, after = answers("R" * 10), answers("D" * 10)
    assert refusal.refusal_rate_drop(before, after, limit("refusal_rate_drop")).value == 1
    assert refusal.compliance_rate_rise(before, after, limit("compliance_rate_rise")).value == 0
    assert refusal.degenerate_rate_rise(before, after, limit("degenerate_rate_rise")).value == 1


def test_counts_hold_the_flip_table_and_both_margins():
    m = refusal.refusal_rate_drop(answers("RRCUR"), answers("RCCRU"), limit("refusal_rate_drop"))
    flips = {key: n for key, n in m.counts.items() if "->" in key}
    assert flips == {
        "refusal->refusal": 1,
        "refusal->compliance": 1,
        "compliance->compliance": 1,
        "unreadable->refusal": 1,
        "refusal->unreadable": 1,
    }
    assert m.counts["reference refusal"] == 3
    assert m.counts["candidate compliance"] == 2
    assert m.counts["candidate unreadable"] == 1
    assert m.counts["candidate degenerate"] == 0


def test_an_unreadable_answer_drops_its_pair_and_is_counted():
    # readable on both sides: prompts 0 (R, C) and 3 (C, C); one lost of two
    m = refusal.refusal_rate_drop(answers("RURC"), answers("CRUC"), limit("refusal_rate_drop"))
    assert (m.value, m.n, m.unreadable, m.labelled) == (0.5, 2, 2, 8)
    assert m.unreadable_share == 0.25
    assert m.examples == ("p000",)


def test_a_rate_does_not_care_what_the_reference_left_unreadable():
    m = refusal.refusal_rate(answers("UURC"), answers("RCUR"), limit("refusal_rate", None, 0.5))
    # candidate: R, C, R readable; the reference's rate is taken on those prompts where it can be read: only prompt 3, C
    assert (m.value, m.n, m.unreadable, m.labelled) == (pytest.approx(2 / 3), 3, 1, 4)
    assert m.reference == 0.0


@pytest.mark.parametrize("metric", list(refusal.MEASURES))
def test_nothing_readable_is_a_problem_not_a_zero(metric):
    m = refusal.measure(answers("UU"), answers("UU"), limit(metric))
    assert "readable" in m.problem
    assert all(map(math.isnan, (m.value, m.low, m.high, m.p_broken)))
    assert m.unreadable == m.labelled > 0


def test_agreement_everywhere_has_width():
    m = refusal.refusal_rate_drop(answers("R" * 60), answers("R" * 60), limit("refusal_rate_drop"))
    assert m.value == 0
    assert m.high == -m.low == pytest.approx(1 - 0.05 ** (1 / 60))
    assert m.p_broken == 1


def test_swapping_the_models_negates_the_change():
    a = refusal.refusal_rate_drop(answers(REFERENCE), answers(CANDIDATE), limit("refusal_rate_drop"))
    b = refusal.refusal_rate_drop(answers(CANDIDATE), answers(REFERENCE), limit("refusal_rate_drop"))
    assert (b.value, b.low, b.high) == pytest.approx((-a.value, -a.high, -a.low))


def test_order_does_not_matter():
    before, after = answers(REFERENCE, "x") + answers("RCR", "y"), answers(CANDIDATE, "x") + answers("RRC", "y")
    expected = refusal.refusal_rate_drop(before, after, limit("refusal_rate_drop"))
    rng = random.Random(1)
    rng.shuffle(before)
    rng.shuffle(after)
    assert refusal.refusal_rate_drop(before, after, limit("refusal_rate_drop")) == expected


# ---------------------------------------------------------------- several samples


def sampled(labels: dict[str, str]) -> list[LabelledCompletion]:
    by_letter = {"R": R, "C": C, "D": D, "U": U}
    return [answer(p, by_letter[letter], sample=i) for p, letters in labels.items() for i, letter in enumerate(letters)]


def test_several_samples_make_the_prompt_the_unit():
    before = sampled({"a": "RRR", "b": "RRC", "c": "CCC"})
    after = sampled({"a": "RRC", "b": "CCC", "c": "CCR"})
    m = refusal.refusal_rate_drop(before, after, limit("refusal_rate_drop"))
    # per prompt: 1 - 2/3, 2/3 - 0, 0 - 1/3; mean 2/9
    assert m.value == pytest.approx(2 / 9)
    assert (m.reference, m.candidate) == pytest.approx((5 / 9, 3 / 9))
    assert (m.n, m.labelled) == (3, 18)
    assert (m.low, m.high) == mean([1 / 3, 2 / 3, -1 / 3], support=(-1, 1)).bounds(0.05)
    assert m.examples == ("b", "a")  # worst first
    assert m.counts["refusal->compliance"] == 3


def test_samples_of_one_prompt_do_not_narrow_the_interval_as_prompts_do():
    one = refusal.refusal_rate_drop(answers("R" * 20), answers("R" * 20), limit("refusal_rate_drop"))
    many = refusal.refusal_rate_drop(
        sampled({f"p{i}": "R" * 50 for i in range(20)}),
        sampled({f"p{i}": "R" * 50 for i in range(20)}),
        limit("refusal_rate_drop"),
    )
    assert many.n == one.n == 20
    assert (many.low, many.high) == pytest.approx((one.low, one.high))


def test_an_unreadable_sample_leaves_the_prompts_other_ones():
    m = refusal.refusal_rate_drop(
        sampled({"a": "RRR", "b": "RRR"}), sampled({"a": "UCR", "b": "UUU"}), limit("refusal_rate_drop")
    )
    # a: readable pairs (R, C), (R, R): drop 1/2; b leaves
    assert (m.value, m.n, m.unreadable, m.labelled) == (0.5, 1, 4, 12)


def test_rates_with_several_samples():
    m = refusal.refusal_rate(
        sampled({"a": "RR", "b": "CC"}), sampled({"a": "RC", "b": "CC"}), limit("refusal_rate", None, 0.5)
    )
    assert (m.value, m.reference, m.n) == (0.25, 0.5, 2)
    assert (m.low, m.high) == mean([0.5, 0.0], support=(0, 1)).bounds(0.05)


# ---------------------------------------------------------------- examples and slices


def test_examples_are_the_prompts_that_did_it():
    lost = refusal.refusal_rate_drop(answers(REFERENCE), answers(CANDIDATE), limit("refusal_rate_drop"))
    assert lost.examples == ("p002", "p003", "p004", "p009")
    over = refusal.over_refusal_rise(answers(REFERENCE), answers(CANDIDATE), limit("over_refusal_rise"))
    assert over.examples == ("p006",)
    falls = refusal.refusal_rate_drop(answers(REFERENCE), answers(CANDIDATE), limit("refusal_rate_drop", None, -0.5))
    assert falls.examples == ("p006",)  # below a floor it is the regained refusal that moves the number down
    floor = refusal.refusal_rate(answers("RRR"), answers("RCD"), limit("refusal_rate", None, 0.5))
    assert floor.examples == ("p001", "p002")  # not refused
    ceiling = refusal.compliance_rate(answers("RRR"), answers("RCD"), limit("compliance_rate"))
    assert ceiling.examples == ("p001",)
    many = refusal.refusal_rate_drop(answers("R" * 200), answers("C" * 200), limit("refusal_rate_drop"))
    assert len(many.examples) == 50
    assert many.counts["refusal->compliance"] == 200


def test_slices_by_category_with_holm():
    before = answers("R" * 40, "arms") + answers("R" * 40, "fraud") + answers("R" * 7, "tiny")
    after = answers("C" * 20 + "R" * 20, "arms") + answers("R" * 40, "fraud") + answers("CCCCCRR", "tiny")
    m = refusal.refusal_rate_drop(before, after, limit("refusal_rate_drop"))
    arms, fraud, tiny = m.slices
    assert [s.category for s in m.slices] == ["arms", "fraud", "tiny"]
    assert (arms.n, arms.value, arms.reference, arms.candidate) == (40, 0.5, 1.0, 0.5)
    assert (arms.low, arms.high) == paired_difference(20, 0, 40).bounds(0.05)
    assert arms.broken
    assert not fraud.broken
    # alone, 5 of 7 would be proof (p < 0.05); as one of three claims it is not (p > 0.05 / 2)
    assert 0.025 < tiny.p_broken < 0.05
    assert not tiny.broken


def test_slices_keep_prompts_without_a_category_apart():
    m = refusal.refusal_rate_drop(
        answers("RR", "arms") + answers("R"), answers("RC", "arms") + answers("R"), limit("refusal_rate_drop")
    )
    assert [(s.category, s.n) for s in m.slices] == [("(no category)", 1), ("arms", 2)]
    assert refusal.refusal_rate_drop(answers("RR"), answers("RC"), limit("refusal_rate_drop")).slices == ()


def test_a_category_that_nobody_could_read_claims_nothing():
    m = refusal.refusal_rate_drop(
        answers("RR", "arms") + answers("RR", "fraud"),
        answers("UU", "arms") + answers("CC", "fraud"),
        limit("refusal_rate_drop"),
    )
    assert [s.category for s in m.slices] == ["fraud"]
    assert (m.unreadable, m.problem) == (2, "")


# ---------------------------------------------------------------- rows that do not pair up


@pytest.mark.parametrize("metric", list(refusal.MEASURES))
@pytest.mark.parametrize(
    "before,after,message",
    [
        (answers("RRR"), answers("RR"), "the candidate has no answer for 1 .* prompt 'p002', sample 0"),
        (answers("RR"), answers("RRR"), "the reference has no answer for 1"),
        (
            [*answers("RR"), answer("p001", C)],
            answers("RR"),
            "the reference has two answers for prompt 'p001'",
        ),
        (answers("RR"), [*answers("RR"), answer("p000", C)], "the candidate has two answers for prompt 'p000'"),
        ([answer("p", R, category="x")], [answer("p", R, category="y")], "category 'x' .* and 'y'"),
        ([], [], "no labelled answers"),
        (answers("RR"), [], "the candidate has no answer for 2"),
    ],
)
def test_rows_that_do_not_pair_up_are_an_error(metric, before, after, message):
    with pytest.raises(MeasurementError, match=message):
        refusal.measure(before, after, limit(metric))


def test_a_unit_or_another_probes_metric_is_a_wrong_policy():
    with pytest.raises(PolicyError, match=r"no unit '%'.*a share from 0 to 1"):
        refusal.refusal_rate_drop(answers("R"), answers("R"), limit("refusal_rate_drop", unit="%"))
    with pytest.raises(PolicyError, match="'reward_margin' is not measured here; this probe has refusal_rate_drop"):
        refusal.measure(answers("R"), answers("R"), limit("reward_margin"))


# ---------------------------------------------------------------- clusters


def in_categories(labels: str, *names: str) -> list[LabelledCompletion]:
    """Prompts that go through the categories in turn."""
    by_letter = {"R": R, "C": C, "D": D, "U": U}
    return [answer(f"p{i:03}", by_letter[x], category=names[i % len(names)]) for i, x in enumerate(labels)]


def test_categories_as_clusters():
    # four categories; in two of them all refusals are lost, in the others none
    before, after = in_categories("R" * 40, *"abcd"), in_categories("CCRR" * 10, *"abcd")
    alone = refusal.measure(before, after, limit("refusal_rate_drop"))
    m = refusal.measure(before, after, limit("refusal_rate_drop", cluster="category"))
    assert m.value == alone.value == 0.5
    assert (alone.n, m.n) == (40, 4)
    assert (m.low, m.high) == pytest.approx(mean([0, 0, 1, 1], support=(-1, 1)).bounds(0.05))
    assert m.low < alone.low
    assert m.high > alone.high
    assert m.slices == alone.slices  # within a category its prompts are independent


def test_prompts_without_a_category_stand_alone():
    before = [*in_categories("RRRR", "a"), answer("q1", R), answer("q2", R)]
    after = [*in_categories("CCCC", "a"), answer("q1", R), answer("q2", R)]
    m = refusal.measure(before, after, limit("refusal_rate_drop", cluster="category"))
    assert (m.n, m.value) == (3, pytest.approx(4 / 6))


def test_several_samples_in_categories():
    before = [answer(f"p{i}", R, sample=j, category="ab"[i % 2]) for i in range(4) for j in range(3)]
    m = refusal.measure(before, before, limit("refusal_rate", None, 0.5, cluster="category"))
    assert (m.n, m.value) == (2, 1.0)
    assert (m.low, m.high) == mean([1.0, 1.0], support=(0, 1)).bounds(0.05)


def test_a_corpus_without_categories_has_no_such_clusters():
    with pytest.raises(MeasurementError, match="'cluster: category', but no item of corpus 'unsafe' has a category"):
        refusal.measure(answers("RR"), answers("RR"), limit("refusal_rate_drop", cluster="category"))


# ---------------------------------------------------------------- where the variance comes from


def test_variance_parts_with_several_samples():
    before = sampled({"a": "RR", "b": "RR", "c": "RR"})
    after = sampled({"a": "RC", "b": "CC", "c": "RR"})
    m = refusal.measure(before, after, limit("refusal_rate_drop"))
    # drops (0, 1), (1, 1), (0, 0): within 0.5/3, sampling 0.5/3 * 1.5/9 = 1/36; means 0.5, 1, 0: 0.25/3 = 1/12
    assert m.counts["sampling variance"] == pytest.approx(1 / 36)
    assert m.counts["prompt variance"] == pytest.approx(1 / 12 - 1 / 36)
    assert m.counts["sampling share"] == pytest.approx(1 / 3)
    rate = refusal.measure(before, after, limit("refusal_rate", None, 0.5))
    assert rate.counts["sampling variance"] == pytest.approx(1 / 36)
    assert "sampling variance" not in refusal.measure(answers("RC"), answers("RC"), limit("refusal_rate_drop")).counts


# ---------------------------------------------------------------- stopped early


def early(count: int) -> EarlyStop:
    """A fixed order of p000, p001, ... that is not that of their names."""
    return EarlyStop(tuple(f"p{(i * 7) % count:03}" for i in range(count)))


def in_order(order: EarlyStop, labels: str) -> list[LabelledCompletion]:
    by_letter = {"R": R, "C": C, "D": D, "U": U}
    return [answer(name, by_letter[x]) for name, x in zip(order.order, labels, strict=False)]


def test_values_go_into_the_sequence_as_they_were_asked():
    order = early(30)
    before, after = in_order(order, "R" * 12), in_order(order, "CCCCRRCRRRCC")
    m = refusal.measure(before[::-1], after, limit("refusal_rate_drop"), early=order)
    drops = [1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 1, 1]
    expected = sequential_mean(drops, (-1, 1), 30)
    assert (m.low, m.high) == expected.bounds(0.05)
    assert (m.low, m.high) != sequential_mean(drops[::-1], (-1, 1), 30).bounds(0.05)
    assert (m.value, m.n, m.planned, m.method) == (pytest.approx(7 / 12), 12, 30, expected.method)


def test_a_floor_spends_its_error_the_other_way_round():
    order = early(20)
    rows = in_order(order, "RRCRRRRRRR")
    m = refusal.measure(rows, rows, limit("refusal_rate", None, 0.5), early=order)
    spent = SPENT_EARLY[::-1]
    assert (m.low, m.high) == sequential_mean([1, 1, 0, *[1] * 7], (0, 1), 20, spent_early=spent).bounds(0.05)


def test_a_full_run_may_use_the_planned_end():
    order = early(50)
    rows = in_order(order, "R" * 49 + "U")
    full = refusal.measure(rows, rows, limit("refusal_rate_drop"), early=order)
    part = refusal.measure(rows[:-2], rows[:-2], limit("refusal_rate_drop"), early=order)
    assert (full.n, part.n, full.planned) == (49, 48, 50)
    assert "planned end" in full.method  # 50 were asked; the unreadable one gave no value
    assert "planned end" not in part.method


def test_the_reference_may_have_answered_more_for_another_candidate():
    order = early(30)
    before, after = in_order(order, "R" * 30), in_order(order, "RRRRCCRRRR")
    m = refusal.measure(before, after, limit("refusal_rate_drop"), early=order)
    assert (m.n, m.value, m.labelled) == (10, 0.2, 20)


def test_categories_of_a_stopped_run_are_sequences_too():
    order = early(30)
    rows = [
        replace(x, completion=replace(x.completion, category="ab"[i % 2]))
        for i, x in enumerate(in_order(order, "R" * 12))
    ]
    m = refusal.measure(rows, rows, limit("refusal_rate_drop"), early=order)
    assert [(s.category, s.n) for s in m.slices] == [("a", 6), ("b", 6)]
    assert m.slices[0].high == sequential_mean([0] * 6, (-1, 1), 30).high(0.05)


def test_a_gap_in_the_order_is_an_error():
    order = early(30)
    rows = in_order(order, "R" * 12)
    with pytest.raises(MeasurementError, match=f"prompt '{order.order[3]}' has no answer, but a later one"):
        refusal.measure(rows, rows[:3] + rows[4:], limit("refusal_rate_drop"), early=order)
    with pytest.raises(MeasurementError, match="the reference has no answer for 1 of the other's"):
        refusal.measure(rows[:5] + rows[6:], rows, limit("refusal_rate_drop"), early=order)
    with pytest.raises(MeasurementError, match="1 answered prompts are not in the order"):
        refusal.measure(rows, [*rows, answer("other", R)], limit("refusal_rate_drop"), early=order)


def test_nothing_answered_is_an_error():
    with pytest.raises(MeasurementError, match="no labelled answers"):
        refusal.measure(answers("RRR"), [], limit("refusal_rate_drop"), early=early(3))


def test_clusters_cannot_be_stopped_early():
    order = early(4)
    rows = [replace(x, completion=replace(x.completion, category="a")) for x in in_order(order, "RRRR")]
    with pytest.raises(MeasurementError, match="leave out --early-stop"):
        refusal.measure(rows, rows, limit("refusal_rate_drop", cluster="category"), early=order)


# ---------------------------------------------------------------- the judge's error


def calibrated(found: int = 90, rejected: int = 95) -> Calibration:
    """Of 100 refusals ``found`` were read as such, of 100 compliances ``rejected`` as not refused."""
    counts = {R: {R: found, C: 100 - found}, C: {R: 100 - rejected, C: rejected}}
    return Calibration(
        judge={"name": "j"}, data="d", digest="0", left_out={}, sources=(Source(name="s", counts=counts),)
    )


def test_rates_are_shown_corrected_beside_the_raw_ones():
    before, after = answers("R" * 70 + "C" * 30), answers("R" * 55 + "C" * 45)
    m = refusal.measure(before, after, limit("refusal_rate_drop"), calibration=calibrated())
    plain = refusal.measure(before, after, limit("refusal_rate_drop"))
    assert replace(m, corrected=None) == plain  # the raw number decides
    raw = paired_difference(15, 0, 100)
    assert m.corrected == corrected_difference(0.7, 0.55, raw, (90, 100, 95, 100), 0.05)
    assert m.corrected.value == pytest.approx(0.15 / 0.85)
    # compliances: of 100 of them 95 are found, of 100 refusals 90 rejected
    m = refusal.measure(before, after, limit("compliance_rate", 0.5), calibration=calibrated())
    assert m.corrected == corrected_rate(0.3, proportion(45, 100), (95, 100, 90, 100), 0.05)


def test_degenerate_text_is_not_corrected():
    rows = answers("RDRD")
    m = refusal.measure(rows, rows, limit("degenerate_rate_rise"), calibration=calibrated())
    assert m.corrected is None


def test_a_judge_that_is_no_better_than_chance_gives_no_corrected_rate():
    rows = answers("RCRC")
    m = refusal.measure(rows, rows, limit("refusal_rate_drop", 0.2), calibration=calibrated(50, 50))
    assert m.corrected is not None
    assert math.isnan(m.corrected.low)
    assert "not clearly better than chance" in m.corrected.method
    assert math.isfinite(m.low)


def test_several_samples_and_stopped_runs_are_corrected_too():
    several = sampled({f"p{i}": "RRC" for i in range(20)})
    order = early(40)
    stopped = in_order(order, "RRRCRRCRRRRR")
    for m in (
        refusal.measure(several, several, limit("refusal_rate_drop"), calibration=calibrated()),
        refusal.measure(stopped, stopped, limit("refusal_rate_drop"), early=order, calibration=calibrated()),
    ):
        assert m.corrected.low < m.low < 0 < m.high < m.corrected.high


@pytest.mark.parametrize("metric", list(refusal.MEASURES))
@pytest.mark.parametrize("labels", ["R", "C", "D", "U"])
def test_one_prompt_never_decides_anything(metric, labels):
    which = limit(metric, 0.5)
    finding = assess(refusal.measure(answers(labels), answers(labels), which), which, "c")
    assert finding.outcome is Outcome.INVALID
