"""Judges read answers and label them. Chosen by name; a judge's module is imported when it is first asked for."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module

from harness.errors import OptionError
from harness.protocols import Judge, Openers

JUDGES = {
    "phrases": "harness.judges.phrases:PhrasesJudge",
    "classifier": "harness.judges.classifier:ClassifierJudge",
    "model": "harness.judges.model:ModelJudge",
    "api": "harness.judges.api:ApiJudge",
}
"""name -> ``module:Class``. A class is called with the policy's options as keyword arguments, and with ``openers``
where it has such a parameter. A judge of one's own needs no entry here: override the ``judge`` fixture."""


def create(name: str, options: Mapping[str, object], openers: Openers) -> Judge:
    """The judge of that name. No model is opened and nothing is asked before the first answer is read.

    Raises ``OptionError`` for a name or an option that does not exist, a required option that is missing, and a value
    that the judge cannot take.
    """
    if name not in JUDGES:
        raise OptionError(f"there is no judge {name!r}{_did_you_mean(name, JUDGES)}; judges: {_listed(JUDGES)}")
    module, _, class_name = JUDGES[name].partition(":")
    factory = getattr(import_module(module), class_name)
    signature = inspect.signature(factory).parameters
    known = [option for option in signature if option != "openers"]
    for option in options:
        if option not in known:
            takes = f"it takes: {_listed(known)}" if known else "it takes none"
            raise OptionError(f"the judge {name!r} has no option {option!r}{_did_you_mean(option, known)}; {takes}")
    missing = [option for option in known if option not in options and signature[option].default is inspect._empty]
    if missing:
        raise OptionError(
            f"the judge {name!r} needs the option {missing[0]!r}: in the policy, "
            f"'judge: {{name: {name}, options: {{{missing[0]}: ...}}}}'"
        )
    given = {"openers": openers} if "openers" in signature else {}
    judge: Judge = factory(**options, **given)
    return judge


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.casefold(), list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
