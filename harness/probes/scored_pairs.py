"""Pairs scored by both checkpoints, as a table and as arrays; and what the probes on pairs report in the same way.

log π(y|x) is the sum over the tokens of response y (end-of-turn included), in nats. For each preference pair

    Δ⁺ = log π_candidate(y⁺|x) - log π_reference(y⁺|x)     (chosen)
    Δ⁻ = log π_candidate(y⁻|x) - log π_reference(y⁻|x)     (rejected)

Scores come in any order and are paired by pair id. **Per token** means that each response's number is divided by its
own token count before averaging over pairs. **Independent** are prompts, not pairs: several pairs on one prompt are a
cluster, as are, where the limit says ``cluster: category``, all pairs of a category; ``n`` counts clusters, and the
number stays the mean over pairs.

``counts`` holds the same companions everywhere: mean Δ⁺, Δ⁻ and margin (nats per response), shares that fell, the four
quadrants of (Δ⁺, Δ⁻), ties, the share of pairs tokenised apart and, where there are third responses, how many pairs
have them and their mean Δ. ``examples`` holds ids of at most ``MAX_EXAMPLES`` pairs that moved the number towards
breaking the limit, worst first: for a floor on the chosen log-probability, the pairs whose chosen response fell most.
``slices`` goes by category.

``table`` and ``read`` raise ``MeasurementError`` for scores that do not pair up (missing or double ids, different token
counts or third responses, no pairs) and for NaN or infinite log-probabilities, naming the pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.domain import Limit, Measurement, PairScore, ResponseScore
from harness.errors import MeasurementError
from harness.probes.common import MAX_EXAMPLES, Clusters, MeasureItems, Positions, by_category, clusters_of
from harness.stats import Estimate, mean, measurement, unusable
from harness.stats import share as share_of

NATS, NATS_PER_TOKEN, PER_TOKEN = "nats", "nats/token", "per token"
"""Units a limit may ask for: log-probabilities per response or per token; rankings raw ('') or per token."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PairRow:
    """One pair under both checkpoints. Log-probabilities are sums over the response's tokens, nats."""

    pair_id: str
    category: str
    chosen_tokens: int
    rejected_tokens: int
    reference_chosen: float
    candidate_chosen: float
    reference_rejected: float
    candidate_rejected: float
    delta_chosen: float
    """Δ⁺ = candidate_chosen - reference_chosen."""
    delta_rejected: float
    """Δ⁻ = candidate_rejected - reference_rejected."""
    tokenised_apart: bool
    other_tokens: tuple[int, ...] = ()
    """Token counts of the third responses, in the order of ``PreferencePair.others``."""
    reference_others: tuple[float, ...] = ()
    candidate_others: tuple[float, ...] = ()
    prompt_id: str = ""
    """``PreferencePair.prompt_id``; '' where it is not known."""

    @property
    def delta_others(self) -> tuple[float, ...]:
        """Δ of each third response."""
        return tuple(after - before for before, after in zip(self.reference_others, self.candidate_others, strict=True))


def table(reference: Sequence[PairScore], candidate: Sequence[PairScore]) -> list[PairRow]:
    """One row per pair, in the reference's order, for reports.

    Raises ``MeasurementError`` where scores do not pair up or are not finite: see the module.
    """
    before, after = _by_id("reference", reference), _by_id("candidate", candidate)
    if not before and not after:
        raise MeasurementError("there are no scored pairs to compare")
    for side, missing in (("candidate", before.keys() - after.keys()), ("reference", after.keys() - before.keys())):
        if missing:
            raise MeasurementError(
                f"the {side} has no score for {len(missing)} of the other's pairs, first {min(missing)!r}: "
                "score both checkpoints on the same corpus"
            )
    return [_row(before[pair_id], after[pair_id]) for pair_id in before]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """All pairs, by id, as arrays [pairs] of log-probabilities in ``unit``."""

    rows: list[PairRow]
    unit: str
    reference_chosen: Floats
    candidate_chosen: Floats
    reference_rejected: Floats
    candidate_rejected: Floats

    @property
    def delta_chosen(self) -> Floats:
        return self.candidate_chosen - self.reference_chosen

    @property
    def delta_rejected(self) -> Floats:
        return self.candidate_rejected - self.reference_rejected

    @property
    def margin(self) -> Floats:
        """Δ⁺ - Δ⁻: DPO's implicit reward margin over β."""
        return self.delta_chosen - self.delta_rejected

    def rankings(self) -> tuple[Floats, Floats]:
        """log π(y⁺|x) - log π(y⁻|x) under reference and candidate: above 0 is ranked right."""
        return self.reference_chosen - self.reference_rejected, self.candidate_chosen - self.candidate_rejected

    def others(self) -> tuple[Floats, Floats]:
        """Mean log-probability of each pair's third responses under reference and candidate; NaN where it has none."""
        per_token = self.unit in (NATS_PER_TOKEN, PER_TOKEN)
        means = []
        for row in self.rows:
            tokens = row.other_tokens if per_token else (1,) * len(row.other_tokens)
            for values in (row.reference_others, row.candidate_others):
                shares = [value / count for value, count in zip(values, tokens, strict=True)]
                means.append(math.fsum(shares) / len(shares) if shares else math.nan)
        return np.array(means[::2]), np.array(means[1::2])


def read(reference: Sequence[PairScore], candidate: Sequence[PairScore], unit: str) -> Pairs:
    """The pairs of both checkpoints, with every log-probability in ``unit``. Errors: see the module."""
    rows = sorted(table(reference, candidate), key=lambda row: row.pair_id)
    per_token = unit in (NATS_PER_TOKEN, PER_TOKEN)
    chosen = np.array([row.chosen_tokens if per_token else 1 for row in rows], dtype=np.float64)
    rejected = np.array([row.rejected_tokens if per_token else 1 for row in rows], dtype=np.float64)
    return Pairs(
        rows=rows,
        unit=unit,
        reference_chosen=np.array([row.reference_chosen for row in rows]) / chosen,
        candidate_chosen=np.array([row.candidate_chosen for row in rows]) / chosen,
        reference_rejected=np.array([row.reference_rejected for row in rows]) / rejected,
        candidate_rejected=np.array([row.candidate_rejected for row in rows]) / rejected,
    )


# ---------------------------------------------------------------- measurements


def share(
    pairs: Pairs, limit: Limit, hits: Flags, size: Floats, counts: Mapping[str, float] | None = None
) -> Measurement:
    """Share of ``hits`` [pairs]. It compares the two models, so neither has a value of its own."""
    return measured(
        pairs,
        limit,
        lambda at, clusters: (share_of(hits[at], clusters), math.nan, math.nan),
        size=size,
        hits=hits,
        counts=counts,
    )


def measured(
    pairs: Pairs,
    limit: Limit,
    of: MeasureItems,
    *,
    size: Floats,
    hits: Flags | None = None,
    counts: Mapping[str, float] | None = None,
    sliced: bool = True,
) -> Measurement:
    """Measure ``of`` all pairs and each category, with the companions in ``counts``; else as ``measured_items``."""
    return measured_items(
        [row.pair_id for row in pairs.rows],
        [row.category for row in pairs.rows],
        [row.prompt_id for row in pairs.rows],
        limit,
        of,
        size=size,
        hits=hits,
        unit=pairs.unit,
        counts=_companions(pairs.rows) | dict(counts or {}),
        sliced=sliced,
    )


def measured_items(
    ids: Sequence[str],
    categories: Sequence[str],
    prompts: Sequence[str],
    limit: Limit,
    of: MeasureItems,
    *,
    size: Floats,
    hits: Flags | None = None,
    unit: str = "",
    counts: Mapping[str, float] | None = None,
    sliced: bool = True,
) -> Measurement:
    """Measure ``of`` all items and each category. ``size`` [items]: how far each pushes the number up; NaN: left out.

    ``prompts`` [items]: ids, '' where not known. Examples are the items that push towards the bound (or, for shares,
    that are counted on its side), furthest first. Raises as ``clusters_of``.
    """
    harm = size if limit.is_maximum else -size
    guilty = harm > 0 if hits is None else (hits == limit.is_maximum) & ~np.isnan(harm)
    worst = sorted(np.flatnonzero(guilty).tolist(), key=lambda i: -harm[i])
    estimate, before, after = of(np.arange(len(ids)), clusters_of(limit, prompts, categories))
    return measurement(
        limit,
        estimate,
        reference=before,
        candidate=after,
        unit=unit,
        counts=counts,
        examples=[ids[i] for i in worst[:MAX_EXAMPLES]],
        slices=by_category(categories, prompts, limit, of) if sliced else (),
    )


def nonnegative_mean(values: Floats, reach: float, clusters: Clusters | None = None) -> Estimate:
    """The mean of values [n] that cannot be below 0 and have no upper end.

    Lower bound: Gaffke's, which needs only the 0. Upper bound: the wider of ``stats.mean``'s and of Gaffke's up to
    ``reach``, the largest value that a pair not seen is taken to have. The second one counts where most values are 0,
    or all: no spread is then seen, and at most a share 1 - alpha^(1/n) of the pairs differs. Unusable as ``stats.mean``
    is, but for values that are all 0 with a ``reach`` above it.

    One-sided coverage at a nominal 95 %, the worse of the two sides, simulated (600 runs, standard error 0.9 points)
    with 10, 30 and 100 values: max(0, -Δ) of normal and t3 changes Δ, from most falling to one in fifty, with the
    largest |Δ| as reach 95.2 % or more; DPO's loss of normal margins of mean 0, 2, 5 (deviation 1, 2, 3) and reach as
    in ``dpo_loss`` 95.8, 90.0, 97.8 %, then 97.2, 96.2, 89.8 %, then 96.0, 96.0, 94.7 %.
    """
    free = mean(values, clusters=clusters)
    top = float(values.max()) if values.size else 0.0
    if free.problem and (free.n < 2 or top > 0 or not reach > 0):
        return free
    bounded = mean(values, support=(0.0, max(top, reach)), clusters=clusters)
    if free.problem:
        return Estimate(free.value, free.n, f"Gaffke's bound up to {reach:.3g}", bounded.low, bounded.high)

    def high(alpha: float) -> float:
        ends = free.high(alpha), bounded.high(alpha)
        return max(ends) if alpha < 0.5 else min(ends)

    method = f"above: Student's, Hall's and Gaffke's bound up to {reach:.3g}, the widest; below: Gaffke's bound"
    return Estimate(free.value, free.n, method, bounded.low, high)


def kept(positions: Positions, clusters: Clusters, values: Floats) -> tuple[Positions, Clusters]:
    """Those of the ``positions``, and their clusters, whose value is not NaN: the items that are not left out."""
    there = ~np.isnan(values[positions])
    return positions[there], clusters[there]


def average(values: Floats) -> float:
    """The mean of values [n]; NaN for none."""
    return float(values.mean()) if values.size else math.nan


def or_problem(estimate: Estimate, missing: str) -> Estimate:
    """The estimate, or, where nothing was there to be measured, an unusable one that says what is ``missing``."""
    return estimate if estimate.n else unusable(missing)


def _companions(rows: Sequence[PairRow]) -> dict[str, float]:
    chosen = np.array([row.delta_chosen for row in rows])
    rejected = np.array([row.delta_rejected for row in rows])
    fell, rejected_fell = chosen < 0, rejected < 0
    others = [math.fsum(row.delta_others) / len(row.delta_others) for row in rows if row.other_tokens]
    third = {"pairs_with_others": len(others), "mean_delta_other": float(np.mean(others))} if others else {}
    return {
        "mean_delta_chosen": float(chosen.mean()),
        "mean_delta_rejected": float(rejected.mean()),
        "mean_margin": float((chosen - rejected).mean()),
        "chosen_decrease_share": float(fell.mean()),
        "both_decrease_share": float((fell & rejected_fell).mean()),
        "both_fell": int((fell & rejected_fell).sum()),
        "only_chosen_fell": int((fell & ~rejected_fell).sum()),
        "only_rejected_fell": int((~fell & rejected_fell).sum()),
        "neither_fell": int((~fell & ~rejected_fell).sum()),
        "chosen_unchanged": int((chosen == 0).sum()),
        "margin_ties": int((chosen == rejected).sum()),
        "tokenised_apart_share": float(np.mean([row.tokenised_apart for row in rows])),
        **third,
    }


# ---------------------------------------------------------------- pairing up


def _responses(score: PairScore) -> list[tuple[str, ResponseScore]]:
    """Every response with what messages call it."""
    others = [(f"third (number {number})", other) for number, other in enumerate(score.others, start=1)]
    return [("chosen", score.chosen), ("rejected", score.rejected), *others]


def _by_id(side: str, scores: Sequence[PairScore]) -> dict[str, PairScore]:
    found: dict[str, PairScore] = {}
    for score in scores:
        if score.pair_id in found:
            raise MeasurementError(f"the {side} has two scores for pair {score.pair_id!r}")
        for name, response in _responses(score):
            if not response.tokens:
                raise MeasurementError(f"the {side}'s {name} response of pair {score.pair_id!r} has no tokens")
            if not math.isfinite(response.logprob):
                raise MeasurementError(
                    f"the {side}'s log-probability of the {name} response of pair {score.pair_id!r} is "
                    f"{response.logprob}: look for NaN or infinite logits in that checkpoint"
                )
        found[score.pair_id] = score
    return found


def _row(before: PairScore, after: PairScore) -> PairRow:
    if len(before.others) != len(after.others):
        raise MeasurementError(
            f"pair {before.pair_id!r} has {len(before.others)} third responses for the reference and "
            f"{len(after.others)} for the candidate: score both checkpoints on the same corpus"
        )
    for (name, b), (_, a) in zip(_responses(before), _responses(after), strict=True):
        if b.tokens != a.tokens:
            raise MeasurementError(
                f"the {name} response of pair {before.pair_id!r} has {b.tokens} tokens for the reference and "
                f"{a.tokens} for the candidate: both need the same tokenizer, template and corpus"
            )
    if before.category != after.category:
        raise MeasurementError(
            f"pair {before.pair_id!r} has the category {before.category!r} for the reference and {after.category!r} "
            "for the candidate: score both checkpoints on the same corpus"
        )
    if before.prompt_id and after.prompt_id and before.prompt_id != after.prompt_id:
        raise MeasurementError(
            f"pair {before.pair_id!r} has another prompt for the reference than for the candidate: score both "
            "checkpoints on the same corpus"
        )
    return PairRow(
        pair_id=before.pair_id,
        category=before.category,
        chosen_tokens=before.chosen.tokens,
        rejected_tokens=before.rejected.tokens,
        reference_chosen=before.chosen.logprob,
        candidate_chosen=after.chosen.logprob,
        reference_rejected=before.rejected.logprob,
        candidate_rejected=after.rejected.logprob,
        delta_chosen=after.chosen.logprob - before.chosen.logprob,
        delta_rejected=after.rejected.logprob - before.rejected.logprob,
        tokenised_apart=before.tokenised_apart or after.tokenised_apart,
        other_tokens=tuple(other.tokens for other in before.others),
        reference_others=tuple(other.logprob for other in before.others),
        candidate_others=tuple(other.logprob for other in after.others),
        prompt_id=before.prompt_id or after.prompt_id,
    )
