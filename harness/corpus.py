"""JSONL, CSV, Parquet or a ``datasets`` id -> ``Corpus``; YAML -> ``Lexicon``.

Rows are validated one by one and errors name the file and the row. A file that lies below a ``MANIFEST.json`` which
lists it must have the digest and the number of rows that the manifest says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.domain import Corpus, Lexicon, PreferencePair, Prompt
from harness.errors import CorpusError, MissingExtraError

Kind = Literal["prompts", "pairs"]

_FIELDS: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # kind: (required columns, optional columns)
    "prompts": (("prompt",), ("id", "category")),
    "pairs": (("prompt", "chosen", "rejected"), ("id", "category", "chosen_meaning")),
}


class CorpusSource(BaseModel):
    """Where a corpus comes from: a file, or a data set on the hub."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str | None = Field(None, description="JSONL, CSV or Parquet file; relative paths start at the policy file")
    dataset: str | None = Field(None, description="data set id for the `datasets` library (extra: organism)")
    config: str | None = Field(None, description="configuration of the data set")
    split: str | None = Field(None, description="split of the data set; required with `dataset`")
    revision: str | None = Field(None, description="commit of the data set; required with `dataset`")
    columns: dict[str, str] = Field(default_factory=dict, description="our name -> the column's name in the data")
    version: str = Field("", description="free text, shown in the record")

    @model_validator(mode="after")
    def _one_origin(self) -> CorpusSource:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give exactly one of 'path' and 'dataset'")
        if self.dataset is not None and (self.split is None or self.revision is None):
            raise ValueError(
                f"data set {self.dataset!r} needs 'split' and 'revision' (a commit), so that every run asks the same"
            )
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
        kind: ``prompts`` (columns prompt, [id, category]) or ``pairs`` (prompt, chosen, rejected, [id, category]).
        root: directory that relative paths start from (the policy file's).

    Raises:
        CorpusError: missing file, unknown format, bad row, empty, or other bytes than MANIFEST.json says.
        MissingExtraError: a ``dataset`` without the ``datasets`` library.
    """
    version = source.version
    if source.path is not None:
        path = (root / source.path).resolve()
        if not path.is_file():
            raise CorpusError(f"corpus {name!r}: no file {path}; check 'path' under 'corpora: {name}' in the policy")
        rows = list(_read_rows(path))
        version = version or _verify(path, len(rows))
        where = str(path)
    else:
        rows = list(_read_dataset(name, source))
        where = str(source)
    if not rows:
        raise CorpusError(f"corpus {name!r} is empty: {where} has no rows, so nothing could be measured on it")
    items: list[Any] = [_item(name, where, number, row, kind, source.columns, count=len(rows)) for number, row in rows]
    _refuse_repeats(where, [number for number, _ in rows], items)
    return _corpus(name, where, items, str(source), version)


def _refuse_repeats(where: str, numbers: Sequence[int], items: Sequence[Prompt | PreferencePair]) -> None:
    """Two rows that ask the same are one item counted twice: intervals would be narrower than what was seen."""
    first: dict[tuple[str, ...], int] = {}
    for number, item in zip(numbers, items, strict=True):
        asked = (item.text,) if isinstance(item, Prompt) else (item.prompt, item.chosen, item.rejected)
        if first.setdefault(asked, number) != number:
            raise CorpusError(
                f"{where}, row {number}: asks the same as row {first[asked]}; take one out, or intervals would claim "
                "more than was measured (several answers per prompt: 'decoding: {samples: N}')"
            )


def _corpus(name: str, where: str, items: list[Any], source: str, version: str) -> Corpus[Any]:
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(asdict(item), sort_keys=True, ensure_ascii=False).encode("utf-8"))
        digest.update(b"\n")
    try:
        return Corpus(name=name, items=tuple(items), digest=digest.hexdigest(), source=source, version=version)
    except ValueError as error:
        raise CorpusError(f"{where}: {error}") from None


def _item(
    name: str, where: str, number: int, row: Mapping[str, Any], kind: Kind, columns: Mapping[str, str], count: int
) -> Prompt | PreferencePair:
    """One row as a domain object; every complaint names file, row, column and cure."""
    required, optional = _FIELDS[kind]
    known = {*required, *optional}
    if unknown := sorted(set(columns) - known):
        raise CorpusError(
            f"corpus {name!r}: 'columns' maps {unknown[0]!r}, which is none of {', '.join(sorted(known))}"
        )
    values: dict[str, str] = {}
    for column in (*required, *optional):
        key = columns.get(column, column)
        value = row.get(key)
        if value is None:
            if column in required:
                has = ", ".join(map(str, row)) or "nothing"
                raise CorpusError(
                    f"{where}, row {number}: no {key!r} (the row has: {has}); add it, or map another column to it with "
                    f"'columns: {{{column}: NAME}}' under 'corpora: {name}' in the policy"
                )
            if column in columns:
                raise CorpusError(f"{where}, row {number}: no column {key!r}, which 'columns' maps to {column!r}")
            continue
        if column == "id":
            value = str(value)
        if not isinstance(value, str):
            raise CorpusError(f"{where}, row {number}: {key!r} is {type(value).__name__}, not text")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise CorpusError(f"{where}, row {number}: {key!r} holds half a surrogate pair, which is no text; mend it")
        values[column] = value
    identifier = values.pop("id", "") or f"{number:0{len(str(count))}d}"
    try:
        if kind == "prompts":
            return Prompt(id=identifier, text=values["prompt"], category=values.get("category", ""))
        return PreferencePair(id=identifier, **values)  # type: ignore[arg-type]
    except ValueError as error:
        raise CorpusError(f"{where}, row {number}: {error}") from None


def _read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(row number from 1, row) of a JSONL, CSV or Parquet file."""
    suffix = path.suffix.lower()
    if suffix in {".jsonl", ".ndjson"}:
        yield from _read_jsonl(path)
        return
    import pandas as pd

    try:
        if suffix == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        elif suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            raise CorpusError(f"{path}: unknown format {suffix!r}; use .jsonl, .csv or .parquet")
    except (ValueError, OSError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path}: cannot be read as {suffix[1:]}: {error}") from error
    for number, row in enumerate(frame.to_dict(orient="records"), start=1):
        yield number, {str(key): None if _is_missing(value) else value for key, value in row.items()}


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise CorpusError(f"{path}, row {number}: not UTF-8 ({error.reason} at byte {error.start})") from None
        except json.JSONDecodeError as error:
            raise CorpusError(f"{path}, row {number}: not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise CorpusError(f"{path}, row {number}: a {type(row).__name__}, not an object with columns")
        yield number, row


def _read_dataset(name: str, source: CorpusSource) -> Iterable[tuple[int, Mapping[str, Any]]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"corpus {name!r} is the data set {source.dataset!r}: install the extra with "
            "`pip install 'dpo-harness[organism]'`, or give a file with 'path'"
        ) from error
    assert source.dataset is not None
    try:
        data = datasets.load_dataset(source.dataset, source.config, split=source.split, revision=source.revision)
    except Exception as error:  # the hub, the network and the data set's own files all fail in their own ways
        raise CorpusError(
            f"corpus {name!r}: data set {source.dataset!r} cannot be loaded ({type(error).__name__}: {error}); check "
            "its name, split and revision; a gated set needs its terms accepted on its page and HF_TOKEN set"
        ) from error
    return enumerate(data, start=1)


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
