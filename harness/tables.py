"""Per-sample results as files: Parquet through pandas, arrays as safetensors. What is written reads back equal.

Files appear whole or not at all: they are written beside their place and moved there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from harness.domain import (
    Completion,
    FinishReason,
    Label,
    LabelledCompletion,
    PairGradient,
    PairScore,
    PairSimilarity,
    Reading,
    ResponseScore,
    TaskItem,
    TaskResult,
)
from harness.errors import RecordError
from harness.protocols import FirstTokens

if TYPE_CHECKING:
    import pandas as pd

Row = TypeVar("Row")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path in the same directory, make it durable, then move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_frame(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length as Parquet."""
    import pandas as pd

    frame = pd.DataFrame({name: pd.Series(list(values)) for name, values in columns.items()})
    write_atomically(path, lambda temporary: frame.to_parquet(temporary, index=False))


def read_frame(path: Path) -> pd.DataFrame:
    """Read a Parquet table.

    Raises:
        RecordError: missing or damaged.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise RecordError(f"no table {path}; the run it belongs to is incomplete") from None
    except (ValueError, OSError) as error:
        raise RecordError(f"{path} is damaged ({error}); run the evaluation again") from error


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write flat dataclass objects of one type, a column per field."""
    if not rows:
        raise ValueError(f"no rows for {path}")
    names = [field.name for field in fields(rows[0])]
    write_frame(path, {name: [_plain(getattr(row, name)) for row in rows] for name in names})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# ---------------------------------------------------------------- completions and labels


def write_completions(path: Path, completions: Sequence[Completion]) -> None:
    """[completions]: prompt_id, sample, text, tokens, finish, category."""
    write_frame(path, _columns([asdict(item) | {"finish": item.finish.value} for item in completions]))


def read_completions(path: Path) -> list[Completion]:
    rows = _records(path)
    return [Completion(**{**row, "finish": FinishReason(row["finish"])}) for row in rows]


def same_answers(ours: Path, theirs: Path) -> bool:
    """Whether two completions tables have the same texts for all (prompt, sample) that both have, and have some."""
    texts = [{(row["prompt_id"], row["sample"]): row["text"] for row in _records(path)} for path in (ours, theirs)]
    shared = texts[0].keys() & texts[1].keys()
    return bool(shared) and all(texts[0][key] == texts[1][key] for key in shared)


def write_readings(path: Path, completions: Sequence[Completion], readings: Sequence[Reading]) -> None:
    """[completions]: prompt_id, sample, label, reason, probability (NaN: none); in the completions table's order."""
    write_frame(
        path,
        {
            "prompt_id": [item.prompt_id for item in completions],
            "sample": [item.sample for item in completions],
            "label": [item.label.value for item in readings],
            "reason": [item.reason for item in readings],
            "probability": [math.nan if item.probability is None else item.probability for item in readings],
        },
    )


def read_readings(path: Path) -> list[Reading]:
    return [
        Reading(Label(row["label"]), row["reason"], None if math.isnan(p := row.get("probability", math.nan)) else p)
        for row in _records(path)
    ]


def read_labelled(completions: Path, labels: Path) -> list[LabelledCompletion]:
    """Each completion with its reading.

    Raises:
        RecordError: missing, damaged, or the labels are of other completions.
    """
    frame, answers = read_frame(labels), read_completions(completions)
    keys = [(str(name), int(sample)) for name, sample in zip(frame["prompt_id"], frame["sample"], strict=True)]
    if keys != [(item.prompt_id, item.sample) for item in answers]:
        raise RecordError(
            f"{labels} holds labels of other answers than the completions beside it; run the evaluation again"
        )
    return [LabelledCompletion(a, r) for a, r in zip(answers, read_readings(labels), strict=True)]


# ---------------------------------------------------------------- pair scores


def write_scores(path: Path, scores: Sequence[PairScore]) -> None:
    """[pairs]: pair_id, category, chosen_logprobs and rejected_logprobs (lists, nats), tokenised_apart, other_logprobs
    (a list for each third response), prompt_id, chosen_pieces and rejected_pieces (lists of texts; empty: not known).
    """
    write_frame(
        path,
        {
            "pair_id": [item.pair_id for item in scores],
            "category": [item.category for item in scores],
            "chosen_logprobs": [list(item.chosen.token_logprobs) for item in scores],
            "rejected_logprobs": [list(item.rejected.token_logprobs) for item in scores],
            "tokenised_apart": [item.tokenised_apart for item in scores],
            "other_logprobs": [[list(other.token_logprobs) for other in item.others] for item in scores],
            "prompt_id": [item.prompt_id for item in scores],
            "chosen_pieces": [list(item.chosen.pieces) for item in scores],
            "rejected_pieces": [list(item.rejected.pieces) for item in scores],
        },
    )


def read_scores(path: Path) -> list[PairScore]:
    return [
        PairScore(
            pair_id=row["pair_id"],
            chosen=ResponseScore(tuple(map(float, row["chosen_logprobs"])), _pieces(row, "chosen_pieces")),
            rejected=ResponseScore(tuple(map(float, row["rejected_logprobs"])), _pieces(row, "rejected_pieces")),
            tokenised_apart=bool(row["tokenised_apart"]),
            category=row["category"],
            others=tuple(ResponseScore(tuple(map(float, other))) for other in row.get("other_logprobs", ())),
            prompt_id=row.get("prompt_id", ""),
        )
        for row in _records(path)
    ]


def _pieces(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """Texts of tokens; () in a table that does not have them."""
    return tuple(map(sys.intern, row.get(column, ())))


def read_similarities(path: Path) -> list[PairSimilarity]:
    """[pairs], a column for each field; written by ``write_rows``."""
    return [PairSimilarity(**row) for row in _records(path)]


def read_gradients(path: Path) -> list[PairGradient]:
    """[pairs], a column for each field; written by ``write_rows``."""
    return [PairGradient(**row) for row in _records(path)]


def write_task(path: Path, result: TaskResult) -> None:
    """[items]: item_id, digest, score, category, and a column ``basis`` that is the same JSON in every row."""
    write_frame(path, {**_columns([asdict(item) for item in result.items]), "basis": _basis(result)})


def _basis(result: TaskResult) -> list[str]:
    return [json.dumps(dict(result.basis), sort_keys=True)] * len(result.items)


def read_task(path: Path) -> TaskResult:
    rows = _records(path)
    basis = json.loads(rows[0]["basis"]) if rows else {}
    return TaskResult(tuple(TaskItem(**{k: v for k, v in row.items() if k != "basis"}) for row in rows), basis)


def _records(path: Path) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in read_frame(path).to_dict(orient="records")]


# ---------------------------------------------------------------- first tokens


def write_first_tokens(path: Path, tokens: FirstTokens) -> None:
    from safetensors.numpy import save_file

    arrays = {name: getattr(tokens, name) for name in ("log_probs", "chosen", "rejected", "directions", "direction_of")}
    texts = {"pair_ids": json.dumps(tokens.pair_ids), "vocabulary": json.dumps(tokens.vocabulary)}
    write_atomically(path, lambda temporary: save_file(arrays, temporary, metadata=texts))


def read_first_tokens(path: Path) -> FirstTokens:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            texts = file.metadata()
    except (SafetensorError, OSError) as error:
        raise RecordError(f"{path} is missing or damaged ({error}); run the evaluation again") from error
    return FirstTokens(
        pair_ids=tuple(json.loads(texts["pair_ids"])), vocabulary=tuple(json.loads(texts["vocabulary"])), **arrays
    )


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
