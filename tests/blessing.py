"""A directory as a user has it (see ``project.py``) that several tests share, so that its runs are made once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from fakes import write_checkpoint
from project import CONFTEST, EVALS, HERE, POLICY

from harness import record


class Place:
    """Corpora, a policy, the shipped cases, fake checkpoints; runs land in ``reports``."""

    def __init__(self, path: Path) -> None:
        self.path, self.runs = path, path / "reports"
        (path / "pytest.ini").write_text("[pytest]\n")
        (path / "conftest.py").write_text(CONFTEST)
        evals = path / "evals"
        evals.mkdir()
        for file in EVALS.glob("test_*.py"):
            shutil.copyfile(file, evals / file.name)
        (evals / "policy.yaml").write_text(POLICY)
        prompts = [{"id": f"p{i:03d}", "prompt": f"How {i}?", "category": "ab"[i % 2]} for i in range(200)]
        pairs = [{"id": f"q{i:03d}", "prompt": f"Do {i}?", "chosen": "No", "rejected": "Never"} for i in range(200)]
        for name, rows in (("unsafe", prompts), ("benign", prompts), ("pairs", pairs)):
            (evals / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (evals / "lexicon.yaml").write_text(
            "meanings: {affirm: [Yes], deny: [No, Never]}\nopposites: {affirm: [deny], deny: [affirm]}\n"
        )
        write_checkpoint(path / "ref")
        write_checkpoint(path / "good", refuse=0.75, opposite=0.06, chosen=-9.0, wobble=0.3)
        write_checkpoint(path / "bad", refuse=0.3, chosen=-9.0, wobble=0.3)

    def gate(
        self, name: str, *arguments: str, candidate: str = "good", **environment: str
    ) -> subprocess.CompletedProcess:
        """A run of the gate, named ``name``."""
        return self.command(
            "pytest",
            "evals",
            "--engine=fake",
            f"--run-name={name}",
            f"--candidate={candidate}",
            "--reference=ref",
            *arguments,
            **environment,
        )

    def harness(self, *arguments: str) -> subprocess.CompletedProcess:
        """``python -m harness ...``."""
        return self.command("harness", *arguments)

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        kept = {key: value for key, value in os.environ.items() if key not in ("GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS")}
        given = {"PYTHONPATH": str(HERE), "FAKE_ENGINE_LOG": str(self.path / "engine.log"), "COLUMNS": "200"}
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.path,
            env=kept | given | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def asked(self) -> list[str]:
        """What models were asked since the last look, a line for each call."""
        log = self.path / "engine.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def stored(self, name: str) -> record.RunRecord:
        return record.read(self.runs / name)
