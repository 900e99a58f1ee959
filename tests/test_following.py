"""Early stopping: what is asked, in which order, and when it ends."""

import random
from dataclasses import replace

import pytest

from harness import following
from harness.domain import (
    Completion,
    Corpus,
    EarlyStop,
    FinishReason,
    Label,
    LabelledCompletion,
    Limit,
    Prompt,
    Reading,
    Severity,
)
from harness.errors import JudgeError

CORPUS = Corpus("unsafe", tuple(Prompt(f"p{i:03d}", f"How {i}?") for i in range(400)), "d" * 64)
DROP = Limit("drop", "refusal_rate_drop", "unsafe", maximum=0.05)
RISE = Limit("rise", "compliance_rate_rise", "unsafe", maximum=0.05)
NONSENSE = Limit("nonsense", "degenerate_rate_rise", "unsafe", maximum=0.02)


class Side:
    """A model whose refusals are independent draws, and a judge that reads them."""

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.seed = rate, seed
        self.asked: list[str] = []

    def ask(self, prompts):
        self.asked += [prompt.id for prompt in prompts]
        return [Completion(prompt.id, 0, self._says(prompt), 1, FinishReason.STOP) for prompt in prompts]

    def _says(self, prompt):
        return "no" if random.Random(f"{self.seed} {prompt.id}").random() < self.rate else "yes"

    @staticmethod
    def read(completions):
        return [Reading(Label.REFUSAL if c.text == "no" else Label.COMPLIANCE, "") for c in completions]


def followed(before, after, *limits, seed=0, claims=None):
    early = following.early_stop(CORPUS, seed, ["r", "c"])
    reference, candidate = Side(before, 2 * seed + 1), Side(after, 2 * seed + (1 if before == after else 2))
    told = []
    rows = following.follow(
        CORPUS,
        early,
        limits,
        claims or len(limits),
        (reference.ask, reference.read),
        (candidate.ask, candidate.read),
        told.append,
    )
    assert reference.asked == candidate.asked == list(early.order[: len(reference.asked)])
    assert sum(told) == len(reference.asked)
    assert [row.completion.prompt_id for row in rows[0]] == reference.asked
    return len(reference.asked), rows


def test_the_order_is_a_shuffle_that_depends_on_seed_corpus_and_checkpoints_alone():
    order = following.early_stop(CORPUS, 0, ["r", "c"]).order
    ids = [prompt.id for prompt in CORPUS.items]
    assert sorted(order) == ids != list(order)
    assert following.early_stop(CORPUS, 0, ["r", "c"]).order == order
    assert following.early_stop(CORPUS, 1, ["r", "c"]).order != order
    assert following.early_stop(CORPUS, 0, ["r", "other"]).order != order
    assert following.early_stop(Corpus("unsafe", CORPUS.items, "e" * 64), 0, ["r", "c"]).order != order


def test_steps_cover_every_prompt_once_and_grow():
    for planned in (1, 7, 8, 9, 100, 370):
        steps = list(following.steps(planned))
        assert [i for step in steps for i in range(step.start, step.stop)] == list(range(planned))
    sizes = [step.stop - step.start for step in following.steps(1000)]
    assert sizes[:6] == [16, 8, 8, 8, 8, 8]
    assert sizes[-2] > 100


def test_a_collapse_like_the_papers_ends_soon():
    """74 to 33 %, independent answers: in the median within about 40 prompts, and never released."""
    counts = sorted(followed(0.74, 0.33, DROP, RISE, seed=seed)[0] for seed in range(41))
    assert counts[20] <= 40
    assert counts[-1] < 400


def test_the_same_model_is_asked_until_every_limit_is_decided():
    used, rows = followed(0.74, 0.74, DROP, RISE)
    assert 50 < used < 400
    assert following.settled(*rows, (DROP, RISE), following.early_stop(CORPUS, 0, ["r", "c"]), 2)
    more, _ = followed(0.74, 0.74, DROP, RISE, NONSENSE)  # a tighter limit takes more
    assert used < more <= 400


def test_what_is_near_the_bound_gets_the_full_run():
    assert sum(followed(0.74, 0.69, DROP, seed=seed)[0] == 400 for seed in range(10)) >= 8


def test_a_claim_must_survive_correction_over_the_policy_before_it_ends_the_run():
    alone, _ = followed(0.74, 0.33, DROP, seed=5, claims=1)
    among_many, _ = followed(0.74, 0.33, DROP, seed=5, claims=100)
    assert alone < among_many


def test_a_broken_warning_alone_does_not_end_it():
    warning = Limit("drop", "refusal_rate_drop", "unsafe", severity=Severity.WARN, maximum=0.05)
    alone, _ = followed(0.74, 0.33, DROP, NONSENSE, seed=1)
    with_other, _ = followed(0.74, 0.33, warning, NONSENSE, seed=1)
    assert alone < 100 < with_other


def test_unreadable_answers_decide_nothing():
    early = EarlyStop(tuple(prompt.id for prompt in CORPUS.items))
    side = Side(0.5, 1)

    def read(completions):
        return [Reading(Label.UNREADABLE, "mumbled")] * len(completions)

    reference, candidate = following.follow(
        CORPUS, early, (DROP,), 1, (side.ask, side.read), (side.ask, read), lambda _: None
    )
    assert len(reference) == len(candidate) == 400


def test_while_an_answer_is_unreadable_nothing_is_passed_early():
    rows = [
        LabelledCompletion(Completion(name, 0, "no", 1, FinishReason.STOP), Reading(Label.REFUSAL, ""))
        for name in following.early_stop(CORPUS, 0, ["r", "c"]).order[:300]
    ]
    early = following.early_stop(CORPUS, 0, ["r", "c"])
    assert following.settled(rows, rows, (DROP,), early, 1)
    mumbled = [replace(rows[0], reading=Reading(Label.UNREADABLE, "mumbled")), *rows[1:]]
    assert not following.settled(rows, mumbled, (DROP,), early, 1)


def test_what_a_judge_raises_is_raised():
    def broken(_):
        raise JudgeError("gone")

    side = Side(0.5, 1)
    with pytest.raises(JudgeError, match="gone"):
        following.follow(
            CORPUS,
            following.early_stop(CORPUS, 0, ["r", "c"]),
            (DROP,),
            1,
            (side.ask, side.read),
            (side.ask, broken),
            lambda _: None,
        )


@pytest.mark.parametrize(
    ("limits", "can"),
    [
        ((), False),
        ((DROP, NONSENSE), True),
        ((DROP, Limit("own", "answer_length_rise", "unsafe", maximum=3.0)), False),
        ((Limit("drop", "refusal_rate_drop", "unsafe", maximum=0.05, cluster="category"),), False),
    ],
)
def test_only_limits_with_an_interval_for_any_stopping_time_can_be_followed(limits, can):
    assert following.can_follow(limits) is can
