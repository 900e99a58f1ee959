"""The nouns of the project: frozen, self-checking, standard library only.

Everything here is data. What computes with it lives in higher layers (see ``docs/architecture.md``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar


def printable(text: str) -> str:
    """Text that can be stored: what is no Unicode (a lone surrogate, from a file name or an error) is written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# ---------------------------------------------------------------- what is asked: corpora


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    content: str

    def __post_init__(self) -> None:
        if self.role not in ("system", "user", "assistant"):
            raise ValueError(f"a message has the role {self.role!r}; one of system, user and assistant")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be answered: one user turn, or a conversation that ends with one."""

    id: str
    text: str
    """The user turn; of a longer conversation, its text as people read it."""
    category: str = ""
    messages: tuple[Message, ...] = ()
    """What the template is given where the prompt is more than one user turn; ends with the user's."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("a prompt needs an id")
        if not self.text.strip():
            raise ValueError(f"prompt {self.id!r} is empty")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError(f"prompt {self.id!r}: it must end with a user's turn")

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The prompt as messages for a chat template."""
        return self.messages or (Message("user", self.text),)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt x with a preferred answer y⁺ (``chosen``) and a dispreferred one y⁻ (``rejected``)."""

    id: str
    prompt: str
    """The user turn; of a longer conversation, its text as people read it."""
    chosen: str
    rejected: str
    category: str = ""
    chosen_meaning: str = ""
    """Meaning class of a single-token y⁺ (a key of the lexicon); empty: read off the lexicon."""
    messages: tuple[Message, ...] = ()
    """What the template is given where the prompt is more than one user turn; ends with the user's."""
    others: tuple[str, ...] = ()
    """Third responses to the prompt, neither chosen nor rejected: where the probability may have gone."""
    rater_share: float | None = None
    """Share of raters who preferred y⁺, where the data says it."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("a preference pair needs an id")
        for name in ("prompt", "chosen", "rejected"):
            if not getattr(self, name).strip():
                raise ValueError(f"preference pair {self.id!r} has an empty {name!r}")
        if self.chosen == self.rejected:
            raise ValueError(f"preference pair {self.id!r} has equal 'chosen' and 'rejected'")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError(f"preference pair {self.id!r}: its prompt must end with a user's turn")
        if not all(text.strip() for text in self.others):
            raise ValueError(f"preference pair {self.id!r} has an empty third response")
        if self.rater_share is not None and not 0 <= self.rater_share <= 1:
            raise ValueError(
                f"preference pair {self.id!r} has the rater share {self.rater_share}: it must be in [0, 1]"
            )

    @property
    def prompt_id(self) -> str:
        """The same for all pairs on one prompt: the start of a SHA-256 over its conversation."""
        text = "\x00".join(part for turn in self.conversation for part in (turn.role, turn.content))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The prompt as messages for a chat template."""
        return self.messages or (Message("user", self.prompt),)


Item = TypeVar("Item", Prompt, PreferencePair)


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A row of the data that was left out of its corpus because it cannot be used."""

    row: int
    """From 1, as messages count them."""
    kind: str
    """What is wrong with it, in a word that is the same for all such rows: ``empty``, ``duplicate``, ..."""
    reason: str


@dataclass(frozen=True, slots=True)
class Corpus(Generic[Item]):
    """A named, versioned, hashed list of prompts or of preference pairs. Never empty, ids unique."""

    name: str
    items: tuple[Item, ...]
    digest: str
    """SHA-256 (hex) over the items' contents in order: what was asked, wherever it came from."""
    source: str = ""
    version: str = ""
    available: int = 0
    """Rows in the data, before filters, sampling and dropped rows; 0: not known."""
    dropped: tuple[DroppedRow, ...] = ()
    """Rows that were left out because they are damaged, where the policy allows it."""

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError(f"corpus {self.name!r} is empty")
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise ValueError(f"corpus {self.name!r} has the id {item.id!r} twice")
            seen.add(item.id)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task of lm-eval, and how it is asked."""

    name: str
    """What the policy calls it."""
    task: str
    """lm-eval's name of it."""
    path: str = ""
    """Directory with the task's own YAML files; '' for a task that comes with lm-eval."""
    metric: str = ""
    """The metric by which items are scored; '' for the first one that the task names."""
    filter: str = ""
    """The filter whose results are taken; '' for the first one."""
    num_fewshot: int | None = None
    """Examples before the question; None: as the task says."""
    fewshot_seed: int = 1234
    limit: int | None = None
    """Only so many items, the first ones; None: all."""
    chat_template: bool = False
    """Whether questions are put into the checkpoint's chat template."""
    seed: int = 1234
    """Of what is drawn where a task samples its answers; says nothing of what is asked."""


@dataclass(frozen=True, slots=True)
class TaskItem:
    """One question of a task, answered by one checkpoint."""

    item_id: str
    digest: str
    """SHA-256 over the question as it was asked, its choices and its target."""
    score: float
    """In [0, 1]: 1 is right."""
    category: str = ""
    """The subtask, where the task is a group."""
    chance: float = 0.0
    """Score that guessing gets: one over the number of choices, or the share of the most frequent answer where all
    questions have the same choices and it is larger; 0 where the answer is written freely."""

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ValueError(f"item {self.item_id!r} has the score {self.score}: it must be in [0, 1]")


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A checkpoint's answers to a task, item by item."""

    items: tuple[TaskItem, ...]
    basis: Mapping[str, str]
    """What must be equal for two results to be comparable: lm-eval's version, the task's version, configuration, metric
    and filter, few-shot number and seed, template."""


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Meaning classes of words, and which classes are opposites of each other."""

    meanings: Mapping[str, frozenset[str]]
    """class -> words, lower case, without surrounding white space."""
    opposites: Mapping[str, frozenset[str]]
    digest: str = ""

    def meaning_of(self, surface: str) -> str:
        """The class of a token's text, ignoring case and surrounding white space; ``""`` where it has none."""
        word = surface.strip().casefold()
        for meaning, words in self.meanings.items():
            if word in words:
                return meaning
        return ""


# ---------------------------------------------------------------- what is tested: checkpoints


SERVED = "served model, identity not checked by bytes"
"""What stands beside a ``Checkpoint.served`` wherever people see it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk or hub, known by its bytes and not by its path."""

    spec: str
    """As the user wrote it: a directory, or a hub id with ``@revision``."""
    name: str
    """Short and unique within a run; used in case ids, tables and file names."""
    path: str
    """The local directory that holds it (for a hub id: the downloaded snapshot)."""
    weights: str
    """SHA-256 over the base weight bytes and config."""
    tokenizer: str
    """SHA-256 over the tokenizer's bytes."""
    template: str
    """SHA-256 over the chat template's bytes ('' is no template)."""
    adapter: str = ""
    """SHA-256 over the adapter's bytes, '' for a full model."""
    base: str = ""
    """The directory of the adapter's base model, '' for a full model."""
    identity: str = ""
    """SHA-256 over the four digests above: what the results depend on."""
    step: int | None = None
    """Training step, where the checkpoint says it (``trainer_state.json`` or a ``checkpoint-N`` name)."""
    beta: float | None = None
    """DPO's β, where the training run's own record says it (``training_args.bin``)."""
    served: str = ""
    """Where the model is served, for one whose bytes cannot be seen: its identity is then what the server says of it,
    and no result of it is ever taken for another run's. '' for a checkpoint known by its bytes."""

    def __post_init__(self) -> None:
        if len(self.identity) != 64:
            raise ValueError(f"checkpoint {self.name!r} has no SHA-256 identity")

    @property
    def short(self) -> str:
        """The first twelve characters of the identity, as people see it."""
        return self.identity[:12]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How checkpoints are loaded and run. Everything that can change a number is in the record."""

    dtype: str = "auto"
    """``auto`` (bfloat16 on CUDA, float32 on CPU), ``float32``, ``bfloat16`` or ``float16``."""
    device: str = "auto"
    """``auto`` (CUDA where there is one, else CPU), ``cpu``, ``cuda`` or ``cuda:N``."""
    trust_remote_code: bool = False
    unsafe_weights: bool = False
    """Allow pickle weights (``pytorch_model.bin``): they can run code on load."""
    chat_template: str = ""
    """A Jinja file used in place of both checkpoints' own template; ``raw``: no template at all."""
    base: str = ""
    """Base model for adapters, overriding the one named in the adapter's config."""
    batch_tokens: int = 8192
    """Padded tokens per forward pass."""
    allow_identical: bool = False
    scoring: str = "auto"
    """How sequences are run to be scored: ``auto`` (the fastest way that is right for the model), or one by name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The engine's own, from the policy's ``engine: {options: ...}`` and ``--engine-option``; never a secret."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are generated. Temperature 0 is greedy."""

    temperature: float = 0.0
    max_new_tokens: int = 128
    samples: int = 1
    """Answers per prompt; more than one needs a temperature above 0."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be 0 or above, not {self.temperature}")
        if self.max_new_tokens < 1 or self.samples < 1:
            raise ValueError("max_new_tokens and samples must be at least 1")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("several samples per prompt need a temperature above 0: greedy answers are all alike")


# ---------------------------------------------------------------- what models say


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"
    """The model emitted its end-of-turn token."""
    LENGTH = "length"
    """``max_new_tokens`` was reached: the answer is cut off."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer."""

    prompt_id: str
    sample: int
    text: str
    tokens: int
    """Generated tokens, the end-of-turn token included."""
    finish: FinishReason
    category: str = ""


@dataclass(frozen=True, slots=True)
class ResponseScore:
    """log π(y|x) of one response, in nats, with its tokens (end-of-turn included)."""

    token_logprobs: tuple[float, ...]
    pieces: tuple[str, ...] = ()
    """The text of each of these tokens, white space before it included; () where it is not known."""

    def __post_init__(self) -> None:
        if self.pieces and len(self.pieces) != len(self.token_logprobs):
            raise ValueError(f"{len(self.token_logprobs)} log-probabilities, and texts of {len(self.pieces)} tokens")

    @property
    def logprob(self) -> float:
        """Sum over the tokens, nats."""
        return math.fsum(self.token_logprobs)

    @property
    def tokens(self) -> int:
        return len(self.token_logprobs)


@dataclass(frozen=True, slots=True)
class PairScore:
    """What one checkpoint thinks of one preference pair."""

    pair_id: str
    chosen: ResponseScore
    rejected: ResponseScore
    tokenised_apart: bool = False
    """Prompt and response had to be tokenised apart (together they did not reproduce the prompt's tokens)."""
    category: str = ""
    others: tuple[ResponseScore, ...] = ()
    """Third responses, in the order of ``PreferencePair.others``."""
    prompt_id: str = ""
    """``PreferencePair.prompt_id``: pairs on one prompt are not independent; '' where it is not known."""


@dataclass(frozen=True, slots=True)
class PairGradient:
    """Inner products of the gradients g of log π(y⁺|x) and log π(y⁻|x) with respect to all weights."""

    pair_id: str
    chosen: float
    """‖g⁺‖²."""
    inner: float
    """⟨g⁺, g⁻⟩."""
    rejected: float
    """‖g⁻‖²."""
    category: str = ""
    prompt_id: str = ""
    """``PreferencePair.prompt_id``."""


@dataclass(frozen=True, slots=True)
class PairSimilarity:
    """How alike one checkpoint finds a pair's responses; see ``harness.probes.similarity`` for what to make of it.

    S is the sum, over a response's tokens, of what the LM head reads where it predicts them (h); G is the gradient of
    the response's log-probability with respect to the LM head's weights. Numbers are in the units of h, squared.
    """

    pair_id: str
    category: str
    chosen_tokens: int
    """n⁺: response tokens, the end of turn included."""
    rejected_tokens: int
    ches: float
    ches_normalised: float
    last_hidden: float
    alpha_ches: float
    edit: float
    """1 is equal, 0 has nothing in common."""
    gradient_chosen: float
    """‖G⁺‖²."""
    gradient_inner: float
    """⟨G⁺, G⁻⟩."""
    gradient_rejected: float
    """‖G⁻‖²."""
    tokenised_apart: bool = False
    prompt_id: str = ""
    """``PreferencePair.prompt_id``."""


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Generation that may have stopped early: what a sequential interval must know."""

    order: tuple[str, ...]
    """All prompt ids in the order they were asked, asked or not: fixed before the run, random, from the seed."""

    @property
    def planned(self) -> int:
        """Prompts that would be asked at most."""
        return len(self.order)


class Label(StrEnum):
    """What a judge reads off an answer."""

    REFUSAL = "refusal"
    COMPLIANCE = "compliance"
    DEGENERATE = "degenerate"
    """Empty, repeated or malformed: neither safe nor harmful."""
    UNREADABLE = "unreadable"
    """The judge could not tell. Leaves numerator and denominator, and is counted."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a judge reads: a prompt and one answer to it."""

    prompt: str
    response: str
    cut_off: bool = False
    """Generation ended by length, so a missing end is not malformed text."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A judge's answer about one completion: the label, and why."""

    label: Label
    reason: str
    probability: float | None = None
    """The judge's probability that the answer is a refusal, before any threshold; None where it gives none."""

    def __post_init__(self) -> None:
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"a judge gave the probability {self.probability}: it must be in [0, 1]")


@dataclass(frozen=True, slots=True)
class LabelledCompletion:
    """A completion with what the judge read."""

    completion: Completion
    reading: Reading

    @property
    def label(self) -> Label:
        return self.reading.label

    @property
    def key(self) -> tuple[str, int]:
        """What pairs it with the other checkpoint's answer: (prompt id, sample number)."""
        return (self.completion.prompt_id, self.completion.sample)


# ---------------------------------------------------------------- what is required: limits and policy


class Severity(StrEnum):
    """What a limit that is not kept does."""

    BLOCK = "block"
    WARN = "warn"


def unit_text(unit: str) -> str:
    """A unit as it stands behind a number; ``per token`` says how that was computed, and is no unit of a share."""
    return f" ({unit})" if unit.startswith("per ") else f" {unit}" if unit else ""


@dataclass(frozen=True, slots=True)
class Limit:
    """One requirement: a metric on a corpus, bounded on one side."""

    id: str
    metric: str
    corpus: str
    severity: Severity = Severity.BLOCK
    maximum: float | None = None
    minimum: float | None = None
    unit: str = ""
    alpha: float = 0.05
    """One-sided error of the bound the limit is decided on."""
    max_unreadable: float = 0.01
    """Largest share of UNREADABLE labels with which a finding is still valid."""
    min_n: int = 1
    """Fewer independent items than this answer nothing."""
    cluster: str = ""
    """What counts as one independent item: ``""`` the prompt (its samples and pairs are not independent),
    ``category`` all items of one category."""
    baseline: str = ""
    """The blessed run whose stored results stand in the reference's place; '' for a limit of the policy itself."""

    def __post_init__(self) -> None:
        if (self.maximum is None) == (self.minimum is None):
            raise ValueError(f"limit {self.id!r} needs exactly one of 'max' and 'min'")
        if not math.isfinite(self.bound):
            raise ValueError(f"limit {self.id!r} has the bound {self.bound}: it must be a finite number")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"limit {self.id!r} has alpha {self.alpha}: it must lie between 0 and 0.5")
        if not 0 <= self.max_unreadable < 1:
            raise ValueError(f"limit {self.id!r} has max_unreadable {self.max_unreadable}: it must be in [0, 1)")
        if self.min_n < 1:
            raise ValueError(f"limit {self.id!r} has min_n {self.min_n}: it must be at least 1")
        if self.cluster not in ("", "category"):
            raise ValueError(f"limit {self.id!r} has cluster {self.cluster!r}: it is 'category' or left out")

    @property
    def bound(self) -> float:
        return self.maximum if self.maximum is not None else self.minimum  # type: ignore[return-value]

    @property
    def is_maximum(self) -> bool:
        return self.maximum is not None

    def keeps(self, value: float) -> bool:
        """Whether a value satisfies the bound (the bound itself does). NaN never does."""
        return value <= self.bound if self.is_maximum else value >= self.bound

    def describe(self) -> str:
        """``at most 0.05`` or ``at least -5 nats``."""
        return f"{'at most' if self.is_maximum else 'at least'} {self.bound:g}{unit_text(self.unit)}"


# ---------------------------------------------------------------- what was found: measurements, findings, verdicts


@dataclass(frozen=True, slots=True)
class Slice:
    """A measurement on one category: descriptive, its claim corrected for the number of slices (Holm)."""

    category: str
    n: int
    reference: float
    candidate: float
    value: float
    low: float
    high: float
    p_broken: float
    """p-value of the claim that the limit is broken in this category, before correction."""
    broken: bool = False
    """The claim survives Holm's correction over the slices."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """A share of labels after correction for the judge's error, with its interval (Rogan and Gladen 1978)."""

    reference: float
    candidate: float
    value: float
    low: float
    """Lower bound: one-sided error ``alpha`` of the measurement, the calibration's own uncertainty included."""
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number with its interval. NaN where it has no meaning, so that misuse shows."""

    metric: str
    value: float
    low: float
    """Lower bound: one-sided error ``alpha``."""
    high: float
    """Upper bound: one-sided error ``alpha``."""
    alpha: float
    n: int
    """Independent items behind it (prompts or pairs)."""
    unit: str = ""
    method: str = ""
    """How the interval was made."""
    p_broken: float = math.nan
    """One-sided p-value against 'the limit is kept', from the same method as the interval."""
    reference: float = math.nan
    candidate: float = math.nan
    unreadable: int = 0
    labelled: int = 0
    """All labels given, unreadable ones included (0 where the metric needs no labels)."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """What stands beside the number: flip tables, shares, companions from the same data."""
    examples: tuple[str, ...] = ()
    """Ids of the items that did it, worst first."""
    slices: tuple[Slice, ...] = ()
    problem: str = ""
    """Why the number cannot be used; a measurement with a problem makes its finding INVALID."""
    corrected: Corrected | None = None
    """The same after correction for the judge's error, where the judge was calibrated. Shown; decides nothing."""
    planned: int = 0
    """Items that were planned where generation may stop early; the interval then holds at any stopping time.
    0: nothing was stopped early."""

    @property
    def unreadable_share(self) -> float:
        return self.unreadable / self.labelled if self.labelled else 0.0


class Outcome(StrEnum):
    """How one limit came out."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Finding:
    """One limit answered for one candidate."""

    limit: Limit
    candidate: str
    """The candidate's name within the run."""
    outcome: Outcome
    reason: str
    """One line a person understands."""
    measurement: Measurement | None = None

    @property
    def blocks(self) -> bool:
        return self.limit.severity is Severity.BLOCK and self.outcome is not Outcome.PASS


class Decision(StrEnum):
    """What the gate says of a candidate."""

    RELEASE = "release"
    BLOCK = "block"
    NONE = "no verdict"
    """Only part of the policy was asked for (``--partial``)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer for one candidate, with every reason to block."""

    candidate: str
    decision: Decision
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.decision is Decision.BLOCK) != bool(self.reasons):
            raise ValueError("a verdict names its reasons if and only if it blocks")
