"""Data that a page carries in little room: JSON, deflated, as base64 in a script element that no browser runs.

The page's script reads it on demand (``Page.unpack``). ASCII only, so a lone surrogate or U+2028 passes unharmed, and
base64 holds no ``<``, so nothing in it can end the element.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

_ELEMENT = Markup('<script type="application/octet-stream" class="pack" id="{}">{}</script>\n')
_LEVEL = 9


def dumps(value: Any) -> str:
    """JSON in ASCII without spaces; NaN and infinities, which JSON has not, become null."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def encode(value: Any) -> str:
    """The text of a pack: JSON -> raw deflate (RFC 1951) -> base64."""
    return _base64(_deflate(dumps(value).encode("ascii")))


def decode(text: str) -> Any:
    """What ``encode`` was given, as JSON has it: tuples are lists, NaN is None."""
    return json.loads(zlib.decompress(base64.b64decode(text, validate=True), wbits=-zlib.MAX_WBITS))


def pack(name: str, value: Any) -> Markup:
    """A value as an element of the page, to be read by ``await Page.unpack(name)``."""
    return _ELEMENT.format(name, encode(value))


def bytes_of(markup: str) -> int:
    """What a part of a page takes in the file."""
    return len(markup.encode("utf-8"))


def fitting(items: Iterable[Any], room: int, *, step: int = 16) -> list[Any]:
    """As many of ``items``, from the first, as take at most ``room`` bytes when packed together.

    ``items`` is read no further than needed, ``step`` at a time; the items of a step that does not fit are left out.
    """
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    used = 64  # the element, and the end of the stream
    kept: list[Any] = []
    waiting: list[Any] = []

    def settle() -> bool:
        nonlocal used
        text = ",".join(map(dumps, waiting)) + ","
        used += len(deflater.compress(text.encode("ascii"))) + len(deflater.flush(zlib.Z_SYNC_FLUSH))
        if used * 4 / 3 > room:
            return False
        kept.extend(waiting)
        waiting.clear()
        return True

    for item in items:
        waiting.append(item)
        if len(waiting) == step and not settle():
            return kept
    if waiting:
        settle()
    return kept


def _deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
