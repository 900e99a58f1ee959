"""Shared by the report's tests."""

from __future__ import annotations

import pytest

HOSTILE = (
    "<script>document.title = 'owned'</script>",
    "</style></pre></textarea><img src=x onerror=\"document.title = 'owned'\">",
    "{{ 7 * 7 }} {% include '/etc/passwd' %} {# gone #}",
    "\x1b[2J\x1b[31mred\x1b]8;;http://example.invalid\x07link",
    "safe\u202eetihw\u202c \u2066isolated\u2069",
    "null\x00byte \ufeff bom \u200b zero width",
    "line\u2028separator\u2029paragraph\r\nreturn",
    '[click](javascript:alert(1)) `code` | pipe | <a href="javascript:alert(1)">x</a>',
    "\ud800 lone surrogate \U000e0041 tag",
    "A" * 1_000_000,
)
"""What a model could say to whoever looks at its answers."""


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    # a lone surrogate cannot be written to Parquet, so it never comes back from one
    return tuple(text.replace("\ud800", "") for text in HOSTILE)
