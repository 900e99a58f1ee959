"""What chat endpoints send back."""

from __future__ import annotations

import json
from email.utils import formatdate

import pytest

from harness.judges.chat import ChatReply, quote, read_error, read_reply, retry_after


def _as_it_is(text: str) -> str:
    return text


@pytest.mark.parametrize(
    "header, seconds",
    [
        ("7", 7.0),
        ("0.25", 0.25),
        ("", 0.0),
        ("-3", 0.0),
        ("nan", 0.0),
        ("soon", 0.0),
        ("1e999", float("inf")),
        (formatdate(1_000_030, usegmt=True), 30.0),
        (formatdate(999_000, usegmt=True), 0.0),
        ("Mon, 99 Foo 2020 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float) -> None:
    assert retry_after(header, now=1_000_000.0) == seconds


@pytest.mark.parametrize(
    "body, said",
    [
        ({"error": {"message": "no such model", "code": 404}}, '"no such model"'),
        ({"error": "overloaded"}, '"overloaded"'),
        ({"object": "error", "message": "too long"}, '"too long"'),
        ({"detail": "Not Found"}, '"Not Found"'),
        ({"detail": [{"loc": ["body"]}]}, '"{"detail": [{"loc": ["body"]}]}"'),
        ({"error": {"code": 3}}, '"{"error": {"code": 3}}"'),
    ],
)
def test_an_errors_message_is_found_where_servers_put_it(body: object, said: str) -> None:
    assert read_error(json.dumps(body).encode(), _as_it_is) == said


def test_an_error_that_is_not_json_is_quoted() -> None:
    assert read_error(b"<h1>Bad\n\n Gateway</h1> \xff", _as_it_is) == '"<h1>Bad Gateway</h1> \ufffd"'


def test_quotes_are_short_and_in_one_line() -> None:
    assert quote("a\n\tb", _as_it_is) == '"a b"'
    assert quote("x" * 100, _as_it_is) == f'"{"x" * 100}"'
    assert quote("x" * 101, _as_it_is) == f'"{"x" * 97}..."'


def test_what_is_hidden_is_hidden_before_the_quote_is_cut() -> None:
    quoted = quote("x" * 90 + "sk-secret-and-long", lambda text: text.replace("sk-secret-and-long", "[key]"))
    assert quoted == f'"{"x" * 90}[key]"'


def test_a_key_in_a_json_escape_is_hidden() -> None:
    body = rb'{"choices": [{"message": {"content": "sk\u002dsecret"}, "finish_reason": "stop"}]}'
    found = read_reply(body, lambda text: text.replace("sk-secret", "[key]"))
    assert found == ChatReply("[key]", "", "")
    found = read_reply(rb'{"you": "sk\u002dsecret"}', lambda text: text.replace("sk-secret", "[key]"))
    assert found == 'the reply is no chat completion: "{"you": "[key]"}"'
