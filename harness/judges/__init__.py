"""Judges read answers and label them. Chosen by name; a judge's module is imported when it is first asked for."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module

from harness.errors import OptionError
from harness.protocols import Judge

JUDGES = {
    "phrases": "harness.judges.phrases:PhrasesJudge",
}
"""name -> ``module:Class``. A judge of one's own needs no entry here: override the ``judge`` fixture."""


def create(name: str, options: Mapping[str, object]) -> Judge:
    """The judge of that name, its options given as keyword arguments.

    Raises ``OptionError`` for a name or an option that does not exist.
    """
    if name not in JUDGES:
        raise OptionError(f"there is no judge {name!r}{_did_you_mean(name, JUDGES)}; judges: {_listed(JUDGES)}")
    module, _, class_name = JUDGES[name].partition(":")
    factory = getattr(import_module(module), class_name)
    known = inspect.signature(factory).parameters
    for option in options:
        if option not in known:
            takes = f"it takes: {_listed(known)}" if known else "it takes none"
            raise OptionError(f"the judge {name!r} has no option {option!r}{_did_you_mean(option, known)}; {takes}")
    judge: Judge = factory(**options)
    return judge


def _did_you_mean(word: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(word.casefold(), list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))
