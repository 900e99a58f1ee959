"""JSONL, CSV, Parquet or a ``datasets`` id -> ``Corpus``; YAML -> ``Lexicon``.

Rows are validated one by one and errors name the file and the row. A file that lies below a ``MANIFEST.json`` which
lists it must have the digest and the number of rows that the manifest says.

Preference pairs come in the formats of TRL's trainers:

    standard          {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    conversational    the same three as lists of {"role": ..., "content": ...}
    implicit prompt   either, without "prompt": what chosen and rejected begin with alike is the prompt

``Rows`` goes through a file or data set without holding it; ``read_pair`` turns one row into a pair. What needs all
rows at once is a ``Corpus``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.domain import Corpus, Lexicon, Message, PreferencePair, Prompt
from harness.errors import CorpusError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["prompts", "pairs"]

_FIELDS: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # kind: (required columns, optional columns)
    "prompts": (("prompt",), ("id", "category")),
    "pairs": (("prompt", "chosen", "rejected"), ("id", "category", "chosen_meaning", "others", "rater_share")),
}
SEVERAL = "others"
"""The one field that several columns can be mapped to."""

FORMATS = (".jsonl", ".ndjson", ".csv", ".parquet")

_CHUNK = 1024
"""Rows that are held at a time."""

_WRITTEN_OUT = re.compile(r"""\s*\[\s*\{\s*['"](role|content)['"]\s*:""")
"""A list of messages turned into text, as CSV and ``str()`` do."""

_RENDERED = ("tool_calls", "tool_call_id", "reasoning_content", "thinking")
"""Keys of a message that templates write out: answers that have them are more than their content."""


class CorpusSource(BaseModel):
    """Where a corpus comes from: a file, or a data set on the hub."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str | None = Field(None, description="JSONL, CSV or Parquet file; relative paths start at the policy file")
    dataset: str | None = Field(None, description="data set id for the `datasets` library (extra: organism)")
    config: str | None = Field(None, description="configuration of the data set")
    split: str | None = Field(None, description="split of the data set; required with `dataset`")
    revision: str | None = Field(None, description="commit of the data set; required with `dataset`")
    columns: dict[str, str | list[str]] = Field(
        default_factory=dict, description="our name -> the column's name in the data; for 'others' also a list of names"
    )
    version: str = Field("", description="free text, shown in the record")

    @model_validator(mode="after")
    def _one_origin(self) -> CorpusSource:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give exactly one of 'path' and 'dataset'")
        if self.dataset is not None and (self.split is None or self.revision is None):
            raise ValueError(
                f"data set {self.dataset!r} needs 'split' and 'revision' (a commit), so that every run asks the same"
            )
        for ours, theirs in self.columns.items():
            if isinstance(theirs, list) and (ours != SEVERAL or not theirs):
                raise ValueError(f"'columns' maps {ours!r} to a list; only {SEVERAL!r} takes one, with a name in it")
        return self

    def __str__(self) -> str:
        return self.path or f"{self.dataset}[{self.split}]@{self.revision}"


@overload
def load(name: str, source: CorpusSource, kind: Literal["prompts"], root: Path) -> Corpus[Prompt]: ...
@overload
def load(name: str, source: CorpusSource, kind: Literal["pairs"], root: Path) -> Corpus[PreferencePair]: ...
def load(name: str, source: CorpusSource, kind: Kind, root: Path) -> Corpus[Prompt] | Corpus[PreferencePair]:
    """Read and check a corpus.

    Args:
        name: what the policy calls it.
        source: where it comes from.
        kind: ``prompts`` (columns prompt, [id, category]) or ``pairs`` (see ``read_pair``).
        root: directory that relative paths start from (the policy file's).

    The digest of a corpus is over the contents of its items in order. Fields that have their default value are left
    out of it, so that a later version's optional fields change no digest of today's corpora.

    Raises:
        CorpusError: missing file, unknown format, bad row, empty, or other bytes than MANIFEST.json says.
        MissingExtraError: a ``dataset`` without the ``datasets`` library.
    """
    columns = Columns(
        source.columns, lambda column: f"'columns: {{{column}: NAME}}' under 'corpora: {name}' in the policy"
    )
    columns.check(_FIELDS[kind], f"corpus {name!r}: 'columns' maps")
    version = source.version
    if source.path is not None:
        path = (root / source.path).resolve()
        if not path.is_file():
            raise CorpusError(f"corpus {name!r}: no file {path}; check 'path' under 'corpora: {name}' in the policy")
        data = open_file(path)
    else:
        assert source.dataset is not None, "checked by the model"
        data = open_dataset(source.dataset, source.split, config=source.config, revision=source.revision)
    rows = list(data)
    if source.path is not None:
        version = version or _verify(path, len(rows))
    if not rows:
        raise CorpusError(f"corpus {name!r} is empty: {data.where} has no rows, so nothing could be measured on it")
    items: list[Any] = [
        read_pair(data.where, number, row, columns, count=len(rows))
        if kind == "pairs"
        else _read_prompt(data.where, number, row, columns, count=len(rows))
        for number, row in rows
    ]
    _refuse_repeats(data.where, [number for number, _ in rows], items)
    return _corpus(name, data.where, items, str(source), version)


def _refuse_repeats(where: str, numbers: Sequence[int], items: Sequence[Prompt | PreferencePair]) -> None:
    """Two rows that ask the same are one item counted twice: intervals would be narrower than what was seen."""
    first: dict[tuple[object, ...], int] = {}
    for number, item in zip(numbers, items, strict=True):
        asked = (item.text,) if isinstance(item, Prompt) else (item.conversation, item.chosen, item.rejected)
        if first.setdefault(asked, number) != number:
            raise CorpusError(
                f"{where}, row {number}: asks the same as row {first[asked]}; take one out, or intervals would claim "
                "more than was measured (several answers per prompt: 'decoding: {samples: N}')"
            )


def _corpus(name: str, where: str, items: list[Any], source: str, version: str) -> Corpus[Any]:
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(_told(item), sort_keys=True, ensure_ascii=False).encode("utf-8"))
        digest.update(b"\n")
    try:
        return Corpus(name=name, items=tuple(items), digest=digest.hexdigest(), source=source, version=version)
    except ValueError as error:
        raise CorpusError(f"{where}: {error}") from None


def _told(item: Prompt | PreferencePair) -> dict[str, Any]:
    """The fields of an item that differ from their defaults."""
    defaults = {field.name: field.default for field in fields(item)}
    return {
        key: value
        for key, value in asdict(item).items()
        if defaults[key] is MISSING or getattr(item, key) != defaults[key]
    }


# ---------------------------------------------------------------- a row as an item


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the data hold our fields."""

    names: Mapping[str, str | Sequence[str]]
    """our name -> the data's, for those that differ; a list of names for third responses only."""
    cure: Callable[[str], str]
    """Where a user maps a field to another column, for error messages."""

    def check(self, known: tuple[tuple[str, ...], tuple[str, ...]], what: str) -> None:
        """Raise ``CorpusError`` where a name is none of the (required, optional) fields."""
        if unknown := sorted(set(self.names) - {*known[0], *known[1]}):
            raise CorpusError(f"{what} {unknown[0]!r}, which is none of {', '.join(sorted({*known[0], *known[1]}))}")

    def of(self, field: str) -> str:
        """The column of a field that has one."""
        name = self.names.get(field, field)
        assert isinstance(name, str), "lists are for third responses"
        return name

    def required(self, row: Mapping[str, Any], field: str) -> Any:
        """A value that must be there. Raises ``ValueError``."""
        key = self.of(field)
        value = row.get(key)
        if _is_missing(value):
            has = ", ".join(map(str, row)) or "nothing"
            raise ValueError(
                f"no {key!r} (the row has: {has}); add it, or map another column to it with {self.cure(field)}"
            )
        return value

    def optional(self, row: Mapping[str, Any], field: str, *, gaps: bool = False) -> Any:
        """A value that may be missing; where a user named its column, only with ``gaps``. Raises ``ValueError``."""
        key = self.of(field)
        value = row.get(key)
        if not _is_missing(value):
            return value
        if field in self.names and not (gaps and key in row):
            raise ValueError(f"no {key!r}, the column that {field!r} is mapped to")
        return None


def _read_prompt(where: str, number: int, row: Mapping[str, Any], columns: Columns, count: int) -> Prompt:
    try:
        text = _text(columns.of("prompt"), columns.required(row, "prompt"))
        return Prompt(**_named(number, row, columns, count), text=text)
    except ValueError as error:
        raise CorpusError(f"{where}, row {number}: {error}") from None


def read_pair(
    where: str,
    number: int,
    row: Mapping[str, Any],
    columns: Columns,
    *,
    count: int,
    wanted: Sequence[str] = _FIELDS["pairs"][1],
) -> PreferencePair:
    """One row as a preference pair.

    Columns: ``chosen`` and ``rejected``; ``prompt``, without which the prompt is what both begin with
    (``extract_prompt``); and, where they are there and asked for in ``wanted``, ``id``, ``category``,
    ``chosen_meaning``, ``others`` (third responses: one or a list) and ``rater_share`` (a number in [0, 1]). Prompt and
    responses are text, or lists of messages; a response is then exactly one message of the assistant's.

    Args:
        where: the file or data set, for messages.
        number: the row's number from 1.
        row: column -> value.
        columns: which of the data's columns hold our fields.
        count: rows of the data: an id made from the row's number has as many digits.
        wanted: the optional fields to read.

    Raises:
        CorpusError: names file, row, column and cure.
    """
    try:
        messages, chosen, rejected = _preference(row, columns)
        values: dict[str, Any] = {}
        if "chosen_meaning" in wanted:
            meaning = columns.optional(row, "chosen_meaning")
            values["chosen_meaning"] = "" if meaning is None else _text(columns.of("chosen_meaning"), meaning)
        if SEVERAL in wanted:
            values["others"] = _others(row, columns)
        if "rater_share" in wanted:
            values["rater_share"] = _share(columns.of("rater_share"), columns.optional(row, "rater_share", gaps=True))
        single = len(messages) == 1 and messages[0].role == "user"
        if not single and messages[-1].role == "user" and not messages[-1].content.strip():
            raise ValueError("the user's last turn is empty")
        return PreferencePair(
            **_named(number, row, columns, count, wanted),
            prompt=messages[0].content if single else "\n\n".join(f"{m.role}: {m.content}" for m in messages),
            messages=() if single else messages,
            chosen=chosen,
            rejected=rejected,
            **values,
        )
    except ValueError as error:
        raise CorpusError(f"{where}, row {number}: {error}") from None


def extract_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """(prompt, chosen, rejected) of two responses that begin with their prompt: two texts, or two lists of messages.

    The prompt is the longest common prefix, cut exactly as TRL's ``extract_prompt`` does: the space before the first
    difference stays with the responses, and where one is a prefix of the other the last item goes to the responses too.

    Raises:
        ValueError: they have no first item in common, so nothing can be the prompt.
    """
    if not chosen or not rejected or chosen[0] != rejected[0]:
        raise ValueError("there is no prompt, and 'chosen' and 'rejected' do not begin alike")
    index = 0
    for index in range(min(len(chosen), len(rejected))):
        if chosen[index] != rejected[index]:
            if chosen[index - 1] == " ":
                index -= 1
            break
    return chosen[:index], chosen[index:], rejected[index:]


def _preference(row: Mapping[str, Any], columns: Columns) -> tuple[tuple[Message, ...], str, str]:
    """(prompt, chosen, rejected) of a row in any format."""
    keys = {field: columns.of(field) for field in ("prompt", "chosen", "rejected")}
    chosen, rejected = columns.required(row, "chosen"), columns.required(row, "rejected")
    talk = [_is_conversation(value) for value in (chosen, rejected)]
    if talk[0] != talk[1]:
        kinds = [
            "a list of messages" if is_talk else type(value).__name__
            for is_talk, value in zip(talk, (chosen, rejected), strict=True)
        ]
        raise ValueError(
            f"{keys['chosen']!r} is {kinds[0]} and {keys['rejected']!r} is {kinds[1]}; write both as text or both as "
            "messages"
        )
    if not talk[0]:
        chosen, rejected = _text(keys["chosen"], chosen), _text(keys["rejected"], rejected)
        if _WRITTEN_OUT.match(chosen) and _WRITTEN_OUT.match(rejected):
            raise ValueError(
                f"{keys['chosen']!r} and {keys['rejected']!r} are lists of messages written out as text; keep the data "
                "as JSONL or Parquet, which hold lists"
            )
    prompt = columns.required(row, "prompt") if keys["prompt"] in row or "prompt" in columns.names else None
    implicit = prompt is None or (talk[0] and isinstance(prompt, str))
    if implicit:
        for name, value in (("chosen", chosen), ("rejected", rejected)):
            if isinstance(value, str) and not value.strip():
                raise ValueError(f"an empty {keys[name]!r}")
        try:
            prompt, chosen, rejected = extract_prompt(chosen, rejected)
        except ValueError as error:
            if prompt is not None:
                raise ValueError(
                    f"{keys['prompt']!r} is text and the responses are messages that do not begin with it; write all "
                    "three as text or all three as messages"
                ) from None
            raise ValueError(
                f"{error}; add a column 'prompt', or map one to it with {columns.cure('prompt')}"
            ) from None
    if not talk[0]:
        return (Message("user", _text(keys["prompt"], prompt)),), chosen, rejected
    hint = (
        ""
        if implicit
        else "; where the prompt stands in the responses too, take it out of them, or leave out the column "
        f"{keys['prompt']!r}: what both begin with is then the prompt"
    )
    return (
        _messages(keys["prompt"], prompt),
        _answer(keys["chosen"], chosen, implicit, hint),
        _answer(keys["rejected"], rejected, implicit, hint),
    )


def _named(
    number: int, row: Mapping[str, Any], columns: Columns, count: int, wanted: Sequence[str] = ("id", "category")
) -> dict[str, Any]:
    """id and category of a row; without an id its number."""
    identifier = columns.optional(row, "id") if "id" in wanted else None
    category = columns.optional(row, "category") if "category" in wanted else None
    return {
        "id": _text(columns.of("id"), "" if identifier is None else str(identifier)) or f"{number:0{len(str(count))}d}",
        "category": "" if category is None else _text(columns.of("category"), category),
    }


def _text(key: str, value: Any) -> str:
    """A value that must be text. Raises ``ValueError``."""
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {type(value).__name__}, not text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{key!r} holds half a surrogate pair, which is no text; mend it")
    return value


def _is_conversation(value: Any) -> bool:
    """Whether a value is meant as a list of messages; an empty list is."""
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _messages(key: str, value: Any) -> tuple[Message, ...]:
    """A list of messages, not empty. Raises ``ValueError``."""
    if not _is_conversation(value) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise ValueError(f"{key!r} is {found}, not a list of messages with 'role' and 'content'")
    return tuple(_message(key, item) for item in value)


def _message(key: str, item: Mapping[str, Any]) -> Message:
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str):
        raise ValueError(f"a message in {key!r} has no 'role' (it has: {', '.join(map(str, item)) or 'nothing'})")
    for extra in _RENDERED:
        if item.get(extra):
            raise ValueError(
                f"a message in {key!r} has {extra!r}: a template writes more than its content, and only content is "
                "scored; take the row out, or write it into the content"
            )
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, Mapping) else type(part).__name__ for part in content]
        if other := [kind for kind in kinds if kind != "text"]:
            raise ValueError(f"a message in {key!r} has a part of type {other[0]!r}; only text can be scored")
        content = "".join(_text(key, part.get("text")) for part in content)
    if content is None:
        raise ValueError(f"a message of the {role} in {key!r} has no 'content'")
    return Message(role, _text(key, content))


def _answer(key: str, value: Any, implicit: bool, hint: str = "") -> str:
    """The text of a response given as messages: exactly one, the assistant's. Raises ``ValueError``."""
    messages = _messages(key, value) if value else ()
    if len(messages) != 1 or messages[0].role != "assistant":
        after = " after the prompt that it shares with the other response" if implicit else ""
        found = ", ".join(message.role for message in messages) or "no message"
        raise ValueError(f"{key!r} must be one message of the assistant{after}, but is: {found}{hint}")
    return messages[0].content


def _others(row: Mapping[str, Any], columns: Columns) -> tuple[str, ...]:
    """Third responses, from one column or from several. An empty text is none."""
    names = columns.names.get(SEVERAL, SEVERAL)
    found: list[str] = []
    for key in [names] if isinstance(names, str) else names:
        value = row.get(key)
        if _is_missing(value):
            if SEVERAL in columns.names and key not in row:
                raise ValueError(f"no {key!r}, a column that {SEVERAL!r} is mapped to")
            continue
        if value in ("", []):
            continue
        single = isinstance(value, str) or _is_conversation(value)
        for item in [value] if single or not isinstance(value, list) else value:
            found.append(_answer(key, item, False) if _is_conversation(item) else _text(key, item))
    return tuple(found)


def _share(key: str, value: Any) -> float | None:
    """A number, or a number as text (CSV); None where there is none."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        return float(value)
    except ValueError:
        raise ValueError(f"{key!r} is {value!r}, not a number in [0, 1]") from None


# ---------------------------------------------------------------- rows


Raw: TypeAlias = "bytes | Mapping[str, Any]"
"""A row as it is read: a line of JSONL, or column -> value."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a file or data set, to be gone through as often as needed; only a chunk of them is held.

    Exactly one of ``lines`` and ``tables`` is there.
    """

    where: str
    """For messages."""
    count: int
    lines: Callable[[], Iterator[tuple[int, bytes]]] | None = None
    """JSONL: (number of the line from 1, line with its line break), blank lines left out."""
    tables: Callable[[], Iterator[pa.Table]] | None = None
    """Everything else: consecutive rows as Arrow tables of one schema."""

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """(row number from 1, row). Raises ``CorpusError`` at the first that cannot be read."""
        for number, raw in self.raw():
            yield number, self.parse(number, raw)

    def raw(self) -> Iterator[tuple[int, Raw]]:
        """(row number from 1, row as it is read)."""
        if self.lines is not None:
            yield from self.lines()
            return
        assert self.tables is not None, "one of both"
        yield from enumerate(chain.from_iterable(table.to_pylist() for table in self.tables()), start=1)

    def parse(self, number: int, raw: Raw) -> Mapping[str, Any]:
        """column -> value. Raises ``CorpusError`` where a line holds no JSON object."""
        return _parse_line(self.where, number, raw) if isinstance(raw, bytes) else raw


def _parse_line(where: str, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where}, row {number}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where}, row {number}: not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise CorpusError(f"{where}, row {number}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise CorpusError(f"{where}, row {number}: a {type(row).__name__}, not an object with columns")
    return row


def open_file(path: Path) -> Rows:
    """The rows of a JSONL, CSV or Parquet file.

    Raises:
        CorpusError: unknown format or unreadable.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return Rows(str(path), sum(1 for _ in _lines(path)), lines=lambda: _lines(path))
    if suffix not in FORMATS:
        raise CorpusError(f"{path}: unknown format {suffix!r}; use .jsonl, .csv or .parquet")

    def tables() -> Iterator[pa.Table]:
        with _readable(path):
            yield from _csv_tables(path) if suffix == ".csv" else _parquet_tables(path)

    if suffix == ".csv":
        return Rows(str(path), sum(table.num_rows for table in tables()), tables=tables)
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path) as file:
        return Rows(str(path), file.metadata.num_rows, tables=tables)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What pandas and Arrow raise while they read, as an error of ours."""
    try:
        yield
    except (ValueError, OSError, NotImplementedError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path}: cannot be read as {path.suffix[1:].lower()}: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _csv_tables(path: Path) -> Iterator[pa.Table]:
    """Every value is text, as it stands in the file."""
    import pandas as pd
    import pyarrow as pa

    for frame in pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", chunksize=_CHUNK):
        # pandas takes the first field for a row's name where there is one too many, and shifts the rest
        if not isinstance(frame.index, pd.RangeIndex):
            raise CorpusError(
                f"{path}: rows have more fields than the {len(frame.columns)} names in the first line (a comma at "
                "the end of lines?); every row needs one value for each name"
            )
        schema = pa.schema([(str(name), pa.string()) for name in frame.columns])
        yield pa.Table.from_pandas(frame.set_axis(schema.names, axis=1), schema=schema, preserve_index=False)


def _parquet_tables(path: Path) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_CHUNK):
            yield pa.Table.from_batches([batch])


def open_dataset(dataset: str, split: str | None, *, config: str | None = None, revision: str | None = None) -> Rows:
    """The rows of a data set on the hub.

    Raises:
        MissingExtraError: without the ``datasets`` library.
        CorpusError: it cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"{dataset!r} is a data set on the hub: install the extra with `pip install 'dpo-harness[organism]'`, or "
            "give a file instead"
        ) from error
    try:
        data = datasets.load_dataset(dataset, config, split=split, revision=revision)
    except Exception as error:  # the hub, the network and the data set's own files all fail in their own ways
        raise CorpusError(
            f"data set {dataset!r} cannot be loaded ({type(error).__name__}: {error}); check "
            "its name, split and revision; a gated set needs its terms accepted on its page and HF_TOKEN set"
        ) from error
    where = f"{dataset}[{split}]@{revision}" if revision else f"{dataset}[{split}]"
    return Rows(where, len(data), tables=lambda: iter(data.with_format("arrow").iter(_CHUNK)))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


# ---------------------------------------------------------------- manifest


def find_manifest(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The nearest MANIFEST.json above ``path`` that lists it (a directory: lists a file in it)."""
    for parent in path.parents[:4]:
        file = parent / "MANIFEST.json"
        if file.is_file():
            try:
                files = json.loads(file.read_text(encoding="utf-8"))["files"]
            except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
                raise CorpusError(f"{file} is damaged ({error}); restore it from version control") from error
            key = path.relative_to(parent).as_posix()
            if key in files or any(name.startswith(key + "/") for name in files):
                return file, files
    return None


def _verify(path: Path, rows: int | None) -> str:
    """Check a file against the manifest above it; returns the version stated there ('' without a manifest)."""
    found = find_manifest(path)
    if found is None:
        return ""
    manifest, files = found
    entry = files[path.relative_to(manifest.parent).as_posix()]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != entry["sha256"] or (rows is not None and entry.get("rows") not in (None, rows)):
        raise CorpusError(
            f"{path} is not the file that {manifest} describes (SHA-256 {digest[:12]}, {rows} rows; expected "
            f"{entry['sha256'][:12]}, {entry.get('rows')} rows); restore it, or copy it elsewhere to change it"
        )
    return str(entry.get("version", ""))


def verify_directory(path: Path) -> None:
    """Check every file of a directory (a shipped checkpoint) that a manifest above it lists; others are left alone.

    Raises:
        CorpusError: a listed file is missing or has other bytes.
    """
    path = path.resolve()
    found = find_manifest(path)
    if found is None:
        return
    manifest, files = found
    prefix = path.relative_to(manifest.parent).as_posix() + "/"
    for name, entry in files.items():
        if not name.startswith(prefix) or "/" in name[len(prefix) :]:
            continue
        file = manifest.parent / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
            raise CorpusError(f"{file} is missing or not the file that {manifest} describes; restore it")


# ---------------------------------------------------------------- lexicon


def load_lexicon(path: Path) -> Lexicon:
    """Read ``{meanings: {class: [words]}, opposites: {class: [classes]}}`` from YAML.

    Raises:
        CorpusError: missing, malformed, a word in two classes, or an opposite that is no class.
    """
    import yaml

    if not path.is_file():
        raise CorpusError(f"lexicon: no file {path}; check 'lexicon' in the policy")
    raw = path.read_bytes()
    try:
        data = yaml.load(raw, Loader=yaml.BaseLoader)  # noqa: S506 - builds text only: a bare Yes stays a word
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: not YAML: {error}") from None
    try:
        meanings = {str(k): frozenset(str(w).strip().casefold() for w in v) for k, v in data["meanings"].items()}
        opposites = {str(k): frozenset(map(str, v)) for k, v in data["opposites"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise CorpusError(f"{path}: a lexicon needs 'meanings' and 'opposites', class -> list ({error!r})") from None
    owner: dict[str, str] = {}
    for meaning, words in meanings.items():
        if not words:
            raise CorpusError(f"{path}: the meaning {meaning!r} has no words")
        for word in words:
            if word in owner:
                raise CorpusError(f"{path}: {word!r} stands under both {owner[word]!r} and {meaning!r}")
            owner[word] = meaning
    for meaning, others in opposites.items():
        for other in (meaning, *others):
            if other not in meanings:
                near = get_close_matches(other, meanings, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise CorpusError(f"{path}: 'opposites' names {other!r}, which is no meaning{hint}")
    _verify(path.resolve(), rows=None)
    return Lexicon(meanings=meanings, opposites=opposites, digest=hashlib.sha256(raw).hexdigest())
