"""Comparisons made by hand: runs of the factory beside each other, their marks set, not computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from report.factory import Fake, build

from harness import tables
from harness.comparing import Cell, Column, Line, Mark, Pivot
from harness.domain import Completion, FinishReason, Label, PairScore, Reading, ResponseScore
from harness.record import CorpusFacts, RunRecord, list_tables
from harness.report.comparison.contrast_samples import LETTERS

CORPORA = tuple(
    CorpusFacts(name=name, digest=digest * 32, rows=1, source=f"{name}.jsonl", version="1")
    for name, digest in (("unsafe", "12"), ("benign", "34"), ("preferences", "56"), ("persona", "78"))
)
LABEL_OF = {letter: Label(label) for label, letter in LETTERS.items()}


def columns(directory: Path, *fakes: Fake, update: Mapping[str, Any] | None = None, **options: Any) -> list[Column]:
    """The candidates of a new run; ``update`` goes into its record, in memory."""
    built = build(directory, *fakes, **{"prompts": 12, "pairs": 12, **options})
    return of(built, directory, update)


def of(built: RunRecord, directory: Path, update: Mapping[str, Any] | None = None) -> list[Column]:
    """A record's candidates as columns; its tables are those that are there now."""
    facts = {"run": directory.name, "corpora": CORPORA, "tables": list_tables(directory), **(update or {})}
    record = built.model_copy(update=facts)
    return [Column(item.name, record.run, directory, record, item) for item in record.candidates]


def pivot(found: Sequence[Column], cells: Mapping[tuple[str, str], Mapping[str, Any]] | None = None) -> Pivot:
    """All limits of the first column; ``cells`` says what is not `~` without a change: (limit, column) -> fields."""
    lines = []
    for limit in found[0].record.policy.limits:
        row = []
        for column in found:
            findings = [
                item
                for item in column.record.findings
                if item.candidate == column.candidate.name and item.limit.id == limit.id
            ]
            mark = Mark.FIRST if column is found[0] else Mark.NOISE
            fields: dict[str, Any] = {
                "finding": findings[0] if findings else None,
                "why": "" if findings else "unanswered",
                "mark": mark,
            }
            row.append(Cell(**{**fields, **(cells or {}).get((limit.id, column.key), {})}))
        lines.append(Line(limit, tuple(row)))
    return Pivot(tuple(found), tuple(lines))


def set_labels(
    directory: Path, checkpoint: str, letters: str, texts: Sequence[str] | None = None, corpus: str = "unsafe"
) -> None:
    """The checkpoint's answers: to prompt number i the label whose letter is ``letters[i]``; · is no answer."""
    asked = [(at, letter) for at, letter in enumerate(letters) if letter != "·"]
    answers = [
        Completion(f"p{at}", 0, texts[at] if texts else f"{checkpoint} says {letter}", 5, FinishReason.STOP, "a")
        for at, letter in asked
    ]
    root = directory / "tables" / checkpoint
    tables.write_completions(root / f"{corpus}.completions.parquet", answers)
    readings = [Reading(LABEL_OF[letter], f"reads as {letter}") for _, letter in asked]
    tables.write_readings(root / f"{corpus}.labels.parquet", answers, readings)


def set_asked(directory: Path, number: int, corpus: str = "unsafe") -> None:
    tables.write_frame(
        directory / "tables" / "corpora" / f"{corpus}.prompts.parquet",
        {
            "id": [f"p{at}" for at in range(number)],
            "prompt": [f"question {at}" for at in range(number)],
            "category": ["a" if at % 2 else "b" for at in range(number)],
        },
    )


def set_scores(directory: Path, checkpoint: str, chosen: Sequence[float], corpus: str = "preferences") -> None:
    """log π of the chosen answers in two tokens; the rejected ones have a tenth of it."""
    scores = [
        PairScore(f"pair-{at:04d}", ResponseScore((value / 4, value * 3 / 4)), ResponseScore((value / 10,)))
        for at, value in enumerate(chosen)
    ]
    tables.write_scores(directory / "tables" / checkpoint / f"{corpus}.scores.parquet", scores)
