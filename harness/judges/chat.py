"""What chat endpoints send back, good and bad: completions, error bodies, headers. No requests are made here.

Everything quoted from an endpoint goes through ``hide`` first, which takes the key out if the endpoint sends it back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

QUOTED = 100
"""Characters of an endpoint's text that are quoted at most."""

Hide = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A chat completion with one choice."""

    content: str
    """The assistant's text, without the key and without lone surrogates."""
    problem: str
    """Why the text is no answer; ``""`` where it may be one."""
    source: str
    """What the endpoint says it is: the fields ``model`` and ``system_fingerprint``; ``""`` where it does not say."""


def read_reply(body: bytes, hide: Hide) -> ChatReply | str:
    """The chat completion in the body of a reply with HTTP status 200; why it is none, where it is none.

    The form is that of OpenAI's chat completions: one choice, its message's content a text or null.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return f"the reply is not JSON: {quote(body.decode('utf-8', 'replace'), hide)}"
    match found:
        case {"choices": [{"message": {}}]}:
            choice = found["choices"][0]
        case {"choices": [_, _, *_] as choices}:
            return f"the reply has {len(choices)} choices where one was asked for"
        case _:
            return f"the reply is no chat completion: {quote(_dumped(found), hide)}"
    message, finish = choice["message"], choice.get("finish_reason")
    text = message.get("content")
    if text is not None and not isinstance(text, str):
        return f"the reply's content is not text: {quote(_dumped(text), hide)}"
    content = hide(encodable(text or ""))
    return ChatReply(content, _problem(message, finish, content, hide), _source(found, hide))


def read_error(body: bytes, hide: Hide) -> str:
    """What an error's body says, quoted: the message where it stands in one of the usual places, else all of it."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return quote(body.decode("utf-8", "replace"), hide)
    match found:
        case {"error": {"message": str(text)}} | {"error": str(text)} | {"message": str(text)} | {"detail": str(text)}:
            return quote(text, hide)
    return quote(_dumped(found), hide)


def retry_after(value: str, now: float) -> float:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3), a number or a date; 0 where it is neither.

    Args:
        value: the header, ``""`` where there is none.
        now: seconds since 1970.
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
    return seconds if seconds > 0 else 0.0


def quote(text: str, hide: Hide) -> str:
    """At most ``QUOTED`` characters of a text in one line, in quotes. What is hidden is hidden before it is cut."""
    text = " ".join(hide(encodable(text))[: 4 * QUOTED].split())
    return f'"{text if len(text) <= QUOTED else text[: QUOTED - 3] + "..."}"'


def encodable(text: str) -> str:
    """The text without lone surrogates, which JSON can hold and no file can."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _problem(message: Mapping[str, Any], finish: object, content: str, hide: Hide) -> str:
    if message.get("tool_calls") or message.get("function_call"):
        return "the reply calls a tool instead of answering"
    if message.get("refusal"):
        return f"the judge's model declines to judge: {quote(_dumped(message['refusal']), hide)}"
    if finish == "length":
        return f"the reply is cut off at its longest (raise max_tokens): {quote(content, hide)}"
    if finish == "content_filter":
        return f"the endpoint's content filter stopped the reply: {quote(content, hide)}"
    if finish != "stop":
        return f'the reply\'s finish_reason is {quote(_dumped(finish), hide)}, not "stop": {quote(content, hide)}'
    return "" if content.strip() else "the reply is empty"


def _source(found: Mapping[str, object], hide: Hide) -> str:
    model, fingerprint = found.get("model"), found.get("system_fingerprint")
    parts = [quote(model, hide)] if isinstance(model, str) and model.strip() else []
    if isinstance(fingerprint, str) and fingerprint.strip():
        parts.append(f"system_fingerprint {quote(fingerprint, hide)}")
    return ", ".join(parts)


def _dumped(found: object) -> str:
    try:
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    except RecursionError:
        return "JSON that is nested too deeply"
