"""What a training run wrote down about itself: DPO's β. Nothing that it wrote is unpickled.

``Trainer`` saves its arguments beside every checkpoint as ``training_args.bin``: a pickle in a zip file. Unpickling
runs whatever the file says, so its opcodes are only read (``pickletools``): a pickle is a program for a stack machine,
and following what it would push is enough to see which numbers stand under which keys.
"""

from __future__ import annotations

import json
import math
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

_ARGUMENTS = "training_args.bin"
_JSON = ("training_args.json", "dpo_config.json")
_LARGEST = 1 << 24
"""Bytes of a pickle that are read. Real ones have a few thousand."""

_UNKNOWN = object()
"""What the pickle would make by calling something."""


def beta(root: Path) -> float | None:
    """DPO's β of the run that wrote this checkpoint; None where it is not known.

    Read from ``training_args.json`` or ``dpo_config.json``, else ``training_args.bin``, beside the checkpoint, or for a
    directory called ``checkpoint-N`` in the run's directory above it. Trainers of other losses call other numbers β.
    """
    places = [root]
    if re.fullmatch(r"checkpoint-\d+", root.resolve().name):
        places.append(root.resolve().parent)
    for place in places:
        for name in _JSON:
            if (found := _from_json(place / name)) is not None:
                return found
        if (found := _from_pickle(place / _ARGUMENTS)) is not None:
            return found
    return None


def _from_json(file: Path) -> float | None:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return _number(settings.get("beta")) if isinstance(settings, dict) else None


def _from_pickle(file: Path) -> float | None:
    try:
        with zipfile.ZipFile(file) as archive:
            inside = [item for item in archive.infolist() if item.filename.rpartition("/")[2] == "data.pkl"]
            if len(inside) != 1 or inside[0].file_size > _LARGEST:
                return None
            return _number(attributes(archive.read(inside[0])).get("beta"))
    except Exception:  # a damaged zip or pickle raises many kinds; β is then not known
        return None


def attributes(pickled: bytes) -> dict[Any, Any]:
    """The attributes of the object that a pickle holds, as far as they are text and numbers; nothing is executed.

    They are the last state that is given to an object (BUILD): the outermost object's, which is finished last. What
    would have to be made by a call is an opaque placeholder.

    Raises:
        Exception: of some kind, for bytes that are no pickle.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    marker = object()
    state: dict[Any, Any] = {}

    def to_mark() -> list[Any]:
        items: list[Any] = []
        while (item := stack.pop()) is not marker:
            items.append(item)
        return items[::-1]

    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name == "MARK":
            stack.append(marker)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else int(argument or 0)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("SETITEM", "SETITEMS"):
            items = to_mark() if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
            if isinstance(stack[-1], dict):
                stack[-1].update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if isinstance(k, str))
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "BUILD":
            given = stack.pop()
            state = given if isinstance(given, dict) else {}
        else:
            made = [*opcode.stack_after]
            taken = [*opcode.stack_before]
            if pickletools.markobject in taken:
                to_mark()
                taken = taken[: taken.index(pickletools.markobject)]
            for _ in taken:
                stack.pop()
            plain = not opcode.stack_before and isinstance(argument, (str, int, float))
            by_name = name in ("GLOBAL", "INST", "PERSID", "EXT1", "EXT2", "EXT4")
            stack.extend(argument if plain and not by_name else _UNKNOWN for _ in made)
    return state


def _number(value: object) -> float | None:
    """A finite number above 0 as a float: no β is 0 or less, but other trainers record such a "beta"."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None
