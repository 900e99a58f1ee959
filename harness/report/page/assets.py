"""Scripts and styles of a page, and the policy that lets the browser run these and nothing else.

A page's template has ``{{ assets.policy("run.js") }}`` and ``{{ assets.styles() }}`` in its head, and its packs
followed by ``{{ assets.scripts("run.js") }}`` at the end of its body.

D3 and Observable Plot (both ISC) are copies from npm in ``vendor/``, with their licences. A page carries them packed;
they are unpacked when the first figure comes into sight.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup

from harness.report.page.pack import pack

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Library:
    """One vendored file."""

    package: str
    """On npm."""
    version: str
    file: str
    sha256: str
    """Of the file as it is in the npm package."""
    licence: str

    @property
    def text(self) -> str:
        """What a page runs: the licence as a comment, then the file."""
        licence = (_HERE / "vendor" / self.licence).read_text(encoding="utf-8")
        return f"/* {self.package} {self.version}\n{licence}*/\n" + (_HERE / "vendor" / self.file).read_text("utf-8")


LIBRARIES = {
    "d3": Library(
        package="d3",
        version="7.9.2",
        file="d3.min.js",
        sha256="912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1",
        licence="d3.LICENSE",
    ),
    "plot": Library(
        package="@observablehq/plot",
        version="0.6.17",
        file="plot.umd.min.js",
        sha256="4358086467740777dd788d6b27a95cebdbaefdd50c730a3060117073bd7134cb",
        licence="plot.LICENSE",
    ),
}
"""In the order in which they must run."""


@cache
def own(name: str) -> str:
    """A script or style sheet of the project, from ``templates/``."""
    return (_HERE.parent / "templates" / name).read_text(encoding="utf-8")


def styles() -> Markup:
    """The style element."""
    return Markup("<style>{}</style>").format(Markup(own("report.css")))  # noqa: S704 - the project's own file


def policy(*names: str, plots: bool = True) -> Markup:
    """The element that forbids requests, and every script but those of ``scripts(*names, plots=plots)``."""
    texts = [own(name) for name in _all(names, plots)]
    texts += [item.text for item in LIBRARIES.values()] if plots else []
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in texts)
    rules = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    quoted = Markup(rules)  # noqa: S704 - digests and fixed words; the quotes must stand as they are
    return Markup('<meta http-equiv="Content-Security-Policy" content="{}">').format(quoted)


def scripts(*names: str, plots: bool = True) -> Markup:
    """What stands at the end of the body: the scripts that all pages share, then those in ``templates/`` named here.

    Args:
        names: files of a page's own.
        plots: the page has figures; the libraries come packed before all scripts.

    Raises:
        ValueError: a script holds ``</script`` or ``<!--``, which would change what its element is.
    """
    elements = [_libraries()] if plots else []
    for name in _all(names, plots):
        text = own(name)
        if "</script" in text.lower() or "<!--" in text:
            raise ValueError(f"{name} holds '</script' or '<!--': it cannot stand in a page")
        elements.append(Markup("<script>{}</script>\n").format(Markup(text)))  # noqa: S704 - the project's own file
    return Markup("").join(elements)


def _all(names: Sequence[str], plots: bool) -> list[str]:
    return ["page.js", "cards.js", *(["figures.js"] if plots else []), *names]


@cache
def _libraries() -> Markup:
    return Markup("").join(pack(f"lib-{name}", item.text) for name, item in LIBRARIES.items())


@cache
def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
