"""Which pairs are the highest, what the gradients would do, and whether scores predict the fall: worked by hand."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from probes.by_hand import fallen, limit
from scipy.stats import spearmanr

from harness.domain import Label, PairGradient, PairSimilarity, PreferencePair
from harness.errors import MeasurementError, PolicyError
from harness.probes import similarity
from harness.probes.similarity import Entanglement, TrainingRow, entanglement, highest, training_rows
from harness.stats import proportion, rank_correlation


def pair(
    name: str, ches: float = 0.0, chosen: float = 1.0, inner: float = 0.0, rejected: float = 1.0
) -> PairSimilarity:
    return PairSimilarity(name, "", 3, 3, ches, ches, 0.0, inner - chosen, 0.5, chosen, inner, rejected)


@pytest.mark.parametrize(
    ("chosen", "inner", "rejected", "case"),
    [
        (4.0, 1.0, 9.0, Entanglement.APART),  # +3 and -8
        (4.0, 6.0, 9.0, Entanglement.BOTH_FALL),  # -2 and -3
        (9.0, 6.0, 4.0, Entanglement.BOTH_RISE),  # +3 and +2
        (4.0, -1.0, 9.0, Entanglement.APART),  # +5 and -10
        (4.0, 4.0, 9.0, Entanglement.APART),  # 0 and -5: a chosen that does not move has not fallen
    ],
)
def test_the_cases_of_gradient_entanglement(chosen, inner, rejected, case):
    assert entanglement(pair("a", chosen=chosen, inner=inner, rejected=rejected)) is case


def test_highest_takes_the_top_share_and_breaks_ties_by_id():
    pairs = [pair("c", 1.0), pair("a", 3.0), pair("d", 3.0), pair("b", -2.0)]
    assert highest(pairs, "ches", 0.25) == ["a"]
    assert highest(pairs, "ches", 0.5) == ["a", "d"]
    assert highest(pairs, "ches", 0.0) == []
    assert highest(list(reversed(pairs)), "ches", 0.75) == ["a", "d", "c"]


@pytest.mark.parametrize(
    ("n", "share", "count"), [(20, 0.05, 1), (10, 0.05, 1), (370, 0.05, 19), (7, 0.999, 7), (3, 1 / 3, 1)]
)
def test_the_number_of_pairs_is_rounded_up(n, share, count):
    assert len(highest([pair(f"p{i}", i) for i in range(n)], "ches", share)) == count


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="unknown score 'chess'; one of ches, ches_normalised"):
        highest([pair("a")], "chess", 0.1)
    for share in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="must lie in"):
            highest([pair("a")], "ches", share)
    with pytest.raises(MeasurementError, match="pair 'b' has no finite ches"):
        highest([pair("a"), pair("b", math.nan)], "ches", 0.1)


# ---------------------------------------------------------------- shares


def alike(name: str, ches: float, normalised: float, chosen: float, inner: float, rejected: float, category: str):
    return PairSimilarity(
        name, category, 3, 4, ches, normalised, 1.0, inner - chosen, 0.5, chosen, inner, rejected, name == "d"
    )


#                     CHES  per token  ‖G⁺‖²  ⟨G⁺, G⁻⟩  ‖G⁻‖²
ALIKE = [
    alike("a", 2.0, -1.0, 4.0, 6.0, 9.0, "x"),  # -2 and -3: both fall
    alike("b", -1.0, -2.0, 4.0, 1.0, 9.0, "x"),  # apart
    alike("c", 5.0, 3.0, 4.0, 5.0, 4.5, "y"),  # -1 and +0.5: swapped
    alike("d", 0.0, 0.0, 9.0, 6.0, 4.0, "y"),  # both rise; CHES of exactly 0 is not above it
]


@pytest.mark.parametrize(
    ("metric", "unit", "k", "examples"),
    [
        ("high_ches_share", "", 2, ("c", "a")),
        ("high_ches_share", "per token", 1, ("c",)),
        ("chosen_falls_share", "", 2, ("a", "c")),  # it falls by 2 and by 1
        ("both_fall_share", "", 1, ("a",)),
    ],
)
def test_shares_by_hand(metric, unit, k, examples):
    m = similarity.measure(ALIKE[::-1], limit(metric, maximum=0.5, unit=unit))
    assert (m.value, m.reference, m.n, m.unit, m.examples) == (k / 4, k / 4, 4, unit, examples)
    assert math.isnan(m.candidate)
    assert (m.low, m.high) == proportion(k, 4).bounds(0.05)
    assert [(s.category, s.n) for s in m.slices] == [("x", 2), ("y", 2)]
    assert m.counts == {
        "both_fall": 1,
        "only_chosen_falls": 1,
        "only_rejected_falls": 1,
        "neither_falls": 1,
        "high_ches": 2,
        "high_ches_normalised": 1,
        "tokenised_apart_share": 0.25,
    }


def test_full_gradients_by_hand():
    gradients = [PairGradient(p.pair_id, p.gradient_chosen, p.gradient_inner, p.gradient_rejected) for p in ALIKE]
    m = similarity.full_both_fall_share(gradients, limit("full_both_fall_share", maximum=0.5))
    assert (m.value, m.reference, m.n, m.examples, m.slices) == (1 / 4, 1 / 4, 4, ("a",), ())
    assert (m.low, m.high) == proportion(1, 4).bounds(0.05)
    assert (m.counts["both_fall"], m.counts["neither_falls"]) == (1, 1)
    # cosines 6/6, 1/6, 5/sqrt(18), 6/6
    assert m.counts["median_cosine"] == pytest.approx(1.0)
    still = [replace(gradients[0], chosen=0.0, inner=0.0)]
    m = similarity.full_both_fall_share(still, limit("full_both_fall_share", maximum=0.5))
    assert m.value == 0  # a chosen response without a gradient does not move
    assert math.isnan(m.counts["median_cosine"])


# ---------------------------------------------------------------- does the score predict the fall?


def predicted(n: int = 40, seed: int = 0):
    """Similarities and scores in which a higher CHES goes with a deeper fall."""
    rng = np.random.default_rng(seed)
    ches, noise = rng.normal(size=n), rng.normal(size=n)
    change = (-2 * ches + noise).tolist()
    pairs = [
        PairSimilarity(f"p{i}", "xy"[i % 2], 3, 3, c, -c, rng.normal(), rng.normal(), 0.5, 1.0, 0.0, 1.0)
        for i, c in enumerate(ches)
    ]
    return pairs, *fallen(change, [0.0] * n), change


def test_the_rank_correlation_is_scipys():
    pairs, reference, candidate, change = predicted()
    rng = np.random.default_rng(1)
    shuffled = [pairs[i] for i in rng.permutation(40)]
    m = similarity.ches_rank_correlation(shuffled, reference[::-1], candidate, limit("ches_rank_correlation", 0.0))
    rho = {name: spearmanr([getattr(p, name) for p in pairs], change).statistic for name in similarity.SCORES[:4]}
    assert m.value == pytest.approx(rho["ches"])
    assert -0.97 < m.low < m.value < m.high < -0.6
    assert {name: m.counts[f"rho_{name}"] for name in rho} == pytest.approx(rho)
    assert math.isnan(m.counts["rho_edit"]), "all pairs have the same edit similarity"
    assert (m.low, m.high) == pytest.approx(rank_correlation([p.ches for p in pairs], change).bounds(0.05))
    per_token = similarity.ches_rank_correlation(
        pairs, reference, candidate, limit("ches_rank_correlation", 0.0, unit="per token")
    )
    assert (per_token.value, per_token.unit) == (pytest.approx(-rho["ches"]), "per token")
    x = m.slices[0]
    assert (x.category, x.n) == ("x", 20)
    assert x.value == pytest.approx(spearmanr([p.ches for p in pairs[::2]], change[::2]).statistic)


def test_the_pairs_against_the_bound_are_the_examples():
    # ranks of CHES 1 to 10; Δ⁺ falls with it, but for p0 (lowest CHES, fell most) and p9 (highest, rose most)
    change = [-10.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, 5.0]
    pairs = [pair(f"p{i}", float(i)) for i in range(10)]
    m = similarity.ches_rank_correlation(pairs, *fallen(change, [0.0] * 10), limit("ches_rank_correlation", 0.0))
    assert m.examples[:2] == ("p0", "p9")


def test_too_few_pairs_have_no_rank_correlation():
    pairs, reference, candidate, _ = predicted(9)
    m = similarity.ches_rank_correlation(pairs, reference, candidate, limit("ches_rank_correlation", 0.0))
    assert m.problem == "a rank correlation needs at least 10 items, not 9"


# ---------------------------------------------------------------- rows for the report


def test_training_rows():
    labels = [
        (Label.REFUSAL, Label.REFUSAL),
        (Label.COMPLIANCE, Label.REFUSAL),
        (Label.COMPLIANCE, Label.COMPLIANCE),
        (Label.REFUSAL, Label.DEGENERATE),
    ]
    order = ["p1", "p0", "p3", "p2"]
    similar = [replace(item, pair_id=f"p{i}") for i, item in enumerate(ALIKE)]
    pairs = [PreferencePair(name, "q", "yes", "no", category="z") for name in order]
    rows = training_rows(pairs, similar, labels, *fallen([-1.0, 2.0, -3.0, 4.0], [5.0, -6.0, 7.0, -8.0]))
    assert [row.pair_id for row in rows] == order
    assert [row.pair_type for row in rows] == ["both refuse", "mixed", "both comply", "other"]
    assert rows[1] == TrainingRow(
        pair_id="p0",
        category="z",
        pair_type="mixed",
        chosen_tokens=3,
        rejected_tokens=4,
        ches=2.0,
        ches_normalised=-1.0,
        last_hidden=1.0,
        alpha_ches=2.0,
        edit=0.5,
        entanglement="both fall",
        delta_chosen=-1.0,
        delta_rejected=5.0,
    )
    unjudged = training_rows(pairs, similar, None, *fallen([-1.0, 2.0, -3.0, 4.0], [0.0] * 4))
    assert {row.pair_type for row in unjudged} == {""}


def test_training_rows_have_the_columns_that_the_report_reads():
    names = [field.name for field in fields(TrainingRow)]
    assert names == [
        *("pair_id", "category", "pair_type", "chosen_tokens", "rejected_tokens", "ches", "ches_normalised"),
        *("last_hidden", "alpha_ches", "edit", "entanglement", "delta_chosen", "delta_rejected"),
    ]


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("other", (Label.UNREADABLE, Label.REFUSAL)),
        ("other", (Label.COMPLIANCE, Label.DEGENERATE)),
        ("mixed", (Label.REFUSAL, Label.COMPLIANCE)),
    ],
)
def test_the_type_of_a_pair(kind, label):
    similar = [replace(ALIKE[0], pair_id="p0")]
    rows = training_rows([PreferencePair("p0", "q", "yes", "no")], similar, [label], *fallen([0.0], [0.0]))
    assert rows[0].pair_type == kind


def test_rows_of_different_pairs_are_an_error():
    scores = fallen([0.0] * 4, [0.0] * 4)
    similar = [replace(item, pair_id=f"p{i}") for i, item in enumerate(ALIKE)]
    pairs = [PreferencePair(f"p{i}", "q", "yes", "no") for i in range(4)]
    with pytest.raises(MeasurementError, match="1 pairs are missing in the similarities, first 'p2'"):
        training_rows(pairs, [*similar[:2], similar[3]], None, *scores)
    with pytest.raises(MeasurementError, match="1 pairs are missing in the corpus, first 'p0'"):
        training_rows(pairs[1:], similar, None, *scores)
    with pytest.raises(MeasurementError, match="3 labels of responses for 4 pairs"):
        training_rows(pairs, similar, [(Label.REFUSAL, Label.REFUSAL)] * 3, *scores)
    with pytest.raises(MeasurementError, match="1 pairs are missing in the similarities, first 'p0'"):
        similarity.ches_rank_correlation(ALIKE, *fallen([0.0], [0.0]), limit("ches_rank_correlation", 0.0))


# ---------------------------------------------------------------- numbers that mean nothing


@pytest.mark.parametrize("metric", list(similarity.MEASURES))
@pytest.mark.parametrize("field", ["ches", "ches_normalised", "gradient_chosen", "gradient_inner", "gradient_rejected"])
def test_numbers_that_are_not_finite_are_an_error(metric, field):
    with pytest.raises(MeasurementError, match=f"pair 'b' has the {field} nan: look for NaN"):
        similarity.measure([ALIKE[0], replace(ALIKE[1], **{field: math.nan})], limit(metric, maximum=0.5))


def test_pairs_that_cannot_be_counted_are_an_error():
    ask = limit("high_ches_share", maximum=0.5)
    with pytest.raises(MeasurementError, match="there are no pairs"):
        similarity.measure([], ask)
    with pytest.raises(MeasurementError, match="pair 'a' is there twice"):
        similarity.measure([*ALIKE, ALIKE[0]], ask)
    gradient = PairGradient("g", 1.0, math.inf, 1.0)
    with pytest.raises(MeasurementError, match="pair 'g' has the inner inf"):
        similarity.full_both_fall_share([gradient], limit("full_both_fall_share", maximum=0.5))
    with pytest.raises(PolicyError, match="no unit 'nats'"):
        similarity.measure(ALIKE, limit("high_ches_share", maximum=0.5, unit="nats"))
    with pytest.raises(PolicyError, match="'ches_rank_correlation' is not measured here"):
        similarity.measure(ALIKE, limit("ches_rank_correlation", maximum=0.5))


def test_pairs_on_one_prompt_are_one_item():
    which = limit("high_ches_share", maximum=0.9)
    alone = similarity.measure(ALIKE, which)
    shared = similarity.measure([replace(item, prompt_id="q" if item.pair_id in "ab" else "") for item in ALIKE], which)
    assert (alone.n, shared.n) == (len(ALIKE), len(ALIKE) - 1)
    assert shared.value == alone.value
    assert shared.low < alone.low
    # the correlation counts prompts too
    before, after = fallen(list(range(12)), [0.0] * 12)
    pairs = [replace(ALIKE[0], pair_id=f"p{i}", ches=-float(i), prompt_id=f"q{i // 4}") for i in range(12)]
    which = limit("ches_rank_correlation", maximum=0.0)
    assert "at least 10 clusters" in similarity.ches_rank_correlation(pairs, before, after, which).problem
