"""When two numbers may be compared: all that a number depends on, what is not known, and what does not matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from stored import POLICY, TASK_POLICY, Said
from stored import store as store_measured

from harness import record
from harness.conditions import Difference, Kind, Setting, conditions, differences
from harness.domain import Checkpoint, EngineOptions
from harness.errors import PolicyError

LOWERED = Said("reference", chosen=(-9.0,) * 20)
VERSIONS = {"dpo-harness": "0.1.0", "tokenizers": "0.23", "torch": "2.13"}
HF = {"engine": "hf", "device": "cpu", "dtype": "float32", "torch": "2.13"}
BY_CATEGORY = POLICY.replace("unsafe, min: 0.5, ", "unsafe, min: 0.5, cluster: category, ")
OWN = POLICY.replace("limits:", "metrics: {politeness: {needs: completions, bound: min}}\nlimits:") + (
    "  - {id: polite, metric: politeness, corpus: unsafe, min: 0.5}\n"
)


def store(directory: Path, said: Said, **changes: object) -> Path:
    return store_measured(directory, said, measured=False, **changes)


def between(one: Path, other: Path, limit: str, *, one_run: bool = False) -> tuple[Difference, ...]:
    sides = []
    for run in (one, other):
        stored = record.read(run, check_tables=False)
        setting = Setting.of(stored)
        wanted = next(item for item in stored.policy.limits if item.id == limit)
        sides.append(conditions(setting, wanted, stored.reference, stored.candidates[0]))
    return differences(*sides, one_run=one_run)


def changed(stored: record.RunRecord, **policy: object) -> record.RunRecord:
    return stored.model_copy(update={"policy": stored.policy.model_copy(update=policy)})


@pytest.fixture
def usual(tmp_path: Path) -> Path:
    return store(tmp_path / "usual", Said())


@pytest.mark.parametrize(
    ("limit", "kind", "text", "change"),
    [
        ("refusal-drop", Kind.CORPUS, "what is asked of unsafe 629e3fc948fb, then ", {"digests": {"unsafe": "x"}}),
        ("refusal-drop", Kind.JUDGE, "version 3, then 4", {"judge": {"name": "phrases", "version": "4"}}),
        (
            "refusal-drop",
            Kind.JUDGE,
            "model none, then x",
            {"judge": {"name": "phrases", "version": "3", "model": "x"}},
        ),
        ("yes-for-no", Kind.POLICY, "lexicon 1e1e1e1e1e1e, then 2f2f2f2f2f2f", {"lexicon": "2f" * 32}),
        ("refusal-drop", Kind.ENGINE, "dtype float32, then bfloat16", {"engine": HF | {"dtype": "bfloat16"}}),
        ("refusal-drop", Kind.ENGINE, "option x none, then 1", {"options": EngineOptions(settings={"x": 1})}),
        ("chosen-fell", Kind.ENGINE, "way of scoring auto, then plain", {"options": EngineOptions(scoring="plain")}),
        ("refusal-drop", Kind.DECODING, "early stop no, then yes", {"early_stop": True}),
        ("refusal-drop", Kind.VERSION, "tokenizers 0.23, then 0.24", {"versions": VERSIONS | {"tokenizers": "0.24"}}),
        ("refusal-drop", Kind.REFERENCE, "reference reference ", {"reference": LOWERED}),
        ("refusal-drop", Kind.DECODING, "tokens 128, then 64", {"policy": POLICY + "decoding: {max_new_tokens: 64}"}),
        ("refusal-drop", Kind.POLICY, "alpha 0.05, then 0.01", {"policy": POLICY + "alpha: 0.01\n"}),
        ("ranks", Kind.POLICY, "unit per token, then none", {"policy": POLICY.replace("unit: per token, ", "")}),
        ("refuses", Kind.POLICY, "cluster prompt, then category", {"policy": BY_CATEGORY}),
    ],
)
def test_what_makes_another_number_of_it(usual, tmp_path, limit, kind, text, change):
    (found,) = between(usual, store(tmp_path / "other", Said(), **change), limit)
    assert found.kind is kind
    assert text in found.text


@pytest.mark.parametrize(
    ("limit", "change"),
    [
        ("refusal-drop", {"digests": {"benign": "other"}}),
        ("chosen-fell", {"judge": {"name": "model"}}),
        ("refusal-drop", {"lexicon": "2f" * 32}),
        ("refusal-drop", {"options": EngineOptions(batch_tokens=99, settings={"max_num_seqs": 3})}),
        ("refusal-drop", {"versions": VERSIONS | {"python": "4"}}),
        ("refusal-drop", {"policy": POLICY.replace("max: 0.2}", "max: 0.3, severity: block}")}),
        ("refuses", {"reference": LOWERED}),
        ("ranks", {"reference": LOWERED}),
    ],
)
def test_what_does_not(usual, tmp_path, limit, change):
    assert between(usual, store(tmp_path / "other", Said("other"), **change), limit) == ()


def test_a_checkpoints_own_number_does_not_depend_on_the_reference_but_a_share_of_falls_does(usual, tmp_path):
    other = store(tmp_path / "other", Said(), reference=LOWERED)
    assert [item.kind for item in between(usual, other, "both-fell")] == [Kind.REFERENCE]


@pytest.mark.parametrize(
    ("limit", "change", "text"),
    [
        ("yes-for-no", {"lexicon": ""}, "lexicon not known, then not known"),
        ("refusal-drop", {"versions": {"tokenizers": "0.23"}}, "dpo-harness not known, then not known"),
        ("refusal-drop", {"reference": Said("reference", served="http://x/v1")}, "whose bytes cannot be seen, then"),
    ],
)
def test_what_is_not_known_is_equal_to_nothing_but_itself_within_one_run(tmp_path, limit, change, text):
    runs = [store(tmp_path / name, Said(), **change) for name in ("one", "other")]
    (found,) = between(*runs, limit)
    assert text in found.text
    assert between(*runs, limit, one_run=True) == ()


def test_a_corpus_that_the_record_does_not_name_is_not_known(usual):
    stored = record.read(usual)
    setting = Setting.of(stored.model_copy(update={"corpora": ()}))
    sides = conditions(setting, stored.policy.limits[0], stored.reference, stored.candidates[0])
    assert [item.text for item in differences(sides, sides)] == ["what is asked of unsafe not known, then not known"]


def test_versions_inside_what_an_engine_says_are_conditions_of_their_own(tmp_path):
    def vllm(version: str) -> Path:
        engine = {"engine": "vllm", "vllm": version, "generation": f"vllm {version}", "scoring": "hf (torch 2.13)"}
        return store(tmp_path / version, Said(), engine=engine, versions=VERSIONS | {"vllm": version})

    found = between(vllm("0.32.0"), vllm("0.33.0"), "refusal-drop")
    assert [(item.kind, item.text) for item in found] == [(Kind.VERSION, "vllm 0.32.0, then 0.33.0")]


def beta(run: Path, value: float | None) -> tuple[object, ...]:
    stored = record.read(run)
    candidate = replace(stored.candidates[0], beta=value)
    limit = next(item for item in stored.policy.limits if item.id == "polite")
    return conditions(Setting.of(stored), limit, stored.reference, candidate)


def test_a_metric_of_ones_own_depends_on_all_that_it_could_use(tmp_path):
    run = store_own(tmp_path / "own")
    (found,) = differences(beta(run, 0.1), beta(run, 0.3))
    assert (found.kind, found.text) == (Kind.POLICY, "beta 0.1, then 0.3")
    assert differences(beta(run, None), beta(run, None)) == ()


@pytest.mark.parametrize(
    ("then", "now", "text"),
    [
        (("a1" * 20, "no"), ("b2" * 20, "no"), "a1a1a1a1a1a1, then b2b2b2b2b2b2"),
        (("a1" * 20, "no"), ("a1" * 20, "yes"), "a1a1a1a1a1a1, then a1a1a1a1a1a1 with changes"),
        (None, None, "not known, then not known"),
    ],
)
def test_the_code_of_ones_own_metric_is_known_by_a_clean_commit(tmp_path, then, now, text):
    def own(name: str, git: tuple[str, str] | None) -> Path:
        return store_own(tmp_path / name, git=dict(zip(("commit", "dirty"), git, strict=True)) if git else {})

    runs = own("then", then), own("now", now)
    (found,) = between(*runs, "polite")
    assert (found.kind, found.text) == (Kind.VERSION, f"code of politeness {text}")
    assert between(*runs, "refusal-drop") == ()


def store_own(directory: Path, **changes: object) -> Path:
    return store(directory, Said(), policy=OWN, unanswered={("dpo", "polite"): "skipped"}, **changes)


def test_how_a_task_is_asked_is_compared_without_lm_eval_and_its_questions_by_the_tables(tmp_path):
    one, other = (
        store(tmp_path / name, Said(), policy=text)
        for name, text in (("one", TASK_POLICY), ("other", "tasks: {arithmetic: {num_fewshot: 5}}" + TASK_POLICY))
    )
    (found,) = between(one, other, "sums")
    assert (found.kind, found.text) == (Kind.CORPUS, "num_fewshot of task arithmetic None, then 5")
    assert between(one, one, "sums") == ()


def test_a_metric_of_ones_own_on_a_task_cannot_tell_what_was_asked(tmp_path):
    text = "metrics: {mine: {needs: task, bound: max}}" + TASK_POLICY.replace("task_accuracy_drop", "mine")
    run = store(tmp_path / "run", Said(), policy=text, unanswered={("dpo", "sums"): "skipped"})
    (found,) = between(run, run, "sums")
    assert found.text == "what is asked of arithmetic not known, then not known"


def test_a_record_whose_limits_are_not_its_policys_is_refused(usual):
    stored = record.read(usual)
    limits = (replace(stored.policy.limits[0], maximum=0.9), *stored.policy.limits[1:])
    with pytest.raises(PolicyError, match="the record's limits are not those of its policy; it was changed"):
        Setting.of(changed(stored, limits=limits))
    with pytest.raises(PolicyError, match="unknown key 'limit'; did you mean 'limits'"):
        Setting.of(changed(stored, text=stored.policy.text.replace("limits:", "limit:")))


def test_limits_of_a_baseline_are_those_that_its_name_adds(usual):
    stored = record.read(usual)
    facts = record.BaselineFacts(name="prod", run="r", candidate="c", identity="ab" * 32, sha256="cd" * 32)
    with pytest.raises(PolicyError, match="the record's limits are not"):
        Setting.of(stored.model_copy(update={"baseline": facts}))
    changes = ("refusal_rate_drop", "over_refusal_rise", "opposite_mass_rise", "chosen_logprob_change")
    added = tuple(
        replace(item, id=f"{item.id}@prod", baseline="prod") for item in stored.policy.limits if item.metric in changes
    )
    held = changed(stored, limits=stored.policy.limits + added).model_copy(update={"baseline": facts})
    found = conditions(Setting.of(held), added[0], held.reference, held.candidates[0])
    assert Kind.REFERENCE not in {item.kind for item in found}
    other = Checkpoint("x", "x", "x", "w", "t", "c", identity="e" * 64)
    assert differences(found, conditions(Setting.of(held), added[0], other, held.candidates[0])) == ()
