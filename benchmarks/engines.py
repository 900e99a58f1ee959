"""One adapter per library. Each loads the same checkpoint and scores the same token ids.

An adapter has three steps, of which only the middle one is timed: ``prepare`` brings pairs into the library's own input
types (for ours: tokenises their text), ``run`` does everything from there to the numbers a user gets, ``read`` copies
those into ``Scores``. Libraries are imported when an adapter is made, in a process of its own.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.cases import Settings
from benchmarks.pairs import END, Pair


@dataclass(frozen=True, slots=True)
class Place:
    """Where the checkpoint is and how it runs."""

    model: str
    """Directory with config.json, model.safetensors and the tokenizer."""
    device: str
    """``cpu`` or ``cuda``."""
    dtype: str
    """``float32`` or ``bfloat16``."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What an engine found, nats. Responses are chosen, rejected of the first pair, of the second, and so on."""

    sums: list[float] | None = None
    """Per response; None where only CHES was asked for."""
    tokens: list[list[float]] | None = None
    """Per response and token; None for engines that give sums only."""
    ches: list[float] | None = None
    """Per pair; None where it was not asked for."""
    rate: float = 0.0
    """FLOP/s, of the matmul probe only."""
    path: str = ""
    """The back end used, of ours only."""


class Adapter(Protocol):
    """See the module."""

    package: str
    """The distribution whose version is reported."""

    def prepare(self, pairs: Sequence[Pair], settings: Settings) -> Any: ...

    def run(self, prepared: Any, settings: Settings) -> Any: ...

    def read(self, raw: Any, pairs: Sequence[Pair], settings: Settings) -> Scores: ...


class Ours:
    """``HfModel.score``, opened as the command line opens it."""

    package = "dpo-harness"

    def __init__(self, place: Place) -> None:
        from harness.domain import EngineOptions
        from harness.engines.hf import HfEngine

        engine = HfEngine(EngineOptions(device=place.device, dtype=place.dtype))
        self._models = engine.models([engine.resolve(place.model, "model")])
        opened: Any = next(self._models)
        self._opened = opened
        # Tokenised once, while preparing: engines are compared on the same token ids.
        opened._chat.pair_ids = functools.cache(opened._chat.pair_ids)
        self._forced: dict[str, Any] = {}

    def prepare(self, pairs: Sequence[Pair], settings: Settings) -> Any:
        from harness.domain import PreferencePair

        prepared = [
            PreferencePair(str(number), _text(pair.prompt), _text(pair.chosen[:-1]), _text(pair.rejected[:-1]))
            for number, pair in enumerate(pairs)
        ]
        for pair in prepared:
            self._opened._chat.pair_ids(pair)
        return prepared

    def run(self, prepared: Any, settings: Settings) -> Any:
        path = settings.get("path", "auto")
        if path not in self._forced:
            self._forced[path] = forced(self._opened, path)
        model = self._forced[path]
        return model.score(prepared, similarity=settings.get("similarity", False)), taken(model)

    def read(self, raw: Any, pairs: Sequence[Pair], settings: Settings) -> Scores:
        results, path = raw
        both = [score for pair in results.scores for score in (pair.chosen, pair.rejected)]
        tokens = [list(score.token_logprobs) for score in both]
        assert list(map(len, tokens)) == _lengths(pairs), "these are not the token ids that were asked about"
        ches = [pair.ches for pair in results.similarities] if results.similarities is not None else None
        return Scores([math.fsum(values) for values in tokens], tokens, ches, path=path)


def forced(model: Any, path: str) -> Any:
    """A model of ours, not used yet, that scores with the back end of this name (``auto``: its own choice).

    It shares the weights with the one given. Raises ``ValueError`` for a back end that this version does not have.
    """
    twin = copy.copy(model)
    if hasattr(model._options, "scoring"):
        twin._options = dataclasses.replace(model._options, scoring=path)
    elif path not in ("auto", "plain-rows"):
        raise ValueError(f"this version has no back end {path!r}")
    return twin


def taken(model: Any) -> str:
    """The back end a model of ours has used, '' where it does not say."""
    return str(getattr(getattr(model, "_choice", None), "body", ""))


class LmEval:
    """lm-evaluation-harness' ``hf`` model, ``_loglikelihood_tokens``."""

    package = "lm-eval"

    def __init__(self, place: Place) -> None:
        from lm_eval.models.huggingface import HFLM

        self._model: Any = HFLM(pretrained=place.model, device=place.device, dtype=place.dtype, batch_size=1)

    def prepare(self, pairs: Sequence[Pair], settings: Settings) -> Any:
        return [((None, None), list(ids[:start]), list(ids[start:])) for pair in pairs for ids, start in pair.rows]

    def run(self, prepared: Any, settings: Settings) -> Any:
        import torch

        self._model.batch_size_per_gpu = settings["batch"]
        name = settings.get("softmax_dtype")
        self._model.softmax_dtype = getattr(torch, name) if name else None
        return self._model._loglikelihood_tokens(prepared, disable_tqdm=True)

    def read(self, raw: Any, pairs: Sequence[Pair], settings: Settings) -> Scores:
        return Scores([value for value, _ in raw])


class Trl:
    """TRL's ``DPOTrainer.compute_ref_log_probs`` over its own data loader, as when it precomputes reference log-probs.

    Left out, in TRL's favour: hashing the weights and the cache file. Defaults compute the log-probs with the model
    that is trained, and with it entropy and other statistics; ``reference`` passes the model as ``ref_model``, of which
    log-probs alone are asked, beside a tiny one to train.
    """

    package = "trl"

    def __init__(self, place: Place, reference: bool = False) -> None:
        import datasets
        import torch
        import transformers
        import trl

        datasets.disable_progress_bars()
        model = _load(place)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place.model)
        policy = model
        if reference:
            shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
            heads = {"num_key_value_heads": 1, "head_dim": 32, "vocab_size": model.config.vocab_size}
            policy = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **heads)).to(model.dtype)
        self._work = Path(place.model).parent / f"trl-{time.monotonic_ns()}"
        arguments = trl.DPOConfig(
            output_dir=str(self._work),
            precompute_ref_log_probs=not reference,
            max_length=None,
            use_cpu=place.device == "cpu",
            bf16=place.dtype == "bfloat16",
            report_to=[],
            disable_tqdm=True,
        )
        row = {"prompt": "5", "chosen": "6", "rejected": "7"}
        self._trainer: Any = trl.DPOTrainer(
            model=policy,
            ref_model=model if reference else None,
            args=arguments,
            train_dataset=datasets.Dataset.from_list([row] * 2),
            processing_class=tokenizer,
        )
        self._scorer: Any = self._trainer.ref_model if reference else self._trainer.model.eval()
        assert next(self._scorer.parameters()).dtype == getattr(torch, place.dtype)

    def prepare(self, pairs: Sequence[Pair], settings: Settings) -> Any:
        import datasets

        order = list(range(len(pairs)))
        if settings.get("sort"):
            order.sort(key=lambda number: -max(len(ids) for ids, _ in pairs[number].rows))
        rows = [
            {"prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}
            for pair in (pairs[number] for number in order)
        ]
        return order, datasets.Dataset.from_list(rows)

    def run(self, prepared: Any, settings: Settings) -> Any:
        import torch

        order, dataset = prepared
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=settings["batch"],
            collate_fn=self._trainer.data_collator,
            num_workers=self._trainer.args.dataloader_num_workers,
            pin_memory=self._trainer.args.dataloader_pin_memory,
            shuffle=False,
        )
        found = []
        for batch in self._trainer.accelerator.prepare(loader):
            chosen, rejected = self._trainer.compute_ref_log_probs(self._scorer, batch)
            found.append(torch.stack([chosen.cpu(), rejected.cpu()], dim=1))
        return order, torch.cat(found)

    def read(self, raw: Any, pairs: Sequence[Pair], settings: Settings) -> Scores:
        order, found = raw
        sums = [0.0] * (2 * len(pairs))
        for number, (chosen, rejected) in zip(order, found.tolist(), strict=True):
            sums[2 * number : 2 * number + 2] = chosen, rejected
        return Scores(sums)


class Vllm:
    """vLLM's ``prompt_logprobs``."""

    package = "vllm"

    def __init__(self, place: Place) -> None:
        import vllm

        sizes = {"gpu_memory_utilization": 0.3} if place.device == "cuda" else {}
        self._model: Any = vllm.LLM(
            model=place.model, dtype=place.dtype, enforce_eager=True, skip_tokenizer_init=True, **sizes
        )

    def prepare(self, pairs: Sequence[Pair], settings: Settings) -> Any:
        return [({"prompt_token_ids": list(ids)}, start) for pair in pairs for ids, start in pair.rows]

    def run(self, prepared: Any, settings: Settings) -> Any:
        import vllm

        flat = {"flat_logprobs": True} if settings.get("flat") else {}
        sampling = vllm.SamplingParams(
            temperature=0, max_tokens=1, detokenize=False, prompt_logprobs=settings["prompt_logprobs"], **flat
        )
        outputs = self._model.generate([prompt for prompt, _ in prepared], sampling, use_tqdm=False)
        return [
            [
                output.prompt_logprobs[at][prompt["prompt_token_ids"][at]].logprob
                for at in range(start, len(prompt["prompt_token_ids"]))
            ]
            for output, (prompt, start) in zip(outputs, prepared, strict=True)
        ]

    def read(self, raw: Any, pairs: Sequence[Pair], settings: Settings) -> Scores:
        return Scores([math.fsum(values) for values in raw], raw)


class Transformers:
    """What most people write: a padded batch at a time, all logits, log-softmax, gather; and the usual CHES script.

    The script takes one pair at a time and one response at a time, keeps the hidden states of all layers and sums those
    of the last one in the model's dtype, like the code of the paper (its edit distance is left out).
    """

    package = "transformers"

    def __init__(self, place: Place) -> None:
        self._model = _load(place)

    def prepare(self, pairs: Sequence[Pair], settings: Settings) -> Any:
        return list(pairs) if settings.get("similarity") else [row for pair in pairs for row in pair.rows]

    def run(self, prepared: Any, settings: Settings) -> Any:
        import torch

        with torch.no_grad():
            if settings.get("similarity"):
                return [self._ches(pair) for pair in prepared]
            size = 2 * settings["batch"]
            batches = [prepared[begin : begin + size] for begin in range(0, len(prepared), size)]
            return [values for batch in batches for values in self._logprobs(batch)]

    def _logprobs(self, rows: Sequence[tuple[tuple[int, ...], int]]) -> list[list[float]]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        ids = pad_sequence([torch.tensor(row) for row, _ in rows], batch_first=True, padding_value=END)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row, _ in rows], batch_first=True)
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        logits = self._model(input_ids=ids, attention_mask=mask).logits
        logprobs = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        values = logprobs.gather(2, ids[:, 1:, None])[:, :, 0]
        return [values[number, start - 1 : len(row) - 1].tolist() for number, (row, start) in enumerate(rows)]

    def _ches(self, pair: Pair) -> float:
        import torch

        sums = []
        for ids, start in pair.rows:
            output = self._model(input_ids=torch.tensor([ids], device=self._model.device), output_hidden_states=True)
            sums.append(output.hidden_states[-1][0, start - 1 : -1].sum(dim=0))
        chosen, rejected = sums
        return float((chosen * rejected).sum() - chosen.norm() ** 2)

    def read(self, raw: Any, pairs: Sequence[Pair], settings: Settings) -> Scores:
        if settings.get("similarity"):
            return Scores(ches=raw)
        return Scores([math.fsum(values) for values in raw], raw)


class Reference:
    """What all are held against: float32 weights, one sequence at a time, eager attention, then float64."""

    package = "transformers"

    def __init__(self, place: Place) -> None:
        self._model = _load(Place(place.model, place.device, "float32"), attn_implementation="eager")

    def prepare(self, pairs: Sequence[Pair], settings: Settings) -> Any:
        return [row for pair in pairs for row in pair.rows]

    def run(self, prepared: Any, settings: Settings) -> Any:
        import torch

        tokens, sums = [], []
        with torch.no_grad():
            for ids, start in prepared:
                row = torch.tensor([ids], device=self._model.device)
                output = self._model(input_ids=row, use_cache=False, output_hidden_states=True)
                logprobs = output.logits[0, start - 1 : -1].double().log_softmax(dim=-1)
                tokens.append(logprobs.gather(1, row[0, start:, None])[:, 0].tolist())
                sums.append(output.hidden_states[-1][0, start - 1 : -1].double().sum(dim=0))
        ches = [float(c @ r - c @ c) for c, r in zip(sums[::2], sums[1::2], strict=True)]
        return tokens, ches

    def read(self, raw: Any, pairs: Sequence[Pair], settings: Settings) -> Scores:
        tokens, ches = raw
        return Scores([math.fsum(values) for values in tokens], tokens, ches)


class Matmul:
    """The machine's own rate of matrix products, in the dtype that is benchmarked: the best of three shapes."""

    package = "torch"

    SECONDS = 0.4

    def __init__(self, place: Place) -> None:
        import torch
        import transformers

        config = transformers.AutoConfig.from_pretrained(place.model)
        rows = 8192 if place.device == "cuda" else 2048
        shapes = ((config.hidden_size, config.intermediate_size), (config.hidden_size, config.vocab_size), (rows, rows))
        options: dict[str, Any] = {"device": place.device, "dtype": getattr(torch, place.dtype)}
        self._factors = [
            (torch.randn(rows, inner, **options), torch.randn(outer, inner, **options)) for inner, outer in shapes
        ]

    def prepare(self, pairs: Sequence[Pair], settings: Settings) -> Any:
        return None

    def run(self, prepared: Any, settings: Settings) -> Any:
        return max(self._rate(x, w) for x, w in self._factors)

    def _rate(self, x: Any, w: Any) -> float:
        """FLOP/s of x wᵀ, repeated for ``SECONDS``."""
        import torch

        wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
        once: int = 2 * x.shape[0] * x.shape[1] * w.shape[0]
        torch.nn.functional.linear(x, w)
        wait()
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < self.SECONDS:
            torch.nn.functional.linear(x, w)
            wait()
            done += once
        return float(done / (time.perf_counter() - begin))

    def read(self, raw: Any, pairs: Sequence[Pair], settings: Settings) -> Scores:
        return Scores(rate=raw)


ENGINES: dict[str, Callable[[Place], Adapter]] = {
    "ours": Ours,
    "lm-eval": LmEval,
    "trl": Trl,
    "trl-ref": functools.partial(Trl, reference=True),
    "vllm": Vllm,
    "transformers": Transformers,
    "reference": Reference,
    "matmul": Matmul,
}
"""Adapters by name."""


def _load(place: Place, **options: Any) -> Any:
    import torch
    import transformers

    dtype = getattr(torch, place.dtype)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(place.model, dtype=dtype, **options)
    return model.to(place.device).eval()


def _text(ids: Sequence[int]) -> str:
    """Text that the benchmark's tokenizer reads back as these ids."""
    return " ".join(map(str, ids))


def _lengths(pairs: Sequence[Pair]) -> list[int]:
    return [len(ids) - start for pair in pairs for ids, start in pair.rows]
