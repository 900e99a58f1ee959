"""Fixtures of all tests."""

import pandas  # noqa: F401 - before `pytester`, which takes out what is imported after it: pandas cannot come twice
import pytest


@pytest.fixture
def project(pytester, monkeypatch):
    """A directory as a user has it: the shipped evals, a policy, corpora, two checkpoints; see ``project.py``."""
    from project import make

    return make(pytester, monkeypatch)
