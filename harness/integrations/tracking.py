"""A stored run's numbers in Weights & Biases, MLflow or TensorBoard, at the training step of each candidate.

What is logged is ``report.flat``, the same everywhere; anything else can ingest it from ``report RUN --json``. Where to
log to is the tracker's own setting (``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI``, ...), and so is going on with the run
that a trainer made (``WANDB_RUN_ID`` with ``WANDB_RESUME``, ``MLFLOW_RUN_ID``).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import MissingExtraError, OptionError
from harness.record import RunRecord
from harness.report import html
from harness.report.flat import flat, safe_name
from harness.report.text import counted

STEP = "train/global_step"
"""The axis that transformers' trainer logs to Weights & Biases."""

Point = tuple[int | None, dict[str, float]]
"""Training step, and the numbers at it."""


def log(record: RunRecord, directory: Path, tracker: str, names: Sequence[str], events: Path | None) -> str:
    """Log a run, and say in one line what was logged.

    Candidates that each know a step of their own are one series under the run's name; others are a series each, under
    the run's and the candidate's.

    Args:
        record: the run.
        directory: where it lies.
        tracker: wandb, mlflow or tensorboard.
        names: the candidates.
        events: where TensorBoard's event files go; for the others None.

    Raises:
        OptionError: an unknown tracker, or a directory where none is used or missing where one is.
        MissingExtraError: its library is not installed.
    """
    if tracker not in TRACKERS:
        raise OptionError(f"--to {tracker}: choose one of {', '.join(TRACKERS)}")
    if (events is not None) != (tracker == "tensorboard"):
        cure = "name where event files go" if events is None else "only tensorboard has one"
        raise OptionError(f"--to {tracker} with{'out' if events is None else ''} --directory: {cure}")
    series = all_series(record, names)
    TRACKERS[tracker](record, directory, series, events)
    points = sum(map(len, series.values()))
    return f"logged {counted(points, 'candidate')} of {record.run} to {tracker}: {', '.join(series)}"


def all_series(record: RunRecord, names: Sequence[str]) -> dict[str, list[Point]]:
    """Name of a series -> its points in the order of their steps."""
    points = [(record.checkpoint(name).step, flat(record, name)) for name in names]
    steps = {step for step, _ in points if step is not None}
    if len(points) == 1 or len(steps) == len(points):
        return {safe_name(record.run): sorted(points, key=lambda point: point[0] or 0)}
    return {f"{safe_name(record.run)}-{safe_name(name)}": [point] for name, point in zip(names, points, strict=True)}


# ---------------------------------------------------------------- trackers


def to_wandb(record: RunRecord, directory: Path, series: dict[str, list[Point]], events: Path | None) -> None:
    wandb = _library("wandb", "wandb")
    for name, points in series.items():
        with wandb.init(name=name, job_type="gate", config=_facts(record)) as run:
            run.define_metric("*", step_metric=STEP, step_sync=True)
            for step, numbers in points:
                run.log(numbers if step is None else {STEP: step, **numbers})
            artifact = wandb.Artifact(f"{name}-report"[-128:], type="report")
            artifact.add_file(str(_page(record, directory)))
            run.log_artifact(artifact)


def to_mlflow(record: RunRecord, directory: Path, series: dict[str, list[Point]], events: Path | None) -> None:
    mlflow = _library("mlflow", "mlflow-skinny")
    for name, points in series.items():
        with mlflow.start_run(run_name=name):
            mlflow.set_tags({f"harness.{key}": value for key, value in _facts(record).items()})
            for step, numbers in points:
                mlflow.log_metrics(numbers, step=step)
            mlflow.log_artifact(str(_page(record, directory)))


def to_tensorboard(record: RunRecord, directory: Path, series: dict[str, list[Point]], events: Path | None) -> None:
    files = _library("tensorboard.summary.writer.event_file_writer", "tensorboard")
    event, summary = (_library(f"tensorboard.compat.proto.{name}_pb2", "tensorboard") for name in ("event", "summary"))
    assert events is not None, "checked by log"
    for name, points in series.items():
        writer = files.EventFileWriter(str(events / name))
        for step, numbers in points:
            values = [summary.Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
            writer.add_event(event.Event(wall_time=time.time(), step=step or 0, summary=summary.Summary(value=values)))
        writer.close()


TRACKERS = {"wandb": to_wandb, "mlflow": to_mlflow, "tensorboard": to_tensorboard}


def _facts(record: RunRecord) -> dict[str, str]:
    return {
        "run": record.run,
        "reference": record.reference.identity,
        "policy": record.policy.digest,
        "judge": record.judge.get("name", ""),
        "status": record.status,
        "partial": str(record.partial),
    }


def _page(record: RunRecord, directory: Path) -> Path:
    path = directory / html.FILE
    return path if path.is_file() else html.write(record, directory)


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = module.split(".")[0]
        raise MissingExtraError(
            f"--to {extra} needs the package {package}, which is not here ({error}): pip install 'dpo-harness[{extra}]'"
        ) from error
