"""An opened model of the engine ``openai``: answers from its server, and scores where that gives log-probabilities.

Each answer is a request of its own with a seed of its own. After every piece of work the server is asked again what it
serves, and for the log-probabilities of fixed texts where it gives them: a model that was changed in between is an
error, not a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness import endpoints
from harness.domain import (
    Checkpoint,
    Completion,
    Decoding,
    EngineOptions,
    PairGradient,
    PairScore,
    PreferencePair,
    Prompt,
    ResponseScore,
    TaskResult,
    TaskSpec,
)
from harness.endpoints import Failure
from harness.engines import templates
from harness.engines.endpoint import replies as endpoint_replies
from harness.engines.endpoint import tokens as endpoint_tokens
from harness.engines.endpoint.replies import Answer
from harness.engines.endpoint.scores import PromptScorer
from harness.engines.endpoint.server import Served, Server, sampling
from harness.engines.seeds import stream_seed
from harness.errors import CheckpointError, MeasurementError, UnfinishedError
from harness.protocols import OnProgress, PairResults, canaries_apart, no_progress

if TYPE_CHECKING:
    import openai

    from harness.engines.tokens import ChatTokenizer

PROMPTS = ("What is the capital of France?", "Tell me something about the sea.")
"""Asked twice each, greedily, to see whether the server repeats itself; and for the check of log-probabilities."""

REPEATED = 32
"""Tokens of these answers."""

DRIFT = 0.5
"""Nats by which the log-probability of a fixed text (some 15 tokens) may move within a run: half precision is noisy."""

_ELSEWHERE = "run these limits with --engine hf or vllm on the checkpoint itself"


class ServedModel:
    """One served model. ``start`` must be called first."""

    def __init__(self, checkpoint: Checkpoint, server: Server, served: Served, options: EngineOptions) -> None:
        self.checkpoint = checkpoint
        self._server = server
        self._served = served
        self._options = options
        self._settings = server.settings
        self._scorer = PromptScorer(server, served)
        self._tokens = endpoint_tokens.ServerTokens(server, served)
        self._canary: tuple[float, ...] = ()
        self._checked = False
        self._chat: ChatTokenizer | None = None
        self._sources: Counter[tuple[str, str]] = Counter()
        """(model, fingerprint) by the replies -> how many."""
        self._notes: list[str] = []

    def start(self) -> None:
        """See that it answers, whether it repeats itself, and whether it gives log-probabilities.

        Raises:
            CheckpointError: it is not served any more as it was when the run began.
            MeasurementError: it does not answer.
        """
        self._still_there()
        self._run(self._start)
        if not self._canary:
            self._notes.append(
                "the server gives no log-probabilities of prompts, so only its name and its answers show which model "
                f"this is, and nothing can be scored ({self._scorer.why_not})"
            )
        if not self._served.takes_sampling:
            self._notes.append(
                "sampling settings of the server's own (top_p, top_k, penalties) apply where it has any: it is not "
                "known how to switch them off in this kind of server"
            )

    @property
    def canary(self) -> tuple[float, ...]:
        """Log-probabilities of a few fixed texts, nats; () where the server gives none, which proves nothing."""
        return self._canary

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of this model's numbers should know."""
        if len(self._sources) > 1:
            said = [f"{mark or 'none'} in {count:,}" for (_, mark), count in self._sources.most_common(5)]
            return (*self._notes, f"the server changed: its replies have the system_fingerprint {', '.join(said)}")
        other = [model for model, _ in self._sources if model and model != self._served.model]
        if other:
            return (*self._notes, f"the server answers under another name: {other[0]!r}")
        return tuple(self._notes)

    # ------------------------------------------------------------ answers

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, on_progress: OnProgress = no_progress
    ) -> list[Completion]:
        """``decoding.samples`` answers per prompt, prompt-major. Progress counts prompts.

        Raises:
            UnfinishedError: the server broke; holds the answers that came before.
            MeasurementError: a reply that is not the model's answer (see ``replies``), or a changed model.
        """
        asked = [(prompt, sample) for prompt in prompts for sample in range(decoding.samples)]
        bodies = [self._request(prompt, sample, decoding) for prompt, sample in asked]
        found: dict[int, Completion] = {}
        left = Counter(prompt.id for prompt, _ in asked)

        def keep(item: tuple[int, Answer]) -> None:
            place, answer = item
            prompt, sample = asked[place]
            found[place] = Completion(prompt.id, sample, answer.text, answer.tokens, answer.finish, prompt.category)
            left[prompt.id] -= 1
            if not left[prompt.id]:
                on_progress(1)

        async def ask_all(client: openai.AsyncOpenAI, report: Callable[[tuple[int, Answer]], None]) -> None:
            async def ask(place: int) -> None:
                path, body = bodies[place]
                report((place, await self._answer(client, path, body, f"prompt {asked[place][0].id!r}")))

            await endpoints.each(range(len(asked)), ask, self._settings.concurrency)

        try:
            self._run(ask_all, keep)
        except _Broke as error:
            finished = [found[place] for place in sorted(found)]
            raise UnfinishedError(
                f"{self.checkpoint.name}: {error}; {len(finished):,} of {len(asked):,} answers had come", finished
            ) from None
        self._unchanged()
        return [found[place] for place in range(len(asked))]

    def _request(self, prompt: Prompt, sample: int, decoding: Decoding) -> tuple[str, dict[str, object]]:
        """(path, body) for one answer."""
        body: dict[str, object] = {
            "model": self._served.model,
            "temperature": decoding.temperature,
            "max_tokens": decoding.max_new_tokens,
            "seed": stream_seed(decoding.seed, prompt.id, sample) >> 32,  # 31 bits: any server's integer holds it
            "n": 1,
            "stream": False,
            **sampling(self._served),
            **self._settings.extra_body,
        }
        template = self._options.chat_template
        if not template:
            turns = [{"role": turn.role, "content": turn.content} for turn in prompt.conversation]
            return "/chat/completions", {**body, "messages": turns}
        if template == templates.RAW and not self._settings.tokenizer:
            return "/completions", {**body, "prompt": "".join(turn.content for turn in prompt.conversation)}
        chat = self._tokenizer()
        stops = {"stop_token_ids": list(chat.stops)} if self._served.takes_sampling else {}
        return "/completions", {**body, "prompt": list(chat.ids_of(prompt)), **stops}

    async def _answer(self, client: openai.AsyncOpenAI, path: str, body: dict[str, object], where: str) -> Answer:
        most = body["max_tokens"]
        assert isinstance(most, int), "set in _request and _greedy"
        found = await self._server.answers.ask(
            client, path, body, lambda raw: endpoint_replies.read(raw, most, self._server.answers.hide)
        )
        if isinstance(found, Failure):
            if found.again:
                raise _Broke(f"the server at {self._server.url} broke at {where}: {found.after}")
            raise MeasurementError(f"{self.checkpoint.name}, {where}: {found.reason}{self._cure(found)}")
        self._count(found)
        return found

    def _cure(self, failure: Failure) -> str:
        if failure.status in (401, 403):
            return "; name the variable that holds the server's key: --engine-option api_key_env=NAME"
        return ""

    def _count(self, answer: Answer) -> None:
        """Who answered. Raises ``MeasurementError`` where it was another of the server's models."""
        self._sources[answer.model, answer.fingerprint] += 1
        names = {model for model, _ in self._sources}
        if len(names) > 1:
            raise MeasurementError(
                f"{self.checkpoint.name}: the server's replies come from {' and '.join(sorted(map(repr, names)))}: it "
                "was restarted or passes requests on to several models, so the answers are not one model's"
            )
        other = self._served.others.get(answer.model)
        if (
            answer.model != self._served.model
            and other is not None
            and other != self._served.others[self._served.model]
        ):
            raise MeasurementError(
                f"{self.checkpoint.name}: the server was asked for {self._served.model!r} and answered with another of "
                f"its models, {answer.model!r}"
            )

    # ------------------------------------------------------------ scores

    def score(
        self,
        pairs: Sequence[PreferencePair],
        *,
        similarity: bool = False,
        first_tokens: bool = False,
        on_progress: OnProgress = no_progress,
    ) -> PairResults:
        """Log-probabilities of the responses, where the server gives them. Progress counts pairs.

        Raises:
            MeasurementError: it does not, they fail the check against its own answers, or more was asked for.
        """
        if similarity:
            raise MeasurementError(f"a server gives no hidden states, from which similarities are made; {_ELSEWHERE}")
        if first_tokens:
            raise MeasurementError(
                "a server gives the likeliest tokens only, and this needs the probability of every first token; "
                f"{_ELSEWHERE}"
            )
        if not self._canary:
            raise MeasurementError(
                f"the server at {self._server.url} offers no prompt log-probabilities ({self._scorer.why_not}), so "
                f"responses cannot be scored; {_ELSEWHERE}"
            )
        if self._options.chat_template and not self._settings.tokenizer:
            raise MeasurementError(
                f"scores with --chat-template {self._options.chat_template} need the token ids; {endpoint_tokens.CURE}"
            )
        found: dict[int, PairScore] = {}

        def keep(item: tuple[int, PairScore]) -> None:
            found[item[0]] = item[1]
            on_progress(1)

        chat = self._tokenizer() if self._settings.tokenizer else None

        async def score_all(client: openai.AsyncOpenAI, report: Callable[[tuple[int, PairScore]], None]) -> None:
            if not self._checked:
                await self._check(client, chat)
                self._checked = True

            async def score(place: int) -> None:
                report((place, await self._score(client, chat, pairs[place])))

            at_once = 1 if self._served.has_adapters else self._settings.concurrency
            await endpoints.each(range(len(pairs)), score, at_once)

        self._run(score_all, keep)
        self._unchanged()
        return PairResults([found[place] for place in range(len(pairs))])

    async def _score(self, client: openai.AsyncOpenAI, chat: ChatTokenizer | None, pair: PreferencePair) -> PairScore:
        ids = endpoint_tokens.of_pair(chat, pair) if chat else await self._tokens.of_pair(client, pair)
        scores = []
        for (prompt, response), pieces in zip(ids.rows, ids.pieces or [()] * len(ids.rows), strict=True):
            if not prompt:
                raise MeasurementError(f"pair {pair.id!r}: its prompt has no tokens; take it out of the corpus")
            row = await self._scorer.row(client, [*prompt, *response])
            if isinstance(row, Failure):
                raise MeasurementError(f"{self.checkpoint.name} gives no score of pair {pair.id!r}: {row.after}")
            scores.append(ResponseScore(row.logprobs[-len(response) :], pieces))
        chosen, rejected, *others = scores
        return PairScore(pair.id, chosen, rejected, ids.apart, pair.category, tuple(others), pair.prompt_id)

    async def _check(self, client: openai.AsyncOpenAI, chat: ChatTokenizer | None) -> None:
        """The server's log-probabilities against its own answers, and the tokenizer's files against the server's."""
        served = [await self._tokens.prompt_ids(client, prompt) for prompt in PROMPTS]
        if chat is None:
            for ids in served:
                if isinstance(ids, Failure):
                    if ids.again:
                        raise MeasurementError(f"the server at {self._server.url} broke: {ids.after}")
                    raise MeasurementError(
                        f"the server at {self._server.url} offers log-probabilities but does not tokenize "
                        f"({ids.after}), so it is not known which tokens a response has; {endpoint_tokens.CURE}"
                    )
            await self._scorer.check(client, [ids for ids in served if not isinstance(ids, Failure)])
            return
        own = [chat.prompt_ids(prompt) for prompt in PROMPTS]
        answers = await self._scorer.check(client, own)
        where = f"the tokenizer {self._settings.tokenizer} (engine option) is not that of {self.checkpoint.spec}"
        if any(chat.decode(ids) != text for ids, text in answers):
            raise MeasurementError(f"{where}: it reads other words in the tokens of an answer")
        if self._options.chat_template:
            return
        for prompt, ids, theirs in zip(PROMPTS, own, served, strict=True):
            if isinstance(theirs, Failure):
                count = (await self._greedy(client, prompt, 1)).prompt_tokens
            else:
                count = len(theirs) if theirs == ids else -1
            if count != len(ids):
                raise MeasurementError(
                    f"{where}, or the server uses another chat template: a prompt has other tokens there; name the "
                    "right one, or the server's template: --chat-template FILE"
                )

    def gradients(self, pairs: Sequence[PreferencePair], on_progress: OnProgress = no_progress) -> list[PairGradient]:
        """Raises ``MeasurementError``: a server runs nothing backward."""
        raise MeasurementError(f"a server gives no gradients; {_ELSEWHERE}")

    def evaluate(self, task: TaskSpec, on_progress: OnProgress = no_progress) -> TaskResult:
        """Raises ``MeasurementError``: lm-eval's tasks are asked of opened weights."""
        raise MeasurementError(f"the engine 'openai' does not run tasks of lm-eval; {_ELSEWHERE}")

    # ------------------------------------------------------------ the same model all along

    async def _start(self, client: openai.AsyncOpenAI, _: object) -> None:
        twice = [[await self._greedy(client, prompt, REPEATED) for _ in range(2)] for prompt in PROMPTS]
        differ = sum(first.text != second.text for first, second in twice)
        if differ:
            self._notes.append(
                f"greedy answers of this server do not repeat: {differ} of {len(PROMPTS)} fixed prompts were answered "
                "otherwise when asked again, so part of any difference is the server's"
            )
        self._canary = await self._scorer.find(client)

    async def _greedy(self, client: openai.AsyncOpenAI, prompt: str, tokens: int) -> Answer:
        decoding = Decoding(max_new_tokens=tokens)
        path, body = self._request(Prompt("fixed", prompt), 0, decoding)
        return await self._answer(client, path, body, f"the fixed prompt {prompt!r}")

    def _unchanged(self) -> None:
        """Raises ``MeasurementError`` where the model is not what it was when the run began."""
        try:
            self._still_there()
        except CheckpointError as error:
            raise MeasurementError(str(error)) from None
        if not self._canary:
            return

        async def ask(client: openai.AsyncOpenAI, _: object) -> tuple[float, ...] | Failure:
            return await self._scorer.canary(client)

        now = self._run(ask)
        if isinstance(now, Failure):
            raise MeasurementError(f"the server at {self._server.url} gives no log-probabilities any more: {now.after}")
        moved = canaries_apart(self._canary, now)
        if not moved <= DRIFT:
            raise MeasurementError(
                f"{self.checkpoint.name}: a fixed text has another log-probability than when the run began (by "
                f"{moved:.2f} nats): the server's model was changed during the run, so the answers are not one model's"
            )

    def _still_there(self) -> None:
        """Raises ``CheckpointError`` where the server says something else of the model than at first."""
        now = self._server.look_up(self._served.model, self.checkpoint.spec)
        if changed := self._served.differs(now):
            raise CheckpointError(
                f"{self.checkpoint.spec}: the server says something else of it than when the run began ({changed}): it "
                "was restarted or changed, so the answers are not one model's; run again"
            )

    def _tokenizer(self) -> ChatTokenizer:
        if self._chat is None:
            self._chat = endpoint_tokens.load(self.checkpoint, self._settings.tokenizer, self._options)
        return self._chat

    def _run(
        self, work: Callable[[Any, Callable[[Any], None]], Any], keep: Callable[[Any], None] = lambda _: None
    ) -> Any:
        """``work(client, report)`` in a loop of its own."""

        async def connected(report: Callable[[Any], None]) -> Any:
            async with self._server.answers.client() as client:
                return await work(client, report)

        return endpoints.run(connected, keep)


class _Broke(MeasurementError):
    """A request failed for good, for a reason that lies with the server."""
