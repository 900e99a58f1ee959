"""What the vendored libraries are, and that a page runs these and the project's own scripts only."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from harness.report.page import assets, pack

VENDOR = Path(assets.__file__).parent / "vendor"


@pytest.mark.parametrize("library", assets.LIBRARIES.values(), ids=assets.LIBRARIES)
def test_a_library_is_the_file_that_npm_has(library: assets.Library) -> None:
    data = (VENDOR / library.file).read_bytes()
    assert hashlib.sha256(data).hexdigest() == library.sha256
    assert library.version.encode() in data[:100]
    licence = (VENDOR / library.licence).read_text(encoding="utf-8")
    assert "this permission notice appear in all copies" in " ".join(licence.split())
    assert library.text.startswith(f"/* {library.package} {library.version}\n{licence}*/\n")
    assert library.text.endswith(data.decode("utf-8"))


def test_every_vendored_file_is_named() -> None:
    named = {name for item in assets.LIBRARIES.values() for name in (item.file, item.licence)}
    assert {path.name for path in VENDOR.iterdir()} == named


def test_the_policy_is_of_exactly_what_stands_in_the_page() -> None:
    page = str(assets.scripts("run.js"))
    inline = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    packed = [pack.decode(text) for text in re.findall(r'class="pack" id="lib-[^"]*">([^<]*)<', page)]
    assert inline == [assets.own(name) for name in ("page.js", "cards.js", "figures.js", "run.js")]
    assert packed == [item.text for item in assets.LIBRARIES.values()]
    allowed = re.findall(r"'sha256-([^']*)'", assets.policy("run.js"))
    assert allowed == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (*inline, *packed)]
    for rule in ("default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"):
        assert rule in assets.policy("run.js")
    assert "unsafe-eval" not in assets.policy("run.js")
    assert assets.policy("run.js").count("unsafe-inline") == 1  # of styles


def test_a_page_without_plots_carries_no_library() -> None:
    page = str(assets.scripts(plots=False))
    assert "lib-" not in page
    assert re.findall(r"<script>", page) == ["<script>"] * 2
    assert len(re.findall("sha256-", assets.policy(plots=False))) == 2


def test_a_script_that_would_end_its_element_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "own", lambda name: "'</SCRIPT>'")
    with pytest.raises(ValueError, match="page.js holds '</script'"):
        assets.scripts()


def test_packaged_files_are_those_that_a_page_needs() -> None:
    import tomllib

    root = Path(assets.__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"templates/*", "page/vendor/*"} <= set(project["tool"]["setuptools"]["package-data"]["harness.report"])
    assert "harness/report/page/vendor/*.LICENSE" in project["project"]["license-files"]
