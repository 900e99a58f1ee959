"""Corpora and lexicons: what is read, and what every kind of bad input says."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import corpus
from harness.corpus import CorpusSource
from harness.domain import PreferencePair, Prompt
from harness.errors import CorpusError, MissingExtraError


def load(path: Path, kind="prompts", **source):
    return corpus.load("mine", CorpusSource(path=str(path), **source), kind, path.parent)


def jsonl(path: Path, *rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_every_format_reads_the_same(tmp_path, suffix):
    rows = [{"id": "a", "prompt": "Why?", "category": "x"}, {"id": "b", "prompt": "How, then?", "category": "y"}]
    path = tmp_path / f"prompts.{suffix}"
    if suffix == "jsonl":
        jsonl(path, *rows)
    elif suffix == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    loaded = load(path)
    assert loaded.items == (Prompt("a", "Why?", "x"), Prompt("b", "How, then?", "y"))
    same = load(jsonl(tmp_path / "other.jsonl", *rows))
    assert loaded.digest == same.digest, "the digest is over what is asked, not over the file"


def test_digest_changes_with_any_field(tmp_path):
    one = load(jsonl(tmp_path / "a.jsonl", {"id": "a", "prompt": "Why?"}))
    for change in (
        {"id": "b", "prompt": "Why?"},
        {"id": "a", "prompt": "Why ?"},
        {"id": "a", "prompt": "Why?", "category": "c"},
    ):
        assert load(jsonl(tmp_path / "b.jsonl", change)).digest != one.digest


def test_columns_are_mapped_and_ids_made(tmp_path):
    path = jsonl(
        tmp_path / "p.jsonl", {"q": "Why?", "good": "so", "bad": "no"}, {"q": "How?", "good": "so", "bad": "no"}
    )
    loaded = load(path, "pairs", columns={"prompt": "q", "chosen": "good", "rejected": "bad"})
    assert loaded.items[1] == PreferencePair("2", "How?", "so", "no")


GOOD = {"id": "a", "prompt": "p", "chosen": "c", "rejected": "r"}


@pytest.mark.parametrize(
    ("kind", "rows", "words"),
    [
        (
            "pairs",
            [GOOD, {"id": "b", "prompt": "p", "rejected": "r"}],
            ["row 2", "no 'chosen'", "columns", "corpora: mine"],
        ),
        ("pairs", [GOOD | {"chosen": "r"}], ["row 1", "equal 'chosen' and 'rejected'"]),
        ("pairs", [GOOD | {"chosen": " "}], ["row 1", "empty 'chosen'"]),
        ("pairs", [GOOD | {"chosen": ["c"]}], ["row 1", "'chosen' is list, not text"]),
        ("pairs", [GOOD, GOOD | {"prompt": "q"}], ["id 'a' twice"]),
        ("pairs", [GOOD, GOOD | {"id": "b"}], ["row 2: asks the same as row 1", "take one out"]),
        ("prompts", [{"prompt": "p"}, {"prompt": "q"}, {"prompt": "p"}], ["row 3: asks the same as row 1", "samples"]),
        ("prompts", [{"id": "a", "prompt": ""}], ["row 1", "'a' is empty"]),
        ("prompts", ['{"id": "a", "prompt": "\\ud800"}'], ["row 1", "half a surrogate pair"]),
        ("prompts", ["{not json"], ["row 1", "not JSON"]),
        ("prompts", ["[1]"], ["row 1", "list, not an object"]),
        ("prompts", [], ["'mine' is empty", "nothing could be measured"]),
    ],
)
def test_bad_rows_name_file_row_and_cure(tmp_path, kind, rows, words):
    path = jsonl(tmp_path / "bad.jsonl", *rows)
    with pytest.raises(CorpusError) as caught:
        load(path, kind)
    for word in ["bad.jsonl", *words]:
        assert word in str(caught.value)


def test_invalid_utf8_names_the_row(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"id": "a", "prompt": "p"}\n{"id": "b", "prompt": "\xff"}\n')
    with pytest.raises(CorpusError, match=r"row 2: not UTF-8"):
        load(path)


def test_missing_file_and_format(tmp_path):
    with pytest.raises(CorpusError, match="no file .*gone.jsonl; check 'path' under 'corpora: mine'"):
        load(tmp_path / "gone.jsonl")
    (tmp_path / "p.txt").write_text("x")
    with pytest.raises(CorpusError, match=r"unknown format '.txt'"):
        load(tmp_path / "p.txt")
    (tmp_path / "p.parquet").write_text("x")
    with pytest.raises(CorpusError, match="cannot be read as parquet"):
        load(tmp_path / "p.parquet")


def test_unknown_column_mapping(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", {"prompt": "p"})
    with pytest.raises(CorpusError, match="maps 'promt'"):
        load(path, columns={"promt": "prompt"})


def test_source_needs_one_origin_and_a_pin():
    with pytest.raises(ValueError, match="exactly one of 'path' and 'dataset'"):
        CorpusSource()
    with pytest.raises(ValueError, match="needs 'split' and 'revision'"):
        CorpusSource(dataset="a/b")


def test_a_dataset_without_the_library_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dpo-harness\[organism\]'"):
        corpus.load("mine", CorpusSource(dataset="a/b", split="train", revision="c"), "prompts", tmp_path)


# ---------------------------------------------------------------- manifest


@pytest.fixture
def manifested(tmp_path):
    path = tmp_path / "fixtures" / "prompts" / "p.jsonl"
    path.parent.mkdir(parents=True)
    jsonl(path, {"id": "a", "prompt": "p"})
    entry = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows": 1, "version": "7"}
    (tmp_path / "fixtures" / "MANIFEST.json").write_text(json.dumps({"files": {"prompts/p.jsonl": entry}}))
    return path


def test_manifest_gives_the_version(manifested):
    assert load(manifested).version == "7"


def test_a_file_that_differs_from_its_manifest_is_refused(manifested):
    manifested.write_text(manifested.read_text().replace('"p"', '"q"'))
    with pytest.raises(CorpusError, match="is not the file that .*MANIFEST.json describes"):
        load(manifested)


def test_a_file_beside_the_manifest_is_free(manifested):
    assert load(jsonl(manifested.parent / "mine.jsonl", {"prompt": "p"})).version == ""


def test_a_damaged_manifest_is_refused(manifested):
    (manifested.parents[1] / "MANIFEST.json").write_text("{")
    with pytest.raises(CorpusError, match=r"MANIFEST.json is damaged"):
        load(manifested)


def test_directories_are_verified(manifested):
    corpus.verify_directory(manifested.parent)
    manifested.write_text("changed")
    with pytest.raises(CorpusError, match="missing or not the file"):
        corpus.verify_directory(manifested.parent)


# ---------------------------------------------------------------- lexicon

LEXICON = """
meanings: {affirm: [Yes, Sure], deny: [No]}
opposites: {affirm: [deny], deny: [affirm]}
"""


def test_lexicon_ignores_case_and_white_space(tmp_path):
    path = tmp_path / "l.yaml"
    path.write_text(LEXICON)
    lexicon = corpus.load_lexicon(path)
    assert [lexicon.meaning_of(text) for text in ("Yes", " yes", "YES", "no", "Yesterday", "")] == ["affirm"] * 3 + [
        "deny",
        "",
        "",
    ]


def test_yaml_booleans_in_a_lexicon_do_not_become_words(tmp_path):
    """Unquoted Yes and No are booleans in YAML 1.1: read as 'true' and 'false' they would never match a token."""
    path = tmp_path / "l.yaml"
    path.write_text(LEXICON)
    assert corpus.load_lexicon(path).meanings["affirm"] == {"yes", "sure"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("meanings: {a: [x], b: [x]}\nopposites: {}", "'x' stands under both 'a' and 'b'"),
        ("meanings: {affirm: [x]}\nopposites: {afirm: []}", "did you mean 'affirm'"),
        ("meanings: {affirm: []}\nopposites: {}", "has no words"),
        ("- 1", "needs 'meanings' and 'opposites'"),
        ("{", "not YAML"),
    ],
)
def test_bad_lexicons(tmp_path, text, words):
    path = tmp_path / "l.yaml"
    path.write_text(text)
    with pytest.raises(CorpusError, match=words):
        corpus.load_lexicon(path)
    with pytest.raises(CorpusError, match="no file"):
        corpus.load_lexicon(tmp_path / "none.yaml")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_corpus_or_a_corpus_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "f.jsonl"
    path.write_bytes(data)
    with pytest.raises(CorpusError):  # no random 200 bytes are a valid corpus
        load(path)
