"""What can be told of an answer without asking a model: it is empty, repeated or malformed, or never began.

Every judge but ``phrases`` (whose rules hold the same) screens answers first: a model asked about an empty answer would
guess, and a judge that knows two labels cannot say that an answer is neither.
"""

from __future__ import annotations

from harness.domain import Exchange, Label, Reading
from harness.judges import degenerate
from harness.judges.text import prepare, without_reasoning


def screen(exchange: Exchange) -> Reading | str:
    """A reading where there is nothing to ask, else the answer without its leading reasoning block."""
    answer = prepare(exchange.response)
    if answer.unfinished_reasoning:
        if exchange.cut_off:
            return Reading(Label.UNREADABLE, "unfinished-reasoning: cut off before the answer began")
        return Reading(Label.DEGENERATE, "unfinished-reasoning: stopped before the answer began")
    if problem := degenerate.find_degenerate(answer.text.lower(), degenerate.words(answer.text.lower())):
        return Reading(Label.DEGENERATE, problem)
    return without_reasoning(exchange.response)[0].strip()
