"""Every way to run a model against one row at a time, on many architectures; and what each could get wrong."""

from __future__ import annotations

import random
from typing import Any

import architectures
import pytest
import torch

from harness.engines import attention, bodies, head, paths, scoring
from harness.engines.layout import Group, Row, share
from harness.errors import MeasurementError

TOLERANCE = 1e-5  # nats per token


class Letters:
    """A tokenizer that needs no files: a token for each letter."""

    pad = 0

    def response_ids(self, prompt: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
        return tuple(5 + ord(c) % 300 for c in prompt), (*(5 + ord(c) % 300 for c in answer), 4), False


def ids(generator: random.Random, count: int) -> tuple[int, ...]:
    return tuple(generator.randrange(5, 320) for _ in range(count))


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    """Two and three responses, some with a shared opening, most longer than the window of 8 tokens."""
    generator = random.Random(1)
    made = []
    for prompt, opening, *responses in (
        (30, 3, 20, 25),
        (3, 0, 1, 4),
        (12, 2, 40, 1, 7),
        (50, 1, 30, 31),
        (2, 5, 1, 1),
    ):
        start = ids(generator, prompt)
        same = ids(generator, opening)
        made.append(share([Row(start + same + ids(generator, count), prompt) for count in responses]))
    return made


def naive(model: Any, groups: list[Group]) -> torch.Tensor:
    """One row, no padding, no mask, all logits, log-softmax at every position: nothing to get wrong."""
    values = []
    with torch.no_grad():
        for row in (row for group in groups for row in group.rows):
            log_probs = model(torch.tensor([row.ids])).logits.float().log_softmax(-1)[0]
            values += [float(log_probs[row.start - 1 + k, token]) for k, token in enumerate(row.scored)]
    return torch.tensor(values)


def scored(model: Any, groups: list[Group], body: str, **settings: Any) -> torch.Tensor:
    settings = {"pad": 0, "batch_tokens": 150} | settings
    found = scoring.score(model, groups, body=body, **settings)
    return torch.tensor([value for rows in found.logprobs for row in rows for value in row])


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("name", architectures.SHARED)
def test_every_body_equals_the_naive_loop(name: str, groups: list[Group], record_property: Any) -> None:
    model = architectures.build(name)
    expected = naive(model, groups)
    assert float(expected.std()) > 0.3, "far from uniform"
    for body in bodies.BODIES:
        difference = apart(scored(model, groups, body), expected)
        record_property(f"{name}_{body}_nats", difference)
        assert difference < TOLERANCE, body
    choice = paths.choose(model, Letters(), longest=200, context=512)
    assert (choice.body, choice.note) == ("packed", "")


@pytest.mark.parametrize("name", architectures.NOT_SHARED)
def test_where_a_prompt_cannot_be_shared_plain_rows_are_used_and_the_run_says_so(
    name: str, groups: list[Group]
) -> None:
    model = architectures.build(name)
    expected = naive(model, groups)
    choice = paths.choose(model, Letters(), longest=200, context=512)
    assert choice.body == "plain-rows"
    assert choice.note.startswith("scored with plain rows, prompts not shared: packed: ")
    for body in ("plain-rows", "whole-rows"):
        assert apart(scored(model, groups, body), expected) < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2"])
@pytest.mark.parametrize("body", bodies.BODIES)
def test_batches_padding_and_order_do_not_matter(name: str, body: str, groups: list[Group]) -> None:
    model = architectures.build(name)
    expected = [scored(model, [group], body) for group in groups]
    order = random.Random(3).sample(range(len(groups)), len(groups))
    for batch_tokens, pad in ((1, 0), (90, 4), (10_000, 319)):
        found = scored(model, [groups[i] for i in order], body, batch_tokens=batch_tokens, pad=pad)
        assert apart(found, torch.cat([expected[i] for i in order])) < TOLERANCE


# ---------------------------------------------------------------- traps


def test_trap_packing_by_positions_alone_loses_the_prompt(groups: list[Group]) -> None:
    """transformers takes restarted positions for a new sequence: the branch no longer sees its prompt."""
    model, group = architectures.build("llama"), groups[0]
    with torch.no_grad():
        states = model.model(
            input_ids=torch.tensor([group.ids]), position_ids=torch.tensor([group.positions]), use_cache=False
        )
        hidden = states.last_hidden_state[0, list(group.needed)]
        log_probs = model.lm_head(hidden).log_softmax(-1)
    second = [float(log_probs[at, token]) for at, token in zip(group.reads[1], group.rows[1].scored, strict=True)]
    right = scored(model, [group], "packed")[-len(second) :]
    assert apart(torch.tensor(second), naive(model, [group])[-len(second) :]) > 0.1
    assert apart(right, naive(model, [group])[-len(second) :]) < TOLERANCE


def test_trap_the_cache_is_off(groups: list[Group], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cache on, packed sequences run into each other; no body asks for one."""
    model = architectures.build("llama")
    seen: list[Any] = []
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda *a, **k: seen.append(k["use_cache"]) or forward(*a, **k))
    for body in ("packed", "shared-rows", "plain-rows"):
        monkeypatch.setattr(head, "read", lambda model, hidden, output: (hidden, torch.zeros(len(hidden), 320)))
        scored(model, groups[:1], body)
    assert seen == [False] * 3


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "qwen3-window", "mistral"])
def test_trap_one_mask_for_all_layers_drops_the_window(
    name: str, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = architectures.build(name)
    expected = naive(model, groups)
    assert apart(scored(model, groups, "shared-rows"), expected) < TOLERANCE
    monkeypatch.setattr(bodies, "window", lambda model: None)
    real = bodies._masks
    monkeypatch.setattr(bodies, "_masks", lambda *a: next(iter(m.values())) if isinstance(m := real(*a), dict) else m)
    assert apart(scored(model, groups, "shared-rows"), expected) > 0.1


def test_trap_a_lost_window_is_noticed_only_by_sequences_longer_than_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard's third group is longer than the window wherever the data is."""
    model = architectures.build("mistral")
    real = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *a, **k: real(*a, **{**k, "sliding_window": None}))
    choice = paths.choose(model, Letters(), longest=200, context=512)
    assert choice.body == "shared-rows"
    assert "packed: differs by up to" in choice.refused[0]


def test_the_long_group_is_as_long_as_the_data() -> None:
    for longest in (150, 400):
        group = paths.synthetic(Letters(), longest=longest, context=512)[-1]
        assert longest - 8 <= group.longest <= longest
    assert paths.synthetic(Letters(), longest=5, context=512)[-1].longest > 80
    short = paths.synthetic(Letters(), longest=400, context=24)
    assert max(group.longest for group in short) <= 24, "never more than the model takes"


def test_trap_a_long_sequence_changes_the_short_ones_in_its_batch(groups: list[Group]) -> None:
    """LongRoPE: transformers takes other rotary factors for a whole batch where one of its sequences is long."""
    model = architectures.build("phi3-longrope")
    generator = random.Random(4)
    prompt = ids(generator, 90)
    long = share([Row(prompt + ids(generator, 30), 90), Row(prompt + ids(generator, 5), 90)])
    expected = naive(model, [*groups[:2], long])
    for body in ("packed", "shared-rows", "plain-rows"):
        assert apart(scored(model, [*groups[:2], long], body, batch_tokens=1000), expected) > 0.1, body
    assert paths.choose(model, Letters(), longest=40, context=512).body == "packed", "no data is long"
    choice = paths.choose(model, Letters(), longest=long.longest, context=512)
    assert choice.body == "whole-rows"
    assert "plain-rows: differs by up to" in choice.note
    assert apart(scored(model, [*groups[:2], long], choice.body), expected) < TOLERANCE


def test_trap_soft_caps_on_attention_are_not_left_out(tmp_path: Any) -> None:
    """transformers' default attention ignores Gemma-2's cap without a word; loaded here, the cap is kept."""
    from harness.domain import EngineOptions
    from harness.engines.loading import load_weights

    model = architectures.build("gemma2")
    model.save_pretrained(tmp_path)
    loaded = load_weights(tmp_path, EngineOptions(), torch.device("cpu"), torch.float32)
    tokens = torch.tensor([[7, 8, 9, 30, 31, 32, 33]])
    with torch.no_grad():
        capped = model(tokens).logits
        assert apart(loaded(tokens).logits, capped) < TOLERANCE
        loaded.set_attn_implementation("sdpa")
        if apart(loaded(tokens).logits, capped) < 0.01:
            pytest.skip("this transformers keeps the cap in its default attention")


def test_trap_half_precision_log_softmax_over_a_long_response(record_property: Any) -> None:
    """Summed in bfloat16 a long response is off by nats; here the head's products and sums are float32 or better."""
    model = architectures.build("llama").to(torch.bfloat16)
    generator = random.Random(2)
    prompt = ids(generator, 5)
    group = share([Row(prompt + ids(generator, 400), 5), Row(prompt + ids(generator, 3), 5)])
    row = group.rows[0]
    with torch.no_grad():
        states = model.model(torch.tensor([row.ids[:-1]]), use_cache=False).last_hidden_state[0, 4:]
        exact = (states.double() @ model.lm_head.weight.double().T).log_softmax(-1)
        rounded = model(torch.tensor([row.ids[:-1]])).logits[0, 4:].log_softmax(-1)
    target = torch.tensor(row.scored)[:, None]
    truth, rough = exact.gather(1, target)[:, 0], rounded.gather(1, target)[:, 0]
    ours = scored(model, [group], "plain-rows")[:400]
    assert apart(ours, truth) < 1e-4
    off = max(abs(float(rough[:n].sum()) - float(truth[:n].sum())) for n in range(50, 401, 50))
    record_property("bfloat16_sum_off_by_nats", off)
    assert off > 1.0


def test_trap_linear_cross_entropy_gives_the_dtype_it_got() -> None:
    """Why it is not used: from bfloat16 it returns bfloat16 losses, too coarse to be summed."""
    linear = getattr(torch.nn.functional, "linear_cross_entropy", None)
    if linear is None:
        pytest.skip("this torch has no linear_cross_entropy")
    hidden, weight = torch.randn(4, 8, dtype=torch.bfloat16), torch.randn(16, 8, dtype=torch.bfloat16)
    assert linear(hidden, weight, torch.tensor([1, 2, 3, 4]), reduction="none").dtype == torch.bfloat16
    layer = torch.nn.Linear(8, 16, bias=False, dtype=torch.bfloat16)
    assert head._Float32Linear(layer)(hidden).dtype == torch.float32


# ---------------------------------------------------------------- the choice


@pytest.mark.parametrize("broken", ["packed", "shared-rows", "plain-rows"])
def test_a_wrong_body_is_never_chosen(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = architectures.build("llama")
    faster = [body for body in bodies.BODIES if list(bodies.BODIES).index(body) <= list(bodies.BODIES).index(broken)]

    def spoiled(body: str) -> Any:
        def run(model: Any, groups: Any, pad: int) -> Any:
            read = bodies.BODIES[body](model, groups, pad)
            return lambda part: (None, read(part)[1] * 1.01)

        return run

    monkeypatch.setattr(scoring, "BODIES", dict(bodies.BODIES) | {body: spoiled(body) for body in faster})
    choice = paths.choose(model, Letters(), longest=100)
    assert choice.body not in faster
    assert len(choice.refused) == len(faster)
    with pytest.raises(MeasurementError, match=f"cannot be scored with {broken}: differs by up to"):
        paths.choose(model, Letters(), longest=100, wanted=broken)


@pytest.mark.parametrize("spoil", ["one token", "every token a little"])
def test_both_the_largest_and_the_mean_difference_count(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = architectures.build("llama")
    largest, mean = paths.TOLERANCE[torch.float32]
    real = paths._logprobs

    def off(model: Any, groups: Any, body: str, pad: int) -> torch.Tensor:
        values = real(model, groups, body, pad)
        if body == "packed" and spoil == "one token":
            values[3] += 2 * largest
            assert 2 * largest / len(values) < mean
        elif body == "packed":
            values += (mean + largest) / 2
        return values

    monkeypatch.setattr(paths, "_logprobs", off)
    assert paths.choose(model, Letters(), longest=100).body == "shared-rows"


def test_what_is_not_a_number_agrees_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = architectures.build("llama")

    def silent(model: Any, groups: Any, pad: int) -> Any:
        read = bodies.whole_rows(model, groups, pad)
        return lambda part: (None, read(part)[1] * float("nan"))

    monkeypatch.setattr(scoring, "BODIES", dict(bodies.BODIES) | {"packed": silent})
    assert paths.choose(model, Letters(), longest=100).body == "shared-rows"


def test_attention_refuses_what_it_does_not_know(groups: list[Group]) -> None:
    query = torch.zeros(1, 2, groups[0].tokens, 4)
    module = torch.nn.Module()
    with attention.planned(attention.Plan(groups[:1], torch.device("cpu"))):
        attention.attend(module, query, query, query, None)
        for extra in ({"s_aux": torch.ones(2)}, {"is_causal": False}, {"dropout": 0.1}):
            with pytest.raises(attention.Unsupported):
                attention.attend(module, query, query, query, None, **extra)
        with pytest.raises(attention.Unsupported, match="a mask of its own"):
            attention.attend(module, query, query, query, torch.zeros(1, 1, 3, 3))


def test_after_scoring_the_model_is_as_it_was(groups: list[Group]) -> None:
    model = architectures.build("llama")
    before = model.config._attn_implementation
    tokens = torch.tensor([[7, 8, 9]])
    expected = model(tokens).logits
    for body in bodies.BODIES:
        scored(model, groups, body)
    assert model.config._attn_implementation == before
    assert "forward" not in vars(model.model)
    assert "forward" not in vars(model.lm_head)
    assert not model.lm_head._forward_pre_hooks
    assert torch.equal(model(tokens).logits, expected)


@pytest.mark.parametrize("body", bodies.BODIES)
@pytest.mark.parametrize(("rows", "held"), [(1, 10_000), (7, 10_000), (7, 20), (1000, 1000), (3, 1)])
def test_chunks_of_the_head_do_not_matter(
    body: str, rows: int, held: int, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the logits of one pair do not fit into a chunk, nor its probabilities into memory."""
    model = architectures.build("llama")
    pairs = [share(group.rows[:2]) for group in groups]
    ask = {"pad": 0, "batch_tokens": 300, "similarity": True, "first": True}
    expected = scoring.score(model, pairs, body="whole-rows", **ask)
    monkeypatch.setitem(scoring.LOGITS_PER_CHUNK, "cpu", rows * 320)
    monkeypatch.setattr(scoring, "PROBABILITIES_HELD", held * 320)
    found = scoring.score(model, pairs, body=body, **ask)
    for one, other in zip(found.logprobs, expected.logprobs, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            assert ours == pytest.approx(theirs, abs=TOLERANCE)
    for ours, theirs in zip(found.likenesses, expected.likenesses, strict=True):
        for field in ("sum_inner", "sum_norm", "last_inner", "gradient_chosen", "gradient_inner", "gradient_rejected"):
            assert getattr(ours, field) == pytest.approx(getattr(theirs, field), rel=1e-4, abs=1e-3)
    assert found.first is not None
    assert expected.first is not None
    assert apart(found.first, expected.first) < TOLERANCE


def test_a_model_without_a_head_module_is_scored_but_not_compared(
    groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = architectures.build("llama")
    expected = naive(model, groups)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    for body in bodies.BODIES:
        assert apart(scored(model, groups, body), expected) < TOLERANCE
        with pytest.raises(MeasurementError, match="does not read one hidden state per token"):
            scored(model, groups, body, similarity=True)


def slow_varlen(q: Any, k: Any, v: Any, ends_q: Any, ends_k: Any, longest_q: int, longest_k: int, **how: Any) -> Any:
    """What torch.nn.attention.varlen.varlen_attn is documented to do, one segment and one head at a time."""
    left, right = how["window_size"]
    assert right == 0, "causal"
    assert how["enable_gqa"] == (q.shape[1] != k.shape[1])
    assert longest_q == int((ends_q[1:] - ends_q[:-1]).max())
    assert longest_k == int((ends_k[1:] - ends_k[:-1]).max())
    out = torch.empty(q.shape[0], q.shape[1], v.shape[2])
    for n in range(len(ends_q) - 1):
        queries, keys = slice(ends_q[n], ends_q[n + 1]), slice(ends_k[n], ends_k[n + 1])
        count_q, count_k = ends_q[n + 1] - ends_q[n], ends_k[n + 1] - ends_k[n]
        at = torch.arange(count_q)[:, None] + count_k - count_q  # aligned at the bottom right
        seen = torch.arange(count_k)[None, :] <= at
        if left >= 0:
            seen &= torch.arange(count_k)[None, :] >= at - left
        for one in range(q.shape[1]):
            kv = one * k.shape[1] // q.shape[1]
            scores = (q[queries, one] @ k[keys, kv].T * (how["scale"] or q.shape[2] ** -0.5)).masked_fill(~seen, -1e9)
            out[queries, one] = scores.softmax(-1) @ v[keys, kv]
    return out


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "qwen3-window", "granite"])
def test_the_variable_length_kernel_is_asked_the_right_question(
    name: str, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself needs CUDA; that it gets the right segments, keys, windows and scales does not."""
    import torch.nn.attention.varlen as varlen

    model = architectures.build(name)
    monkeypatch.setattr(attention, "_has_varlen", lambda q: True)
    monkeypatch.setattr(varlen, "varlen_attn", slow_varlen)
    assert apart(scored(model, groups, "packed"), naive(model, groups)) < TOLERANCE
