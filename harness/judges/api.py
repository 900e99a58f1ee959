"""The judge ``api``: asks a model behind an OpenAI-compatible chat endpoint (vLLM, SGLang, a hosted one).

Each answer is screened, then put into the rubric's template and sent as one user turn. The label is the reply's, where
the whole reply is one of the rubric's answers; whatever else comes, or does not come, is UNREADABLE with the reason.

Requests run in an event loop in a thread of their own. So ``read`` can be called from a notebook or a test that has a
running loop; a try is cut at its deadline wherever it hangs (looking up the name, connecting, headers or body that
drip), which a blocking client cannot do, as its timeout starts again with each byte; and an interrupt cancels what is
under way. The client's own retries are off: ours are counted, and each has a deadline of its own.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from harness.domain import Exchange, Label, Reading
from harness.errors import JudgeError, MissingExtraError, OptionError
from harness.judges.chat import ChatReply, quote, read_error, read_reply, retry_after
from harness.judges.rubrics import rubric as make_rubric
from harness.judges.screening import screen
from harness.protocols import OnProgress, no_progress

if TYPE_CHECKING:
    import openai

VERSION = "1"
"""Goes up whenever a change can change a label."""

FIRST = 8
"""Answers asked about before the others while no reply has come yet: if the endpoint turns all of them away (wrong key,
model or url), the judge as a whole does not work."""

CHARACTERS_PER_TOKEN = 4
"""For the estimate of a dry run: a rule of thumb for English."""

_PASSING = frozenset({408, 409, 429})
"""HTTP statuses, besides 5xx, after which the same request may succeed."""

_JITTER = random.Random()  # noqa: S311
"""Of its own: whoever seeds Python's generator gets the same numbers with and without retries."""

_Done = tuple[int, Reading]
"""The number of an answer, and what was read in it."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A request that brought no chat completion."""

    reason: str
    again: bool = False
    """The same request may succeed later."""
    wait: float = 0.0
    """Seconds that the endpoint asks to be left alone."""
    cure: str = ""
    """What to change, where the endpoint would turn every request away like this one."""


class ApiJudge:
    """Reads answers by asking an endpoint. Options are those of the policy; every wrong one is an ``OptionError``.

    Args:
        url: the base url, such as ``http://localhost:8000/v1``.
        model: the model's name at the endpoint.
        rubric, template, answers: what is asked and what the answers mean; see ``harness.judges.rubrics.rubric``.
        key_variable: the environment variable that holds the key; ``""`` for an endpoint without keys.
        concurrency: requests under way at once, at most.
        retries: further tries after HTTP 408, 409, 429, 5xx, a timeout or a broken connection.
        timeout: seconds for one try, from looking up the name to the last byte.
        max_tokens, temperature: sent with each request; None: not sent (some hosted models want
            ``extra_body: {max_completion_tokens: 16}`` in place of the first, and refuse the second).
        give_up_after: requests that fail in a row (each after its retries) before the rest is not asked.
        backoff: seconds before the first retry, doubled before each further one, with jitter.
        longest_wait: seconds between two tries at most, whatever a Retry-After asks for.
        extra_body: further fields of each request, such as ``{chat_template_kwargs: {enable_thinking: false}}``.
    """

    name = "api"
    quick = False

    def __init__(
        self,
        url: str,
        model: str,
        rubric: str = "refusal",
        template: str = "",
        answers: Mapping[object, object] | None = None,
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        retries: int = 4,
        timeout: float = 60.0,
        max_tokens: int | None = 16,
        temperature: float | None = 0.0,
        give_up_after: int = 20,
        backoff: float = 0.5,
        longest_wait: float = 60.0,
        extra_body: Mapping[str, object] | None = None,
    ) -> None:
        self.url = _base_url(url)
        self.model = _text("model", model)
        if not self.model.strip():
            raise OptionError(
                "the judge's option 'model' is empty; name the model as the endpoint lists it (/v1/models)"
            )
        self.key_variable = _variable(key_variable)
        self.rubric = make_rubric(rubric, template, answers)
        if self.rubric.raw:
            raise OptionError(
                f"the rubric {rubric!r} is a whole input with control tokens of its own, and a chat endpoint puts its "
                "template around what it is sent; use the judge 'model' for it, or another rubric"
            )
        self.concurrency = _whole("concurrency", concurrency, least=1)
        self.retries = _whole("retries", retries, least=0)
        self.give_up_after = _whole("give_up_after", give_up_after, least=1)
        self.timeout = _number("timeout", timeout)
        if not self.timeout:
            raise OptionError("the judge's option 'timeout' is 0; give the seconds that one try may take")
        self.backoff = _number("backoff", backoff)
        self.longest_wait = _number("longest_wait", longest_wait)
        self.max_tokens = None if max_tokens is None else _whole("max_tokens", max_tokens, least=1)
        self.temperature = None if temperature is None else _number("temperature", temperature)
        self.extra_body = _extra_body(extra_body)
        self._secret = SecretStr("")
        self._asked = self._requests = self._retries = self._failed = self._not_asked = 0
        self._replies: dict[str, int] = {}
        """What the endpoint says it is -> chat completions that said so, in the order of their first."""
        self._in_a_row = 0
        """Answers in a row, as they were done, for which no chat completion came."""
        self._last = ""
        """Why the last of them got none."""
        self._turned_away: list[_Failure] = []
        """Failures with a cure since ``read`` was called."""

    def read(self, exchanges: Sequence[Exchange], on_progress: OnProgress = no_progress) -> list[Reading]:
        """Label each answer; see ``protocols.Judge.read``. Can be called where an event loop is running.

        Raises:
            JudgeError: no key in ``key_variable``, or the endpoint turns requests away for a reason that holds for all.
            MissingExtraError: the package ``openai`` is not installed.
        """
        screened = [screen(exchange) for exchange in exchanges]
        readings = {index: item for index, item in enumerate(screened) if isinstance(item, Reading)}
        if readings:
            on_progress(len(readings))

        def keep(done: _Done) -> None:
            readings[done[0]] = done[1]
            on_progress(1)

        if questions := self._questions(exchanges, screened):
            self._ask_in_thread(questions, keep)
        return [readings[index] for index in range(len(exchanges))]

    def plan(self, exchanges: Sequence[Exchange]) -> str:
        """What ``read`` would send, as text. Sends nothing, and needs neither key nor package."""
        questions = list(self._questions(exchanges, [screen(exchange) for exchange in exchanges]).values())
        screened = len(exchanges) - len(questions)
        characters = sum(map(len, questions))
        tokens = math.ceil(characters / CHARACTERS_PER_TOKEN)
        if not self.key_variable:
            key = "none is sent (key_variable is empty)"
        else:
            found = os.environ.get(self.key_variable, "").strip()
            key = f"in {self.key_variable}, which is {'set' if found else 'NOT set'}"
        longest = "" if self.max_tokens is None else f"; replies: {self.max_tokens * len(questions):,} tokens at most"
        lines = [
            f"url       {self.url}/chat/completions",
            f"model     {self.model}",
            f"key       {key}",
            f"requests  {len(questions):,} for {len(exchanges):,} answers ({screened:,} read without asking); "
            f"{len(questions) * (self.retries + 1):,} at most, with retries",
            f"prompts   {characters:,} characters, about {tokens:,} tokens (estimated: {CHARACTERS_PER_TOKEN} "
            f"characters a token, other languages than English take more){longest}",
        ]
        if questions:
            lines.append(f"first     {json.dumps(self._body(questions[0]), indent=2)}")
        return "\n".join([*lines, "Nothing was sent."])

    def close(self) -> None:
        """There is nothing to give back: connections are closed at the end of each ``read``."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Requests, retries and failures since the judge was made, and what the endpoint says it is."""
        if not self._requests:
            return ()
        counts = (
            f"answers asked about {self._asked:,}, requests {self._requests:,}, retries {self._retries:,}, answers "
            f"without a reply in the end {self._failed:,}, not asked about {self._not_asked:,}"
        )
        if not any(self._replies):
            return (counts,)
        replies = sum(self._replies.values())
        said = [f"{source or 'nothing'} in {count:,} of {replies:,}" for source, count in self._replies.items()]
        if len(said) == 1:
            return (counts, f"the endpoint says it is {said[0]} replies")
        more = f" and {len(said) - 5:,} other things" if len(said) > 5 else ""
        return (
            counts,
            f"the endpoint changed: it says it is {', '.join(said[:5])} replies{more}; labels may not be one model's",
        )

    def describe(self) -> Mapping[str, str]:
        """Name, version and what can change a label; how fast it is asked cannot."""
        extra = {"extra_body": json.dumps(self.extra_body, sort_keys=True)} if self.extra_body else {}
        return {
            "name": self.name,
            "version": VERSION,
            "url": self.url,
            "model": self.model,
            "rubric": self.rubric.digest,
            "temperature": "not sent" if self.temperature is None else str(self.temperature),
            "max_tokens": "not sent" if self.max_tokens is None else str(self.max_tokens),
            **extra,
        }

    def _questions(self, exchanges: Sequence[Exchange], screened: Sequence[Reading | str]) -> dict[int, str]:
        """Number of an answer -> what is asked about it, for those that screening does not read."""
        return {
            index: self.rubric.render(replace(exchange, response=found))
            for index, (exchange, found) in enumerate(zip(exchanges, screened, strict=True))
            if not isinstance(found, Reading)
        }

    def _body(self, question: str) -> dict[str, object]:
        """A whole request."""
        return {"messages": [{"role": "user", "content": question}], "model": self.model, **self._settings()}

    def _settings(self) -> dict[str, object]:
        """A request's fields besides messages and model."""
        sent = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {**{name: value for name, value in sent.items() if value is not None}, **self.extra_body}

    # ------------------------------------------------------------ asking

    def _ask_in_thread(self, questions: Mapping[int, str], keep: Callable[[_Done], None]) -> None:
        """Ask in an event loop in another thread; ``keep`` is called in this one, as answers are done."""
        try:
            import openai  # noqa: F401  (takes a second: not before there is something to ask)
            from anyio.from_thread import start_blocking_portal
        except ImportError:
            raise MissingExtraError(
                "the judge 'api' needs the package openai: pip install 'dpo-harness[api]'"
            ) from None
        self._secret = _key(self.key_variable)
        self._turned_away = []
        self._in_a_row = min(self._in_a_row, self.give_up_after - 1)  # asked again, and given up at the first failure
        done: SimpleQueue[_Done | None] = SimpleQueue()
        with start_blocking_portal() as portal:  # an exception in here, such as an interrupt, cancels the requests
            task = portal.start_task_soon(self._ask_all, questions, done.put)
            task.add_done_callback(lambda _: done.put(None))
            while (item := done.get()) is not None:
                keep(item)
            task.result()

    async def _ask_all(self, questions: Mapping[int, str], report: Callable[[_Done], None]) -> None:
        import openai

        async with openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self._secret.get_secret_value() or "none",  # else the package looks for one in the environment
            max_retries=0,
            timeout=self.timeout,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),  # answers go where the policy says
        ) as client:
            client.organization = client.project = None  # the package takes them from the environment for any address
            _ = client.chat.completions.with_raw_response  # imports much, once: not within the first try's deadline
            items = list(questions.items())
            first = 0 if self._replies else FIRST
            before = self._asked
            await self._ask_each(client, items[:first], report)
            asked = self._asked - before
            if asked and len(self._turned_away) == asked:
                failure = self._turned_away[0]
                raise JudgeError(
                    f"the judge 'api' cannot work: {self.url} turned away {asked} of {asked} requests with "
                    f"{failure.reason}. {failure.cure}"
                )
            await self._ask_each(client, items[first:], report)

    async def _ask_each(
        self, client: openai.AsyncOpenAI, items: Sequence[tuple[int, str]], report: Callable[[_Done], None]
    ) -> None:
        """Ask about all of them, ``concurrency`` at a time: each worker takes the next one that waits."""
        import anyio

        waiting = iter(items)

        async def work() -> None:
            for index, question in waiting:
                report((index, await self._ask(client, question)))

        try:
            async with anyio.create_task_group() as group:
                for _ in range(min(self.concurrency, len(items))):
                    group.start_soon(work)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _ask(self, client: openai.AsyncOpenAI, question: str) -> Reading:
        """What is read in one answer, after as many tries as it takes and is allowed."""
        import anyio

        if self._in_a_row >= self.give_up_after:
            self._not_asked += 1
            return _unreadable(f"not asked: {self._in_a_row} requests in a row failed, last: {self._last}")
        self._asked += 1
        found = await self._try(client, question)
        tries = 1
        while isinstance(found, _Failure) and found.again and tries <= self.retries:
            await anyio.sleep(self._pause(tries, found.wait))
            self._retries += 1
            tries += 1
            found = await self._try(client, question)
        if isinstance(found, ChatReply):
            self._in_a_row = 0
            self._replies[found.source] = self._replies.get(found.source, 0) + 1
            return _unreadable(found.problem) if found.problem else self.rubric.read(found.content)
        self._failed += 1
        self._in_a_row += 1
        self._last = f"{found.reason} (after {tries} {'try' if tries == 1 else 'tries'})"
        if found.cure:
            self._turned_away.append(found)
        return _unreadable(self._last)

    def _pause(self, tries: int, asked_for: float) -> float:
        """Seconds before the next try: what the endpoint asks for, and a back-off with jitter on top of it."""
        doubled = self.backoff * 2.0 ** min(tries - 1, 30)
        return min(self.longest_wait, asked_for + doubled * _JITTER.uniform(0.5, 1.0))

    async def _try(self, client: openai.AsyncOpenAI, question: str) -> ChatReply | _Failure:
        """Send one request and read what comes back. Every failure is returned, none raised."""
        import anyio
        import openai

        key = self._secret.get_secret_value()
        self._requests += 1
        try:
            with anyio.fail_after(self.timeout):
                answer = await client.chat.completions.with_raw_response.create(
                    model=self.model,
                    messages=[{"role": "user", "content": question}],
                    extra_headers={"Authorization": f"Bearer {key}" if key else openai.Omit()},
                    extra_body=self._settings(),
                )
        except (TimeoutError, openai.APITimeoutError):
            return _Failure(f"no whole reply within {self.timeout:g} s", again=True)
        except openai.APIStatusError as error:
            return self._refused(error)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return _Failure(f"connection failed: {type(cause).__name__} {quote(str(cause), self._hide)}", again=True)
        except Exception as error:
            return _Failure(f"request failed: {type(error).__name__} {quote(str(error), self._hide)}")
        found = read_reply(answer.content, self._hide)
        return _Failure(found) if isinstance(found, str) else found

    def _refused(self, error: openai.APIStatusError) -> _Failure:
        """An HTTP status other than success."""
        status, headers = error.status_code, error.response.headers
        reason = f"HTTP {status}: {read_error(error.response.content, self._hide)}"
        cure = ""
        if status == 401:
            cure = f"Check the key in {self.key_variable}" if self.key_variable else "It wants a key: see key_variable"
        elif status == 403:
            cure = f"Check that the key in {self.key_variable or 'key_variable'} may use the model {self.model!r}"
        elif status == 404:
            cure = f"Check that it has a model {self.model!r}, and that url is its base url (it often ends in /v1)"
        elif 300 <= status < 400:
            reason = f"HTTP {status}, a redirect to {quote(headers.get('location', ''), self._hide)}"
            cure = "Redirects are not followed: name the base url that it leads to as url"
        again = status in _PASSING or status >= 500
        return _Failure(reason, again, retry_after(headers.get("retry-after", ""), time.time()), cure)

    def _hide(self, text: str) -> str:
        """The text without the key."""
        key = self._secret.get_secret_value()
        return text.replace(key, "[key]") if key else text


def _unreadable(reason: str) -> Reading:
    return Reading(Label.UNREADABLE, reason)


def _key(variable: str) -> SecretStr:
    """The key, empty where none is needed. Raises ``JudgeError``; no message has any part of it."""
    if not variable:
        return SecretStr("")
    key = SecretStr(os.environ.get(variable, "").strip())
    if not key:
        raise JudgeError(
            f"the judge 'api' finds no key: the environment variable {variable} is not set. Set it, name another one "
            'as key_variable, or say key_variable: "" for an endpoint without keys'
        )
    if not all("!" <= char <= "~" for char in key.get_secret_value()):
        raise JudgeError(f"the environment variable {variable} holds white space or letters that no key can have")
    return key


# ---------------------------------------------------------------- options


def _base_url(url: object) -> str:
    text = _text("url", url).strip()
    example = "such as http://localhost:8000/v1"
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise OptionError(f"the judge's option 'url' is not a url; give one {example}") from None
    if "@" in parts.netloc:
        raise OptionError(
            "the judge's option 'url' has a user or password in it, which would be stored and logged with it; put the "
            "key into an environment variable and name that as key_variable"
        )
    if "?" in text or "#" in text:
        raise OptionError(
            "the judge's option 'url' has a part after '?' or '#', which HTTP clients log; give the base url alone, "
            "put the key into an environment variable and name that as key_variable"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or any(char.isspace() for char in text):
        raise OptionError(f"the judge's option 'url' is {text!r}; it must be an http or https url {example}")
    if text.rstrip("/").endswith("/completions"):
        raise OptionError(f"the judge's option 'url' is {text!r}; give the base url, without /chat/completions")
    return text.rstrip("/")


def _variable(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"(?:[A-Z_][A-Z0-9_]*)?", value):
        raise OptionError(
            "the judge's option 'key_variable' must be the name of the environment variable that holds the key, in "
            'capital letters, or ""; never the key itself'
        )
    return value


def _text(option: str, value: object) -> str:
    if not isinstance(value, str):
        raise OptionError(f"the judge's option {option!r} is {value!r}; it must be text")
    return value


def _whole(option: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"the judge's option {option!r} is {value!r}; it must be a whole number, {least} or above")
    return value


def _number(option: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise OptionError(f"the judge's option {option!r} is {value!r}; it must be a number, 0 or above")
    return float(value)


def _extra_body(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise OptionError(f"the judge's option 'extra_body' is {value!r}; it must map names to values")
    for name in ("model", "temperature", "max_tokens", "messages", "stream", "n"):
        if name in value:
            why = "is the judge's own" if name in ("messages", "stream", "n") else "is an option beside it"
            raise OptionError(f"the judge's option 'extra_body' sets {name!r}, which {why}; leave it out")
    try:
        json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise OptionError(f"the judge's option 'extra_body' cannot be sent as JSON: {error}") from None
    return dict(value)
