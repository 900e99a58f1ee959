"""What ``python -m harness recipes`` prints: the data sets that a policy can name."""

from __future__ import annotations

from collections.abc import Mapping

from rich.padding import Padding
from rich.text import Text

from harness.corpus import Recipe
from harness.report.console import printed, text_console

_HOW = (
    "Name one in a policy: corpora: {unsafe: {recipe: sorry-bench}}. Each is loaded at the commit it is known by, and "
    "none is shipped. A gated one needs its terms accepted on its page, and the token of that account in HF_TOKEN."
)


def listed(recipes: Mapping[str, Recipe], *, width: int, color: bool) -> str:
    """Name, rows, what it is for, gated or open, licence; below each one line on it, its id and its page."""
    console = text_console(width, color)
    first = max(map(len, recipes))
    for name, rows, purpose, access, licence in [
        ("recipe", "rows", "for", "access", "licence"),
        *(
            (name, f"{item.rows:,}", item.purpose, "gated" if item.gated else "open", item.licence)
            for name, item in recipes.items()
        ),
    ]:
        head = f"{name:<{first}}  {rows:>5}  {purpose:<16}  {access:<6}  {licence}"
        console.print(Text(head, style="bold"))
        if item := recipes.get(name):
            place = f"{item.place}, commit {item.revision[:12]}"
            console.print(Padding(Text(f"{item.what}\n{place}\n{item.page}"), (0, 0, 0, 4)))
    console.print(Text(f"\n{_HOW}"))
    return printed(console)
