"""An opened transformers checkpoint: ``protocols.Model`` over the functions of ``scoring`` and ``generation``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple
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
    TaskResult,
    TaskSpec,
)
from harness.engines import generation, gradients, head, layout, memory, paths, scoring
from harness.engines.batching import Countdown
from harness.engines.tokens import ChatTokenizer, TokenisedPair
from harness.errors import MeasurementError
from harness.protocols import FirstTokens, OnProgress, PairResults, no_progress

_ALONE = (
    "with a single pair, so smaller batches would not help; leave out the longest pairs, or use --model-dtype bfloat16 "
    "or a device with more memory"
)
_GRADIENTS = (
    "with the gradients of one pair, which take two more copies of the weights; use --model-dtype bfloat16 or a device "
    "with more memory, or leave out the limit on gradients"
)

CPU_TOKENS = 2048
"""Most tokens of a scored batch on a CPU."""


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
        self._choice: paths.Choice | None = None
        self._checked = 0
        self._notes: list[str] = []

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
            ids = chat.ids_of(prompt)
            if context is not None and len(ids) + decoding.max_new_tokens > context:
                raise MeasurementError(
                    f"prompt {prompt.id!r} has {len(ids)} tokens; with max_new_tokens {decoding.max_new_tokens} that "
                    f"is more than the {context} positions of {self.checkpoint.name}; shorten the prompt or lower "
                    "decoding.max_new_tokens"
                )
            requests += [generation.Request(prompt.id, sample, ids) for sample in range(decoding.samples)]
            owners += [number] * decoding.samples
        fewer = max(1, self._options.batch_tokens // 4)
        with self._explained(f"with --batch-tokens {self._options.batch_tokens}; use fewer, for example {fewer}"):
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
        """What a reader of this model's numbers should know, such as a slower path taken and why."""
        return tuple(self._notes)

    def score(
        self,
        pairs: Sequence[PreferencePair],
        *,
        similarity: bool = False,
        first_tokens: bool = False,
        on_progress: OnProgress = no_progress,
    ) -> PairResults:
        """See ``protocols.Model.score``. Progress counts pairs.

        Raises ``MeasurementError`` naming a pair that is longer than the model's context or whose numbers are not
        finite.
        """
        module, chat = self._open(), self._chat
        tokenised = self._tokenised(pairs)
        groups = [layout.share(_rows(ids)) for ids in tokenised]
        with self._explained(_ALONE):
            found = scoring.score(
                module,
                groups,
                body=self._body(max((group.longest for group in groups), default=1)),
                pad=chat.pad,
                batch_tokens=self._budget(),
                similarity=similarity,
                first=first_tokens,
                on_batch=lambda batch: on_progress(len(batch)),
                on_smaller=self._note_smaller,
            )
        return PairResults(
            scores=self._scores(pairs, tokenised, found),
            similarities=self._similarities(pairs, tokenised, found) if similarity else None,
            first_tokens=self._first_tokens(pairs, tokenised, found) if first_tokens else None,
        )

    def gradients(self, pairs: Sequence[PreferencePair], on_progress: OnProgress = no_progress) -> list[PairGradient]:
        """See ``gradients.inner_products``. Progress counts pairs. Raises ``MeasurementError`` like ``score``."""
        module = self._open()
        results = []
        for pair, ids in zip(pairs, self._tokenised(pairs), strict=True):
            chosen, rejected = _rows(ids)[:2]
            with self._explained(_GRADIENTS):
                products = gradients.inner_products(module, chosen, rejected)
            if not all(map(math.isfinite, products)):
                raise self._not_finite("a gradient", pair)
            results.append(PairGradient(pair.id, *products, category=pair.category, prompt_id=pair.prompt_id))
            on_progress(1)
        return results

    def evaluate(self, task: TaskSpec, on_progress: OnProgress = no_progress) -> TaskResult:
        """See ``capability.evaluate``."""
        from harness.engines.capability import asking as capability

        return capability.evaluate(
            self._open(),
            self._chat,
            task,
            self._options,
            on_progress,
            name=self.checkpoint.name,
            on_smaller=self._note_smaller,
        )

    def _scores(
        self, pairs: Sequence[PreferencePair], tokenised: Sequence[TokenisedPair], found: scoring.Found
    ) -> list[PairScore]:
        scores = []
        for pair, ids, rows in zip(pairs, tokenised, found.logprobs, strict=True):
            if not all(math.isfinite(value) for row in rows for value in row):
                raise self._not_finite("a log-probability", pair)
            chosen, rejected, *others = (
                ResponseScore(tuple(row), pieces) for row, pieces in zip(rows, ids.pieces, strict=True)
            )
            scores.append(PairScore(pair.id, chosen, rejected, ids.apart, pair.category, tuple(others), pair.prompt_id))
        return scores

    def _similarities(
        self, pairs: Sequence[PreferencePair], tokenised: Sequence[TokenisedPair], found: scoring.Found
    ) -> list[PairSimilarity]:
        from rapidfuzz.distance import Levenshtein

        results = []
        for pair, ids, like in zip(pairs, tokenised, found.likenesses, strict=True):
            chosen, rejected = len(ids.chosen), len(ids.rejected)
            if not all(map(math.isfinite, astuple(like))):
                raise self._not_finite("a similarity", pair)
            results.append(
                PairSimilarity(
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
                    prompt_id=pair.prompt_id,
                )
            )
        return results

    def _first_tokens(
        self, pairs: Sequence[PreferencePair], tokenised: Sequence[TokenisedPair], found: scoring.Found
    ) -> FirstTokens:
        assert found.first is not None, "asked for"
        log_probs = found.first.numpy()
        for pair, row in zip(pairs, log_probs, strict=True):
            if not np.isfinite(row).all():
                raise self._not_finite("a distribution", pair)
        first = [(ids.chosen[0], ids.rejected[0]) for ids in tokenised]
        distinct = {tokens: index for index, tokens in enumerate(dict.fromkeys(first))}
        with self._explained(_ALONE):
            directions = head.directions(self._open(), list(distinct)).numpy()
        return FirstTokens(
            pair_ids=tuple(pair.id for pair in pairs),
            log_probs=log_probs,
            chosen=np.array([chosen for chosen, _ in first], dtype=np.int64),
            rejected=np.array([rejected for _, rejected in first], dtype=np.int64),
            directions=directions,
            direction_of=np.array([distinct[tokens] for tokens in first], dtype=np.int64),
            vocabulary=self._vocabulary(log_probs.shape[1]),
        )

    def _body(self, longest: int) -> str:
        """The way to run this model: chosen once, and again where longer sequences come than it was checked for."""
        if self._choice is None or longest > self._checked:
            with self._explained(_ALONE):
                self._choice = paths.choose(
                    self._open(), self._chat, longest=longest, wanted=self._options.scoring, context=self._context()
                )
            self._checked = max(longest, paths.SHORTEST)
            if self._choice.note and self._choice.note not in self._notes:
                self._notes.append(self._choice.note)
        return self._choice.body

    def _budget(self) -> int:
        """Tokens of a batch to be scored: on a CPU fewer are as fast, and what is in the caches stays there."""
        cpu = self._open().get_input_embeddings().weight.device.type == "cpu"
        return min(self._options.batch_tokens, CPU_TOKENS) if cpu else self._options.batch_tokens

    def _note_smaller(self, budget: int) -> None:
        self._notes.append(f"ran out of memory; went on with {budget} tokens per batch")

    def _not_finite(self, what: str, pair: PreferencePair) -> MeasurementError:
        return MeasurementError(
            f"{self.checkpoint.name} gives {what} that is not finite on pair {pair.id!r}; try --model-dtype float32"
        )

    def _tokenised(self, pairs: Sequence[PreferencePair]) -> list[TokenisedPair]:
        """Token ids of the pairs, all of which fit into the context with each response."""
        tokenised = [self._chat.pair_ids(pair) for pair in pairs]
        for pair, ids in zip(pairs, tokenised, strict=True):
            if not (ids.chosen_prompt and ids.rejected_prompt):
                raise MeasurementError(
                    f"pair {pair.id!r}: its prompt has no tokens, so nothing predicts its responses' first ones; take "
                    "it out of the corpus"
                )
            self._check_length(pair.id, max(len(row.ids) for row in _rows(ids)))
        return tokenised

    def _explained(self, cure: str) -> AbstractContextManager[None]:
        return memory.explained(self.checkpoint.name, cure)

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


def _rows(ids: TokenisedPair) -> list[layout.Row]:
    """A pair's sequences: chosen, rejected, third responses."""
    both = ((ids.chosen_prompt, ids.chosen), (ids.rejected_prompt, ids.rejected))
    return [layout.Row(prompt + response, len(prompt)) for prompt, response in (*both, *ids.others)]


def context_length(module: Any) -> int | None:
    """Most positions a transformers model can take, None where it has no limit."""
    length = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None
