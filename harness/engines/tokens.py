"""From prompts and answers to token ids: which tokens a response has.

The tokens of a response are those that follow the templated prompt (generation prompt included), up to and including
the end-of-turn token the model emits to stop. So the scored text is::

    prompt text + white space the template puts before an answer + answer + end of turn

and the answer is what the template makes of it (many templates trim it). Text that a template puts before answers and
that is not white space (an empty ``<think>`` block, say) belongs to no answer and is left out.

What a template writes after the end of turn (ChatML's line break) is not counted: the model stops before it. TRL's
trainers do count it.

A templated prompt has one BOS: the template's, or, where the template writes none and the tokenizer would add one by
itself, the tokenizer's.

With ``--chat-template raw`` there is no template: the prompt's text as it is, the answer, EOS. TRL's trainers make the
same tokens of pairs in the standard format (texts, not messages).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from harness.domain import Checkpoint, EngineOptions, Message, PreferencePair, Prompt
from harness.engines import templates
from harness.errors import CheckpointError, MeasurementError

_SENTINEL = "zqxsentinelxqz"

Conversation: TypeAlias = "str | Sequence[Message]"
"""A prompt: a single user turn as text, or the turns before the answer."""


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """What a template writes around an assistant's answer."""

    lead: str
    """Text between the generation prompt and the answer."""
    tail: str
    """Text after the answer, to the end of the turn's rendering."""
    text: str
    """The end-of-turn token as text, with white space the template puts before it."""
    token: int
    """The end-of-turn token's id."""


@dataclass(frozen=True, slots=True)
class TokenisedPair:
    """Token ids of one preference pair."""

    chosen_prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    """Tokens of y⁺, the end of turn included."""
    rejected_prompt: tuple[int, ...]
    rejected: tuple[int, ...]
    apart: bool
    """A response had to be tokenised apart from its prompt."""
    others: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """(prompt, response) of each third response."""
    pieces: tuple[tuple[str, ...], ...] = ()
    """Texts of the tokens of chosen, rejected and third responses, which joined are the text that was scored; each ()
    for a tokenizer that does not say where in the text its tokens are."""


class ChatTokenizer:
    """A tokenizer with its chat template: prompts and pairs as token ids.

    Raises ``CheckpointError`` on construction where the template cannot be rendered or no end of turn is known.
    """

    def __init__(self, tokenizer: Any, *, where: str, stop_tokens: Sequence[int] = ()) -> None:
        """``tokenizer`` has its ``chat_template`` set; ``stop_tokens`` are the generation config's EOS ids."""
        self.tokenizer = tokenizer
        self.where = where
        self.bos: int | None = tokenizer.bos_token_id
        self._prepends_bos = self._tokenizer_adds_bos() and not self._template_writes_bos()
        self.end = self._find_end_of_turn(tuple(stop_tokens))
        eos = tokenizer.eos_token_id
        known = {self.end.token, *stop_tokens} | ({eos} if eos is not None else set())
        self.stops: tuple[int, ...] = tuple(sorted(known))
        """Tokens that end an answer: the template's end of turn and every EOS."""
        pad = tokenizer.pad_token_id
        self.pad: int = pad if pad is not None else self.end.token
        """Fills batches; always masked, so which one it is changes nothing."""

    def prompt_text(self, prompt: Conversation) -> str:
        """The templated prompt with its generation prompt."""
        return self._render(_turns(prompt), generation=True)

    def prompt_ids(self, prompt: Conversation) -> tuple[int, ...]:
        """Token ids of the templated prompt, [P], with one BOS where the tokenizer knows one."""
        return self._with_bos(self._encode(self.prompt_text(prompt)))

    def ids_of(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a corpus' prompt, [P], as ``prompt_ids``.

        Raises ``MeasurementError`` naming the prompt where the template does not take its conversation.
        """
        if prompt.messages:
            self._check_taken(f"prompt {prompt.id!r}", prompt.messages)
        return self.prompt_ids(prompt.conversation)

    def _tokenizer_adds_bos(self) -> bool:
        return self.bos is not None and self.tokenizer("a")["input_ids"][:1] == [self.bos]

    def _template_writes_bos(self) -> bool:
        return self.prompt_text("a").lstrip().startswith(self.tokenizer.bos_token)

    def pair_ids(self, pair: PreferencePair) -> TokenisedPair:
        """Token ids of a pair's prompt and its responses.

        Raises ``MeasurementError`` naming the pair where the template does not take its conversation.
        """
        if pair.messages:
            self._check_taken(f"pair {pair.id!r}", pair.messages)
        responses = [self._response(pair.conversation, text) for text in (pair.chosen, pair.rejected, *pair.others)]
        (chosen_prompt, chosen, _, _), (rejected_prompt, rejected, _, _) = responses[:2]
        return TokenisedPair(
            chosen_prompt=chosen_prompt,
            chosen=chosen,
            rejected_prompt=rejected_prompt,
            rejected=rejected,
            apart=any(apart for _, _, apart, _ in responses),
            others=tuple((prompt, response) for prompt, response, _, _ in responses[2:]),
            pieces=tuple(pieces for *_, pieces in responses),
        )

    def _check_taken(self, what: str, messages: Sequence[Message]) -> None:
        """A template may refuse a role, or leave its turns out without a word: the model would not see the prompt."""
        roles = ", ".join(message.role for message in messages)
        try:
            text = self.prompt_text(messages)
        except CheckpointError as error:
            raise MeasurementError(
                f"{what}: the chat template of {self.where} does not take its conversation ({roles}): "
                f"{first_line(error.__cause__ or error)}; {_CURE_ROLES}"
            ) from error
        for message in messages:
            if message.role != "assistant" and message.content.strip() not in text:
                raise MeasurementError(
                    f"{what}: the chat template of {self.where} leaves out a turn of the {message.role} in its "
                    f"conversation ({roles}); {_CURE_ROLES}"
                )

    def response_ids(self, prompt: Conversation, response: str) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
        """(prompt ids [P], response ids [R], tokenised apart) of one response."""
        return self._response(prompt, response)[:3]

    def _response(
        self, prompt: Conversation, response: str
    ) -> tuple[tuple[int, ...], tuple[int, ...], bool, tuple[str, ...]]:
        """As ``response_ids``, and the texts of the response's tokens."""
        prompt_text = self.prompt_text(prompt)
        answer = self._answer_text(prompt, prompt_text, response)
        prompt_ids = self._encode(prompt_text)
        ids, pieces = self._encode_pieces(prompt_text + answer, len(prompt_ids))
        apart = ids[: len(prompt_ids)] != prompt_ids
        if apart:
            ids, pieces = self._encode_pieces(answer, 0)
        response_ids = ids if apart else ids[len(prompt_ids) :]
        if not response_ids or response_ids[-1] != self.end.token:
            response_ids = (*response_ids, self.end.token)
            pieces = (*pieces, str(self.tokenizer.convert_ids_to_tokens(self.end.token))) if self._tells_offsets else ()
        return self._with_bos(prompt_ids), response_ids, apart, pieces

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def vocabulary(self, size: int) -> tuple[str, ...]:
        """[size] each token's text, ``""`` for rows of the model that no token has."""
        known = min(size, self.largest_id + 1)
        texts = self.tokenizer.batch_decode([[token] for token in range(known)], clean_up_tokenization_spaces=False)
        return (*texts, *[""] * (size - known))

    @property
    def largest_id(self) -> int:
        """The largest token id the tokenizer can give."""
        largest: int = max(self.tokenizer.get_vocab().values())
        return largest

    def _answer_text(self, prompt: Conversation, prompt_text: str, response: str) -> str:
        """What follows the prompt's text: the answer as the template writes it, to the end of turn."""
        if self._raw and self.end.text and response.endswith(self.end.text):
            return response  # like TRL, which adds EOS only where it is missing
        lead = self.end.lead
        rendered = self._render([*_turns(prompt), {"role": "assistant", "content": response}], generation=False)
        start, stop = len(prompt_text) + len(lead), len(rendered) - len(self.end.tail)
        fits = rendered.startswith(prompt_text + lead) and rendered.endswith(self.end.tail)
        written = rendered[start:stop] if fits else ""
        # Only what a template may do to white space counts: anything else would not be the answer that was asked about.
        answer = written if written.strip() == response.strip() else response
        return (lead if not lead.strip() else "") + answer + self.end.text

    @property
    def _raw(self) -> bool:
        return bool(self.tokenizer.chat_template == templates.RAW_TEMPLATE)

    def _find_end_of_turn(self, stop_tokens: tuple[int, ...]) -> EndOfTurn:
        """Render an answer that cannot be anything else and look at what follows it."""
        user = {"role": "user", "content": "a"}
        prompt = self._render([user], generation=True)
        turn = self._render([user, {"role": "assistant", "content": _SENTINEL}], generation=False)
        before, found, tail = turn.rpartition(_SENTINEL)
        lead = before[len(prompt) :] if found and before.startswith(prompt) else ""
        if not found:
            raise CheckpointError(f"{self.where}: its chat template leaves out the assistant's answer; {_CURE}")
        ending = tail.lstrip()
        ids = self._encode(ending)
        if ids and ids[0] in self._added:
            text = tail[: len(tail) - len(ending)] + str(self.tokenizer.convert_ids_to_tokens(ids[0]))
            if tail.startswith(text):
                return EndOfTurn(lead, tail, text, ids[0])
        eos = self.tokenizer.eos_token_id
        token = eos if eos is not None else (stop_tokens[0] if stop_tokens else None)
        if token is None:
            raise CheckpointError(
                f"{self.where}: neither its chat template nor its tokenizer nor its generation_config.json says which "
                "token ends an answer; set eos_token in tokenizer_config.json"
            )
        text = str(self.tokenizer.convert_ids_to_tokens(token))
        return EndOfTurn(lead, tail, text if self._encode(text) == (token,) else "", token)

    @property
    def _added(self) -> frozenset[int]:
        """Tokens that are matched as wholes: the special ones."""
        return frozenset(self.tokenizer.added_tokens_decoder) | frozenset(self.tokenizer.all_special_ids)

    def _render(self, messages: list[dict[str, str]], *, generation: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        except Exception as error:  # a template is a program of its author's: it may raise anything
            raise CheckpointError(f"{self.where}: its chat template fails ({error}); {_CURE}") from error
        return str(text)

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return tuple(ids)

    @property
    def _tells_offsets(self) -> bool:
        return bool(self.tokenizer.is_fast)

    def _encode_pieces(self, text: str, skip: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """All token ids, and the texts of those after the first ``skip``: from the end of one to the end of the next.

        Of several tokens that make one character together the first one has its text, the others ''.
        """
        if not self._tells_offsets:
            return self._encode(text), ()
        encoded = self.tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        edges = [ends[skip - 1] if 0 < skip <= len(ends) else 0, *ends[skip:]]
        pieces = tuple(sys.intern(text[start:end]) for start, end in pairwise(edges))
        return tuple(encoded["input_ids"]), pieces

    def _with_bos(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if not self._prepends_bos or self.bos is None or ids[:1] == (self.bos,):
            return ids
        return (self.bos, *ids)


def _turns(prompt: Conversation) -> list[dict[str, str]]:
    """A prompt as templates take it."""
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return [{"role": message.role, "content": message.content} for message in messages]


_CURE_ROLES = (
    "write the system text into the user's turn, take it out of the data, or pass a template that takes such "
    "conversations: --chat-template FILE"
)
_CURE = "pass one that works: --chat-template FILE"


def load_tokenizer(checkpoint: Checkpoint, options: EngineOptions) -> Any:
    """The checkpoint's transformers tokenizer with the chat template in use. Raises ``CheckpointError``."""
    import transformers

    path, base = Path(checkpoint.path), Path(checkpoint.base) if checkpoint.base else None
    home = templates.tokenizer_home(path, base)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(home, trust_remote_code=options.trust_remote_code)
    except Exception as error:
        raise CheckpointError(f"the tokenizer in {home} cannot be loaded: {first_line(error)}") from error
    tokenizer.chat_template = templates.template_text(path, base, options.chat_template)
    return tokenizer


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with its type."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def stop_tokens(path: Path) -> tuple[int, ...]:
    """EOS ids of a model directory's generation_config.json, else of its config.json; () where there are none."""
    for name in ("generation_config.json", "config.json"):
        if (path / name).is_file():
            eos = templates.read_json(path / name).get("eos_token_id")
            ids = eos if isinstance(eos, list) else [eos]
            if all(isinstance(token, int) for token in ids):
                return tuple(ids)
    return ()
