"""``python -m benchmarks.contrast``: size and time of the comparison page at its largest (docs/benchmarks.md)."""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from harness import record, tables
from harness.comparing import compare
from harness.domain import Completion, FinishReason, Label, PairScore, Reading, ResponseScore
from harness.report.comparison import contrast

WORDS = [f"{start}{middle}{end}" for start in "bdklmnrst" for middle in "aeiou" for end in ("", "n", "ter", "ning")]


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a stored run over a trajectory: its record is taken")],
    prompts: Annotated[int, typer.Option(help="over two corpora", min=2)] = 2000,
    pairs: Annotated[int, typer.Option(min=1)] = 20_000,
    output: Annotated[Path | None, typer.Option(help="keep the page here")] = None,
) -> None:
    """Compare the candidates of a run, with tables of random text in place of its own. Prints seconds and sizes."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "run"
        _make(run, directory, prompts, pairs)
        begin = time.perf_counter()
        found = compare([directory])
        read = time.perf_counter()
        shown = contrast.contrast(found)
        collected = time.perf_counter()
        text = contrast.render(shown)
        done = time.perf_counter()
    columns = len(found.columns)
    typer.echo(f"{columns} columns, {prompts:,} prompts, {pairs:,} pairs: {len(text.encode()) / 1e6:.2f} MB")
    typer.echo(f"compare {read - begin:.1f} s, collect {collected - read:.1f} s, draw {done - collected:.1f} s")
    if output is not None:
        output.write_text(text, encoding="utf-8")


def _make(run: Path, directory: Path, prompts: int, pairs: int) -> None:
    """The record of ``run``, with tables of random text for all its checkpoints."""
    data = json.loads((run / record.FILE).read_text(encoding="utf-8"))
    names = [data["reference"]["name"], *(item["name"] for item in data["candidates"])]
    chance = random.Random(0)  # noqa: S311 - no secret
    for corpus in ("unsafe", "benign"):
        ids = [f"{corpus}-{index:05d}" for index in range(prompts // 2)]
        path = directory / "tables" / "corpora" / f"{corpus}.prompts.parquet"
        columns = {
            "id": ids,
            "prompt": [_text(chance, 20) for _ in ids],
            "category": [f"c{i % 10}" for i in range(len(ids))],
        }
        tables.write_frame(path, columns)
        for at, name in enumerate(names):
            _labels(directory / "tables" / name, corpus, ids, at / len(names), chance)
    ids = [f"pair-{index:05d}" for index in range(pairs)]
    texts = {
        key: [_text(chance, words) for _ in ids] for key, words in (("prompt", 20), ("chosen", 60), ("rejected", 60))
    }
    tables.write_frame(
        directory / "tables" / "corpora" / "preferences.pairs.parquet", {"id": ids, **texts, "category": ids}
    )
    for at, name in enumerate(names):
        scores = [PairScore(name_, _score(chance, at), _score(chance, at)) for name_ in ids]
        tables.write_scores(directory / "tables" / name / "preferences.scores.parquet", scores)
    listed = [item.model_dump(mode="json") for item in record.list_tables(directory)]
    (directory / record.FILE).write_text(json.dumps({**data, "tables": listed}), encoding="utf-8")


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(words // 2, words * 3 // 2)))


def _score(chance: random.Random, at: int) -> ResponseScore:
    return ResponseScore(tuple(-abs(chance.gauss(1 + at / 20, 0.5)) for _ in range(20)))


def _labels(directory: Path, corpus: str, ids: list[str], share: float, chance: random.Random) -> None:
    labels = [Label.COMPLIANCE if chance.random() < share else Label.REFUSAL for _ in ids]
    answers = [Completion(name, 0, _text(chance, 80), 100, FinishReason.STOP) for name in ids]
    tables.write_completions(directory / f"{corpus}.completions.parquet", answers)
    tables.write_readings(
        directory / f"{corpus}.labels.parquet", answers, [Reading(item, "a reason") for item in labels]
    )


if __name__ == "__main__":
    typer.run(main)
