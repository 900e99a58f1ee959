"""Numbers for other programs: the flat dict, and each tracker's own reader of what was logged, without a network.

The trackers are installed where ``make test-light`` runs; elsewhere their tests are skipped.
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report.factory import DISPLACED, HEALTHY, Fake, build, trajectory

from harness.domain import Limit
from harness.errors import MissingExtraError, OptionError, RecordError
from harness.integrations import tracking
from harness.record import RunRecord
from harness.report.flat import as_data, flat, safe_name

# ---------------------------------------------------------------- the numbers


def test_the_numbers_are_the_records(tmp_path: Path) -> None:
    numbers = flat(build(tmp_path, DISPLACED, with_tables=False), "dpo-displaced")
    assert numbers["refusal-drop/value"] == 0.41
    assert numbers["refusal-drop/low"] == pytest.approx(0.352)
    assert numbers["refusal-drop/high"] == pytest.approx(0.468)
    assert numbers["refusal-drop/reference"] == 0.752
    assert numbers["refusal-drop/candidate"] == pytest.approx(0.342)
    assert [numbers[f"{name}/pass"] for name in ("refusal-drop", "gibberish", "chosen-fell")] == [0, 1, 0]
    assert numbers["released"] == 0
    assert flat(build(tmp_path / "good", HEALTHY, with_tables=False), "dpo-healthy")["released"] == 1


def test_what_has_no_number_has_none_and_has_not_passed(tmp_path: Path) -> None:
    fake = Fake(
        "x", values={"refusal-drop": 0.04}, problems={"yes-for-no": "no token"}, unanswered={"gibberish": "skipped"}
    )
    numbers = flat(build(tmp_path, fake, with_tables=False), "x")
    assert {key for key in numbers if key.startswith(("yes-for-no", "gibberish"))} == {
        "yes-for-no/pass",
        "gibberish/pass",
    }
    assert numbers["yes-for-no/pass"] == numbers["gibberish/pass"] == numbers["refusal-drop/pass"] == 0
    assert "refusal-drop/value" in numbers, "undecided, and measured"


def test_no_verdict_and_a_limit_answered_twice_are_no_release_and_no_pass(tmp_path: Path) -> None:
    record = build(tmp_path, HEALTHY, with_tables=False, partial=True)
    assert flat(record, "dpo-healthy")["released"] == 0
    twice = record.model_copy(update={"findings": (*record.findings, record.findings[0])})
    numbers = flat(twice, "dpo-healthy")
    assert numbers["refusal-drop/pass"] == 0
    assert "refusal-drop/value" not in numbers


def test_names_are_safe_and_no_two_are_one(tmp_path: Path) -> None:
    assert safe_name("refusal-drop@prod") == "refusal-drop_vs_prod"
    assert safe_name("a/b\n\u202e<c>") == "a_b___c_"
    record = build(tmp_path, HEALTHY, with_tables=False)
    limits = tuple(Limit(name, "refusal_rate_drop", "unsafe", maximum=0.1) for name in ("a@b", "a_vs_b"))
    record = record.model_copy(update={"policy": record.policy.model_copy(update={"limits": limits})})
    with pytest.raises(RecordError, match="two limits are called 'a_vs_b' here; give one of them another id"):
        flat(record, "dpo-healthy")


def test_json_is_strict_and_says_whose_numbers_these_are(tmp_path: Path) -> None:
    record = build(tmp_path, *trajectory(), with_tables=False)
    names = tuple(item.name for item in record.candidates)
    read = json.loads(json.dumps(as_data(record, names), allow_nan=False))
    assert [(item["name"], item["step"]) for item in read["candidates"]][:2] == [
        ("checkpoint-8", 8),
        ("checkpoint-16", 16),
    ]
    assert read["candidates"][0]["numbers"] == flat(record, "checkpoint-8")
    assert read["candidates"][4]["decision"] == "block"


def test_candidates_with_steps_of_their_own_are_one_series(tmp_path: Path) -> None:
    record = build(tmp_path, *trajectory(), with_tables=False)
    series = tracking.all_series(record, ["checkpoint-40", "checkpoint-8"])
    assert {name: [step for step, _ in points] for name, points in series.items()} == {"2026-01-02-example": [8, 40]}


def test_candidates_without_are_a_series_each(tmp_path: Path) -> None:
    record = build(tmp_path, HEALTHY, DISPLACED, with_tables=False)
    names = [item.name for item in record.candidates]
    assert list(tracking.all_series(record, names)) == [f"2026-01-02-example-{name}" for name in names]
    record = build(tmp_path / "same", replace(HEALTHY, step=8), replace(DISPLACED, step=8), with_tables=False)
    assert len(tracking.all_series(record, names)) == 2


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("tracker", "events", "said"),
    [
        ("neptune", None, "--to neptune: choose one of wandb, mlflow, tensorboard"),
        ("tensorboard", None, "--to tensorboard without --directory: name where event files go"),
        ("mlflow", Path("x"), "--to mlflow with --directory: only tensorboard has one"),
    ],
)
def test_wrong_options(tmp_path: Path, tracker: str, events: Path | None, said: str) -> None:
    record = build(tmp_path, HEALTHY, with_tables=False)
    with pytest.raises(OptionError) as caught:
        tracking.log(record, tmp_path, tracker, ["dpo-healthy"], events)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("tracker", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny"), ("tensorboard", "tensorboard")]
)
def test_a_missing_library_is_named_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str, package: str
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(tracking.importlib, "import_module", absent)
    record = build(tmp_path, HEALTHY, with_tables=False)
    events = tmp_path if tracker == "tensorboard" else None
    with pytest.raises(MissingExtraError) as caught:
        tracking.log(record, tmp_path, tracker, ["dpo-healthy"], events)
    assert str(caught.value).startswith(
        f"--to {tracker} needs the package {package}, which is not here (No module named"
    )
    assert str(caught.value).endswith(f"pip install 'dpo-harness[{tracker}]'")


# ---------------------------------------------------------------- read back by the trackers themselves


def made(directory: Path) -> RunRecord:
    """A trajectory with a page."""
    record = build(directory, *trajectory(), with_tables=False)
    (directory / "report.html").write_text("<!doctype html><title>a page</title>")
    return record


def test_tensorboard_reads_the_scalars_at_their_steps(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record = build(tmp_path / "run", *trajectory(), with_tables=False)
    names = [item.name for item in record.candidates]
    said = tracking.log(record, tmp_path / "run", "tensorboard", names, tmp_path / "events")
    assert said == "logged 5 candidates of 2026-01-02-example to tensorboard: 2026-01-02-example"
    events = accumulator.EventAccumulator(str(tmp_path / "events" / "2026-01-02-example"))
    events.Reload()
    for key in flat(record, names[0]):
        found = [(item.step, item.value) for item in events.Scalars(key)]
        assert found == [
            (record.checkpoint(name).step, pytest.approx(flat(record, name)[key], rel=1e-6)) for name in names
        ]


def test_mlflow_reads_metrics_tags_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    record = made(tmp_path / "run")
    names = [item.name for item in record.candidates]
    tracking.log(record, tmp_path / "run", "mlflow", names, None)
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.run_name == "2026-01-02-example"
    assert run.info.status == "FINISHED"
    assert run.data.tags["harness.policy"] == record.policy.digest
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run.info.run_id, "refusal-drop/value")
    assert [(item.step, item.value) for item in history] == [
        (record.checkpoint(name).step, flat(record, name)["refusal-drop/value"]) for name in names
    ]
    assert run.data.metrics.keys() == flat(record, names[-1]).keys()
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["report.html"]


def wandb_records(path: Path) -> list[Any]:
    """What a ``.wandb`` file holds: protocol buffers in LevelDB's log format (blocks of 32 KiB; a record's parts have a
    header of checksum, length and place), after seven bytes of its own."""
    wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data, place, found, whole = path.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        if place % 32768 > 32768 - 7:  # the rest of a block that holds no header
            place += 32768 - place % 32768
            continue
        _, length, part = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # the whole record, or its last part
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


def test_wandb_writes_history_and_the_page_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    record = made(tmp_path / "run")
    names = [item.name for item in record.candidates]
    tracking.log(record, tmp_path / "run", "wandb", names, None)
    wandb.teardown()  # as at the end of a process: waits until wandb's own process has written the file
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = wandb_records(file)
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in entry.history.item}
        for entry in records
        if entry.WhichOneof("record_type") == "history"
    ]
    logged = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
    assert logged == [{tracking.STEP: record.checkpoint(name).step, **flat(record, name)} for name in names]
    artifacts = [entry.request.log_artifact.artifact for entry in records if entry.HasField("request")]
    artifacts += [entry.artifact for entry in records if entry.HasField("artifact")]
    assert [(item.type, [entry.path for entry in item.manifest.contents]) for item in artifacts if item.name] == [
        ("report", ["report.html"])
    ]
