"""What to trust in a run's numbers: the judge and its error, a second judge, noise, power, early stopping, sampling.

Everything here is read off the record, or counted in its tables; nothing is measured again. ``trust`` is the section of
the page; ``candidate_lines`` and ``run_lines`` are the same in a few lines for the terminal and the step summary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import following
from harness.domain import SERVED, Corrected, Label, Limit, Measurement
from harness.noise import CHANGES, FILE, Alarms, Floor
from harness.policy import METRICS, Work
from harness.record import Agreement, RunRecord
from harness.report.rows import Answer, LimitRow, baseline_lines, is_same, limit_rows, number, short_bound
from harness.report.text import Excerpt, counted, excerpt

if TYPE_CHECKING:
    import pandas as pd

NOISE_FILE = FILE
_MOST_LISTED = 6
"""Entries of one line in the terminal; the others are counted."""


# ---------------------------------------------------------------- the judge


@dataclass(frozen=True, slots=True)
class Rate:
    """How often the judge is right about one kind of answer, by human labels."""

    found: int
    of: int

    @property
    def value(self) -> float:
        """NaN where there are no answers."""
        return self.found / self.of if self.of else math.nan


@dataclass(frozen=True, slots=True)
class Judging:
    """The judge that gave the labels, and what is known of its error."""

    name: str
    """'' where no judge was named."""
    settings: tuple[tuple[str, str], ...] = ()
    """Without its name."""
    calibrated: bool = False
    sensitivity: Rate = Rate(0, 0)
    """Of the refusals by human label, those that the judge read as refusals."""
    specificity: Rate = Rate(0, 0)
    """Of the others, those that it did not."""
    sources: tuple[str, ...] = ()
    file: str = ""


@dataclass(frozen=True, slots=True)
class CorrectedRow:
    """One measurement, as labelled and corrected for the judge's error."""

    candidate: str
    limit: Limit
    raw: Measurement
    corrected: Corrected
    alone: str
    """What the corrected interval by itself would say, where that is not how the limit came out; '' elsewhere."""

    @property
    def failed(self) -> str:
        """Why there is no corrected value; '' where there is one."""
        return self.corrected.method if math.isnan(self.corrected.value) else ""


@dataclass(frozen=True, slots=True)
class Read:
    """How one judge read an answer."""

    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An answer to which two judges gave different labels."""

    prompt_id: str
    sample: int
    category: str
    prompt: Excerpt
    answer: Excerpt
    cut_off: bool
    """Generation ended by length."""
    first: Read
    second: Read


@dataclass(frozen=True, slots=True)
class Disagreements:
    """Where two judges differ on one checkpoint's answers to one corpus; answers that one could not read are not in."""

    corpus: str
    missing: str = ""
    """Why there is nothing to show; everything below is empty then."""
    checkpoint: str = ""
    items: tuple[Disagreement, ...] = ()
    """Refusal against compliance first."""
    differing: int = 0
    """All of them, shown or not."""
    sources: tuple[str, ...] = ()
    """Table files, relative to the run directory."""


# ---------------------------------------------------------------- the run


@dataclass(frozen=True, slots=True)
class FloorRow:
    """A limit beside the noise floor of its metric."""

    limit: Limit
    floor: Floor

    @property
    def too_tight(self) -> bool:
        """The limit would not pass the reference itself: the rule of ``noise.check``."""
        return (self.limit.bound if self.limit.is_maximum else -self.limit.bound) < self.floor.floor


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """What an A/A run found of the difference between a model and itself."""

    run: str
    own: bool
    """It is this run."""
    rows: tuple[FloorRow, ...]
    without: tuple[str, ...]
    """Ids of limits on differences that have no floor."""
    alarms: Alarms


@dataclass(frozen=True, slots=True)
class Stop:
    """How far generation went on one corpus."""

    candidate: str
    corpus: str
    asked: int
    """Prompts that were asked; 0 where the record does not say."""
    planned: int
    """Prompts that would be asked at most; 0: the corpus was asked as a whole, or the record does not say."""
    followed: bool
    """Its limits allow generation to stop early."""

    @property
    def early(self) -> bool:
        return self.asked < self.planned


@dataclass(frozen=True, slots=True)
class VarianceRow:
    """Parts of the variance of a number that is a mean over prompts with several samples each."""

    candidate: str
    limit: Limit
    prompt: float
    """From which prompts were asked."""
    sampling: float
    """From which answers were drawn."""
    share: float
    """Of the sum, that of sampling."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The whole section."""

    served: tuple[str, ...]
    """Names of checkpoints that a server ran: their bytes were not seen."""
    judge: Judging
    corrected: tuple[CorrectedRow, ...]
    second_judge: Judging
    agreements: tuple[Agreement, ...]
    """The reference first, then the candidates in their order."""
    disagreements: tuple[Disagreements, ...]
    same: bool
    """An A/A run."""
    noise: NoiseFloor | None
    power: tuple[str, ...]
    early_stop: bool
    stops: tuple[Stop, ...]
    variance: tuple[VarianceRow, ...]


def trust(record: RunRecord, disagreements: Sequence[Disagreements] = ()) -> Trust:
    """What a record says of its own numbers.

    Args:
        record: the run.
        disagreements: from its tables, see ``disagreements_of``.
    """
    names = [item.name for item in record.candidates]
    return Trust(
        served=served(record),
        judge=_judging(record),
        corrected=tuple(row for name in names for row in corrected_rows(record, name)),
        second_judge=Judging(_name(record.second_judge), _settings(record.second_judge)),
        agreements=agreements(record),
        disagreements=tuple(disagreements),
        same=_same(record),
        noise=noise_floor(record),
        power=record.power,
        early_stop=record.early_stop,
        stops=tuple(row for name in names for row in stops(record, name)),
        variance=tuple(row for name in names for row in _variance(record, name)),
    )


def asked_of(m: Measurement, samples: int) -> int:
    """Prompts whose answers a measurement of labels is made from, unreadable ones included.

    ``n`` counts prompts with a readable sample. A change is made from the labels of both models, a share from the
    candidate's.
    """
    if not m.unreadable:
        return m.n
    models = 2 if m.metric.endswith(CHANGES) else 1
    return m.labelled // (models * samples)


# ---------------------------------------------------------------- parts


def served(record: RunRecord) -> tuple[str, ...]:
    """Names of the checkpoints that a server ran."""
    return tuple(item.name for item in (record.reference, *record.candidates) if item.served)


def _judging(record: RunRecord) -> Judging:
    name, settings = _name(record.judge), _settings(record.judge)
    facts = record.calibration
    if facts is None:
        return Judging(name, settings)
    return Judging(
        name,
        settings,
        calibrated=True,
        sensitivity=Rate(round(facts.sensitivity * facts.positives), facts.positives),
        specificity=Rate(round(facts.specificity * facts.negatives), facts.negatives),
        sources=facts.sources,
        file=facts.path,
    )


def _name(described: Mapping[str, str]) -> str:
    """A judge's name; '' where there is no judge at all."""
    return described.get("name") or ("(unnamed)" if described else "")


def _settings(described: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in described.items() if key != "name")


def corrected_rows(record: RunRecord, candidate: str) -> tuple[CorrectedRow, ...]:
    """Measurements that come with a corrected value."""
    return tuple(
        CorrectedRow(candidate, row.limit, m, m.corrected, _alone(row, m.corrected))
        for row in limit_rows(record, candidate)
        if (m := row.measurement) is not None and m.corrected is not None
    )


def _alone(row: LimitRow, corrected: Corrected) -> str:
    if row.answer not in (Answer.KEPT, Answer.BROKEN, Answer.UNDECIDED) or math.isnan(corrected.value):
        return ""
    ends = [row.limit.keeps(end) for end in (corrected.low, corrected.high)]
    answer = Answer.KEPT if all(ends) else Answer.UNDECIDED if any(ends) else Answer.BROKEN
    return "" if answer is row.answer else answer.meaning


def agreements(record: RunRecord) -> tuple[Agreement, ...]:
    """Of the reference first, then of the candidates in their order; corpora as the policy's limits name them."""
    owners = {item.name: place for place, item in enumerate((record.reference, *record.candidates))}
    corpora = {item.corpus: -place for place, item in reversed([*enumerate(record.policy.limits)])}

    def place(item: Agreement) -> tuple[int, int]:
        return owners.get(item.checkpoint, len(owners)), -corpora.get(item.corpus, -len(corpora))

    return tuple(sorted(record.agreements, key=place))


def disagreements_of(
    corpus: str,
    first: pd.DataFrame,
    second: pd.DataFrame,
    completions: pd.DataFrame,
    prompts: Mapping[str, Mapping[str, Any]],
    samples: int,
    sources: Sequence[str] = (),
) -> Disagreements:
    """The answers on which two judges differ.

    Args:
        corpus: what is answered.
        first: [answers] prompt_id, sample, label, reason of the judge.
        second: [answers] the same of the second judge.
        completions: [answers] what was answered.
        prompts: prompt id -> row of the corpus' table; empty where that is not kept.
        samples: items at most; the others are counted.
        sources: the tables' files.

    Raises:
        KeyError: a column is missing.
        ValueError: an answer is there twice.
    """
    key = ["prompt_id", "sample"]
    read = first[[*key, "label", "reason"]].merge(
        second[[*key, "label", "reason"]], on=key, how="inner", validate="one_to_one", suffixes=("", "_second")
    )
    rows = completions.merge(read, on=key, how="inner", validate="one_to_one", sort=False).to_dict(orient="records")
    differing = [
        row
        for row in rows
        if row["label"] != row["label_second"] and Label.UNREADABLE.value not in (row["label"], row["label_second"])
    ]
    rates = {Label.REFUSAL.value, Label.COMPLIANCE.value}
    differing.sort(key=lambda row: {row["label"], row["label_second"]} != rates)
    return Disagreements(
        corpus,
        items=tuple(_disagreement(row, prompts) for row in differing[:samples]),
        differing=len(differing),
        sources=tuple(sources),
    )


def _disagreement(row: Mapping[Any, Any], prompts: Mapping[str, Mapping[str, Any]]) -> Disagreement:
    prompt_id = str(row["prompt_id"])
    return Disagreement(
        prompt_id=prompt_id,
        sample=int(row["sample"]),
        category=str(row["category"]),
        prompt=excerpt(str(prompts.get(prompt_id, {}).get("prompt", ""))),
        answer=excerpt(str(row["text"])),
        cut_off=row["finish"] == "length",
        first=Read(str(row["label"]), str(row["reason"])),
        second=Read(str(row["label_second"]), str(row["reason_second"])),
    )


def noise_floor(record: RunRecord) -> NoiseFloor | None:
    """The floor that the run measured or was held against; None where there is none."""
    if record.noise is None:
        return None
    floors = {(item.metric, item.corpus, item.unit): item for item in record.noise.floors}
    limits = record.policy.limits
    rows = [(limit, floors.get((limit.metric, limit.corpus, limit.unit))) for limit in limits]
    return NoiseFloor(
        run=record.noise.run,
        own=_same(record),
        rows=tuple(FloorRow(limit, floor) for limit, floor in rows if floor is not None),
        without=tuple(limit.id for limit, floor in rows if floor is None and limit.metric.endswith(CHANGES)),
        alarms=record.noise.alarms,
    )


def _same(record: RunRecord) -> bool:
    return all(is_same(record, item.name) for item in record.candidates)


def stops(record: RunRecord, candidate: str) -> tuple[Stop, ...]:
    """How far generation went, by corpus of prompts; () in a run that could not stop early."""
    if not record.early_stop:
        return ()
    rows: dict[str, list[Measurement]] = {}
    for row in limit_rows(record, candidate):
        known = METRICS.get(row.limit.metric)
        if row.measurement is not None and known is not None and Work.COMPLETIONS in known.works:
            rows.setdefault(row.limit.corpus, []).append(row.measurement)
    found = []
    for corpus, measured in rows.items():
        counts = [(asked_of(m, record.policy.decoding.samples), m.planned) for m in measured if m.planned]
        asked, planned = max(counts, default=(0, 0))
        limits = [limit for limit in record.policy.limits if limit.corpus == corpus]
        found.append(Stop(candidate, corpus, asked, planned, following.can_follow(limits)))
    return tuple(found)


def _variance(record: RunRecord, candidate: str) -> tuple[VarianceRow, ...]:
    names = ("prompt variance", "sampling variance", "sampling share")
    return tuple(
        VarianceRow(candidate, row.limit, *(m.counts.get(name, math.nan) for name in names))
        for row in limit_rows(record, candidate)
        if (m := row.measurement) is not None and names[0] in m.counts and names[1] in m.counts
    )


# ---------------------------------------------------------------- in a few lines


def candidate_lines(record: RunRecord, candidate: str) -> tuple[str, ...]:
    """What belongs under the limits of one candidate; () where there is nothing to say."""
    corrected = [_corrected_line(row) for row in corrected_rows(record, candidate)]
    stopped = [
        f"{item.corpus} after {item.asked:,} of {counted(item.planned, 'prompt')}"
        for item in stops(record, candidate)
        if item.early
    ]
    return (
        *_line("corrected for the judge's error", corrected),
        *_line("stopped early", stopped),
        *_agreement_lines(record, candidate),
    )


def run_lines(record: RunRecord) -> tuple[str, ...]:
    """What belongs to the whole run; () where there is nothing to say."""
    floor = noise_floor(record)
    of_reference = _agreement_lines(record, record.reference.name, " on the reference")
    of_servers = _line(SERVED, served(record))
    return (
        *baseline_lines(record),
        *of_servers,
        *of_reference,
        *(_noise_lines(floor) if floor is not None and floor.own else ()),
    )


def describe_alarms(alarms: Alarms) -> str:
    """How often the gate acts on noise alone, as one sentence."""
    if not alarms.replicates:
        return "False alarms were not measured: no limit that was answered compares answers or pairs one by one."
    return (
        f"On noise alone some limit claims FAIL in {alarms.failed:,} of {counted(alarms.replicates, 'replicate')}, and "
        f"the gate would hold back the reference itself in {alarms.not_passed:,} of {alarms.replicates:,}."
    )


def _corrected_line(row: CorrectedRow) -> str:
    c, raw = row.corrected, f"{row.limit.id} {number(row.raw.value)}"
    if row.failed:
        return f"{raw} -> n/a"
    by_itself = f" (would be {row.alone})" if row.alone else ""
    return f"{raw} -> {number(c.value)} [{number(c.low)}, {number(c.high)}]{by_itself}"


def _agreement_lines(record: RunRecord, checkpoint: str, whose: str = "") -> tuple[str, ...]:
    mine = [_agreement(item) for item in agreements(record) if item.checkpoint == checkpoint]
    return _line(f"second judge {_name(record.second_judge)}{whose}", mine)


def _agreement(item: Agreement) -> str:
    unread = f", {item.unreadable:,} unreadable" if item.unreadable else ""
    kappa = "no kappa" if item.problem else f"kappa {number(item.kappa)}"
    return f"{kappa} on {item.corpus}, {item.disagree:,} of {item.n:,} differ{unread}"


def _noise_lines(floor: NoiseFloor) -> tuple[str, ...]:
    floors = [
        f"{row.limit.id} {number(row.floor.floor)} (limit {short_bound(row.limit)}"
        f"{', tighter than the noise' if row.too_tight else ''})"
        for row in floor.rows
    ]
    return (*_line("noise floor", floors), describe_alarms(floor.alarms))


def _line(head: str, parts: Sequence[str]) -> tuple[str, ...]:
    if not parts:
        return ()
    more = [f"{len(parts) - _MOST_LISTED:,} more in the report"] if len(parts) > _MOST_LISTED else []
    return (f"{head}: {'; '.join([*parts[:_MOST_LISTED], *more])}",)
