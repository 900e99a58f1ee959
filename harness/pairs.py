"""Preference data before training: scores of every pair, and the data without the pairs that score worst.

``score`` runs one checkpoint (the one training starts from) over a data set and writes a Parquet table with a row for
each pair: the similarities of ``harness.probes.similarity``, which predict how far a pair displaces likelihood, and
both responses' log-probabilities. ``keep`` takes rows out of the data by such a table and leaves the others as they
are.

A corpus of the gate must not ask the same twice. Training data may: here a pair is known by its row, and equal pairs
and equal ids are scored like all others.

Work is done and kept in blocks of ``BLOCK`` pairs, in the order of the data, so that a run that was ended goes on where
it was, and memory does not grow with the data. Blocks belong to exactly one question (data, checkpoint, engine,
version) and are refused for another. The number of tokens per batch is no part of it: no number depends on it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import corpus, parts, tables
from harness.corpus import Columns, Raw, Rows
from harness.domain import PairScore, PairSimilarity, PreferencePair
from harness.errors import CorpusError, HarnessError, MeasurementError, OptionError, RecordError
from harness.parts import Progress, Say, silent
from harness.protocols import Engine, Model, OnProgress, no_progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

log = logging.getLogger(__name__)

BLOCK = 1024
"""Pairs that are scored and kept together."""

FORMAT = 1
"""Number of the layout of a table of scores; a table with a higher one is refused."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

_FACTS = b"dpo-harness"
_SHOWN = 5
"""Rows that a message lists."""

_FIELDS = (("prompt", "chosen", "rejected"), ("id", "category"))


# ---------------------------------------------------------------- the data


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A preference data set."""

    rows: Rows
    columns: Columns
    digest: str
    """SHA-256 of the file's bytes; of a data set on the hub, of its rows."""
    path: Path | None
    """None for a data set on the hub."""

    @property
    def where(self) -> str:
        return self.rows.where


def open_data(
    spec: str,
    *,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    columns: Sequence[str] = (),
) -> Data:
    """Find a data set: a JSONL, CSV or Parquet file, or the id of one for the ``datasets`` library.

    Args:
        spec: path or id.
        split: of a data set on the hub, which needs one; so ``config`` and ``revision``, which are optional.
        columns: ``ours=theirs``, for columns with other names.

    Raises:
        OptionError: options that contradict each other.
        CorpusError: no such file or data set, unreadable, or without rows.
        MissingExtraError: a data set on the hub without the ``datasets`` library.
    """
    names = parts.column_names(columns, (*_FIELDS[0], *_FIELDS[1]), "chosen=preferred")
    path = Path(spec).expanduser()
    known = path.suffix.lower() in corpus.FORMATS
    if path.is_dir():
        raise CorpusError(f"{spec} is a directory; name the file in it (.jsonl, .csv or .parquet)")
    if path.is_file() or known:
        if not path.is_file():
            raise CorpusError(f"there is no file {spec}; check the path")
        if given := [name for name, value in (("split", split), ("config", config), ("revision", revision)) if value]:
            raise OptionError(f"--{given[0]} is for data sets on the hub, and {spec} is a file; leave it out")
        rows, digest = corpus.open_file(path), _file_digest(path)
    else:
        if not split:
            raise OptionError(f"{spec} is no file here; if it is a data set on the hub, say which part: --split train")
        rows = corpus.open_dataset(spec, split, config=config, revision=revision)
        digest = _rows_digest(rows)
    if not rows.count:
        raise CorpusError(f"{rows.where} has no rows")
    how = Columns(names, lambda column: f"--column {column}=NAME")
    return Data(rows, how, digest, path if path.is_file() else None)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows_digest(rows: Rows) -> str:
    sha = hashlib.sha256()
    for _, row in rows:
        sha.update(json.dumps(row, sort_keys=True, ensure_ascii=True, default=repr).encode() + b"\n")
    return sha.hexdigest()


def read(data: Data, number: int, raw: Raw) -> PreferencePair:
    """One row as a pair. Raises ``CorpusError`` naming the row and the cure."""
    row = data.rows.parse(number, raw)
    return corpus.read_pair(data.where, number, row, data.columns, count=data.rows.count, wanted=_FIELDS[1])


@dataclass(frozen=True, slots=True)
class Unusable:
    """Rows that hold no pair."""

    numbers: frozenset[int]
    first: tuple[str, ...]
    """What is wrong with the first few."""


def look_through(data: Data) -> Unusable:
    """Read every row once: what cannot be used is known before a model is loaded."""
    numbers: set[int] = set()
    first: list[str] = []
    prefix = f"{data.where}, "
    for number, raw in data.rows.raw():
        try:
            read(data, number, raw)
        except CorpusError as error:
            numbers.add(number)
            if len(first) < _SHOWN:
                first.append(str(error).removeprefix(prefix))
    return Unusable(frozenset(numbers), tuple(first))


# ---------------------------------------------------------------- the table of scores


@dataclass(frozen=True, slots=True)
class Facts:
    """What a table of scores says of itself."""

    data: str
    digest: str
    rows: int
    columns: dict[str, str]
    checkpoint: str
    """As the user wrote it."""
    identity: str
    engine: dict[str, str]
    version: str
    notes: tuple[str, ...]
    """What the model had to say of its numbers."""
    left_out: int
    """Rows without a score."""
    first_left_out: tuple[str, ...]
    """What was wrong with the first few of them."""


def score(
    data: Data,
    engine: Engine,
    spec: str,
    output: Path,
    *,
    skip_unusable: bool = False,
    force: bool = False,
    restart: bool = False,
    say: Say = lambda _: None,
    progress: Progress = silent,
) -> Facts:
    """Score every pair with the checkpoint ``spec`` and write the table to ``output``.

    Args:
        data: what to score.
        engine: what runs the checkpoint.
        spec: the checkpoint that training starts from.
        output: a .parquet file.
        skip_unusable: leave out rows that hold no pair, and pairs the model cannot score, instead of raising.
        force: overwrite ``output``.
        restart: forget what an earlier run has done, whatever it was about.
        say: told where work goes on and what is left out.
        progress: told how far it is.

    Raises:
        OptionError: output that cannot be written, or is there; kept blocks that answer another question.
        CorpusError: unusable rows without ``skip_unusable``; how many, and the first.
        CheckpointError: the checkpoint cannot be used.
        MeasurementError: a pair that cannot be scored without ``skip_unusable``.
    """
    parts.check_output(output, (".parquet",), force=force, unlike=[data.path])
    unusable = look_through(data)
    if unusable.numbers:
        _refuse_or_say(data, unusable, skip_unusable, say)
    checkpoint = engine.resolve(spec, Path(spec).name or spec)
    engine.preflight(checkpoint, ())
    described, version = dict(engine.describe()), metadata.version("dpo-harness")
    key = {
        "data": data.digest,
        "columns": data.columns.names,
        "checkpoint": checkpoint.identity,
        "engine": {name: value for name, value in described.items() if name != "batch_tokens"},
        "version": version,
        "block": BLOCK,
    }
    usable = data.rows.count - len(unusable.numbers)
    with parts.kept(output, key, restart=restart) as blocks:
        done = {number for number in range(-(-usable // BLOCK)) if _part(blocks, number).exists()}
        finished = sum(min(BLOCK, usable - number * BLOCK) for number in done)
        if done:
            say(f"going on after {finished:,} of {usable:,} pairs, kept in {blocks}")
            _refuse_left_out(data, _told_by_parts(blocks)[1], skip_unusable)
        if finished < usable:
            with progress(f"{checkpoint.name}: scoring pairs", usable, finished) as on_progress:
                for model in engine.models((checkpoint,)):
                    for number, block in enumerate(_blocks(data, unusable.numbers)):
                        if number not in done:
                            _do(data, model, block, _part(blocks, number), skip_unusable, on_progress)
        notes, late = _told_by_parts(blocks)
        _refuse_left_out(data, late, skip_unusable)
        if late and len(late) + len(unusable.numbers) == data.rows.count:
            raise MeasurementError(f"no pair of {data.where} could be scored; the first: {late[0]}")
        if late:
            say(f"left out {len(late):,} more of the pairs, which the model could not score; the first: {late[0]}")
        facts = Facts(
            data=data.where,
            digest=data.digest,
            rows=data.rows.count,
            columns={name: str(theirs) for name, theirs in data.columns.names.items()},
            checkpoint=spec,
            identity=checkpoint.identity,
            engine=described,
            version=version,
            notes=notes,
            left_out=len(unusable.numbers) + len(late),
            first_left_out=(*unusable.first, *late)[:_SHOWN],
        )
        _join(blocks, output, facts)
    return facts


def _refuse_left_out(data: Data, late: Sequence[str], skip: bool) -> None:
    if late and not skip:
        raise MeasurementError(
            f"the earlier run left out {len(late):,} pairs of {data.where}; --skip-unusable takes its scores as they "
            f"are, --restart throws them away; the first: {late[0]}"
        )


def _refuse_or_say(data: Data, unusable: Unusable, skip: bool, say: Say) -> None:
    count, listed = len(unusable.numbers), "; ".join(unusable.first)
    share = f"{count:,} of {data.rows.count:,} rows of {data.where} cannot be used"
    if count == data.rows.count:
        raise CorpusError(f"none of the {count:,} rows of {data.where} can be used; the first: {listed}")
    if not skip:
        raise CorpusError(f"{share}; --skip-unusable leaves them out; the first: {listed}")
    say(f"{share} and are left out; the first: {listed}")


def _blocks(data: Data, unusable: frozenset[int]) -> Iterator[list[tuple[int, Raw]]]:
    """Usable rows with their numbers, in the order of the data."""
    block: list[tuple[int, Raw]] = []
    for number, raw in data.rows.raw():
        if number not in unusable:
            block.append((number, raw))
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _do(
    data: Data, model: Model, block: Sequence[tuple[int, Raw]], path: Path, skip: bool, on_progress: OnProgress
) -> None:
    """Score one block and keep it."""
    told = 0

    def count(finished: int) -> None:
        nonlocal told
        told += finished
        on_progress(finished)

    pairs = [(number, read(data, number, raw)) for number, raw in block]
    left_out: list[str] = []
    try:
        rows = _scored(model, pairs, count)
    except MeasurementError as error:
        if not skip:
            raise MeasurementError(
                f"{error} (rows {pairs[0][0]:,} to {pairs[-1][0]:,} of {data.where}; --skip-unusable leaves out what "
                "the model cannot score; blocks before it are kept, and the next run goes on there)"
            ) from error
        rows, left_out = _salvaged(model, pairs)
    except HarnessError:
        raise
    except Exception as error:  # a device that is lost, a library's bug
        log.debug("scoring failed", exc_info=error)
        raise MeasurementError(
            f"scoring failed at rows {pairs[0][0]:,} to {pairs[-1][0]:,} of {data.where}: {type(error).__name__}: "
            f"{error}; blocks before it are kept, and the next run goes on there"
        ) from error
    on_progress(len(pairs) - told)
    _write_part(path, rows, {"notes": list(model.notes), "left_out": left_out})


def _salvaged(model: Model, pairs: Sequence[tuple[int, PreferencePair]]) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows, what was wrong with the others) of pairs that could not be scored together, by halves."""
    try:
        return _scored(model, pairs, no_progress), []
    except MeasurementError as error:
        if len(pairs) == 1:
            return [], [f"row {pairs[0][0]}: {error}"]
    half = len(pairs) // 2
    (first, wrong), (second, more) = _salvaged(model, pairs[:half]), _salvaged(model, pairs[half:])
    return first + second, wrong + more


def _scored(model: Model, pairs: Sequence[tuple[int, PreferencePair]], on_progress: OnProgress) -> list[dict[str, Any]]:
    """Rows of the table, in the order of the pairs."""
    asked = [pair for _, pair in pairs]
    results = model.score(asked, similarity=True, on_progress=on_progress)
    ids = [pair.id for pair in asked]
    similarities = results.similarities or []
    if [item.pair_id for item in results.scores] != ids or [item.pair_id for item in similarities] != ids:
        raise HarnessError(f"the engine gave {len(results.scores)} results for {len(ids)} pairs, or in another order")
    return [
        _row(number, result, like)
        for (number, _), result, like in zip(pairs, results.scores, similarities, strict=True)
    ]


def _row(number: int, result: PairScore, like: PairSimilarity) -> dict[str, Any]:
    from harness.probes.similarity import entanglement

    return {
        "row": number,
        **asdict(like),
        "entanglement": entanglement(like).value,
        "chosen_logprob": result.chosen.logprob,
        "rejected_logprob": result.rejected.logprob,
    }


def _schema() -> pa.Schema:
    """Columns: row (number in the data from 1), the fields of ``PairSimilarity``, entanglement (a case's words),
    chosen_logprob and rejected_logprob (sums, nats)."""
    import pyarrow as pa

    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    return pa.schema(
        [
            ("row", pa.int64()),
            *[(field.name, types[str(field.type)]) for field in fields(PairSimilarity)],
            ("entanglement", pa.string()),
            ("chosen_logprob", pa.float64()),
            ("rejected_logprob", pa.float64()),
        ]
    )


# ---------------------------------------------------------------- blocks on disk


def _part(blocks: Path, number: int) -> Path:
    return blocks / f"{number:06d}.parquet"


def _write_part(path: Path, rows: Sequence[Mapping[str, Any]], told: Mapping[str, object]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema().with_metadata({_FACTS: json.dumps(told).encode()})
    table = pa.Table.from_pylist(list(rows), schema=schema)
    tables.write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def _told_by_parts(blocks: Path) -> tuple[tuple[str, ...], list[str]]:
    """(the model's notes, what was left out while scoring), in the order of the data."""
    import pyarrow.parquet as pq

    notes: dict[str, None] = {}
    left_out: list[str] = []
    for path in sorted(blocks.glob("*.parquet")):
        told = json.loads(pq.read_schema(path).metadata[_FACTS])
        notes.update(dict.fromkeys(told["notes"]))
        left_out += told["left_out"]
    return tuple(notes), left_out


def _join(blocks: Path, output: Path, facts: Facts) -> None:
    import pyarrow.parquet as pq

    schema = _schema().with_metadata({_FACTS: json.dumps({"format": FORMAT, **asdict(facts)}).encode()})

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema) as writer:
            for path in sorted(blocks.glob("*.parquet")):
                writer.write_table(pq.read_table(path).replace_schema_metadata(schema.metadata))

    tables.write_atomically(output, write)


# ---------------------------------------------------------------- what the scores look like


def read_facts(path: Path) -> Facts:
    """What a table of scores says of itself.

    Raises:
        RecordError: there is none, it is damaged, something else, or from a newer version.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        raise RecordError(f"there is no file {path}; make it with: python -m harness pairs score")
    try:
        told = (pq.read_schema(path).metadata or {}).get(_FACTS)
    except (ValueError, OSError) as error:
        raise RecordError(f"{path} is no Parquet file ({error}); make it with: python -m harness pairs score") from None
    content = json.loads(told) if told else {}
    if "format" not in content:
        raise RecordError(f"{path} holds no scores of pairs; make them with: python -m harness pairs score")
    if content.pop("format") > FORMAT:
        raise RecordError(f"{path} was written by version {content['version']}, which is newer; update dpo-harness")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return Facts(**values)


@dataclass(frozen=True, slots=True)
class Example:
    """A pair to look at."""

    row: int
    pair_id: str
    score: float
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A table of scores in a few numbers."""

    facts: Facts
    scored: int
    quantiles: Mapping[str, tuple[float, ...]]
    """score -> its values at ``QUANTILES``."""
    cases: Mapping[str, int]
    """entanglement in words -> pairs; every case is there."""
    apart: int
    """Pairs whose prompt and response were tokenised apart."""
    by: str
    top: tuple[Example, ...]
    """The pairs with the highest score ``by``, highest first."""


def summarize(path: Path, data: Data, *, by: str = "ches_normalised", count: int = _SHOWN) -> Summary:
    """Read a table of scores and the texts of its ``count`` worst pairs."""
    import numpy as np
    import pyarrow.parquet as pq

    from harness.probes.similarity import SCORES, Entanglement

    table = pq.read_table(path, columns=["row", "pair_id", "entanglement", "tokenised_apart", *SCORES])
    values = {name: table[name].to_numpy() for name in SCORES}
    cases = Counter(table["entanglement"].to_pylist())
    order = np.argsort(-values[by], kind="stable")[:count]
    places = {int(table["row"][int(index)].as_py()): int(index) for index in order}
    texts = _texts(data, places)
    return Summary(
        facts=read_facts(path),
        scored=table.num_rows,
        quantiles={name: tuple(map(float, np.quantile(column, QUANTILES))) for name, column in values.items()},
        cases={case.value: cases[case.value] for case in Entanglement},
        apart=int(np.count_nonzero(table["tokenised_apart"].to_numpy())),
        by=by,
        top=tuple(
            Example(row, table["pair_id"][index].as_py(), float(values[by][index]), *texts[row])
            for row, index in places.items()
        ),
    )


def _texts(data: Data, rows: Mapping[int, object]) -> dict[int, tuple[str, str, str]]:
    """(prompt, chosen, rejected) of a few rows."""
    found: dict[int, tuple[str, str, str]] = {}
    for number, raw in data.rows.raw():
        if number in rows:
            pair = read(data, number, raw)
            found[number] = (pair.prompt, pair.chosen, pair.rejected)
            if len(found) == len(rows):
                break
    return found


# ---------------------------------------------------------------- the data without its worst pairs


@dataclass(frozen=True, slots=True)
class Kept:
    """What ``keep`` did."""

    kept: int
    dropped: int
    unscored: int
    """Rows without a score, kept or dropped as asked."""
    lowest_dropped: float | None
    """The score from which pairs were dropped; None where none was."""
    highest_kept: float | None


def keep(
    data: Data,
    scores: Path,
    output: Path,
    *,
    drop_top: float | None = None,
    keep_bottom: float | None = None,
    by: str = "ches_normalised",
    unscored: str | None = None,
    dropped: Path | None = None,
    force: bool = False,
) -> Kept:
    """Write the rows of ``data`` that stay, unchanged and in order.

    Args:
        data: what was scored.
        scores: the table that ``score`` wrote of it.
        output: for what stays. JSONL gives JSONL, the very lines; anything else .jsonl or .parquet.
        drop_top: share of scored pairs with the highest scores to drop, rounded up to a pair, in [0, 1).
        keep_bottom: share of scored pairs with the lowest scores to keep, rounded down to a pair, in (0, 1].
        by: the score, one of ``harness.probes.similarity.SCORES``. Equal scores go by pair id, then by row.
        unscored: what happens to rows without a score: ``keep``, ``drop``, or (None) an error.
        dropped: file for the other rows, in the same format rules.
        force: overwrite files.

    Raises:
        OptionError: options that contradict each other, or files that must not be written.
        RecordError: scores that are none, or of other data.
        CorpusError: rows without a score; a value that JSON has no form for.
    """
    from harness.probes.similarity import SCORES

    if (drop_top is None) == (keep_bottom is None):
        raise OptionError("give exactly one of --drop-top SHARE and --keep-bottom SHARE")
    if drop_top is not None and not 0 <= drop_top < 1:
        raise OptionError(f"--drop-top {drop_top:g}: a share of the pairs, from 0 to below 1 (5 % is 0.05)")
    if keep_bottom is not None and not 0 < keep_bottom <= 1:
        raise OptionError(f"--keep-bottom {keep_bottom:g}: a share of the pairs, above 0 and up to 1 (5 % is 0.05)")
    if by not in SCORES:
        raise OptionError(f"--by {by}: one of {', '.join(SCORES)}")
    if unscored not in (None, "keep", "drop"):
        raise OptionError(f"--unscored {unscored}: keep or drop")
    suffixes = (".jsonl", ".ndjson") if data.rows.lines is not None else (".jsonl", ".parquet")
    for path in filter(None, (output, dropped)):
        parts.check_output(path, suffixes, force=force, unlike=[data.path, scores, dropped if path is output else None])
    facts = read_facts(scores)
    if facts.digest != data.digest:
        raise RecordError(
            f"{scores} holds the scores of another data set: of {facts.data} (SHA-256 {facts.digest[:12]}), and "
            f"{data.where} is {data.digest[:12]}; score it again with: python -m harness pairs score"
        )
    if facts.left_out and unscored is None:
        raise CorpusError(
            f"{facts.left_out:,} rows of {data.where} have no score (the first: {'; '.join(facts.first_left_out)}); "
            "--unscored keep or --unscored drop says what happens to them"
        )
    numbers, values, worst = _ranked(scores, by, drop_top if drop_top is not None else 1 - (keep_bottom or 0))
    out = set(numbers[worst].tolist())
    scored = set(numbers.tolist())
    staying = len(scored) - len(out) + (facts.left_out if unscored == "keep" else 0)
    if not staying:
        raise OptionError(f"nothing of the {len(scored):,} scored pairs would be kept; ask for a larger share to keep")

    def stays(number: int) -> bool:
        return number not in out if number in scored else unscored == "keep"

    kept = _write(data, output, stays)
    assert kept == staying, f"{kept} rows written, {staying} meant"
    if dropped is not None:
        _write(data, dropped, lambda number: not stays(number))
    remaining = values[~worst]
    return Kept(
        kept=kept,
        dropped=data.rows.count - kept,
        unscored=facts.left_out,
        lowest_dropped=float(values[worst].min()) if out else None,
        highest_kept=float(remaining.max()) if len(remaining) else None,
    )


def _ranked(
    path: Path, by: str, share: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(row numbers, scores, whether a pair is in the ``share`` with the highest scores), each [pairs]."""
    import numpy as np
    import pyarrow.parquet as pq

    from harness.probes.similarity import highest

    table = pq.read_table(path, columns=["row", "pair_id", by])
    numbers, values = table["row"].to_numpy(), table[by].to_numpy()
    blank = PairSimilarity("", "", 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    # Training data may have an id more than once: with the row behind it each is one, in the same order.
    keys = [f"{name}\0{number:012d}" for name, number in zip(table["pair_id"].to_pylist(), numbers, strict=True)]
    likes = [replace(blank, pair_id=key, **{by: value}) for key, value in zip(keys, values.tolist(), strict=True)]
    worst = set(highest(likes, by, share))
    return numbers, values, np.array([key in worst for key in keys], dtype=bool)


def _write(data: Data, path: Path, wanted: Callable[[int], bool]) -> int:
    """Write the rows that are wanted, as they are; how many they were."""
    written = 0

    def lines(temporary: Path) -> None:
        nonlocal written
        with temporary.open("wb") as file:
            for number, raw in data.rows.raw():
                if wanted(number):
                    file.write(raw if isinstance(raw, bytes) else _json_line(data, number, raw))
                    written += 1

    def table(temporary: Path) -> None:
        nonlocal written
        import pyarrow.parquet as pq

        assert data.rows.tables is not None, "lines are written as lines"
        writer, number = None, 1
        for rows in data.rows.tables():
            chosen = rows.filter([wanted(number + index) for index in range(rows.num_rows)])
            number += rows.num_rows
            if writer is None:
                writer = pq.ParquetWriter(temporary, rows.schema)
            writer.write_table(chosen)
            written += chosen.num_rows
        assert writer is not None, "data without rows were refused"
        writer.close()

    tables.write_atomically(path, table if path.suffix.lower() == ".parquet" else lines)
    return written


def _json_line(data: Data, number: int, row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    except (TypeError, ValueError) as error:
        raise CorpusError(
            f"{data.where}, row {number}: {error}, so it would not stay as it is in JSON; give a .parquet file"
        ) from None
