"""An opened transformers checkpoint: ``protocols.Model`` over the functions of ``scoring`` and ``generation``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from harness.domain import (
    Checkpoint,
    Completion,
    Decoding,
    EngineOptions,
    FinishReason,
    PairGradient,
    PairScore,
    PairSimilarity,
    PreferencePair,
    Prompt,
    ResponseScore,
)
from harness.engines import generation, memory, scoring, similarity
from harness.engines.batching import Countdown
from harness.engines.tokens import ChatTokenizer, TokenisedPair
from harness.errors import MeasurementError
from harness.protocols import FirstTokens, OnProgress, PairResults, no_progress


class HfModel:
    """One checkpoint, open. Usable until the engine is asked for the next one."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        module: Any,
        chat: ChatTokenizer,
        canary: tuple[float, ...],
        options: EngineOptions,
        vocabulary: Callable[[int], tuple[str, ...]],
    ) -> None:
        """``module`` is a transformers causal LM in eval mode; ``vocabulary`` gives the token texts for a size."""
        self.checkpoint = checkpoint
        self._module = module
        self._chat = chat
        self._canary = canary
        self._options = options
        self._vocabulary = vocabulary

    @property
    def canary(self) -> tuple[float, ...]:
        """Log-probabilities of a few fixed texts, nats."""
        return self._canary

    def close(self) -> None:
        """Let go of the weights."""
        self._module = None

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, on_progress: OnProgress = no_progress
    ) -> list[Completion]:
        """``decoding.samples`` answers per prompt, prompt-major. Progress counts prompts.

        Raises ``MeasurementError`` naming a prompt that leaves no room for ``max_new_tokens``.
        """
        module, chat, context = self._open(), self._chat, self._context()
        requests: list[generation.Request] = []
        owners: list[int] = []
        for number, prompt in enumerate(prompts):
            ids = chat.prompt_ids(prompt.text)
            if context is not None and len(ids) + decoding.max_new_tokens > context:
                raise MeasurementError(
                    f"prompt {prompt.id!r} has {len(ids)} tokens; with max_new_tokens {decoding.max_new_tokens} that "
                    f"is more than the {context} positions of {self.checkpoint.name}; shorten the prompt or lower "
                    "decoding.max_new_tokens"
                )
            requests += [generation.Request(prompt.id, sample, ids) for sample in range(decoding.samples)]
            owners += [number] * decoding.samples
        with self._explained():
            answers = generation.generate(
                module,
                requests,
                decoding,
                stops=chat.stops,
                pad=chat.pad,
                batch_tokens=self._options.batch_tokens,
                on_batch=Countdown(owners, on_progress).finished,
            )
        completions = []
        for request, owner, tokens in zip(requests, owners, answers, strict=True):
            stopped = tokens[-1] in chat.stops
            completion = Completion(
                prompt_id=request.prompt_id,
                sample=request.sample,
                text=chat.decode(tokens[:-1] if stopped else tokens),
                tokens=len(tokens),
                finish=FinishReason.STOP if stopped else FinishReason.LENGTH,
                category=prompts[owner].category,
            )
            completions.append(completion)
        return completions

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of this model's numbers should know."""
        return ()

    def score(
        self,
        pairs: Sequence[PreferencePair],
        *,
        similarity: bool = False,
        first_tokens: bool = False,
        on_progress: OnProgress = no_progress,
    ) -> PairResults:
        """See ``protocols.Model.score``. Progress counts pairs.

        Raises ``MeasurementError`` naming a pair that is longer than the model's context or whose score is not finite.
        """
        return PairResults(
            self._scores(pairs, on_progress),
            self._similarities(pairs) if similarity else None,
            self._first_tokens(pairs) if first_tokens else None,
        )

    def gradients(self, pairs: Sequence[PreferencePair], on_progress: OnProgress = no_progress) -> list[PairGradient]:
        raise NotImplementedError

    def _scores(self, pairs: Sequence[PreferencePair], on_progress: OnProgress = no_progress) -> list[PairScore]:
        """log π(y⁺|x) and log π(y⁻|x) per token, nats. Progress counts pairs.

        Raises ``MeasurementError`` naming a pair that is longer than the model's context or whose score is not finite.
        """
        module, chat = self._open(), self._chat
        tokenised = self._tokenised(pairs)
        rows = [
            scoring.Row(prompt + response, len(prompt))
            for ids in tokenised
            for prompt, response in ((ids.chosen_prompt, ids.chosen), (ids.rejected_prompt, ids.rejected))
        ]
        with self._explained():
            values = scoring.token_logprobs(
                module,
                rows,
                pad=chat.pad,
                batch_tokens=self._options.batch_tokens,
                on_batch=Countdown([row // 2 for row in range(len(rows))], on_progress).finished,
            )
        scores = []
        for number, (pair, ids) in enumerate(zip(pairs, tokenised, strict=True)):
            chosen, rejected = values[2 * number], values[2 * number + 1]
            if not all(map(math.isfinite, [*chosen, *rejected])):
                raise MeasurementError(
                    f"{self.checkpoint.name} gives a log-probability that is not finite on pair {pair.id!r}; "
                    "try --model-dtype float32"
                )
            scores.append(
                PairScore(
                    pair_id=pair.id,
                    chosen=ResponseScore(tuple(chosen)),
                    rejected=ResponseScore(tuple(rejected)),
                    tokenised_apart=ids.apart,
                    category=pair.category,
                )
            )
        return scores

    def _similarities(
        self, pairs: Sequence[PreferencePair], on_progress: OnProgress = no_progress
    ) -> list[PairSimilarity]:
        """CHES and its relatives for each pair. Progress counts pairs. Raises ``MeasurementError`` like ``score``."""
        from rapidfuzz.distance import Levenshtein

        module, chat = self._open(), self._chat
        tokenised = self._tokenised(pairs)
        with self._explained():
            found = similarity.likenesses(
                module, tokenised, pad=chat.pad, batch_tokens=self._options.batch_tokens, on_batch=on_progress
            )
        results = []
        for pair, ids, like in zip(pairs, tokenised, found, strict=True):
            chosen, rejected = len(ids.chosen), len(ids.rejected)
            result = PairSimilarity(
                pair_id=pair.id,
                category=pair.category,
                chosen_tokens=chosen,
                rejected_tokens=rejected,
                ches=like.sum_inner - like.sum_norm,
                ches_normalised=like.sum_inner / (chosen * rejected) - like.sum_norm / chosen**2,
                last_hidden=like.last_inner,
                alpha_ches=like.gradient_inner - like.gradient_chosen,
                edit=Levenshtein.normalized_similarity(ids.chosen, ids.rejected),
                gradient_chosen=like.gradient_chosen,
                gradient_inner=like.gradient_inner,
                gradient_rejected=like.gradient_rejected,
                tokenised_apart=ids.apart,
            )
            if not math.isfinite(result.ches + result.alpha_ches):
                raise MeasurementError(
                    f"{self.checkpoint.name} gives a similarity that is not finite on pair {pair.id!r}; "
                    "try --model-dtype float32"
                )
            results.append(result)
        return results

    def _first_tokens(self, pairs: Sequence[PreferencePair], on_progress: OnProgress = no_progress) -> FirstTokens:
        """The full distribution over the first response token of each pair's prompt. Progress counts pairs.

        Raises ``MeasurementError`` like ``score``.
        """
        module, chat = self._open(), self._chat
        tokenised = [chat.pair_ids(pair) for pair in pairs]
        for pair, ids in zip(pairs, tokenised, strict=True):
            self._check_length(pair.id, len(ids.chosen_prompt) + 1)
        first = [(ids.chosen[0], ids.rejected[0]) for ids in tokenised]
        distinct = {tokens: index for index, tokens in enumerate(dict.fromkeys(first))}
        with self._explained():
            log_probs = scoring.next_token_logprobs(
                module,
                [ids.chosen_prompt for ids in tokenised],
                pad=chat.pad,
                batch_tokens=self._options.batch_tokens,
                on_batch=lambda rows: on_progress(len(rows)),
            ).numpy()
            directions = scoring.directions(module, list(distinct)).numpy()
        for pair, row in zip(pairs, log_probs, strict=True):
            if not np.isfinite(row).all():
                raise MeasurementError(
                    f"{self.checkpoint.name} gives a distribution that is not finite on pair {pair.id!r}; "
                    "try --model-dtype float32"
                )
        return FirstTokens(
            pair_ids=tuple(pair.id for pair in pairs),
            log_probs=log_probs,
            chosen=np.array([chosen for chosen, _ in first], dtype=np.int64),
            rejected=np.array([rejected for _, rejected in first], dtype=np.int64),
            directions=directions,
            direction_of=np.array([distinct[tokens] for tokens in first], dtype=np.int64),
            vocabulary=self._vocabulary(log_probs.shape[1]),
        )

    def _tokenised(self, pairs: Sequence[PreferencePair]) -> list[TokenisedPair]:
        """Token ids of the pairs, all of which fit into the context with both responses."""
        tokenised = [self._chat.pair_ids(pair) for pair in pairs]
        for pair, ids in zip(pairs, tokenised, strict=True):
            self._check_length(pair.id, len(ids.chosen_prompt) + len(ids.chosen))
            self._check_length(pair.id, len(ids.rejected_prompt) + len(ids.rejected))
        return tokenised

    def _explained(self) -> AbstractContextManager[None]:
        return memory.explained(self.checkpoint.name, self._options.batch_tokens)

    def _open(self) -> Any:
        assert self._module is not None, f"{self.checkpoint.name} is closed: the engine has moved on"
        return self._module

    def _context(self) -> int | None:
        """Most positions the model can take, None where it has no limit."""
        return context_length(self._open())

    def _check_length(self, pair_id: str, tokens: int) -> None:
        context = self._context()
        if context is not None and tokens > context:
            raise MeasurementError(
                f"pair {pair_id!r} has {tokens} tokens with its prompt, more than the {context} positions of "
                f"{self.checkpoint.name}; take it out of the corpus or shorten it"
            )


def context_length(module: Any) -> int | None:
    """Most positions a transformers model can take, None where it has no limit."""
    length = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None
