"""Shared by the report's tests."""

from __future__ import annotations

import pytest
from report.factory import HOSTILE


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    """What a model could say to whoever looks at its answers."""
    return HOSTILE
