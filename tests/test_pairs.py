"""Scoring and filtering preference data: every row once, in order, whatever happens in between."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import fakes
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fakes import FakeEngine, FakeModel, write_checkpoint

from harness import __main__, pairs, parts
from harness.domain import EngineOptions, PairSimilarity, PreferencePair
from harness.errors import CorpusError, HarnessError, MeasurementError, OptionError, RecordError
from harness.probes.similarity import entanglement, highest

ROOT = Path(__file__).parents[1]
ORGANISM = ROOT / "fixtures" / "organism" / "reference"
REFUSALS = ROOT / "fixtures" / "preferences" / "refusals.jsonl"


def jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def some(count: int) -> list[dict[str, object]]:
    return [
        {"id": f"id-{n % 7}", "prompt": f"p{n}", "chosen": f"c{n}", "rejected": f"r{n}", "extra": {"n": n}}
        for n in range(count)
    ]


def like(pair: PreferencePair) -> PairSimilarity:
    """Numbers that follow from the text alone, so that every row can be known again."""
    seed = int(hashlib.sha256(f"{pair.prompt}|{pair.chosen}|{pair.rejected}".encode()).hexdigest()[:8], 16)
    draw = np.random.default_rng(seed).normal(size=8).tolist()
    return PairSimilarity(pair.id, pair.category, 2, 1, *draw, tokenised_apart=seed % 5 == 0)


class Model(FakeModel):
    """Cannot score prompts that hold ``too long``; breaks on ``broken``."""

    calls = 0
    stumbles = True

    def score(self, pairs, *, similarity=False, first_tokens=False, on_progress=lambda _: None):
        type(self).calls += 1
        for pair in pairs if self.stumbles else ():
            if "too long" in pair.prompt:
                raise MeasurementError(f"pair {pair.id!r} is longer than the context")
            if pair.prompt == "broken":
                raise RuntimeError("device lost")
            if pair.prompt == "stop":
                raise KeyboardInterrupt
        return super().score(pairs, similarity=similarity, on_progress=on_progress)

    def _similarities(self, pairs: Sequence[PreferencePair]) -> list[PairSimilarity]:
        return [like(pair) for pair in pairs]


class Engine(FakeEngine):
    opened = 0

    def models(self, checkpoints) -> Iterator[Model]:
        for model in super().models(checkpoints):
            type(self).opened += 1
            yield Model(model.checkpoint, model.behaviour)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(pairs, "BLOCK", 4)
    monkeypatch.setattr("harness.corpus.rows._CHUNK", 3)
    monkeypatch.setattr(Engine, "opened", 0)
    monkeypatch.setattr(Model, "calls", 0)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "ckpt", chosen=-10.0, wobble=0.0, note="a slower path")


@pytest.fixture
def run(tmp_path, checkpoint):
    """Score a file into ``s.parquet``; what was said is in ``run.said``."""

    def score(path: Path, columns: Sequence[str] = (), **options):
        score.said.clear()
        data = pairs.open_data(str(path), columns=columns)
        facts = pairs.score(
            data, Engine(EngineOptions()), str(checkpoint), score.output, say=score.said.append, **options
        )
        return data, facts

    score.said = []
    score.output = tmp_path / "s.parquet"
    return score


# ---------------------------------------------------------------- scoring


def test_a_row_for_every_pair_in_the_order_of_the_data(tmp_path, run):
    rows = some(10)
    rows[7] = rows[2]  # training data may have a pair twice
    _, facts = run(jsonl(tmp_path / "d.jsonl", rows))
    table = pd.read_parquet(run.output)
    assert table["row"].tolist() == list(range(1, 11))
    for row, record in zip(rows, table.to_dict(orient="records"), strict=True):
        expected = like(PreferencePair(row["id"], row["prompt"], row["chosen"], row["rejected"]))
        assert PairSimilarity(**{name: record[name] for name in PairSimilarity.__slots__}) == expected
        assert record["entanglement"] == entanglement(expected).value
        assert (record["chosen_logprob"], record["rejected_logprob"]) == (-10.0, -12.0)
    assert facts.notes == ("a slower path",)
    assert facts == pairs.read_facts(run.output)
    assert facts.digest == hashlib.sha256((tmp_path / "d.jsonl").read_bytes()).hexdigest()
    assert facts.engine == {"engine": "fake", "device": "none"}
    assert (facts.rows, facts.left_out, facts.version) == (10, 0, "0.1.0")
    assert [path.name for path in tmp_path.iterdir() if "s.parquet" in path.name] == ["s.parquet"], "blocks are gone"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_other_formats_and_named_columns(tmp_path, run, suffix):
    frame = pd.DataFrame(some(6)).rename(columns={"chosen": "good", "prompt": "q"}).drop(columns="extra")
    path = tmp_path / f"d.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    _, facts = run(path, columns=["chosen=good", "prompt=q"])
    other = pd.read_parquet(run.output)
    run(jsonl(tmp_path / "d.jsonl", some(6)), force=True)
    pd.testing.assert_frame_equal(other, pd.read_parquet(run.output))
    assert facts.columns == {"chosen": "good", "prompt": "q"}


DIRT = [
    {"prompt": "p", "chosen": "", "rejected": "r"},
    {"prompt": "p", "chosen": "same", "rejected": "same"},
    {"prompt": "p", "chosen": 3, "rejected": "r"},
    "{broken",
]


def test_rows_that_hold_no_pair_are_said_before_the_model_is_opened(tmp_path, run):
    path = jsonl(tmp_path / "d.jsonl", [*some(3), *DIRT, *some(3)])
    with pytest.raises(CorpusError) as caught:
        run(path)
    for words in (
        f"4 of 10 rows of {path} cannot be used; --skip-unusable leaves them out",
        "row 4: preference pair '04' has an empty 'chosen'",
        "row 5: preference pair '05' has equal 'chosen' and 'rejected'",
        "row 6: 'chosen' is int, not text",
        "row 7: not JSON",
    ):
        assert words in str(caught.value)
    assert Engine.opened == 0
    _, facts = run(path, skip_unusable=True)
    assert pd.read_parquet(run.output)["row"].tolist() == [1, 2, 3, 8, 9, 10]
    assert run.said[0].startswith(f"4 of 10 rows of {path} cannot be used and are left out; the first: row 4")
    assert facts.left_out == 4
    assert len(facts.first_left_out) == 4


def test_data_without_a_single_pair_are_an_error(tmp_path, run):
    with pytest.raises(CorpusError, match=r"none of the 4 rows .* can be used; the first: row 1"):
        run(jsonl(tmp_path / "d.jsonl", DIRT), skip_unusable=True)
    (tmp_path / "e.jsonl").write_text("\n\n")
    with pytest.raises(CorpusError, match=r"e.jsonl has no rows"):
        run(tmp_path / "e.jsonl")


def test_pairs_that_the_model_cannot_score(tmp_path, run):
    rows = some(9)
    rows[1]["prompt"] = rows[6]["prompt"] = "too long"
    path = jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises(MeasurementError, match=r"pair 'id-1' is longer .*rows 1 to 4 of .*--skip-unusable"):
        run(path)
    _, facts = run(path, skip_unusable=True)
    table = pd.read_parquet(run.output)
    assert table["row"].tolist() == [1, 3, 4, 5, 6, 8, 9]
    assert table["ches"].tolist() == [
        like(PreferencePair("x", r["prompt"], r["chosen"], r["rejected"])).ches
        for r in rows
        if r["prompt"] != "too long"
    ]
    assert facts.left_out == 2
    assert facts.first_left_out[0] == "row 2: pair 'id-1' is longer than the context"
    assert "left out 2 more" in run.said[-1]
    with pytest.raises(MeasurementError, match=r"no pair of .* could be scored; the first: row 1"):
        run(jsonl(tmp_path / "d.jsonl", [rows[1], rows[6]]), skip_unusable=True, force=True)


def test_progress_adds_up(tmp_path, checkpoint):
    from contextlib import contextmanager

    rows = some(9)
    rows[5]["prompt"] = "too long"
    told = []

    @contextmanager
    def progress(what, total, done):
        told.append((total, done))
        yield lambda count: told.append(count)

    data = pairs.open_data(str(jsonl(tmp_path / "d.jsonl", rows)))
    pairs.score(
        data, Engine(EngineOptions()), str(checkpoint), tmp_path / "s.parquet", skip_unusable=True, progress=progress
    )
    assert told[0] == (9, 0)
    assert sum(told[1:]) == 9


# ---------------------------------------------------------------- an ended run


@pytest.mark.parametrize("word", ["broken", "stop"])
def test_an_ended_run_goes_on_where_it_was(tmp_path, run, word, monkeypatch):
    rows = some(11)
    rows[9]["prompt"] = word
    path = jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises((MeasurementError, KeyboardInterrupt)) as caught:
        run(path)
    if word == "broken":
        assert "rows 9 to 11" in str(caught.value)
        assert "RuntimeError: device lost; blocks before it are kept" in str(caught.value)
    assert not run.output.exists()
    assert Model.calls == 3
    monkeypatch.setattr(Model, "stumbles", False)
    run(path)
    assert Model.calls == 4, "two blocks were there already"
    assert run.said == [f"going on after 8 of 11 pairs, kept in {run.output}.parts"]
    resumed = pd.read_parquet(run.output)
    assert resumed["row"].tolist() == list(range(1, 12))
    run(path, force=True)
    pd.testing.assert_frame_equal(resumed, pd.read_parquet(run.output))


KILLED = """
import os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
import fakes
from harness import pairs
from harness.domain import EngineOptions

class Model(fakes.FakeModel):
    calls = 0

    def score(self, batch, **how):
        Model.calls += 1
        if Model.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(batch, **how)

fakes.FakeModel = Model
pairs.BLOCK = 4
data = pairs.open_data({data!r})
pairs.score(data, fakes.FakeEngine(EngineOptions()), {checkpoint!r}, pairs.Path({output!r}), say=print)
"""


def test_a_killed_process_goes_on_where_it_was(tmp_path, checkpoint):
    path = jsonl(tmp_path / "d.jsonl", some(15))
    script = KILLED.format(
        root=str(ROOT), tests=str(ROOT / "tests"), data=str(path), checkpoint=str(checkpoint),
        output=str(tmp_path / "s.parquet"),
    )  # fmt: skip
    told = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        told.append((done.returncode, done.stdout.partition(",")[0]))
    assert told == [(-9, ""), (0, "going on after 8 of 15 pairs")], done.stderr
    assert pd.read_parquet(tmp_path / "s.parquet")["row"].tolist() == list(range(1, 16))


def ended(tmp_path, run, **options) -> Path:
    """A file whose run was ended after its first block."""
    rows = some(6)
    rows[5]["prompt"] = "stop"
    path = jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises(KeyboardInterrupt):
        run(path, **options)
    return path


def test_blocks_of_another_question_are_refused(tmp_path, run, checkpoint, monkeypatch):
    path = ended(tmp_path, run)
    jsonl(path, some(6))
    with pytest.raises(OptionError, match=r"holds the beginning of another run \(differing: data\); --restart"):
        run(path)
    run(path, restart=True)
    assert run.said == []
    assert len(pd.read_parquet(run.output)) == 6
    run.output.unlink()
    path = ended(tmp_path, run)
    write_checkpoint(checkpoint, chosen=-11.0)
    with pytest.raises(OptionError, match="differing: checkpoint"):
        run(path)
    monkeypatch.setattr(Engine, "describe", lambda self: {"engine": "fake", "device": "another"})
    with pytest.raises(OptionError, match="differing: checkpoint, engine"):
        run(path)


def test_another_batch_size_is_the_same_question(tmp_path, run, monkeypatch):
    path = ended(tmp_path, run)
    monkeypatch.setattr(Engine, "describe", lambda self: {"engine": "fake", "device": "none", "batch_tokens": "1"})
    with pytest.raises(KeyboardInterrupt):
        run(path)
    assert "going on after 4 of 6 pairs" in run.said[0]


def test_a_directory_that_is_not_ours_is_left_alone(tmp_path, run):
    parts = tmp_path / "s.parquet.parts"
    parts.mkdir()
    (parts / "thesis.parquet").write_text("mine")
    for restart in (False, True):
        with pytest.raises(OptionError, match="is not from an earlier run of this command"):
            run(jsonl(tmp_path / "d.jsonl", some(2)), restart=restart)
    assert (parts / "thesis.parquet").read_text() == "mine"


def test_two_runs_do_not_write_one_table(tmp_path, run):
    from filelock import FileLock

    parts = tmp_path / "s.parquet.parts"
    parts.mkdir()
    with FileLock(parts / "lock"), pytest.raises(OptionError, match="another run is writing"):
        run(jsonl(tmp_path / "d.jsonl", some(2)))


def test_scores_with_gaps_are_not_taken_for_whole_ones(tmp_path, run, monkeypatch):
    rows = some(6)
    rows[0]["prompt"], rows[5]["prompt"] = "too long", "stop"
    path = jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises(KeyboardInterrupt):
        run(path, skip_unusable=True)
    monkeypatch.setattr(Model, "stumbles", False)
    with pytest.raises(MeasurementError, match=r"the earlier run left out 1 pairs .*--skip-unusable .*--restart"):
        run(path)
    _, facts = run(path, skip_unusable=True)
    assert (facts.left_out, facts.first_left_out) == (1, ("row 1: pair 'id-0' is longer than the context",))


def test_an_engine_that_mixes_up_pairs_is_an_error(tmp_path, run, monkeypatch):
    monkeypatch.setattr(Model, "_similarities", lambda self, pairs: [like(pair) for pair in pairs[::-1]])
    with pytest.raises(HarnessError, match="gave 3 results for 3 pairs, or in another order"):
        run(jsonl(tmp_path / "d.jsonl", some(3)), skip_unusable=True)


# ---------------------------------------------------------------- files that must not be written


def test_outputs(tmp_path, run):
    path = jsonl(tmp_path / "d.jsonl", some(3))
    run.output = tmp_path / "s.csv"
    with pytest.raises(OptionError, match=r"s.csv: the name must end in .parquet"):
        run(path)
    run.output = tmp_path / "new" / "s.parquet"
    run(path)
    with pytest.raises(OptionError, match="is there already; give another name, or --force"):
        run(path)
    before = run.output.read_bytes()
    with pytest.raises(OptionError, match="would be written over what it is made from"):
        run(run.output, force=True)
    assert run.output.read_bytes() == before


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("gone.jsonl", {}, "there is no file .*gone.jsonl"),
        (".", {}, "is a directory; name the file"),
        ("d.jsonl", {"split": "train"}, "--split is for data sets on the hub"),
        ("d.jsonl", {"columns": ["chosen"]}, "write OURS=THEIRS"),
        ("d.jsonl", {"columns": ["chosne=a"]}, "'chosne' is none of prompt, chosen"),
        ("d.jsonl", {"columns": ["chosen=a", "chosen=b"]}, "given twice"),
    ],
)
def test_data_that_cannot_be_opened(tmp_path, spec, options, words):
    jsonl(tmp_path / "d.jsonl", some(1))
    with pytest.raises((OptionError, CorpusError), match=words):
        pairs.open_data(str(tmp_path / spec), **options)


def test_a_data_set_needs_its_split():
    with pytest.raises(OptionError, match="org/name is no file here; .*--split train"):
        pairs.open_data("org/name")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """``datasets`` with one data set on its hub."""
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([row | {"turns": [{"role": "user", "content": "a"}]} for row in some(10)])
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **how: (asked.append((args, how)), data)[1])
    return asked


def test_a_data_set_on_the_hub_is_scored_and_filtered(tmp_path, hub, run):
    data = pairs.open_data("org/name", split="train", config="c")
    assert hub == [(("org/name", "c"), {"split": "train", "revision": None})]
    pairs.score(data, Engine(EngineOptions()), str(tmp_path / "ckpt"), run.output)
    for suffix in ("parquet", "jsonl"):
        kept = pairs.keep(data, run.output, tmp_path / f"k.{suffix}", drop_top=0.2)
        assert kept.kept == 8
    table = pq.read_table(tmp_path / "k.parquet").to_pylist()
    assert table == [json.loads(line) for line in (tmp_path / "k.jsonl").read_text().splitlines()]
    assert table[0]["turns"] == [{"role": "user", "content": "a"}]
    again = pairs.open_data("org/name", split="train", config="c")
    assert again.digest == data.digest == pairs.read_facts(run.output).digest


# ---------------------------------------------------------------- filtering


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("by", ["ches_normalised", "edit"])
def test_the_highest_go_and_the_others_stay_as_they_are(tmp_path, run, suffix, by):
    rows = some(23)
    path = tmp_path / f"d.{suffix}"
    if suffix == "jsonl":
        path.write_bytes(b"".join(json.dumps(row, indent=None).replace(" ", "  ").encode() + b"\r\n\n" for row in rows))
    elif suffix == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).astype({"extra": object}).to_parquet(path)
    data, _ = run(path)
    likes = [like(PreferencePair(r["id"], r["prompt"], r["chosen"], r["rejected"])) for r in rows]
    order = sorted(range(23), key=lambda n: -getattr(likes[n], by))
    worst = set(order[:5])  # 20 % of 23 is 4.6
    kept_path, dropped_path = tmp_path / "k.jsonl", tmp_path / "x.jsonl"
    done = pairs.keep(data, run.output, kept_path, drop_top=0.2, by=by, dropped=dropped_path)
    assert (done.kept, done.dropped, done.unscored) == (18, 5, 0)
    assert done.lowest_dropped == getattr(likes[order[4]], by)
    assert done.highest_kept == getattr(likes[order[5]], by)
    if suffix == "jsonl":
        lines = path.read_bytes().split(b"\n")[::2]
        assert kept_path.read_bytes() == b"".join(lines[n] + b"\n" for n in range(23) if n not in worst)
        assert dropped_path.read_bytes() == b"".join(lines[n] + b"\n" for n in sorted(worst))
    else:
        found = [json.loads(line) for line in kept_path.read_text().splitlines()]
        as_read = [row | ({"extra": str(row["extra"])} if suffix == "csv" else {}) for row in rows]
        assert found == [row for n, row in enumerate(as_read) if n not in worst]
        pairs.keep(data, run.output, tmp_path / "k.parquet", drop_top=0.2, by=by)
        assert pq.read_table(tmp_path / "k.parquet").to_pylist() == found


def test_keep_bottom_keeps_the_lowest(tmp_path, run):
    rows = some(40)
    data, _ = run(jsonl(tmp_path / "d.jsonl", rows))
    done = pairs.keep(data, run.output, tmp_path / "k.jsonl", keep_bottom=0.05)
    scores = [like(PreferencePair("x", r["prompt"], r["chosen"], r["rejected"])).ches_normalised for r in rows]
    lowest = set(np.argsort(scores)[:2].tolist())
    found = [json.loads(line) for line in (tmp_path / "k.jsonl").read_text().splitlines()]
    assert found == [row for n, row in enumerate(rows) if n in lowest]
    assert (done.kept, done.highest_kept) == (2, max(sorted(scores)[:2]))
    everything = pairs.keep(data, run.output, tmp_path / "a.jsonl", keep_bottom=1)
    assert (everything.kept, everything.lowest_dropped) == (40, None)
    with pytest.raises(OptionError, match="nothing of the 40 scored pairs would be kept"):
        pairs.keep(data, run.output, tmp_path / "b.jsonl", keep_bottom=0.02)


def test_ties_go_by_id_as_in_the_probe_then_by_row(tmp_path, run, monkeypatch):
    monkeypatch.setattr(
        Model, "_similarities", lambda self, pairs: [PairSimilarity(pair.id, "", 2, 1, *[1.0] * 8) for pair in pairs]
    )
    ids = ["b", "a", "c", "a", "d"]
    rows = [row | {"id": name} for row, name in zip(some(5), ids, strict=True)]
    data, _ = run(jsonl(tmp_path / "d.jsonl", rows))
    left = []
    for share in (0.2, 0.4, 0.6):
        pairs.keep(data, run.output, tmp_path / "k.jsonl", drop_top=share, force=True)
        left.append([json.loads(line)["prompt"] for line in (tmp_path / "k.jsonl").read_text().splitlines()])
    assert left == [["p0", "p2", "p3", "p4"], ["p0", "p2", "p4"], ["p2", "p4"]]
    distinct = [PairSimilarity(name, "", 2, 1, *[1.0] * 8) for name in "bcda"]
    assert highest(distinct, "ches", 0.5) == ["a", "b"]


def test_rows_without_a_score(tmp_path, run):
    rows = [*some(4), DIRT[3], *some(6)[4:]]
    data, _ = run(jsonl(tmp_path / "d.jsonl", rows), skip_unusable=True)
    with pytest.raises(
        CorpusError, match=r"1 rows of .* have no score \(the first: row 5: not JSON.*--unscored keep or"
    ):
        pairs.keep(data, run.output, tmp_path / "k.jsonl", drop_top=0.1)
    kept = pairs.keep(data, run.output, tmp_path / "k.jsonl", drop_top=0, unscored="keep")
    assert (tmp_path / "k.jsonl").read_bytes() == (tmp_path / "d.jsonl").read_bytes()
    assert (kept.kept, kept.dropped, kept.unscored) == (7, 0, 1)
    kept = pairs.keep(
        data, run.output, tmp_path / "k.jsonl", drop_top=0, unscored="drop", force=True, dropped=tmp_path / "x.jsonl"
    )
    assert (kept.kept, kept.dropped) == (6, 1)
    assert (tmp_path / "x.jsonl").read_text() == DIRT[3] + "\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exactly one of --drop-top SHARE and --keep-bottom SHARE"),
        ({"drop_top": 0.1, "keep_bottom": 0.1}, "exactly one"),
        ({"drop_top": 5}, "--drop-top 5: a share of the pairs"),
        ({"drop_top": float("nan")}, "--drop-top nan: a share"),
        ({"keep_bottom": 0}, "--keep-bottom 0: a share"),
        ({"drop_top": 0.1, "by": "chess"}, "--by chess: one of ches, "),
        ({"drop_top": 0.1, "unscored": "maybe"}, "--unscored maybe: keep or drop"),
        ({"drop_top": 0.1, "output": "k.parquet"}, "k.parquet: the name must end in .jsonl"),
        ({"drop_top": 0.1, "output": "d.jsonl", "force": True}, "would be written over what it is made from"),
        ({"drop_top": 0.1, "output": "there.jsonl"}, "is there already; .*--force"),
        ({"drop_top": 0.1, "dropped": "there.jsonl"}, "is there already; .*--force"),
        ({"drop_top": 0.1, "dropped": "k.jsonl"}, "would be written over"),
    ],
)
def test_filters_that_cannot_be(tmp_path, run, options, words):
    data, _ = run(jsonl(tmp_path / "d.jsonl", some(4)))
    (tmp_path / "there.jsonl").write_text("mine")
    paths = {name: tmp_path / options[name] for name in ("output", "dropped") if name in options}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(OptionError, match=words):
        pairs.keep(data, run.output, **{"output": tmp_path / "k.jsonl", **options, **paths})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_scores_that_are_none_or_of_other_data(tmp_path, run):
    data, _ = run(jsonl(tmp_path / "d.jsonl", some(4)))
    other = pairs.open_data(str(jsonl(tmp_path / "e.jsonl", some(5))))
    with pytest.raises(RecordError, match=r"the scores of another data set: of .*d.jsonl .*score it again"):
        pairs.keep(other, run.output, tmp_path / "k.jsonl", drop_top=0.1)
    with pytest.raises(RecordError, match="there is no file .*; make it with: python -m harness pairs score"):
        pairs.keep(data, tmp_path / "gone.parquet", tmp_path / "k.jsonl", drop_top=0.1)
    with pytest.raises(RecordError, match="is no Parquet file"):
        pairs.keep(data, jsonl(tmp_path / "f.parquet", []), tmp_path / "k.jsonl", drop_top=0.1)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "g.parquet")
    with pytest.raises(RecordError, match="holds no scores of pairs"):
        pairs.keep(data, tmp_path / "g.parquet", tmp_path / "k.jsonl", drop_top=0.1)
    table = pq.read_table(run.output)
    facts = json.loads(table.schema.metadata[b"dpo-harness"]) | {"format": 2, "version": "9.9"}
    pq.write_table(table.replace_schema_metadata({b"dpo-harness": json.dumps(facts)}), tmp_path / "h.parquet")
    with pytest.raises(RecordError, match="was written by version 9.9, which is newer"):
        pairs.keep(data, tmp_path / "h.parquet", tmp_path / "k.jsonl", drop_top=0.1)


def test_values_without_a_form_in_json_are_not_changed_quietly(tmp_path, run):
    frame = pd.DataFrame(some(3)).assign(when=pd.Timestamp("2026-01-01"))
    frame.to_parquet(tmp_path / "d.parquet")
    data, _ = run(tmp_path / "d.parquet")
    with pytest.raises(CorpusError, match=r"row 1: Object of type .* is not JSON serializable, .*give a .parquet file"):
        pairs.keep(data, run.output, tmp_path / "k.jsonl", drop_top=0)
    assert not (tmp_path / "k.jsonl").exists()
    pairs.keep(data, run.output, tmp_path / "k.parquet", drop_top=0)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "k.parquet"), frame)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command line in this process with the fake engine: (exit code, standard output, standard error)."""
    monkeypatch.setattr("harness.engines.ENGINES", {"hf": "test_pairs:Engine"})
    monkeypatch.setitem(sys.modules, "test_pairs", sys.modules[__name__])

    def call(*arguments: object):
        monkeypatch.setattr(sys, "argv", ["harness", "pairs", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            __main__.main()
        return caught.value.code or 0, *capsys.readouterr()

    return call


def test_score_closes_with_a_table(tmp_path, command, checkpoint):
    rows = some(12)
    rows[4] = {"prompt": "red \x1b[31m [bold]", "chosen": "c" * 500, "rejected": "‮evil"}
    path = jsonl(tmp_path / "d.jsonl", [*rows, DIRT[0]])
    output = tmp_path / "s.parquet"
    code, out, err = command("score", path, "--model", checkpoint, "--output", output, "--skip-unusable")
    assert code == 0, err
    assert "1 of 13 rows" in err
    assert "12 pairs scored, 1 row left out" in out
    table = pd.read_parquet(output)
    quantiles = [line.split() for line in out.splitlines() if line.startswith("ches_normalised ")]
    assert np.allclose(
        [float(word) for word in quantiles[0][1:]],
        table["ches_normalised"].quantile([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]),
        rtol=1e-3,
    )
    for case, count in table["entanglement"].value_counts().items():
        assert f"{case}" in out
        assert any(line.startswith(case) and line.split()[-2] == str(count) for line in out.splitlines())
    worst = table.sort_values("ches_normalised", ascending=False)["row"].tolist()[:5]
    assert [int(word.split(",")[0]) for word in out.split("  row ")[1:]] == worst
    apart = int(table["tokenised_apart"].sum())
    assert (f"{apart} pair" in out) == (apart > 0)
    assert "note: a slower path" in out
    assert "What it does not say" in out
    assert "\x1b" not in out
    assert "‮" not in out
    assert command("score", path, "--model", checkpoint, "--output", output)[0] == 2


def test_hostile_texts_are_shown_escaped(tmp_path, command, checkpoint):
    row = {"id": "\x07\u2066", "prompt": "red \x1b[31m [bold]", "chosen": "c" * 500, "rejected": "‮evil"}
    path = jsonl(tmp_path / "d.jsonl", [row])
    _, out, _ = command("score", path, "--model", checkpoint, "--output", tmp_path / "s.parquet")
    assert r"row 1, id \x07\u2066" in out
    assert r"prompt   red \x1b[31m [bold]" in out
    assert r"rejected \u202eevil" in out
    assert "c" * 500 not in out.replace("\n  ", "")


def test_filter_says_what_it_did(tmp_path, command, checkpoint):
    path = jsonl(tmp_path / "d.jsonl", some(20))
    command("score", path, "--model", checkpoint, "--output", tmp_path / "s.parquet")
    arguments = ("filter", path, "--scores", tmp_path / "s.parquet", "--output", tmp_path / "k.jsonl")
    code, out, err = command(*arguments, "--drop-top", "0.05")
    assert code == 0, err
    top = pd.read_parquet(tmp_path / "s.parquet")["ches_normalised"].nlargest(2).tolist()
    assert "19 rows kept, 1 row dropped" in out
    assert f"dropped: ches_normalised from {top[0]:.6g} up" in out
    assert f"kept: ches_normalised up to {top[1]:.6g}" in out
    assert "What it does not say" in out
    code, out, err = command(*arguments, "--drop-top", "0.05")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_errors_are_one_line(tmp_path, command, checkpoint):
    path = jsonl(tmp_path / "d.jsonl", some(2))
    for arguments, words in (
        ((path, "--model", tmp_path / "none", "--output", tmp_path / "s.parquet"), "no checkpoint there"),
        ((path, "--model", checkpoint, "--output", tmp_path / "s.parquet", "--engine", "vlm"), "--engine 'vlm'"),
        ((tmp_path / "no.jsonl", "--model", checkpoint, "--output", tmp_path / "s.parquet"), "there is no file"),
    ):
        code, out, err = command("score", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")
        assert words in err


def test_options_reach_the_engine(tmp_path, command, checkpoint, monkeypatch):
    seen = []
    monkeypatch.setattr(fakes.FakeEngine, "__init__", lambda self, options: (seen.append(options), None)[1])
    path = jsonl(tmp_path / "d.jsonl", some(2))
    code, _, err = command(
        "score", path, "--model", checkpoint, "--output", tmp_path / "s.parquet", "--base", "b",
        "--chat-template", "raw", "--model-dtype", "float32", "--model-device", "cpu", "--batch-tokens", "77",
        "--trust-remote-code", "--allow-unsafe-weights",
    )  # fmt: skip
    assert code == 0, err
    assert seen == [
        EngineOptions(
            dtype="float32", device="cpu", trust_remote_code=True, unsafe_weights=True, chat_template="raw", base="b",
            batch_tokens=77,
        )
    ]  # fmt: skip


def test_bars_are_shown_on_a_terminal_only(capsys):
    from harness.report.commands import pairs as page

    assert page.bars(False) is parts.silent
    with page.bars(True)("scoring [x]", 10, 4) as on_progress:
        on_progress(3)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_on_the_shipped_organism(tmp_path):
    """The real engine, in a process of its own."""
    output, kept = tmp_path / "s.parquet", tmp_path / "k.jsonl"

    def harness(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", "pairs", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    done = harness("score", REFUSALS, "--model", ORGANISM, "--output", output)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no bars where there is no terminal"
    table = pd.read_parquet(output)
    rows = [json.loads(line) for line in REFUSALS.read_text().splitlines()]
    assert table["pair_id"].tolist() == [row["id"] for row in rows]
    assert (table[["chosen_logprob", "rejected_logprob"]] < 0).all().all()
    done = harness("filter", REFUSALS, "--scores", output, "--drop-top", "0.1", "--output", kept)
    assert done.returncode == 0, done.stderr
    worst = set(table.nlargest(20, "ches_normalised")["pair_id"])  # 10 % of 193, rounded up
    assert [json.loads(line)["id"] for line in kept.read_text().splitlines()] == [
        row["id"] for row in rows if row["id"] not in worst
    ]
