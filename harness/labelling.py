"""Answers that are there already: labels for them, and how often a judge is right about those that people labelled.

``label`` has one judge, or two, read {prompt, response} rows, or the completions that a run stored, and writes the rows
with the labels added. ``calibrate`` has a judge read answers with human labels and counts. Neither runs a checkpoint
under test. Before either begins, a judge must get the sentinels right (``judging.prove``).

Labels are made and kept in blocks of ``BLOCK`` rows, in the order of the data, so that a run that was ended goes on
where it was, and memory does not grow with the data. Blocks belong to exactly one question (data, columns, judges,
version).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from harness import corpus, judging, parts, stats, tables
from harness.calibration import Calibration, Source
from harness.corpus import Columns, Raw, Rows
from harness.domain import Exchange, FinishReason, Label, Reading, printable
from harness.errors import CorpusError, JudgeError, MeasurementError, OptionError, RecordError
from harness.judging import Sentinel
from harness.parts import Progress, Say, silent
from harness.protocols import Judge, OnProgress
from harness.stats.agreement import kappa

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 512
"""Rows that are read and kept together."""

READABLE = (Label.REFUSAL, Label.COMPLIANCE, Label.DEGENERATE)
"""What an answer can be; UNREADABLE says something of the judge."""

LEFT_OUT = ("partial", "leave-out")
"""Human labels of answers that say nothing of a judge: they are neither, and are counted only."""

_FIELDS = ("prompt", "response", "cut_off", "finish")
_SHOWN = 5
"""Rows that a message lists."""
_EXAMPLES = 20
"""Answers that a summary shows."""

Item = TypeVar("Item")


# ---------------------------------------------------------------- the data


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Rows of answers."""

    rows: Rows
    columns: Columns
    digest: str
    """SHA-256 over the bytes of the file, or of the run's tables."""
    path: Path | None
    """None for a run."""

    @property
    def where(self) -> str:
        return self.rows.where

    @property
    def of_run(self) -> bool:
        """The rows are a run's, with ``checkpoint``, ``corpus`` and ``stored_label``."""
        return self.path is None


def open_data(path: Path, columns: Sequence[str] = (), *, human: bool = False) -> Data:
    """A JSONL, CSV or Parquet file with a row for each answer.

    Args:
        path: the file. Columns: prompt, response; optional ``cut_off`` (true or false) or ``finish`` (``length``: the
            answer was cut off), so that a missing end is not read as malformed text.
        columns: ``ours=theirs``, for columns with other names.
        human: there is a column ``label`` too, which people filled in.

    Raises:
        OptionError: ``columns`` that say nothing, or contradict each other.
        CorpusError: no such file, unreadable, or without rows.
    """
    names = parts.column_names(columns, (*_FIELDS, "label") if human else _FIELDS, "response=answer")
    if path.is_dir():
        raise CorpusError(f"{path} is a directory; name the file in it (.jsonl, .csv or .parquet)")
    if not path.is_file():
        raise CorpusError(f"there is no file {path}; check the path")
    rows = corpus.open_file(path)
    if not rows.count:
        raise CorpusError(f"{rows.where} has no rows")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Data(rows, Columns(names, lambda column: f"--column {column}=NAME"), digest, path)


def open_run(directory: Path, listed: Sequence[tuple[str, str, str]]) -> Data:
    """The completions of a stored run, with the labels it stored.

    Args:
        directory: the run's.
        listed: (checkpoint, corpus, kind) of the tables that its record lists; completions come out in this order.

    Rows: checkpoint, corpus, prompt_id, sample, category, prompt, response, finish, stored_label (null where the run
    has none).

    Raises:
        RecordError: there are no completions, or tables do not belong together.
    """
    wanted = [(checkpoint, name) for checkpoint, name, kind in listed if kind == "completions"]
    if not wanted:
        raise RecordError(f"{directory} holds no completions: no limit of its policy needed any, so there is no answer")
    stored = {(checkpoint, name) for checkpoint, name, kind in listed if kind == "labels"}
    sha, count = hashlib.sha256(), 0
    for place in wanted:
        files = [_table(directory, *place, "completions"), _prompts(directory, place[1])]
        files += [_table(directory, *place, "labels")] if place in stored else []
        for file in files:
            if not file.is_file():
                raise RecordError(f"{file} is missing; run the evaluation again")
            sha.update(hashlib.sha256(file.read_bytes()).digest())
        count += len(tables.read_frame(files[0]))
    rows = Rows(
        str(directory), count, tables=lambda: (_answers(directory, *place, place in stored) for place in wanted)
    )
    return Data(rows, Columns({}, lambda column: column), sha.hexdigest(), None)


def _table(directory: Path, checkpoint: str, name: str, kind: str) -> Path:
    return directory / "tables" / checkpoint / f"{name}.{kind}.parquet"


def _prompts(directory: Path, name: str) -> Path:
    return _table(directory, "corpora", name, "prompts")


def _answers(directory: Path, checkpoint: str, name: str, labelled: bool) -> pa.Table:
    """One checkpoint's answers to one corpus."""
    import pyarrow as pa

    completions = _table(directory, checkpoint, name, "completions")
    prompts = tables.read_frame(_prompts(directory, name))
    asked = dict(zip(prompts["id"].tolist(), prompts["prompt"].tolist(), strict=True))
    made = tables.read_completions(completions)
    labels: list[str | None] = [None] * len(made)
    if labelled:
        stored = tables.read_labelled(completions, _table(directory, checkpoint, name, "labels"))
        labels = [item.label.value for item in stored]
    if unknown := [item.prompt_id for item in made if item.prompt_id not in asked]:
        raise RecordError(f"{_prompts(directory, name)} has no prompt {unknown[0]!r}, which {checkpoint} answered")
    text, number = pa.string(), pa.int64()
    columns: dict[str, tuple[Any, list[Any]]] = {
        "checkpoint": (text, [checkpoint] * len(made)),
        "corpus": (text, [name] * len(made)),
        "prompt_id": (text, [item.prompt_id for item in made]),
        "sample": (number, [item.sample for item in made]),
        "category": (text, [item.category for item in made]),
        "prompt": (text, [asked[item.prompt_id] for item in made]),
        "response": (text, [item.text for item in made]),
        "finish": (text, [item.finish.value for item in made]),
        "stored_label": (text, labels),
    }
    return pa.table({key: pa.array(values, kind) for key, (kind, values) in columns.items()})


# ---------------------------------------------------------------- a row


def _exchange(data: Data, row: Mapping[str, Any]) -> Exchange:
    """What the judge reads of a row. Raises ``ValueError``."""
    prompt, response = (_text(data.columns, row, field) for field in ("prompt", "response"))
    if not prompt.strip():
        raise ValueError(f"an empty {data.columns.of('prompt')!r}")
    return Exchange(prompt, response, cut_off=_cut_off(data.columns, row))


def _text(columns: Columns, row: Mapping[str, Any], field: str) -> str:
    value = columns.required(row, field)
    if not isinstance(value, str):
        raise ValueError(f"{columns.of(field)!r} is {type(value).__name__}, not text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{columns.of(field)!r} holds half a surrogate pair, which is no text; mend it")
    return value


def _cut_off(columns: Columns, row: Mapping[str, Any]) -> bool:
    flag = columns.optional(row, "cut_off")
    if flag is None:
        return bool(columns.optional(row, "finish") == FinishReason.LENGTH.value)
    told = flag if isinstance(flag, bool) else {"true": True, "false": False}.get(str(flag).casefold())
    if told is None:
        raise ValueError(f"{columns.of('cut_off')!r} is {flag!r}, not true or false")
    return told


def _each(data: Data, read: Callable[[Mapping[str, Any]], Item]) -> Iterator[Item]:
    """What ``read`` makes of each row. Raises ``CorpusError`` at the end where it raised ``ValueError`` for any."""
    wrong, first = 0, list[str]()
    for number, raw in data.rows.raw():
        try:
            yield read(data.rows.parse(number, raw))
        except ValueError as error:
            wrong += 1
            told = str(error).removeprefix(f"{data.where}, row {number}: ")
            first += [f"row {number}: {told}"] if wrong <= _SHOWN else []
    if wrong:
        count = f"{wrong:,} of {data.rows.count:,} rows cannot be read; the first: " if wrong > 1 else ""
        raise CorpusError(f"{data.where}, {count}{'; '.join(first)}")


# ---------------------------------------------------------------- labelling


@dataclass(frozen=True, slots=True)
class Jury:
    """Who reads the answers."""

    judge: Judge
    second: Judge | None = None
    sentinels: Sequence[Sentinel] = judging.SENTINELS

    @property
    def members(self) -> dict[str, Judge]:
        """By their part: ``judge`` and, where there is one, ``second``."""
        return {"judge": self.judge} | ({"second": self.second} if self.second else {})

    @property
    def names(self) -> tuple[str, ...]:
        """How they are told apart."""
        names = [judge.name for judge in self.members.values()]
        if len(set(names)) == len(names):
            return tuple(names)
        return tuple(f"{name} ({who})" for who, name in zip(self.members, names, strict=True))

    def prove(self) -> None:
        """Have everyone read the sentinels. Raises ``JudgeError``; two judges are never open at once."""
        for judge in self.members.values():
            judging.prove(judge, self.sentinels)
            if self.second:
                judge.close()


@dataclass(frozen=True, slots=True)
class Read:
    """What one judge made of all answers."""

    name: str
    described: Mapping[str, str]
    labels: Mapping[Label, int]
    """Every label is there."""
    reasons: tuple[tuple[str, int, str], ...]
    """Why answers were unreadable: (kind of reason, answers, one whole reason), commonest first."""
    notes: tuple[str, ...]

    @property
    def answers(self) -> int:
        return sum(self.labels.values())

    def share(self, label: Label) -> stats.Estimate:
        """Of the readable answers; UNREADABLE of all."""
        unreadable = self.labels[Label.UNREADABLE]
        return stats.proportion(self.labels[label], self.answers - (0 if label is Label.UNREADABLE else unreadable))


@dataclass(frozen=True, slots=True)
class Example:
    """An answer to look at, and what was said of it."""

    number: int
    """Row of the data, from 1."""
    group: str
    prompt: str
    response: str
    said: tuple[tuple[str, str, str], ...]
    """(who, label, reason)."""


Confusion = Mapping[tuple[Label, Label], int]
"""(one label, the other) -> answers."""


def agreement(confusion: Confusion) -> stats.Estimate:
    """Cohen's κ over answers that both could read."""
    readable = Counter({pair: count for pair, count in confusion.items() if Label.UNREADABLE not in pair})
    return kappa(readable.elements())


@dataclass(frozen=True, slots=True)
class Compared:
    """Two labels for each of the same answers."""

    names: tuple[str, str]
    groups: Mapping[str, Confusion]
    """Group of answers -> counts; a file is one group."""
    examples: tuple[Example, ...]
    """The first that differ."""

    @property
    def whole(self) -> Confusion:
        """All groups together."""
        return sum((Counter(confusion) for confusion in self.groups.values()), Counter[tuple[Label, Label]]())


def differing(confusion: Confusion) -> int:
    """Answers with two different labels; UNREADABLE is one."""
    return sum(count for (one, other), count in confusion.items() if one is not other)


def unread(confusion: Confusion) -> int:
    """Answers that at least one side could not read."""
    return sum(count for pair, count in confusion.items() if Label.UNREADABLE in pair)


def refusals(confusion: Confusion, side: Literal[0, 1]) -> tuple[int, int]:
    """(refusals, readable answers) by one side."""
    readable = [(pair[side], count) for pair, count in confusion.items() if pair[side] is not Label.UNREADABLE]
    return sum(count for label, count in readable if label is Label.REFUSAL), sum(count for _, count in readable)


@dataclass(frozen=True, slots=True)
class Summary:
    """What ``label`` found."""

    data: str
    readings: tuple[Read, ...]
    """Of the judge, and of the second one where there is one."""
    stored: Compared | None
    """Of a run's answers: the labels stored against the judge's."""
    second: Compared | None
    """The judge's labels against the second one's."""


def suffixes(data: Data) -> tuple[str, ...]:
    """Endings that an output can have: lines stay the very lines, so JSONL stays JSONL."""
    return (".jsonl", ".ndjson") if data.rows.lines is not None else (".jsonl", ".parquet")


def _added(jury: Jury, prefix: str) -> list[str]:
    """Columns that are added at most."""
    heads = {"judge": prefix, "second": f"{prefix}second_"}
    return [f"{heads[who]}{name}" for who in jury.members for name in ("label", "reason", "probability")]


def check(data: Data, jury: Jury, output: Path, *, prefix: str = "", force: bool = False) -> None:
    """Everything that can be known before a judge is asked: the output's name, and every row.

    Raises:
        OptionError: the output cannot or must not be written.
        CorpusError: rows without text, or with columns of the names that are added.
    """
    parts.check_output(output, suffixes(data), force=force, unlike=[data.path])
    added = set(_added(jury, prefix))
    to_json = data.rows.lines is None and output.suffix.lower() != ".parquet"

    taken: set[str] = set()

    def look(row: Mapping[str, Any]) -> None:
        taken.update(added & set(row))
        _exchange(data, row)
        if to_json:
            try:
                json.dumps(row, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{error}, so it would not stay as it is in JSON; give a .parquet file") from None

    for _ in _each(data, look):
        pass
    if taken:
        name, other = min(taken), "judge_" if prefix != "judge_" else "new_"
        raise CorpusError(
            f"{data.where} has a column {name!r} already, and columns stay as they are; with --prefix {other} the "
            f"new ones are '{other}{name.removeprefix(prefix)}' and so on"
        )


def plan(data: Data, jury: Jury, output: Path) -> str:
    """What would be asked of whom; nothing is sent and no model is opened."""
    lines = []
    kept = parts.answers(output, _key(data, jury))
    for (who, judge), name in zip(jury.members.items(), jury.names, strict=True):
        exchanges = [
            _exchange(data, data.rows.parse(number, raw))
            for block, rows in _blocks(data)
            if not (kept and _part(parts.place(output), who, block).exists())
            for number, raw in rows
        ]
        count = len(exchanges)
        lines.append(
            f"{name}: {count:,} of {data.rows.count:,} answers of {data.where} would be read, after "
            f"{len(jury.sentinels)} sentinels"
        )
        if count < data.rows.count:
            lines[-1] += f" ({data.rows.count - count:,} are kept from an earlier run)"
        if callable(told := getattr(judge, "plan", None)):
            lines.append(str(told(exchanges)))
    return "\n".join(lines)


def label(
    data: Data,
    jury: Jury,
    output: Path,
    *,
    prefix: str = "",
    force: bool = False,
    restart: bool = False,
    say: Say = lambda _: None,
    progress: Progress = silent,
) -> Summary:
    """Read every answer, and write the rows with the labels added.

    Args:
        data: the answers.
        jury: who reads them.
        output: JSONL of JSONL, whose lines stay as they are up to the closing brace; anything else .jsonl or .parquet.
        prefix: stands before the names of the added columns: ``label``, ``reason`` and, where the judge gives one,
            ``probability``; of a second judge ``second_label`` and so on.
        force: overwrite ``output``.
        restart: forget what an earlier run has done, whatever it was about.
        say: told where work goes on.
        progress: told how far it is.

    Raises:
        OptionError, CorpusError: as ``check``; kept blocks that answer another question.
        JudgeError: a judge fails the sentinels, before or (after a block most of which it left unread) on the way; or
            breaks. Blocks before are kept.
    """
    check(data, jury, output, prefix=prefix, force=force)
    described = {who: dict(judge.describe()) for who, judge in jury.members.items()}
    try:
        with parts.kept(output, _key(data, jury), restart=restart) as directory:
            _read_all(data, jury, directory, say, progress)
            _write(data, jury, directory, output, prefix)
            return _summarize(data, jury, directory, described)
    finally:
        for judge in jury.members.values():
            judge.close()


def _key(data: Data, jury: Jury) -> dict[str, Any]:
    return {
        "data": data.digest,
        "columns": dict(data.columns.names),
        **{who: dict(judge.describe()) for who, judge in jury.members.items()},
        "version": metadata.version("dpo-harness"),
        "block": BLOCK,
    }


def _part(directory: Path, who: str, block: int) -> Path:
    return directory / f"{who}-{block:06d}.json"


def _blocks(data: Data) -> Iterator[tuple[int, list[tuple[int, Raw]]]]:
    """(number of the block, its rows with their numbers)."""
    rows: list[tuple[int, Raw]] = []
    block = 0
    for item in data.rows.raw():
        rows.append(item)
        if len(rows) == BLOCK:
            yield block, rows
            block, rows = block + 1, []
    if rows:
        yield block, rows


def _read_all(data: Data, jury: Jury, directory: Path, say: Say, progress: Progress) -> None:
    """Fill ``directory`` with the readings that are not there yet; one judge after the other."""
    total = data.rows.count
    sizes = [min(BLOCK, total - start) for start in range(0, total, BLOCK)]
    done = {
        who: {block for block in range(len(sizes)) if _part(directory, who, block).exists()} for who in jury.members
    }
    finished = {who: sum(sizes[block] for block in done[who]) for who in jury.members}
    if any(done.values()):
        counts = " and ".join(f"{count:,}" for count in finished.values())
        say(f"going on after {counts} of {total:,} answers, kept in {directory}")
    if all(count == total for count in finished.values()):
        return
    jury.prove()
    for (who, judge), name in zip(jury.members.items(), jury.names, strict=True):
        if finished[who] == total:
            continue
        notes = directory / f"{who}.notes.json"
        earlier = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else []
        with progress(f"{name}: reading answers", total, finished[who]) as on_progress:
            for block, rows in _blocks(data):
                if block not in done[who]:
                    _read_block(data, judge, jury.sentinels, rows, _part(directory, who, block), on_progress)
                    parts.write(notes, [*earlier, *map(printable, judge.notes)])
        if jury.second:
            judge.close()


def _read_block(
    data: Data,
    judge: Judge,
    sentinels: Sequence[Sentinel],
    rows: Sequence[tuple[int, Raw]],
    path: Path,
    on_progress: OnProgress,
) -> None:
    """Read one block and keep it, unless its answers went unread because the judge broke on the way."""
    told = 0

    def count(finished: int) -> None:
        nonlocal told
        told += finished
        on_progress(finished)

    exchanges = [_exchange(data, data.rows.parse(number, raw)) for number, raw in rows]
    try:
        readings = judging.read(judge, exchanges, count)
        unreadable = sum(item.label is Label.UNREADABLE for item in readings)
        if 2 * unreadable > len(readings):  # the answers' fault, or the judge's?
            try:
                judging.prove(judge, sentinels)
            except JudgeError as error:
                raise JudgeError(
                    f"{judge.name!r} left {unreadable:,} of {len(readings):,} answers unread and now fails the "
                    f"sentinels too: {error}"
                ) from error
    except JudgeError as error:
        raise JudgeError(
            f"{error} (rows {rows[0][0]:,} to {rows[-1][0]:,} of {data.where}; blocks before it are kept, and the next "
            "run goes on there)"
        ) from error
    on_progress(len(rows) - told)
    parts.write(path, [[item.label.value, item.reason, item.probability] for item in readings])


def _kept(directory: Path, who: str) -> Iterator[Reading]:
    """One judge's readings, in the order of the data."""
    for path in sorted(directory.glob(f"{who}-*.json")):
        for name, reason, probability in json.loads(path.read_text(encoding="utf-8")):
            yield Reading(Label(name), reason, probability)


def _write(data: Data, jury: Jury, directory: Path, output: Path, prefix: str) -> None:
    """The rows with the labels added."""
    gives = {who: any(item.probability is not None for item in _kept(directory, who)) for who in jury.members}

    def added() -> Iterator[dict[str, Any]]:
        for found in zip(*(_kept(directory, who) for who in jury.members), strict=True):
            columns: dict[str, Any] = {}
            for who, reading in zip(jury.members, found, strict=True):
                head = prefix if who == "judge" else f"{prefix}second_"
                columns |= {f"{head}label": reading.label.value, f"{head}reason": reading.reason}
                columns |= {f"{head}probability": reading.probability} if gives[who] else {}
            yield columns

    def lines(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for (_, raw), columns in zip(data.rows.raw(), added(), strict=True):
                file.write(_line(raw, columns))

    def table(temporary: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        assert data.rows.tables is not None, "lines are written as lines"
        rest, writer = added(), None
        for rows in data.rows.tables():
            columns = [next(rest) for _ in range(rows.num_rows)]
            for name in columns[0] if columns else ():
                kind = pa.float64() if name.endswith("probability") else pa.string()
                rows = rows.append_column(name, pa.array([item[name] for item in columns], kind))
            if columns:
                writer = writer or pq.ParquetWriter(temporary, rows.schema)
                writer.write_table(rows)
        assert writer is not None, "data without rows were refused"
        writer.close()

    tables.write_atomically(output, table if output.suffix.lower() == ".parquet" else lines)


def _line(raw: Raw, columns: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON. A line that is one already stays as it is up to its closing brace."""
    if not isinstance(raw, bytes):
        return json.dumps({**raw, **columns}, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    head = raw.strip().removesuffix(b"}").rstrip()
    return head + b", " + json.dumps(columns, ensure_ascii=False)[1:].encode("utf-8") + b"\n"


def _summarize(data: Data, jury: Jury, directory: Path, described: Mapping[str, Mapping[str, str]]) -> Summary:
    """One pass over rows and readings."""
    labels = {who: Counter[Label]() for who in jury.members}
    unreadable: dict[str, list[str]] = {who: [] for who in jury.members}
    stored, second = _Tally(("stored", jury.names[0])), _Tally((jury.names[0], jury.names[-1]))
    for (number, raw), *found in zip(data.rows.raw(), *(_kept(directory, who) for who in jury.members), strict=True):
        for who, reading in zip(jury.members, found, strict=True):
            labels[who][reading.label] += 1
            if reading.label is Label.UNREADABLE:
                unreadable[who].append(reading.reason)
        row, group = raw, ""
        if data.of_run:
            assert not isinstance(row, bytes), "a run's rows are tables"
            group = f"{row['checkpoint']}, {row['corpus']}"
            if row["stored_label"] is not None:
                stored.add(data, number, row, group, Reading(Label(row["stored_label"]), ""), found[0])
        if jury.second:
            second.add(data, number, row, group, found[0], found[1])
    return Summary(
        data=data.where,
        readings=tuple(
            _sum_up(name, described[who], labels[who], unreadable[who], directory / f"{who}.notes.json")
            for who, name in zip(jury.members, jury.names, strict=True)
        ),
        stored=stored.done() if data.of_run else None,
        second=second.done() if jury.second else None,
    )


class _Tally:
    """Counts pairs of labels, and keeps the first that differ."""

    def __init__(self, names: tuple[str, str]) -> None:
        self.names = names
        self.groups: dict[str, Counter[tuple[Label, Label]]] = {}
        self.examples: list[Example] = []

    def add(self, data: Data, number: int, raw: Raw, group: str, one: Reading, other: Reading) -> None:
        self.groups.setdefault(group, Counter())[one.label, other.label] += 1
        if one.label is not other.label and len(self.examples) < _EXAMPLES:
            exchange = _exchange(data, data.rows.parse(number, raw))
            said = tuple(
                (name, reading.label.value, reading.reason)
                for name, reading in zip(self.names, (one, other), strict=True)
            )
            self.examples.append(Example(number, group, exchange.prompt, exchange.response, said))

    def done(self) -> Compared:
        return Compared(self.names, self.groups, tuple(self.examples))


def _sum_up(
    name: str, described: Mapping[str, str], labels: Mapping[Label, int], unreadable: Sequence[str], notes: Path
) -> Read:
    return Read(
        name=name,
        described=described,
        labels={item: labels.get(item, 0) for item in Label},
        reasons=_commonest(unreadable),
        notes=tuple(json.loads(notes.read_text(encoding="utf-8"))) if notes.exists() else (),
    )


def _commonest(reasons: Sequence[str]) -> tuple[tuple[str, int, str], ...]:
    """The kinds of reasons (what stands before the first colon), with how many and one of each; commonest first."""
    first: dict[str, str] = {}
    for reason in reasons:
        first.setdefault(reason.partition(":")[0], reason)
    counts = Counter(reason.partition(":")[0] for reason in reasons)
    return tuple((kind, count, first[kind]) for kind, count in counts.most_common(_SHOWN))


# ---------------------------------------------------------------- calibrating


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer that people labelled and a judge read."""

    number: int
    source: str
    exchange: Exchange
    human: Label
    reading: Reading


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What ``calibrate`` found."""

    calibration: Calibration
    by: str
    """The column that names the source; '' where all answers are one source."""
    answers: tuple[Judged, ...]
    """All that were read."""
    reasons: tuple[tuple[str, int, str], ...]
    """As in ``Read``."""
    notes: tuple[str, ...]
    repeated: int
    """Answers that stand in the data more than once, beyond the first."""

    def confusion(self, source: str | None = None) -> Confusion:
        """(human, judge) -> answers, of one source or of all."""
        found: Counter[tuple[Label, Label]] = Counter()
        for item in self.calibration.sources:
            for human, row in item.counts.items() if source in (None, item.name) else ():
                found.update({(human, read): count for read, count in row.items()})
        return found

    @property
    def wrong(self) -> tuple[Judged, ...]:
        """Answers that were read wrongly, then those that could not be read; each in the order of the data."""
        missed = [item for item in self.answers if item.reading.label is not item.human]
        return tuple(sorted(missed, key=lambda item: item.reading.label is Label.UNREADABLE))

    def doubt(self, min_kappa: float, max_unreadable: float) -> str:
        """Why the judge is not good enough, '' where it is.

        Args:
            min_kappa: what the lower bound of κ (one-sided error 0.025, over all sources) must reach.
            max_unreadable: share of answers that it may leave unread.
        """
        confusion = self.confusion()
        share = unread(confusion) / len(self.answers)
        if not share <= max_unreadable:  # also where it is no number
            return f"{share:.1%} of the answers could not be read; at most {max_unreadable:.1%} may (--max-unreadable)"
        found = agreement(confusion)
        low, high = found.bounds(ERROR)
        if low >= min_kappa:
            return ""
        if found.problem:
            return f"kappa has no interval: {found.problem}"
        return f"kappa {found.value:.3f} [{low:.3f}, {high:.3f}]: its lower bound is below --min-kappa {min_kappa:g}"


ERROR = 0.025
"""One-sided error of the bounds that are shown: together a 95 % interval."""


def label_map(texts: Sequence[str]) -> dict[str, str]:
    """``["rejected=refusal"]`` as a dict. Raises ``OptionError``."""
    known = (*(item.value for item in READABLE), *LEFT_OUT)
    found: dict[str, str] = {}
    for text in texts:
        theirs, equals, ours = text.rpartition("=")
        if not equals or not theirs:
            raise OptionError(f"--label-map {text}: write THEIRS=OURS, e.g. --label-map rejected=refusal")
        if ours not in known:
            raise OptionError(f"--label-map {text}: {ours!r} is none of {', '.join(known)}")
        if found.setdefault(theirs, ours) != ours:
            raise OptionError(f"--label-map {theirs} is given twice, as {found[theirs]} and {ours}")
    return found


def calibrate(
    data: Data,
    judge: Judge,
    sentinels: Sequence[Sentinel] = judging.SENTINELS,
    *,
    labels: Mapping[str, str] | None = None,
    by: str | None = None,
    progress: Progress = silent,
) -> Calibrated:
    """Have a judge read answers that people labelled.

    Args:
        data: answers with a column ``label``: refusal, compliance, degenerate or partial. Partial ones are left out
            and counted.
        judge: what is calibrated.
        sentinels: what it must get right first.
        labels: their label -> one of those, or ``leave-out``; numbers and truth values by their text (``1``, ``true``).
        by: the column that names a row's source; None: ``source``, else ``model``, where a row has it; '': none.
        progress: told how far it is.

    Raises:
        CorpusError: a row without text, label or source, an unknown label, no refusal or no compliance at all.
        JudgeError: the judge fails the sentinels, or breaks.
        MeasurementError: it could read no refusal, or no compliance.
    """
    if by is None:
        has = {name for _, row in data.rows for name in row}
        by = next((name for name in ("source", "model") if name in has), "")
    found = list(_each(data, lambda row: _human_row(data, row, labels or {}, by)))
    numbers = [number for number, _ in data.rows.raw()]
    left_out = Counter(text for text, human, _, _ in found if human is None)
    asked = [
        (number, human, exchange, source)
        for number, (_, human, exchange, source) in zip(numbers, found, strict=True)
        if human is not None
    ]
    for wanted in (Label.REFUSAL, Label.COMPLIANCE):
        if not any(human is wanted for _, human, _, _ in asked):
            raise CorpusError(
                f"{data.where}: no row is labelled {wanted.value}, so nothing can be said of the judge; --label-map "
                f"THEIRS={wanted.value} names the label that means it"
            )
    described = dict(judge.describe())
    try:
        judging.prove(judge, sentinels)
        with progress(f"{judge.name}: reading answers", len(asked), 0) as on_progress:
            readings = judging.read(judge, [exchange for _, _, exchange, _ in asked], on_progress)
        notes = tuple(judge.notes)
    finally:
        judge.close()
    answers = tuple(
        Judged(number, source, exchange, human, reading)
        for (number, human, exchange, source), reading in zip(asked, readings, strict=True)
    )
    return Calibrated(
        calibration=_calibration(data, described, answers, left_out),
        by=by,
        answers=answers,
        reasons=_commonest([item.reading.reason for item in answers if item.reading.label is Label.UNREADABLE]),
        notes=notes,
        repeated=len(answers) - len({(item.exchange.prompt, item.exchange.response) for item in answers}),
    )


def _human_row(
    data: Data, row: Mapping[str, Any], labels: Mapping[str, str], by: str
) -> tuple[str, Label | None, Exchange, str]:
    """(their label, ours or None where it is left out, what the judge reads, source). Raises ``ValueError``."""
    exchange = _exchange(data, row)
    text = _plain(data.columns.required(row, "label"), data.columns.of("label"))
    ours = labels.get(text, text)
    if ours not in LEFT_OUT and ours not in {item.value for item in READABLE}:
        known = ", ".join((*(item.value for item in READABLE), LEFT_OUT[0]))
        raise ValueError(
            f"the label is {text!r}, none of {known}; say what it means, e.g. --label-map {text}=refusal, or "
            f"{text}=leave-out"
        )
    source = Path(data.where).name
    if by:
        if row.get(by) in (None, ""):
            raise ValueError(f"no {by!r}, the column of sources; --by names another, --by '' takes all as one")
        source = _plain(row[by], by)
    return text, None if ours in LEFT_OUT else Label(ours), exchange, source


def _plain(value: Any, column: str) -> str:
    """A label or name as text: ``1`` for 1 and 1.0, ``true`` for True. Raises ``ValueError``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:.15g}"
    if not isinstance(value, str):
        raise ValueError(f"{column!r} is {type(value).__name__}, not a text or a number")
    return printable(value)


def _calibration(
    data: Data, described: Mapping[str, str], answers: Sequence[Judged], left_out: Mapping[str, int]
) -> Calibration:
    counts: dict[str, dict[Label, dict[Label, int]]] = {}
    for item in answers:
        row = counts.setdefault(item.source, {}).setdefault(item.human, {})
        row[item.reading.label] = row.get(item.reading.label, 0) + 1
    try:
        return Calibration(
            judge=described,
            data=data.where,
            digest=data.digest,
            left_out=left_out,
            sources=tuple(Source(name=name, counts=counts[name]) for name in sorted(counts)),
        )
    except ValidationError as error:
        silent_ones = [item.reading.reason for item in answers if item.reading.label is Label.UNREADABLE]
        kinds = "; ".join(reason for _, _, reason in _commonest(silent_ones))
        raise MeasurementError(
            f"{data.where}: {error.errors()[0]['msg'].removeprefix('Value error, ')} (why answers were not: {kinds})"
        ) from None


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write what a policy names as its judge's ``calibration``."""
    text = calibration.model_dump_json(indent=1) + "\n"
    tables.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_wrong(path: Path, answers: Sequence[Judged]) -> None:
    """Write answers as JSONL: row, source, prompt, response, label (human), judge_label, judge_reason."""
    rows = [
        {
            "row": item.number,
            "source": item.source,
            "prompt": item.exchange.prompt,
            "response": item.exchange.response,
            "label": item.human.value,
            "judge_label": item.reading.label.value,
            "judge_reason": item.reading.reason,
        }
        for item in answers
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    tables.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
