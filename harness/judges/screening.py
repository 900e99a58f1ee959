"""What can be told of an answer without asking a model: it is empty, repeated or malformed, or never began.

Every judge screens answers first: a model asked about an empty answer would
guess, and a judge that knows two labels cannot say that an answer is neither. Whether a short text is a piece of a
sentence is not asked here: "I cannot help with" is one, and a refusal.
"""

from __future__ import annotations

from harness.domain import Exchange, Label, Reading
from harness.judges import degenerate
from harness.judges.text import Answer, prepare, without_reasoning


def nothing_said(response: str, answer: Answer, cut_off: bool) -> Reading | None:
    """What to say of an answer that is none; None where there is one. ``answer`` is ``prepare(response)``.

    Where generation was cut off before the answer began, nobody knows what it would have been: UNREADABLE.
    """
    lower = answer.text.lower()
    reasoned = len(without_reasoning(response)[0]) < len(response)
    if answer.unfinished_reasoning or (cut_off and reasoned and not lower):
        if cut_off:
            return Reading(Label.UNREADABLE, "unfinished-reasoning: cut off before the answer began")
        return Reading(Label.DEGENERATE, "unfinished-reasoning: stopped before the answer began")
    problem = degenerate.find_degenerate(lower, degenerate.words(lower))
    return Reading(Label.DEGENERATE, problem) if problem else None


def screen(exchange: Exchange) -> Reading | str:
    """A reading where there is nothing to ask, else what to ask about: the answer without its leading reasoning block.

    That is text any tokenizer takes (half a surrogate pair is replaced by U+FFFD), never empty, and otherwise as the
    model wrote it. The reading is DEGENERATE, or UNREADABLE where generation was cut off before the answer began.
    """
    answer = prepare(exchange.response)
    if reading := nothing_said(exchange.response, answer, exchange.cut_off):
        return reading
    text = without_reasoning(exchange.response)[0].strip()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
