"""Fixtures of all tests."""

import pytest


@pytest.fixture
def project(pytester, monkeypatch):
    """A directory as a user has it: the shipped evals, a policy, corpora, two checkpoints; see ``project.py``."""
    from project import make

    return make(pytester, monkeypatch)
