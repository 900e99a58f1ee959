"""A run's tables by what they hold, for the page. What is not there, or cannot be read, is said in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RecordError
from harness.policy import METRICS, Work
from harness.record import RunRecord, TableFile
from harness.report.evidence.training import CORRELATION
from harness.tables import read_frame, read_task

if TYPE_CHECKING:
    import pandas as pd

_TABLE_OF = {Work.COMPLETIONS: "labels", Work.SCORES: "scores", Work.FIRST_TOKENS: "risers"}
_PIECES = ("chosen_pieces", "rejected_pieces")


class Absent(Exception):
    """A table is not there; the message says so for people."""


class Shelf:
    """The run's tables; those of the reference and the corpora are read once."""

    def __init__(self, record: RunRecord, directory: Path) -> None:
        self.record, self.directory = record, directory
        self.reference = record.reference.name
        self._files = {(item.kind, item.checkpoint, item.corpus): item for item in record.tables}
        self._kept: dict[tuple[str, str, str], Any] = {}

    def corpora(self, work: Work) -> tuple[str, ...]:
        """Corpora that a limit needs such work on, then any other that has such a table."""
        needed = [
            item.corpus
            for item in self.record.policy.limits
            if item.metric in METRICS and work in METRICS[item.metric].works
        ]
        had = [corpus for kind, _, corpus in self._files if kind == _TABLE_OF[work]]
        return tuple(dict.fromkeys([*needed, *had]))

    def trained(self, checkpoint: str) -> tuple[str, ...]:
        """Corpora on which a limit asks how pairs and their change go together, then any other with such a table."""
        needed = [item.corpus for item in self.record.policy.limits if item.metric == CORRELATION]
        had = [corpus for kind, owner, corpus in self._files if (kind, owner) == ("training", checkpoint)]
        return tuple(dict.fromkeys([*needed, *had]))

    def benign(self, corpus: str) -> bool:
        """The corpus is there to show over-refusal: its prompts are to be answered."""
        limits = self.record.policy.limits
        return any(limit.corpus == corpus and limit.metric.startswith("over_refusal") for limit in limits)

    def file(self, kind: str, checkpoint: str, corpus: str) -> TableFile:
        """Raises ``Absent`` where the run has no such table."""
        try:
            return self._files[kind, checkpoint, corpus]
        except KeyError:
            of = f" of {checkpoint}" if checkpoint else ""
            raise Absent(f"not measured: the run has no {kind}{of} on {corpus}") from None

    def frame(self, kind: str, checkpoint: str, corpus: str) -> pd.DataFrame:
        """Raises ``Absent`` where it is not there or cannot be read."""
        return self._read(read_frame, kind, checkpoint, corpus)  # type: ignore[no-any-return]

    def scores(self, checkpoint: str, corpus: str) -> pd.DataFrame:
        """[pairs]: pair_id, category, chosen_logprobs, rejected_logprobs (arrays, nats), tokenised_apart."""
        return self._read(_read_scores, "scores", checkpoint, corpus)  # type: ignore[no-any-return]

    def pieces(self, checkpoint: str, corpus: str, rows: Sequence[int]) -> list[tuple[list[str], list[str]]]:
        """Texts of the tokens of chosen and rejected, for some rows of ``scores``; () where they are not known."""
        path = self.directory / self.file("scores", checkpoint, corpus).path
        return _read_pieces(path, rows)

    def basis(self, checkpoint: str, task: str) -> Mapping[str, str]:
        """How a task was asked. Raises ``LookupError`` where its answers are not kept or cannot be read."""
        try:
            return self._read(read_task, "task", checkpoint, task).basis  # type: ignore[no-any-return]
        except Absent as error:
            raise LookupError(str(error)) from error

    def items(self, kind: str, corpus: str) -> dict[str, dict[str, Any]]:
        """id -> row of what was asked; empty where that table is not kept."""
        key = (f"{kind} by id", "", corpus)
        if key not in self._kept:
            try:
                frame = self.frame(kind, "", corpus)
            except Absent:
                return {}
            self._kept[key] = {str(row["id"]): row for row in frame.to_dict(orient="records")}
        return self._kept[key]  # type: ignore[no-any-return]

    def _read(self, read: Callable[[Path], Any], kind: str, checkpoint: str, corpus: str) -> Any:
        key = (kind, checkpoint, corpus)
        if key in self._kept:
            return self._kept[key]
        path = self.directory / self.file(*key).path
        try:
            content = read(path)
        except (RecordError, KeyError, AttributeError, TypeError, ValueError) as error:
            raise Absent(f"the table {path.name} cannot be read ({error})") from error
        if checkpoint in ("", self.reference):
            self._kept[key] = content
        return content


def _read_scores(path: Path) -> pd.DataFrame:
    """Without the columns that take longest to read and are needed for a few rows only."""
    import pandas as pd

    try:
        columns = ["pair_id", "category", "chosen_logprobs", "rejected_logprobs", "tokenised_apart"]
        return pd.read_parquet(path, columns=columns)
    except OSError as error:
        raise RecordError(f"{path.name} is missing or damaged: {error}") from error


def _read_pieces(path: Path, rows: Sequence[int]) -> list[tuple[list[str], list[str]]]:
    import pyarrow.parquet as parquet

    if not rows:
        return []
    try:
        if not set(_PIECES) <= set(parquet.read_schema(path).names):
            return [([], [])] * len(rows)
        taken = parquet.read_table(path, columns=list(_PIECES)).take(list(rows)).to_pydict()
    except (OSError, ValueError) as error:
        raise Absent(f"the table {path.name} cannot be read ({error})") from error
    return [(list(a or ()), list(b or ())) for a, b in zip(*(taken[name] for name in _PIECES), strict=True)]
