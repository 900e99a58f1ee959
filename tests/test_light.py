"""What works on stored runs works without torch, transformers and peft.

Where torch is installed its import is refused, in one process for all commands; ``make test-light`` runs each with the
installed console script in an environment that lacks it.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fakes
import project
import pytest

from harness import __main__, pairs, policy, record
from harness.domain import EngineOptions

LIGHT = importlib.util.find_spec("torch") is None

REFUSE = """
import contextlib, io, json, sys, traceback
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "peft", "tokenizers", "datasets", "vllm", "lm_eval"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from harness.__main__ import main

done = []
for arguments in json.load(sys.stdin):
    sys.argv, out, err, code = ["dpo-harness", *arguments], io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
    done.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""

NEED_MORE = {"bisect", "pairs score", "log"}
"""Commands that open a checkpoint, and one that needs a tracker and is tested with them."""

COMMANDS = {
    "report": (["report", "good", "--output", "page.html"], 0),
    "report --model-card": (["report", "bad", "--model-card", "--output", "card.md"], 0),
    "report --output of two": (["report", "good", "bad", "--output", "several.html"], 0),
    "report --json": (["report", "good", "--json"], 0),
    "gate": (["gate", "bad"], 1),
    "compare": (["compare", "good", "bad", "--html", "compared.html"], 1),
    "index": (["index", "."], 0),
    "bless": (["bless", "good", "--as", "prod"], 0),
    "label": (["label", "answers.jsonl", "--judge", "phrases", "--output", "labelled.jsonl"], 0),
    "calibrate": (["calibrate", "answers.jsonl", "--judge", "phrases", "--column", "label=human"], 0),
    "pairs filter": (
        ["pairs", "filter", "p.jsonl", "--scores", "s.parquet", "--drop-top", "0.2", "--output", "k.jsonl"],
        0,
    ),
    "schema": (["schema"], 0),
    "recipes": (["recipes"], 0),
}


CHANGED = "the verdict stored does not follow from the findings stored"
WRONG = {
    "a changed verdict as a card": (["report", "changed", "--model-card"], CHANGED),
    "a changed verdict as numbers": (["report", "changed", "--json"], CHANGED),
    "both": (["report", "good", "--json", "--model-card"], "--model-card or --json, one of them; --candidate belongs"),
    "an unknown candidate": (
        ["report", "good", "--json", "--candidate", "nix"],
        "--candidate nix: the run run-good has",
    ),
    "what needs a model": (["pairs", "score", "p.jsonl", "--model", "ref", "--output", "x.parquet"], ""),
    "no tracker of this name": (["log", "good", "--to", "nix"], "--to nix: choose one of wandb, mlflow, tensorboard"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two runs, scores of ten pairs, and four labelled answers: made by an engine that needs no model library."""
    root = tmp_path_factory.mktemp("light")
    directory = SimpleNamespace(
        path=root,
        mkdir=lambda name: (root / name).mkdir() or root / name,
        makeini=(root / "pytest.ini").write_text,
        makeconftest=(root / "conftest.py").write_text,
    )
    with pytest.MonkeyPatch.context() as patch:
        project.make(directory, patch)
        for name in ("good", "bad"):
            pytest_ = [sys.executable, "-m", "pytest", "-q", "evals", "--engine=fake", "--run-dir=.", "--reference=ref"]
            subprocess.run([*pytest_, f"--candidate={name}", f"--run-name=run-{name}"], cwd=root, capture_output=True)
            (root / name).rename(root / f"model-{name}")
            (root / f"run-{name}").rename(root / name)
    shutil.copytree(root / "bad", root / "changed")
    changed = json.loads((root / "changed" / "record.json").read_text())
    changed["verdicts"] = [{"candidate": "bad", "decision": "release", "reasons": []}]
    (root / "changed" / "record.json").write_text(json.dumps(changed))
    rows = [{"prompt": f"p{n}", "chosen": f"c{n}", "rejected": f"r{n}"} for n in range(10)]
    (root / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs.score(
        pairs.open_data(str(root / "p.jsonl")),
        fakes.FakeEngine(EngineOptions()),
        str(root / "ref"),
        root / "s.parquet",
    )
    said = [("Sorry, I cannot help with that.", "refusal"), ("Sure. Boil the water first, then add it.", "compliance")]
    answers = [{"prompt": f"p{n}", "response": said[n % 2][0], "human": said[n % 2][1]} for n in range(12)]
    (root / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return root


@pytest.fixture(scope="module")
def done(runs) -> dict[str, tuple[int | None, str, str]]:
    """Name of a command -> exit code (None: it crashed), standard output and error."""
    asked = {name: arguments for name, (arguments, _) in {**COMMANDS, **WRONG}.items()}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"COLUMNS": "100"}
    if LIGHT:
        script = str(Path(sys.executable).with_name("dpo-harness"))
        each = [
            subprocess.run([script, *arguments], cwd=runs, env=environment, capture_output=True, text=True)
            for arguments in asked.values()
        ]
        return {name: (item.returncode, item.stdout, item.stderr) for name, item in zip(asked, each, strict=True)}
    text = json.dumps(list(asked.values()))
    command = [sys.executable, "-c", REFUSE]
    all_ = subprocess.run(command, cwd=runs, env=environment, input=text, stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(asked, map(tuple, json.loads(all_.stdout)), strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_needs_no_model_library(runs, done, name):
    code, out, err = done[name]
    assert "Traceback" not in err, err
    assert code == COMMANDS[name][1], out + err
    expected = {
        "report": lambda: "RELEASE" in (runs / "page.html").read_text(),
        "report --model-card": lambda: (runs / "card.md").read_text().split("\n")[0].endswith(": BLOCK"),
        "report --output of two": lambda: "Worse than good" in (runs / "several.html").read_text(),
        "report --json": lambda: json.loads(out)["candidates"][0]["numbers"]["released"] == 1,
        "gate": lambda: out.startswith("BLOCK  bad"),
        "compare": lambda: "drop" in out and (runs / "compared.html").is_file(),
        "index": lambda: "good" in (runs / "index.html").read_text(),
        "bless": lambda: "prod" in (runs / "baselines.json").read_text(),
        "label": lambda: '"label": "refusal"' in (runs / "labelled.jsonl").read_text(),
        "calibrate": lambda: "12 answers with human labels, read by phrases" in out,
        "pairs filter": lambda: len((runs / "k.jsonl").read_text().splitlines()) == 8,
        "schema": lambda: json.loads(out) == policy.json_schema(),
        "recipes": lambda: "sorry-bench" in out,
    }[name]
    assert expected(), out


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_is_printed(done, name):
    code, out, err = done[name]
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("error: ")
    assert WRONG[name][1] in err


def test_every_command_is_tried():
    known = {command.name or command.callback.__name__ for command in __main__.app.registered_commands}
    known |= {f"pairs {command.name}" for command in __main__.pairs_app.registered_commands}
    assert known - NEED_MORE == {name.split(" --")[0] for name in COMMANDS}


def test_the_runs_are_what_the_commands_are_to_show(runs):
    assert record.read(runs / "good").released
    assert not record.read(runs / "bad").released
