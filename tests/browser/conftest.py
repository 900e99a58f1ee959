"""A real Chromium, offline, and a recorder of everything a page tries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Visit:
    """An opened page, and what happened while it was."""

    page: Any
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}; install it, or name one in $CHROMIUM")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """``visit(path, width=..., scheme=..., fragment="#...", scripts=False)`` opens a file in a page of its own."""
    contexts = []

    def open_file(
        path: Path,
        *,
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
        fragment: str = "",
        scripts: bool = True,
    ) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        visit = Visit(context.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("console", lambda message: visit.console.append(f"{message.type}: {message.text}"))
        visit.page.on("pageerror", lambda error: visit.console.append(f"page error: {error}"))
        visit.page.on("dialog", lambda dialog: (visit.console.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        visit.page.goto(path.resolve().as_uri() + fragment)
        if scripts:
            visit.page.wait_for_function("document.documentElement.dataset.ready")
        return visit

    yield open_file
    for context in contexts:
        context.close()
