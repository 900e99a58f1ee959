"""Token ids of a served model's prompts and responses: by its tokenizer's files, or asked of the server.

With the setting ``tokenizer`` they are made here, as for every other engine (``tokens.ChatTokenizer``), and sent as
ids. Without it a server that has ``/tokenize`` and ``/detokenize`` (vLLM) is asked: for the conversation with its
generation prompt, and for the conversation with the answer in it. What the second has beyond the first, up to the end
of turn, is the response. The end of turn is found as the start of what two different answers have in common at their
end. Where the answer does not come out of these tokens again, or the prompt's tokens are not the beginning, there is an
error and no guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from harness import endpoints
from harness.domain import Checkpoint, EngineOptions, Message, PreferencePair
from harness.endpoints import Failure
from harness.engines import locate
from harness.engines.endpoint.server import Served, Server
from harness.engines.tokens import ChatTokenizer, Conversation, load_tokenizer, stop_tokens
from harness.errors import MeasurementError

if TYPE_CHECKING:
    import openai

CURE = "name the model's tokenizer: --engine-option tokenizer=PATH_OR_ID"
OF_TEMPLATE = ("chat_template", "chat_template_kwargs")
"""Fields of ``extra_body`` that decide which tokens a conversation has: asked with them, it is tokenized with them."""

_ANSWERS = ("The capital is Paris", "It opens at 7 am!")
"""Two answers with different ends."""

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Token ids of one pair."""

    rows: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """(prompt, response, its end of turn included) of the chosen, the rejected and third responses."""
    apart: bool = False
    """A response had to be tokenised apart from its prompt."""
    pieces: tuple[tuple[str, ...], ...] = ()
    """Texts of the responses' tokens, as ``rows``; () where the server tokenised."""


def load(checkpoint: Checkpoint, tokenizer: str, options: EngineOptions) -> ChatTokenizer:
    """The tokenizer that the setting names, with the chat template in use. Raises ``CheckpointError``."""
    home = locate.directory(tokenizer, remote_code=options.trust_remote_code)
    loaded = load_tokenizer(replace(checkpoint, path=str(home), base=""), options)
    return ChatTokenizer(loaded, where=str(home), stop_tokens=stop_tokens(home))


def of_pair(chat: ChatTokenizer, pair: PreferencePair) -> Tokenised:
    """By the tokenizer's files."""
    ids = chat.pair_ids(pair)
    both = ((ids.chosen_prompt, ids.chosen), (ids.rejected_prompt, ids.rejected))
    return Tokenised((*both, *ids.others), ids.apart, ids.pieces)


class ServerTokens:
    """The server's own tokenizer."""

    def __init__(self, server: Server, served: Served) -> None:
        self._server = server
        self._served = served
        self._ending: tuple[int, ...] = ()
        """The end of turn and what the template writes behind it."""

    async def prompt_ids(self, client: openai.AsyncOpenAI, prompt: Conversation) -> tuple[int, ...] | Failure:
        """[P] with the generation prompt."""
        return await self._ids(client, _turns(prompt), generation=True)

    async def of_pair(self, client: openai.AsyncOpenAI, pair: PreferencePair) -> Tokenised:
        """Raises ``MeasurementError`` naming the pair where its tokens cannot be told."""
        where = f"pair {pair.id!r}"
        if not self._ending:
            self._ending = await self._find_ending(client)
        turns = _turns(pair.conversation)
        prompt = _whole(await self._ids(client, turns, generation=True), where)
        if pair.messages:
            text = _whole(await self._text(client, prompt), where)
            for message in pair.messages:
                if message.role != "assistant" and message.content.strip() not in text:
                    raise MeasurementError(
                        f"{where}: the server's chat template leaves out a turn of the {message.role}; write it into "
                        "the user's turn, or take the pair out"
                    )
        responses = []
        for answer in (pair.chosen, pair.rejected, *pair.others):
            responses.append((prompt, await self._response(client, turns, prompt, answer, where)))
        return Tokenised(tuple(responses))

    async def _response(
        self, client: openai.AsyncOpenAI, turns: list[dict[str, str]], prompt: tuple[int, ...], answer: str, where: str
    ) -> tuple[int, ...]:
        beyond = await self._beyond(client, turns, prompt, answer, where)
        body = beyond[: len(beyond) - len(self._ending)]
        if beyond[len(body) :] != self._ending:
            raise MeasurementError(f"{where}: the server's chat template ends its turn otherwise than usual; {CURE}")
        if _whole(await self._text(client, body), where).strip() != answer.strip():
            raise MeasurementError(
                f"{where}: the server's chat template writes something else in place of the answer {answer[:40]!r}; "
                f"{CURE}"
            )
        return (*body, self._ending[0])

    async def _beyond(
        self, client: openai.AsyncOpenAI, turns: list[dict[str, str]], prompt: tuple[int, ...], answer: str, where: str
    ) -> tuple[int, ...]:
        """What the answered conversation's tokens have beyond the prompt's."""
        whole = _whole(
            await self._ids(client, [*turns, {"role": "assistant", "content": answer}], generation=False), where
        )
        if whole[: len(prompt)] != prompt:
            raise MeasurementError(
                f"{where}: the tokens of prompt and answer {answer[:40]!r} do not begin with those of the prompt, so "
                f"the answer's own cannot be told; {CURE}"
            )
        return whole[len(prompt) :]

    async def _find_ending(self, client: openai.AsyncOpenAI) -> tuple[int, ...]:
        where = "the end of an answer"
        turns = _turns("Where?")
        prompt = _whole(await self._ids(client, turns, generation=True), where)
        first, second = [await self._beyond(client, turns, prompt, answer, where) for answer in _ANSWERS]
        same = 0
        while same < min(len(first), len(second)) and first[-1 - same] == second[-1 - same]:
            same += 1
        if not same:
            raise MeasurementError(f"the server's chat template writes no token that ends an answer; {CURE}")
        return first[len(first) - same :]

    async def _ids(
        self, client: openai.AsyncOpenAI, messages: list[dict[str, str]], *, generation: bool
    ) -> tuple[int, ...] | Failure:
        body: dict[str, object] = {
            "model": self._served.model,
            "messages": messages,
            "add_generation_prompt": generation,
            "add_special_tokens": False,
        }
        chosen = self._server.settings.extra_body
        body |= {name: chosen[name] for name in OF_TEMPLATE if name in chosen}
        return await self._ask(client, "/tokenize", body, _read_ids)

    async def _text(self, client: openai.AsyncOpenAI, ids: Sequence[int]) -> str | Failure:
        return await self._ask(client, "/detokenize", {"model": self._served.model, "tokens": list(ids)}, _read_text)

    async def _ask(
        self, client: openai.AsyncOpenAI, path: str, body: dict[str, object], read: Callable[[Any], Found | Failure]
    ) -> Found | Failure:
        def parse(raw: bytes) -> Found | Failure:
            try:
                return read(endpoints.read_json(raw, self._server.short.hide))
            except ValueError as error:
                return Failure(str(error))

        return await self._server.short.ask(client, self._server.root + path, body, parse)


def _read_ids(found: Any) -> tuple[int, ...] | Failure:
    match found:
        case {"tokens": list(ids)} if ids and all(isinstance(token, int) for token in ids):
            return tuple(ids)
    return Failure("its reply holds no token ids")


def _read_text(found: Any) -> str | Failure:
    match found:
        case {"prompt": str(text)}:
            return text
    return Failure("its reply holds no text")


def _whole(found: Found | Failure, where: str) -> Found:
    """What was asked for. Raises ``MeasurementError`` where the server has none."""
    if isinstance(found, Failure):
        cure = "" if found.again else f"; {CURE}"
        raise MeasurementError(f"{where}: the server cannot tokenize it ({found.after}){cure}")
    return found


def _turns(prompt: Conversation) -> list[dict[str, str]]:
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return [{"role": message.role, "content": message.content} for message in messages]
