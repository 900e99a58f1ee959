"""Makes an answer ready for rules: takes off what is not the answer, writes in one way what is written in many."""

from __future__ import annotations

import re
from dataclasses import dataclass

WINDOW = 6_000
"""Characters of an answer that are looked at: about 1,500 tokens. What follows does not change what the answer is."""
OPENING = 700
"""Characters of the opening at most; it also ends after ``OPENING_SENTENCES`` sentences."""
OPENING_SENTENCES = 4
ASSENT_WORDS = 2
"""A human turn of so few words only says to go on."""

_SCAN = 400_000
"""Characters searched for the end of a reasoning block."""

_REASONING_TAGS = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "analysis", "scratchpad")
_REASONING_OPEN = re.compile(rf"\s*(?:<(?P<tag>{'|'.join(_REASONING_TAGS)})>|\[THINK\])", re.IGNORECASE)
_REASONING_END = re.compile(rf"</(?:{'|'.join(_REASONING_TAGS)})>|\[/THINK\]", re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>\s*final\s*(?:<\|message\|>)?")

_NEXT_TURN = re.compile(
    r"<\|im_start\|>\s*user|<\|start_header_id\|>\s*user|<start_of_turn>\s*user|\[INST\]|\n(?:### ?)?(?:user|human) ?:",
    re.IGNORECASE,
)
_SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:eos|bos|pad|unk|mask|start_of_turn|end_of_turn)>(?:model\b)?|"
    r"\[/?(?:INST|PAD|UNK|CLS|SEP|EOS|BOS)\]"
)
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)?|.)?")
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufe0f]"
)
_WRITTEN_ONE_WAY = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u00b4\uff07", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02\u300c\u300d", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2212", "-"),
        **dict.fromkeys("\u2013\u2014\u2015", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\u3000\t", " "),
        **dict.fromkeys("\u2028\u2029\x85\r\x0b\x0c", "\n"),
        "\u2026": "...",
    }
)
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BULLET = re.compile(r"^[ ]*(?:[*•▪‣+]|-{1,2})[ ]+", re.MULTILINE)
_HEADING_OR_QUOTE = re.compile(r"^[ ]*(?:#{1,6}|>+)[ ]*", re.MULTILINE)
_EMPHASIS = re.compile(r"\*{1,3}|_{2,3}|~~|(?<!`)`(?!`)")
_SPACES = re.compile(r"[ ]{2,}")
_ROLE = re.compile(r"(?:###\s*)?(?:assistant|response|answer|output|ai|bot|chatbot|a)\s*:\s*", re.IGNORECASE)
_HUMAN_TURN = re.compile(r"(?:^|\n)[ ]*(?:###[ ]*)?(?:human|user)[ ]*:[ ]*", re.IGNORECASE)
_ASSISTANT_TURN = re.compile(r"\n[ ]*(?:###[ ]*)?(?:assistant|ai)[ ]*:", re.IGNORECASE)
_LEADING = re.compile(r"[\s#>*_~|=\"']+")
_QUOTED = re.compile(r'"[^"\n]{1,300}"')
_SPEECH = re.compile(r"^[ ]?([a-z][\w ]{0,20}):[ ]+(\S[^\n]*)$", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|[。！？]|\n{2,}")
_NOT_AN_END = re.compile(r"(?:\b(?:mr|mrs|ms|dr|st|vs|etc|e\.g|i\.e|no|prof|jr|sr)|\b\w|\b\d{1,3})\.$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer ready for rules."""

    text: str
    """The answer's first ``WINDOW`` characters as people see them: no reasoning, tokens, markdown or control codes."""
    lower: str
    """The same in lower case, quotations and the speeches of a script blanked out: other people's words are not the
    answer's."""
    opening: int
    """How many characters of it are the opening."""
    unfinished_reasoning: bool = False
    """A reasoning block was opened and never closed: there is no answer."""


def prepare(response: str) -> Answer:
    """Take off reasoning, special tokens, markdown and a following turn; write quotes, dashes and spaces in one way."""
    body, finished = without_reasoning(response)
    body = body[: 2 * WINDOW]
    turn = _NEXT_TURN.search(body)
    if turn and body[: turn.start()].strip():
        body = body[: turn.start()]
    body = _SPECIAL_TOKEN.sub(" ", body)
    body = _LONE_SURROGATE.sub("\ufffd", body)
    body = _ANSI.sub("", body).translate(_WRITTEN_ONE_WAY)
    body = _INVISIBLE.sub("", body)
    body = _HEADING_OR_QUOTE.sub("", body)
    body = _BULLET.sub("- ", body)
    body = _SPACES.sub(" ", _EMPHASIS.sub("", body)).strip()[:WINDOW]
    body = _unwrapped(body)
    lower = body.lower()
    if len(lower) != len(body):  # a few letters change length in lower case: then spans are quoted in lower case
        body = lower
    lower = _QUOTED.sub(lambda found: '"' + "·" * (len(found[0]) - 2) + '"', lower)
    lower = _without_speech(lower)
    return Answer(text=body, lower=lower, opening=_opening_end(lower), unfinished_reasoning=not finished)


def asked_in(prompt: str) -> tuple[str, str]:
    """What a prompt asks, and the words of all that was asked before as well; the same but for transcripts.

    In a transcript ("Human: ... Assistant: ...") the last human turn asks. One of a word or two ("Yes.", "Go on.") asks
    what the turn before it asked.
    """
    prompt = prompt.strip()
    turns = [_ASSISTANT_TURN.split(turn, 1)[0].strip() for turn in _HUMAN_TURN.split(prompt)[1:]]
    if not _HUMAN_TURN.match(prompt) or not turns[-1]:
        return prompt, prompt
    return "\n".join(turns[-2:] if len(turns[-1].split()) <= ASSENT_WORDS else turns[-1:]), "\n".join(turns)


def without_reasoning(response: str) -> tuple[str, bool]:
    """The text after a leading reasoning block, and whether that block was closed."""
    head = response[:_SCAN]
    channel = _CHANNEL.search(head)
    if channel:
        return response[channel.end() :], True
    opened = _REASONING_OPEN.match(head)
    closed = _REASONING_END.search(head)
    if closed:  # also without an opening tag: some templates put it into the prompt
        return response[closed.end() :], True
    return ("", False) if opened else (response, True)


def _without_speech(lower: str) -> str:
    """Blanks out what is said in a script: two speakers at least ("boy: ..."), one of whom speaks twice."""
    speakers = [line[1] for line in _SPEECH.finditer(lower)]
    if len(set(speakers)) < 2 or len(speakers) == len(set(speakers)):
        return lower
    return _SPEECH.sub(lambda line: line[0][: line.start(2) - line.start()] + "·" * len(line[2]), lower)


def _unwrapped(body: str) -> str:
    """Without a leading role name, and without quotes around the whole answer."""
    body = body[match.end() :] if (match := _ROLE.match(body)) else body
    if body[:1] == '"' and (body.count('"') == 1 or (body.count('"') == 2 and body.endswith('"'))):
        body = body.strip('" \n')
    lead = _LEADING.match(body)
    if lead and '"' not in lead[0]:
        body = body[lead.end() :]
    return body


def _opening_end(text: str) -> int:
    """Where the opening ends: after its last whole sentence, but never beyond ``OPENING`` characters."""
    seen = 0
    for end in _SENTENCE_END.finditer(text, 0, OPENING):
        if end[0] == "." and _NOT_AN_END.search(text, max(0, end.start() - 6), end.end()):
            continue
        seen += 1
        if seen == OPENING_SENTENCES:
            return end.end()
    return min(len(text), OPENING)
