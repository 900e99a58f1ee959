"""A terminal that writes into a string: what the reports' tables are drawn on."""

from __future__ import annotations

import io

from rich.console import Console


def text_console(width: int, color: bool) -> Console:
    """``width`` columns, at least 40; ANSI colours or plain text; nothing in the text is read as markup."""
    return Console(
        file=io.StringIO(),
        width=max(width, 40),
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )


def printed(console: Console) -> str:
    """All that was printed, without trailing spaces."""
    assert isinstance(console.file, io.StringIO), "made by text_console"
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"
