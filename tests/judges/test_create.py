"""Judges by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.domain import EngineOptions
from harness.errors import OptionError
from harness.judges import JUDGES, create
from harness.protocols import Judge, Openers

OPENERS = Openers(
    Path(), EngineOptions(), engine=lambda _: pytest.fail("opened"), classifier=lambda *_: pytest.fail("opened")
)


@pytest.mark.parametrize("name", ["phrases"])
def test_creates_a_judge_of_that_name(name: str) -> None:
    judge = create(name, {}, OPENERS)
    assert isinstance(judge, Judge)
    assert judge.name == name
    assert name in JUDGES


def test_an_unknown_judge_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(OptionError, match=r"no judge 'phrase', did you mean 'phrases'\?; judges: .*phrases"):
        create("phrase", {}, OPENERS)


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(OptionError, match="judge 'phrases' has no option 'threshold'; it takes none"):
        create("phrases", {"threshold": 0.5}, OPENERS)


def test_a_required_option_that_is_missing_is_an_error() -> None:
    with pytest.raises(
        OptionError, match=r"'classifier' needs the option 'checkpoint'.*options: \{checkpoint: \.\.\.\}"
    ):
        create("classifier", {}, OPENERS)


def test_judges_are_imported_when_asked_for() -> None:
    code = "import sys, harness.judges; sys.exit('harness.judges.phrases' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
