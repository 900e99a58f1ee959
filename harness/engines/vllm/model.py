"""An opened checkpoint of the vLLM engine: vLLM generates, the transformers engine does everything else.

Neither is started before it is needed, and the one gives its memory back before the other takes some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from harness.domain import (
    Checkpoint,
    Completion,
    Decoding,
    EngineOptions,
    FinishReason,
    PairGradient,
    PairScore,
    PreferencePair,
    Prompt,
    ResponseScore,
    TaskResult,
    TaskSpec,
)
from harness.engines.loading import CANARIES
from harness.engines.seeds import stream_seed
from harness.engines.tokens import ChatTokenizer, TokenisedPair, load_tokenizer, stop_tokens
from harness.engines.vllm.server import Adapter, Ask, Died, Server
from harness.errors import CheckpointError, MeasurementError, MismatchError, UnfinishedError
from harness.protocols import Model, OnProgress, PairResults, canaries_apart, no_progress


class Host(Protocol):
    """Who starts and stops what a model runs on."""

    canaries: dict[str, tuple[float, ...]]
    """Identity of a checkpoint -> what vLLM gave of the fixed texts: one may be opened to generate, and again to be
    scored."""

    def server(self, checkpoint: Checkpoint) -> Server:
        """A running server of the checkpoint's weights."""
        ...

    def adapter(self, checkpoint: Checkpoint) -> Adapter | None:
        """The checkpoint's adapter as its server knows it."""
        ...

    def stop(self, checkpoint: Checkpoint) -> None:
        """Stop the server of these weights, where one runs."""
        ...


class VllmModel:
    """One checkpoint, open. Usable until the engine is asked for the next one."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        host: Host,
        options: EngineOptions,
        scoring: Callable[[], Model],
        stop_scoring: Callable[[], None],
        *,
        score_with: str,
        tolerance: float,
    ) -> None:
        """``scoring`` opens the checkpoint with the transformers engine, or gives it where it is open already.

        ``tolerance``: nats by which its log-probabilities of fixed texts may differ from vLLM's.
        """
        self.checkpoint = checkpoint
        self._host = host
        self._options = options
        self._scoring = scoring
        self._stop_scoring = stop_scoring
        self._score_with = score_with
        self._tolerance = tolerance
        self._tokenizer: ChatTokenizer | None = None
        self._canary: tuple[float, ...] = ()
        self._notes: dict[str, None] = {}
        self._open = True

    @property
    def canary(self) -> tuple[float, ...]:
        """Log-probabilities of a few fixed texts by vLLM, nats; starts it where it does not run yet."""
        if not self._canary:
            self._ready()
        return self._canary

    @property
    def notes(self) -> tuple[str, ...]:
        """What the transformers engine has to say of its numbers."""
        return tuple(self._notes)

    def close(self) -> None:
        """Nothing can be asked any more."""
        self._open = False

    # ------------------------------------------------------------ vLLM

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, on_progress: OnProgress = no_progress
    ) -> list[Completion]:
        """``decoding.samples`` answers per prompt, prompt-major. Progress counts prompts, as they are finished.

        Raises:
            CheckpointError: vLLM cannot run the checkpoint.
            MeasurementError: a prompt that leaves no room for ``max_new_tokens``, or logits that are not finite.
            UnfinishedError: vLLM died; holds the answers of the prompts that were finished by then.
        """
        server, chat = self._ready(), self._chat
        asked = [(prompt, sample) for prompt in prompts for sample in range(decoding.samples)]
        rows = {prompt.id: chat.ids_of(prompt) for prompt in prompts}
        for prompt in prompts:
            self._check_room(prompt, len(rows[prompt.id]), decoding.max_new_tokens, server.context)
        found: dict[int, Completion] = {}
        left = {prompt.id: decoding.samples for prompt in prompts}

        def finished(number: int, tokens: list[int]) -> None:
            prompt, sample = asked[number]
            found[number] = self._completion(prompt, sample, tokens)
            left[prompt.id] -= 1
            if not left[prompt.id]:
                on_progress(1)

        try:
            server.generate(
                [Ask(rows[prompt.id], stream_seed(decoding.seed, prompt.id, sample)) for prompt, sample in asked],
                temperature=decoding.temperature,
                max_new_tokens=decoding.max_new_tokens,
                stops=chat.stops,
                adapter=self._host.adapter(self.checkpoint),
                on_finished=finished,
            )
        except Died as error:
            self._host.stop(self.checkpoint)
            whole = [found[number] for number in sorted(found) if not left[found[number].prompt_id]]
            done = sum(not count for count in left.values())
            raise UnfinishedError(
                f"vLLM died while {self.checkpoint.name} was generating, after {done} of {len(prompts)} prompts "
                f"({error}); if memory ran out, lower --engine-option gpu_memory_utilization or max_num_seqs",
                whole,
            ) from error
        return [found[number] for number in range(len(asked))]

    def _completion(self, prompt: Prompt, sample: int, tokens: list[int]) -> Completion:
        stopped = tokens[-1] in self._chat.stops
        return Completion(
            prompt_id=prompt.id,
            sample=sample,
            text=self._chat.decode(tokens[:-1] if stopped else tokens),
            tokens=len(tokens),
            finish=FinishReason.STOP if stopped else FinishReason.LENGTH,
            category=prompt.category,
        )

    def _check_room(self, prompt: Prompt, tokens: int, new: int, context: int) -> None:
        if not tokens:
            raise MeasurementError(f"prompt {prompt.id!r} has no tokens; take it out of the corpus")
        if tokens + new > context:
            raise MeasurementError(
                f"prompt {prompt.id!r} has {tokens} tokens; with max_new_tokens {new} that is more than the {context} "
                f"positions of {self.checkpoint.name} in vLLM; shorten the prompt, lower decoding.max_new_tokens, or "
                "raise --engine-option max_model_len where the model allows it"
            )

    def _ready(self) -> Server:
        """A running server that gives this checkpoint finite numbers, its adapter applied."""
        assert self._open, f"{self.checkpoint.name} is closed: the engine has moved on"
        self._stop_scoring()
        server = self._host.server(self.checkpoint)
        if not self._canary:
            self._canary = self._host.canaries[self.checkpoint.identity] = self._first_signs(server)
        return server

    def _first_signs(self, server: Server) -> tuple[float, ...]:
        """Raises ``CheckpointError`` on NaN or infinite numbers, and where an adapter changes nothing."""
        rows = []
        for prompt, answer in CANARIES:
            prompt_ids, answer_ids, _ = self._chat.response_ids(prompt, answer)
            rows.append((prompt_ids + answer_ids)[: server.context - 1])  # vLLM generates one token more
        adapter = self._host.adapter(self.checkpoint)
        try:
            found = [math.fsum(row) for row in server.logprobs(rows, adapter)]
            base = [math.fsum(row) for row in server.logprobs(rows, None)] if adapter else []
        except Died as error:
            self._host.stop(self.checkpoint)
            raise CheckpointError(f"vLLM cannot run {self.checkpoint.path}: {error}; --engine hf may run it") from error
        if not all(map(math.isfinite, found)):
            raise CheckpointError(
                f"{self.checkpoint.path} gives NaN or infinite logits: its weights are damaged or its training "
                "diverged, or numbers overflow in this dtype (try --model-dtype float32)"
            )
        if adapter and found == base and not self._options.allow_identical:
            raise CheckpointError(
                f"the adapter {self.checkpoint.path} changes nothing: its log-probabilities are exactly those of its "
                f"base {self.checkpoint.base}; was it saved before training, or for another architecture? "
                "(--allow-identical compares it all the same)"
            )
        return tuple(found)

    @property
    def _chat(self) -> ChatTokenizer:
        if self._tokenizer is None:
            stops = stop_tokens(Path(self.checkpoint.base or self.checkpoint.path))
            tokenizer = load_tokenizer(self.checkpoint, self._options)
            self._tokenizer = ChatTokenizer(tokenizer, where=self.checkpoint.path, stop_tokens=stops)
        return self._tokenizer

    # ------------------------------------------------------------ the transformers engine

    def score(
        self,
        pairs: Sequence[PreferencePair],
        *,
        similarity: bool = False,
        first_tokens: bool = False,
        on_progress: OnProgress = no_progress,
    ) -> PairResults:
        """See ``HfModel.score``; with the setting ``score_with: vllm`` the log-probabilities are vLLM's.

        Raises ``MeasurementError`` where vLLM is asked for what takes hidden states or whole distributions.
        """
        if self._score_with == "vllm":
            if similarity or first_tokens:
                raise MeasurementError(
                    "vLLM gives neither hidden states nor whole distributions, so similarities and first tokens need "
                    "--engine-option score_with=hf"
                )
            return PairResults(self._logprobs(pairs, on_progress))
        model = self._transformers()
        try:
            return model.score(pairs, similarity=similarity, first_tokens=first_tokens, on_progress=on_progress)
        finally:
            self._notes.update(dict.fromkeys(model.notes))

    def gradients(self, pairs: Sequence[PreferencePair], on_progress: OnProgress = no_progress) -> list[PairGradient]:
        """See ``HfModel.gradients``."""
        return self._transformers().gradients(pairs, on_progress)

    def evaluate(self, task: TaskSpec, on_progress: OnProgress = no_progress) -> TaskResult:
        """See ``HfModel.evaluate``."""
        return self._transformers().evaluate(task, on_progress)

    def _transformers(self) -> Model:
        assert self._open, f"{self.checkpoint.name} is closed: the engine has moved on"
        self._host.stop(self.checkpoint)
        model = self._scoring()
        said = self._host.canaries.get(self.checkpoint.identity)  # also by a model before this one
        if said is not None and not (apart := canaries_apart(said, model.canary)) <= self._tolerance:
            raise MismatchError(
                f"vLLM and transformers run {self.checkpoint.spec} differently: their log-probabilities of a fixed "
                f"text are {apart:.3f} nats apart (at most {self._tolerance:g} by rounding), so answers and scores "
                "would be of two models; --engine hf runs it by one"
            )
        return model

    def _logprobs(self, pairs: Sequence[PreferencePair], on_progress: OnProgress) -> list[PairScore]:
        server, chat = self._ready(), self._chat
        adapter = self._host.adapter(self.checkpoint)
        scores = []
        for pair in pairs:
            ids = chat.pair_ids(pair)
            rows = _rows(ids)
            longest = max(len(prompt) + len(response) for prompt, response in rows)
            if longest >= server.context or not all(prompt for prompt, _ in rows):
                raise MeasurementError(
                    f"pair {pair.id!r} has {longest} tokens with its prompt, and vLLM takes from 2 to "
                    f"{server.context - 1} for {self.checkpoint.name}; take it out of the corpus or shorten it"
                )
            try:
                values = server.logprobs([prompt + response for prompt, response in rows], adapter)
            except Died as error:
                self._host.stop(self.checkpoint)
                raise MeasurementError(f"vLLM died while {self.checkpoint.name} was scoring: {error}") from error
            responses = [
                ResponseScore(tuple(row[len(prompt) - 1 :]), pieces)
                for row, (prompt, _), pieces in zip(values, rows, ids.pieces, strict=True)
            ]
            if not all(math.isfinite(value) for response in responses for value in response.token_logprobs):
                raise MeasurementError(
                    f"{self.checkpoint.name} gives a log-probability that is not finite on pair {pair.id!r}; try "
                    "--model-dtype float32"
                )
            chosen, rejected, *others = responses
            scores.append(PairScore(pair.id, chosen, rejected, ids.apart, pair.category, tuple(others), pair.prompt_id))
            on_progress(1)
        return scores


def _rows(ids: TokenisedPair) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt, response) of a pair's sequences: chosen, rejected, third responses."""
    return [(ids.chosen_prompt, ids.chosen), (ids.rejected_prompt, ids.rejected), *ids.others]
