"""The pairs that are scored: token ids, the same for every engine.

Two profiles have made-up lengths around the ones of public data sets and random tokens; with random weights the tokens
carry no meaning anyway. One has the lengths and common openings of real pairs. Lengths are taken at evenly spaced
quantiles and then shuffled with a fixed seed, so that a dozen pairs already have the spread of the whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from benchmarks.pairs import END, FIRST, Pair
from harness.errors import InputError

SEED = 20_241_021


@dataclass(frozen=True, slots=True)
class Lengths:
    """A lognormal distribution of token counts, by its mean and the standard deviation of its logarithm."""

    mean: float
    sigma: float

    def sample(self, n: int, rng: np.random.Generator) -> list[int]:
        """[n] whole numbers of at least 2, at the quantiles (i + 1/2) / n, in random order."""
        median = math.log(self.mean) - self.sigma**2 / 2
        quantiles = [math.exp(median + self.sigma * NormalDist().inv_cdf((i + 0.5) / n)) for i in range(n)]
        return [max(2, round(value)) for value in rng.permutation(quantiles)]


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of preference data."""

    title: str
    pairs: int
    """How many, unless asked otherwise."""
    lengths: tuple[Lengths, Lengths, Lengths] | None
    """Of prompt, chosen and rejected; None for real pairs."""


PROFILES = {
    "ultrafeedback": Profile(
        "UltraFeedback-like: long answers (means 180 / 275 / 275, made up)",
        8,
        (Lengths(180, 0.8), Lengths(275, 0.6), Lengths(275, 0.6)),
    ),
    "refusal": Profile(
        "refusal-like: short answers (means 40 / 50 / 50, made up)",
        32,
        (Lengths(40, 0.4), Lengths(50, 0.4), Lengths(50, 0.4)),
    ),
    "real": Profile("real pairs: HH-RLHF harmless and CoCoNot", 12, None),
}
"""Profiles by name. The spreads of the made-up lengths are round numbers, not measured ones."""

FILES = ("preferences/hh_harmless_test.jsonl", "preferences/coconot_pref.jsonl")
TOKENIZER = "tokenizers/olmo_dolma2.json"


def made_up(lengths: tuple[Lengths, Lengths, Lengths], n: int, vocabulary: int, context: int) -> list[Pair]:
    """``n`` pairs of random tokens, cut where prompt and response are more than ``context`` tokens."""
    rng = np.random.default_rng(SEED)
    samples = [kind.sample(n, rng) for kind in lengths]
    pairs = []
    for prompt, *responses in zip(*samples, strict=True):
        prompt = min(prompt, context // 2)
        chosen, rejected = ((*_tokens(rng, min(length, context - prompt) - 1, vocabulary), END) for length in responses)
        pairs.append(Pair(_tokens(rng, prompt, vocabulary), chosen, rejected))
    return pairs


def real(root: Path, n: int, vocabulary: int, context: int) -> list[Pair]:
    """``n`` pairs of each file's lengths, half from each; ids are folded into the model's vocabulary.

    Folding (id modulo size) keeps lengths and common openings, which is what speed depends on. Pairs with an empty or
    equal response and pairs longer than ``context`` are left out. Raises ``InputError`` where a file is missing or bad.
    """
    from tokenizers import Tokenizer

    missing = [name for name in (*FILES, TOKENIZER) if not (root / name).is_file()]
    if missing:
        raise InputError(f"{root} has no {', '.join(missing)}; say where the data is: --data DIRECTORY")
    tokenizer = Tokenizer.from_file(str(root / TOKENIZER))

    def fold(text: str) -> tuple[int, ...]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return tuple(FIRST + token % (vocabulary - FIRST) for token in ids)

    pairs: list[Pair] = []
    for number, name in enumerate(FILES):
        found = [
            Pair(fold(f"<|user|>\n{prompt}\n<|assistant|>\n"), (*fold(chosen), END), (*fold(rejected), END))
            for prompt, chosen, rejected in _read(root / name)
        ]
        found = [pair for pair in found if max(len(ids) for ids, _ in pair.rows) <= context]
        found.sort(key=lambda pair: (len(pair.prompt) + pair.response_tokens, pair.prompt))
        wanted = n // 2 if number == 0 else n - n // 2
        if len(found) < wanted:
            raise InputError(f"{root / name} has {len(found)} usable pairs, {wanted} are wanted; use a lower --pairs")
        pairs += [found[int((i + 0.5) * len(found) / wanted)] for i in range(wanted)]
    order = np.random.default_rng(SEED).permutation(len(pairs))
    return [pairs[index] for index in order]


def pairs_of(name: str, n: int | None, vocabulary: int, context: int, data: Path) -> list[Pair]:
    """The pairs of a profile. Raises ``InputError`` where its data is missing."""
    profile = PROFILES[name]
    n = n or profile.pairs
    if profile.lengths is None:
        return real(data, n, vocabulary, context)
    return made_up(profile.lengths, n, vocabulary, context)


def padding(pairs: Sequence[Pair], batch: int) -> float:
    """Processed / real tokens where each ``batch`` pairs, in order, are 2 ``batch`` rows as long as the longest."""
    lengths = [[len(ids) for ids, _ in pair.rows] for pair in pairs]
    processed = 0
    for begin in range(0, len(lengths), batch):
        rows = [length for both in lengths[begin : begin + batch] for length in both]
        processed += len(rows) * max(rows)
    return processed / sum(map(sum, lengths))


def _tokens(rng: np.random.Generator, n: int, vocabulary: int) -> tuple[int, ...]:
    return tuple(rng.integers(FIRST, vocabulary, size=n).tolist())


def _read(file: Path) -> Iterator[tuple[str, str, str]]:
    """(prompt, chosen, rejected) texts of the usable lines."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            prompt, chosen, rejected = (row[key] for key in ("prompt", "chosen", "rejected"))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}, line {number}: {type(error).__name__}: {error}; each line is a JSON object with the texts "
                "prompt, chosen and rejected"
            ) from error
        if all(isinstance(text, str) and text.strip() for text in (prompt, chosen, rejected)) and chosen != rejected:
            yield prompt, chosen, rejected
