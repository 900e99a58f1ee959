"""A record and its tables -> plain data for the page. No HTML here, and nothing is computed that a probe computes.

Rates, differences and intervals are the record's. From the tables come the items behind them: which answers changed
(``flips``), which pairs fell (``displaced``), which tokens rose (``risen``). A table that is not there makes its
section say so; nothing is put in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from harness.domain import Checkpoint, Decision, Verdict
from harness.policy import Work
from harness.record import RunRecord
from harness.report import rows as rows_module
from harness.report.evidence.blocks import rates
from harness.report.evidence.capability import Capability, capabilities
from harness.report.evidence.displaced import Displacement, displacement
from harness.report.evidence.flips import Labels, labels
from harness.report.evidence.risen import MassCourse, Risers, mass_courses, risers
from harness.report.evidence.shelf import Absent, Shelf
from harness.report.evidence.training import CORRELATION, HIGHEST, MOST_DRAWN, Training, training
from harness.report.rows import Course, LimitRow, Peak
from harness.report.trust import Disagreements, Trust, agreements, disagreements_of, trust

SAMPLES = 2000
"""Cards of one kind, corpus and candidate that are made at most; with several candidates each gets its share. How many
a page holds is decided by their size (``lists``)."""
LEAST_SAMPLES = 100
SHOWN = 50
"""Answers on which two judges differ, where there is one candidate; they stand in the page as it is."""
SHARED_SHOWN = 200
LEAST_DRAWN = 300
"""Points of a scatter plot of training pairs that a candidate gets however many candidates there are."""


@dataclass(frozen=True, slots=True)
class CandidateSummary:
    """Everything about one candidate."""

    checkpoint: Checkpoint
    same: bool
    """It is the reference: an A/A run."""
    verdict: Verdict
    word: str
    sentence: str
    warned: str
    """What the warning limits say; '' where they are kept."""
    rows: tuple[LimitRow, ...]
    labels: tuple[Labels, ...]
    displacement: tuple[Displacement, ...]
    risers: tuple[Risers, ...]
    training: tuple[Training, ...]
    capability: tuple[Capability, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """A run, ready to be drawn."""

    record: RunRecord
    overall: str
    decision: Decision
    """BLOCK if any candidate is blocked, NONE if any has no verdict, else RELEASE."""
    candidates: tuple[CandidateSummary, ...]
    steps: tuple[str, ...]
    """Names of the candidates in step order; () where they are no trajectory."""
    courses: tuple[Course, ...]
    masses: tuple[MassCourse, ...]
    peaks: tuple[Peak, ...]
    order_of_fall: tuple[str, ...]
    trust: Trust

    @property
    def ordered(self) -> tuple[CandidateSummary, ...]:
        """The candidates by training step, those that know none last."""
        named = {item.checkpoint.name: item for item in self.candidates}
        return tuple(named[name] for name in dict.fromkeys([*self.steps, *named]))


def summarize(record: RunRecord, directory: Path) -> Summary:
    """Read what the page shows.

    Args:
        record: the run.
        directory: where its tables lie.
    """
    several = max(len(record.candidates), 1)
    shelf = Shelf(record, directory)
    candidates = tuple(_candidate(shelf, item, max(SAMPLES // several, LEAST_SAMPLES)) for item in record.candidates)
    decisions = {item.verdict.decision for item in candidates}
    shown = min(SHOWN, max(5, SHARED_SHOWN // several))
    return Summary(
        record=record,
        overall=rows_module.overall(record),
        decision=next(item for item in (Decision.BLOCK, Decision.NONE, Decision.RELEASE) if item in decisions),
        candidates=candidates,
        steps=rows_module.by_step(record),
        courses=rows_module.courses(record),
        masses=mass_courses(record),
        peaks=rows_module.peaks(record),
        order_of_fall=rows_module.order_of_fall(record),
        trust=trust(record, _where_judges_differ(shelf, shown)),
    )


def _candidate(shelf: Shelf, checkpoint: Checkpoint, samples: int) -> CandidateSummary:
    record, name = shelf.record, checkpoint.name
    verdict, rows = rows_module.verdict_of(record, name), rows_module.limit_rows(record, name)
    own = [row for row in rows if not row.limit.baseline]  # sections show the reference's data beside the candidate's
    about = (shelf, name, samples)
    several = max(len(record.candidates), 1)
    drawn, highest = max(MOST_DRAWN // several, LEAST_DRAWN), max(HIGHEST // several, 10)
    return CandidateSummary(
        checkpoint=checkpoint,
        same=rows_module.is_same(record, name),
        verdict=verdict,
        word=rows_module.verdict_word(verdict),
        sentence=rows_module.sentence(record, name),
        warned=rows_module.warned(record, name),
        rows=rows,
        labels=tuple(_block(Labels, labels, own, corpus, *about) for corpus in shelf.corpora(Work.COMPLETIONS)),
        displacement=tuple(
            _block(Displacement, displacement, own, corpus, *about) for corpus in shelf.corpora(Work.SCORES)
        ),
        risers=tuple(_block(Risers, risers, own, corpus, *about) for corpus in shelf.corpora(Work.FIRST_TOKENS)),
        training=tuple(
            _attempt(Training, _training, corpus, shelf, name, rows, drawn, highest) for corpus in shelf.trained(name)
        ),
        capability=capabilities(own, lambda task: shelf.basis(name, task), lambda row: rates([row], row.limit.corpus)),
    )


Block = TypeVar("Block", Labels, Displacement, Risers)
Section = TypeVar("Section", Labels, Displacement, Risers, Training, Disagreements)


def _block(kind: type[Block], read: Callable[..., Block], rows: Sequence[LimitRow], corpus: str, *about: Any) -> Block:
    """One section's data; where its tables are missing or damaged it keeps what the record knows."""
    return replace(_attempt(kind, read, corpus, *about), rates=rates(rows, corpus))


def _attempt(kind: type[Section], read: Callable[..., Section], corpus: str, *about: Any) -> Section:
    """One section's data; where its tables are missing or damaged it says so."""
    try:
        return read(corpus, *about)
    except Absent as error:
        return kind(corpus, missing=str(error))
    except (KeyError, TypeError, ValueError) as error:
        return kind(corpus, missing=f"the tables on {corpus} cannot be read ({type(error).__name__}: {error})")


def _training(
    corpus: str, shelf: Shelf, candidate: str, rows: Sequence[LimitRow], points: int, highest: int
) -> Training:
    """From rows of ``harness.probes.similarity.TrainingRow``."""
    frame = shelf.frame("training", candidate, corpus)
    found = [row for row in rows if (row.limit.metric, row.limit.corpus) == (CORRELATION, corpus)]
    source = shelf.file("training", candidate, corpus).path
    texts = shelf.items("pairs", corpus)
    return training(corpus, frame, found, texts, points=points, highest=highest, source=source)


# ---------------------------------------------------------------- two judges


def _where_judges_differ(shelf: Shelf, samples: int) -> list[Disagreements]:
    """One item for each checkpoint and corpus on which the record counts different labels."""
    found = []
    for item in agreements(shelf.record):
        if item.disagree:
            block = _attempt(Disagreements, _disagreements, item.corpus, shelf, item.checkpoint, samples)
            found.append(replace(block, checkpoint=item.checkpoint))
    return found


def _disagreements(corpus: str, shelf: Shelf, checkpoint: str, samples: int) -> Disagreements:
    return disagreements_of(
        corpus,
        shelf.frame("labels", checkpoint, corpus),
        shelf.frame("second_labels", checkpoint, corpus),
        shelf.frame("completions", checkpoint, corpus),
        shelf.items("prompts", corpus),
        samples,
        [shelf.file(kind, checkpoint, corpus).path for kind in ("completions", "labels", "second_labels")],
    )
