"""Fixtures of all tests."""

import io

import pandas
import pytest

# `pytester` takes out of sys.modules what was imported while it ran, and what pandas imports for its first Parquet file
# cannot be imported twice.
pandas.DataFrame({"a": [1]}).to_parquet(io.BytesIO())


@pytest.fixture
def project(pytester, monkeypatch):
    """A directory as a user has it: the shipped evals, a policy, corpora, two checkpoints; see ``project.py``."""
    from project import make

    return make(pytester, monkeypatch)
