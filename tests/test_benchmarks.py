"""The benchmark's instrument: its arithmetic, its pairs, its adapters, its turns and its tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as command
from benchmarks import floor, profiles, rounds, table
from benchmarks.cases import BATCHES, CASES, Case
from benchmarks.engines import ENGINES, Place, Scores
from benchmarks.floor import SHAPES, Shape, Work
from benchmarks.pairs import END, FIRST, Pair
from benchmarks.rounds import EngineFailed, ProfileTimings, Results, Timing
from harness.errors import InputError

TINY = SHAPES["tiny"]

tokens = st.lists(st.integers(FIRST, FIRST + 1), max_size=5).map(tuple)
pairs = st.builds(
    lambda prompt, chosen, rejected: Pair((FIRST, *prompt), (*chosen, END), (*rejected, END)), tokens, tokens, tokens
)


# ---------------------------------------------------------------- the least work


def test_llama_3_8b_has_the_sizes_of_its_card() -> None:
    shape = SHAPES["llama-3-8b"]
    norms = (2 * shape.layers + 1) * shape.hidden
    assert shape.body + 2 * shape.head + norms == 8_030_261_248


@pytest.mark.parametrize(
    ("prompt", "response", "naive", "shared"), [(180, 275, 13.77, 10.87), (40, 50, 2.71, 2.06), (130, 60, 5.72, 3.63)]
)
def test_flops_by_hand(prompt: int, response: int, naive: float, shared: float) -> None:
    """TFLOP per pair of Llama-3-8B, worked out apart from this code; naive runs the LM head on every token."""
    shape = SHAPES["llama-3-8b"]
    row = prompt + response
    assert floor.flops(shape, floor.apart([row, row], 2 * row)) / 1e12 == pytest.approx(naive, abs=0.006)
    work = floor.shared(prompt, [response, response], 2 * response)
    assert floor.flops(shape, work) / 1e12 == pytest.approx(shared, abs=0.006)


def test_flops_are_those_that_torch_counts() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = Shape(layers=3, hidden=24, heads=4, kv_heads=2, head_dim=8, inner=40, vocabulary=56)
    config = LlamaConfig(
        vocab_size=56,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attn_implementation="eager",
    )
    model, n = LlamaForCausalLM(config), 11
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(n)[None], use_cache=False)
    assert counter.get_total_flops() == floor.flops(shape, Work(n, n, n * n))  # eager: every couple


@given(pairs)
def test_minimal_work_is_that_of_a_trie(pair: Pair) -> None:
    """Every distinct prefix is processed once, sees as many keys as it is long, and is read once if it predicts."""
    nodes: set[tuple[int, ...]] = set()
    reads: set[tuple[int, ...]] = set()
    for ids, start in pair.rows:
        nodes |= {ids[:end] for end in range(1, len(ids))}
        reads |= {ids[:end] for end in range(start, len(ids))}
    assert floor.minimal(pair) == Work(len(nodes), len(reads), sum(map(len, nodes)))


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize("name", ["ultrafeedback", "refusal"])
def test_made_up_pairs(name: str) -> None:
    kind = profiles.PROFILES[name]
    assert kind.lengths is not None
    found = profiles.made_up(kind.lengths, 64, 1000, 4096)
    columns = zip(*((p.prompt, p.chosen, p.rejected) for p in found), strict=True)
    for lengths, column in zip(kind.lengths, columns, strict=True):
        counts = [len(ids) for ids in column]
        assert sum(counts) / len(counts) == pytest.approx(lengths.mean, rel=0.03)
        assert len(set(counts)) > 20
    assert all(FIRST <= token < 1000 for p in found for token in (*p.prompt, *p.chosen[:-1], *p.rejected[:-1]))
    assert found == profiles.made_up(kind.lengths, 64, 1000, 4096), "the same on every run"


def test_made_up_pairs_fit_the_context() -> None:
    kind = profiles.PROFILES["ultrafeedback"]
    assert kind.lengths is not None
    found = profiles.made_up(kind.lengths, 64, 1000, 256)
    longest = [len(ids) for p in found for ids, _ in p.rows]
    assert max(longest) == 256


def _data(root: Path, **files: str) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(["?", *"abcdefgh"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    for folder in ("preferences", "tokenizers"):
        (root / folder).mkdir()
    tokenizer.save(str(root / profiles.TOKENIZER))
    for name in profiles.FILES:
        (root / name).write_text(files.get(Path(name).stem, _rows("a b", "c d e")), encoding="utf-8")
    return root


def _rows(*chosen: str) -> str:
    return "".join(json.dumps({"prompt": "a b", "chosen": text, "rejected": "c"}) + "\n" for text in chosen)


def test_real_pairs_are_folded_and_keep_openings(tmp_path: Path) -> None:
    root = _data(tmp_path, hh_harmless_test=_rows("c d", "", "c"), coconot_pref=_rows("a b c d e f g h a b"))
    found = profiles.real(root, 2, vocabulary=7, context=16)
    both = sorted(found, key=lambda pair: len(pair.chosen))
    assert [len(pair.chosen) for pair in both] == [3, 11], "empty and equal responses are left out"
    c, d = 3, 4
    assert both[0].chosen == (FIRST + c % 4, FIRST + d % 4, END)
    assert both[0].rejected == (FIRST + c % 4, END)
    assert both[0].prompt == both[1].prompt
    with pytest.raises(
        InputError, match="hh_harmless_test.jsonl has 1 usable pairs, 2 are wanted; use a lower --pairs"
    ):
        profiles.real(root, 4, vocabulary=7, context=16)
    with pytest.raises(InputError, match="coconot_pref.jsonl has 0 usable"):
        profiles.real(root, 2, vocabulary=7, context=14)


def test_real_pairs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no preferences/hh_harmless_test.jsonl, .*--data DIRECTORY"):
        profiles.real(tmp_path, 2, 100, 100)


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    root = _data(tmp_path, coconot_pref=_rows("c d") + '{"prompt": "a"}\n')
    with pytest.raises(InputError, match=r"coconot_pref.jsonl, line 2: KeyError: 'chosen'; each line is"):
        profiles.real(root, 2, 100, 100)


def test_real_data_where_it_is() -> None:
    if not (command.DATA / profiles.FILES[0]).is_file():
        pytest.skip(f"no public data in {command.DATA}")
    found = profiles.pairs_of("real", 12, 32_000, 4096, command.DATA)
    assert len(found) == 12
    assert 50 < sum(pair.response_tokens for pair in found) / 12 < 2000


def test_padding() -> None:
    short, long = Pair((5,), (6, END), (END,)), Pair((5, 5), (6, 6, 6, END), (7, END))
    assert profiles.padding([short, long], 1) == (2 * 3 + 2 * 6) / (3 + 2 + 6 + 4)
    assert profiles.padding([short, long], 2) == 4 * 6 / 15


# ---------------------------------------------------------------- adapters


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    pytest.importorskip("torch")
    from benchmarks import checkpoint

    directory = tmp_path_factory.mktemp("benchmark") / "model"
    checkpoint.write(directory, TINY, "cpu", "float32")
    return Place(str(directory), "cpu", "float32")


@pytest.fixture(scope="module")
def some() -> tuple[Pair, ...]:
    """Different lengths, a shared opening, a response that is the end of turn alone."""
    lengths = (profiles.Lengths(20, 0.8), profiles.Lengths(15, 0.6), profiles.Lengths(15, 0.6))
    made = profiles.made_up(lengths, 5, TINY.vocabulary, TINY.context)
    opening = Pair((9, 10), (11, 12, 13, END), (11, 12, 14, 15, END))
    return (*made, opening, Pair((9,), (10, END), (11, 10, 9, END)))


@pytest.fixture(scope="module")
def truth(place: Place, some: tuple[Pair, ...]) -> dict[str, Any]:
    return _scores("reference", place, some, {})


def _scores(engine: str, place: Place, pairs: tuple[Pair, ...], settings: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    adapter = ENGINES[engine](place)
    return asdict(adapter.read(adapter.run(adapter.prepare(pairs, settings), settings), pairs, settings))


ADAPTERS = [
    ("ours", {}),
    ("ours", {"path": "plain-rows"}),
    ("ours", {"path": "shared-rows"}),
    ("ours", {"path": "packed"}),
    ("ours", {"similarity": True}),
    ("lm-eval", {"batch": 1}),
    ("lm-eval", {"batch": 4, "softmax_dtype": "float32"}),
    ("trl", {"batch": 3}),
    ("trl-ref", {"batch": 2, "sort": True}),
    ("transformers", {"batch": 3}),
    ("transformers", {"similarity": True}),
]


@pytest.mark.parametrize(("engine", "settings"), ADAPTERS, ids=lambda value: str(value))
def test_adapters_agree_with_the_reference(
    engine: str, settings: dict[str, Any], place: Place, some: tuple[Pair, ...], truth: dict[str, Any]
) -> None:
    pytest.importorskip({"lm-eval": "lm_eval", "trl": "trl", "trl-ref": "trl"}.get(engine, "torch"))
    found = _scores(engine, place, some, settings)
    token_error, _, _, ches_error = rounds.errors(found, truth, some)
    if not (engine == "transformers" and "similarity" in settings):
        assert token_error is not None
        assert token_error < table.TOLERANCE
    if "similarity" in settings:
        assert ches_error is not None
        assert ches_error < 1e-5
    assert found["path"] == settings.get("path", found["path"]), "the back end that was forced"


def test_a_lost_prompt_would_be_seen(place: Place, some: tuple[Pair, ...], truth: dict[str, Any]) -> None:
    shorter = tuple(replace(pair, prompt=pair.prompt[-1:]) for pair in some)
    token_error, _, _, ches_error = rounds.errors(_scores("reference", place, shorter, {}), truth, some)
    assert token_error is not None
    assert ches_error is not None
    assert token_error > 0.5
    assert ches_error > 0.05


def test_reference_is_the_plain_formula(place: Place, some: tuple[Pair, ...], truth: dict[str, Any]) -> None:
    """A second way: the whole sequence's logits, one token at a time, and CHES from the states on their own."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float64)
    pair = some[-2]
    for number, (ids, start) in enumerate(pair.rows):
        with torch.no_grad():
            each = [
                float(model(torch.tensor([ids[:at]])).logits[0, -1].log_softmax(0)[ids[at]])
                for at in range(start, len(ids))
            ]
        assert truth["tokens"][-4 + number] == pytest.approx(each, abs=1e-4)


# ---------------------------------------------------------------- errors of scores

PAIR = Pair((5,), (6, END), (7, 8, END))
RIGHT: dict[str, Any] = {"sums": [-3.0, -6.0], "tokens": [[-1.0, -2.0], [-1.0, -2.0, -3.0]], "ches": [-4.0]}


def test_errors_are_the_largest() -> None:
    found = {"sums": [-3.0, -6.3], "tokens": [[-1.0, -2.0], [-1.0, -2.2, -3.1]], "ches": [-4.2]}
    assert rounds.errors(found, RIGHT, [PAIR]) == pytest.approx((0.2, True, 0.3, 0.05))


def test_sums_alone_are_spread_over_tokens() -> None:
    found = {"sums": [-3.2, -6.3], "tokens": None, "ches": None}
    assert rounds.errors(found, RIGHT, [PAIR]) == pytest.approx((0.1, False, 0.3, None))


def test_nan_is_an_infinite_error() -> None:
    found = {"sums": [float("nan"), -6.0], "tokens": None, "ches": [float("nan")]}
    assert rounds.errors(found, RIGHT, [PAIR]) == (float("inf"), False, float("inf"), float("inf"))


# ---------------------------------------------------------------- turns


class FakeProcess:
    """Answers like a worker; writes down who was asked to run."""

    def __init__(self, name: str, journal: list[str], seconds: dict[int, float] | None = None) -> None:
        self.name, self.journal, self.seconds = name, journal, seconds or {}

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        if do == "prepare":
            return {"seconds": 0.25}
        batch = fields["settings"].get("batch", 0)
        self.journal.append(f"{self.name}{batch or ''}")
        if self.seconds.get(batch) == float("inf"):
            raise EngineFailed("no room")
        scores = {**RIGHT, "ches": None, "rate": 1e9, "path": ""}
        return {"seconds": self.seconds.get(batch, 1.0), "peak": 10 * len(self.journal), "scores": scores}


def _profile(cases: tuple[Case, ...], processes: dict[str, Any], journal: list[str]) -> tuple[Any, dict[str, str]]:
    plan = SimpleNamespace(cases=cases, repeats=2)
    skipped: dict[str, str] = {}
    matmul: Any = FakeProcess("matmul", journal)
    found = rounds._profile(
        plan,
        "refusal",
        (PAIR,),
        Path("pairs"),
        RIGHT,
        processes,
        matmul,
        skipped,
        lambda _: None,  # type: ignore[arg-type]
    )
    return found, skipped


def test_engines_take_turns() -> None:
    journal: list[str] = []
    cases = (Case("a", "ours", ""), Case("b", "trl", ""), Case("c", "vllm", ""))
    found, _ = _profile(cases, {name: FakeProcess(name, journal) for name in "ab"}, journal)
    assert journal == ["a", "b", "matmul", "a", "b", "matmul", "a", "b"]
    assert [len(timing.seconds) for timing in found.timings] == [2, 2]
    assert [timing.peak for timing in found.timings] == [70, 80], "the most of the measured rounds"
    assert found.rates == (1e9, 1e9)


def test_the_fastest_settings_that_work_are_taken() -> None:
    journal: list[str] = []
    case = Case("a", "trl", "", sweep=tuple({"batch": batch} for batch in (1, 2, 4)))
    found, skipped = _profile((case,), {"a": FakeProcess("a", journal, {1: 3.0, 2: 2.0, 4: float("inf")})}, journal)
    (timing,) = found.timings
    assert timing.settings == {"batch": 2}
    assert timing.tried == (({"batch": 1}, 3.0), ({"batch": 2}, 2.0), ({"batch": 4}, float("inf")))
    assert journal == ["a1", "a1", "a2", "a4", "matmul", "a2", "matmul", "a2"]
    assert not skipped


def test_an_engine_that_fails_is_left_out_with_its_reason() -> None:
    journal: list[str] = []
    cases = (Case("a", "trl", "", {"batch": 4}), Case("b", "ours", ""))
    processes = {"a": FakeProcess("a", journal, {4: float("inf")}), "b": FakeProcess("b", journal)}
    found, skipped = _profile(cases, processes, journal)
    assert [timing.case.name for timing in found.timings] == ["b"]
    assert skipped == {"a (refusal)": "no room"}


@pytest.fixture
def process(tmp_path: Path) -> Iterator[rounds.Process]:
    with rounds.Process(sys.executable, tmp_path / "log", {}) as process:
        yield process


def test_a_worker_reports_errors_and_goes_on(process: rounds.Process) -> None:
    for _ in range(2):
        with pytest.raises(EngineFailed, match="AssertionError: open comes first"):
            process.ask("run", settings={}, scores=False)


def test_a_worker_that_dies_is_reported(tmp_path: Path) -> None:
    with (
        rounds.Process(sys.executable, tmp_path / "log", {"PYTHONPATH": "", "PYTHONHOME": str(tmp_path)}) as process,
        pytest.raises(EngineFailed, match=r"its process (died|is gone): "),
    ):
        process.ask("run", settings={}, scores=False)


def test_peak_memory_is_that_of_one_run() -> None:
    np = pytest.importorskip("numpy")
    from benchmarks import worker

    if not (worker.PROC / "clear_refs").exists():
        pytest.skip("this system has no resettable high-water mark")

    class Hungry:
        package = "numpy"

        def prepare(self, pairs: Any, settings: Any) -> Any:
            return None

        def run(self, prepared: Any, settings: dict[str, int]) -> Any:
            np.ones(settings["MiB"] << 20, dtype=np.uint8)

        def read(self, raw: Any, pairs: Any, settings: Any) -> Scores:
            return Scores()

    hungry = worker.Worker()
    hungry._adapter = Hungry()
    hungry._trim()
    hungry._loaded = worker._resident("VmRSS")
    peaks = []
    for size in (256, 1, 128):
        settings = {"MiB": size}
        hungry._prepared[worker._key(settings)] = None
        peaks.append(hungry.run(settings, scores=False)["peak"] / 2**20)
    assert peaks == pytest.approx([256, 1, 128], abs=12)


# ---------------------------------------------------------------- tables


def _timing(name: str, seconds: tuple[float, ...], **changes: Any) -> Timing:
    timing = Timing(
        case=next(case for case in CASES if case.name == name),
        settings={},
        tried=(),
        prepare=0.5,
        seconds=seconds,
        peak=3 << 20,
        token_error=2e-6,
        token_exact=True,
        sum_error=3e-5,
        ches_error=None,
    )
    return replace(timing, **changes)


def _results(*timings: Timing) -> Results:
    return Results([ProfileTimings("refusal", (PAIR, PAIR), (1e6, 3e6, 2e6), timings)])


def _line(results: Results, name: str, dtype: str = "float32") -> list[str]:
    lines = [line for line in table.text(results, TINY, dtype).splitlines() if line.startswith(f"| {name} ")]
    assert len(lines) == 1
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


def test_table_by_hand() -> None:
    ours = _timing("ours", (1.0, 4.0, 2.0), path="packed")
    swept = {"settings": {"batch": 4}, "tried": (({"batch": 1}, 9.0), ({"batch": 4}, 5.0)), "token_exact": False}
    theirs = _timing("TRL, best", (3.0, 4.0, 8.0), **swept)
    least = 2 * floor.flops(TINY, floor.minimal(PAIR))
    results = _results(ours, theirs)
    assert _line(results, "ours") == [
        "ours", "as it comes: packed", "1.00", "75%", "5", "1", f"{least / 2 / 2e6:.0%}", "3", "2e-06", "3e-05",
    ]  # fmt: skip
    assert _line(results, "TRL, best") == [
        "TRL, best", "sorted, ref_model given, batch 4 of 1, 4", "0.50", "62%", "2",
        "3.00",  # the median of 3 / 1, 4 / 4 and 8 / 2, not the ratio of the medians 4 / 2
        f"{least / 4 / 2e6:.0%}", "3", "~2e-06", "3e-05",
    ]  # fmt: skip


def test_without_ours_there_is_no_ratio() -> None:
    assert _line(_results(_timing("TRL", (1.0,))), "TRL")[5] == "-"


def test_what_is_not_known_is_not_zero() -> None:
    line = _line(_results(_timing("TRL", (1.0,), peak=None)), "TRL")
    assert (line[3], line[7]) == ("-", "-"), "the spread of one round, memory"


def test_wrong_numbers_are_marked() -> None:
    results = _results(_timing("ours", (1.0,)), _timing("TRL", (1.0,), token_error=2e-4))
    assert _line(results, "TRL")[8] == "2e-04 WRONG"
    assert table.wrong(results, "float32") == ["TRL (refusal)"]
    assert table.wrong(results, "bfloat16") == [], "half precision differs by rounding"
    assert _line(results, "TRL", "bfloat16")[8] == "2e-04"


def test_wrong_ches_is_marked() -> None:
    script = _timing("script, CHES", (1.0,), token_error=None, sum_error=None, ches_error=0.02)
    assert table.wrong(_results(script), "float32") == ["script, CHES (refusal)"]
    assert _line(_results(script), "script, CHES")[-1] == "2e-02 WRONG"


def test_what_was_left_out_is_said() -> None:
    assert "  vLLM: No module named 'vllm'" in table.text(Results(skipped={"vLLM": "No module named 'vllm'"}), TINY, "")


def test_data_is_json_even_where_a_setting_failed() -> None:
    timing = _timing("TRL", (1.0,), tried=(({"batch": 1}, float("inf")),), token_error=float("inf"))
    found = json.loads(json.dumps(table.data(_results(timing), TINY, {"cpu": "x"}), allow_nan=False))
    assert found["profiles"][0]["timings"][0]["tried"] == [[{"batch": 1}, "infinite"]]
    assert found["profiles"][0]["timings"][0]["seconds"] == [1.0]


# ---------------------------------------------------------------- the command


def test_cases_are_consistent() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.engine for case in CASES} <= set(ENGINES)
    assert all(settings["batch"] in BATCHES for case in CASES for settings in case.sweep)
    for similarity in (False, True):
        assert next(case for case in CASES if case.similarity == similarity).engine == "ours"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "mlx"], "--engine 'mlx' is not known; one of ours, lm-eval"),
        (["--profile", "tldr"], "--profile 'tldr' is not known; one of ultrafeedback"),
        (["--model", "gpt"], "--model 'gpt' is not known; one of tiny, small, llama-3-8b"),
        (["--device", "tpu"], "--device 'tpu' is not known; one of cpu, cuda"),
        (["--dtype", "int8"], "--dtype 'int8' is not known; one of float32, bfloat16"),
        (["--json", "nowhere/x.json"], "--json nowhere/x.json: there is no directory"),
        (["--profile", "real", "--data", "nowhere"], "nowhere has no preferences/hh_harmless_test.jsonl"),
    ],
)
def test_what_a_user_can_cure_is_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "tiny", "--engine", "transformers", "--engine", "vllm", "--profile", "refusal"]
    arguments += ["--pairs", "3", "--repeats", "2", "--vllm-python", str(tmp_path / "python")]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments, "--json", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"vLLM: there is no {tmp_path / 'python'}; `make bench` makes it" in out
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    loop, script = found["profiles"][0]["timings"]
    assert (loop["case"], script["case"]) == ("transformers loop", "script, CHES")
    assert len(loop["seconds"]) == 2
    assert 0 < loop["token_error_nats"] < table.TOLERANCE
    assert found["environment"]["threads"] >= 1
    assert min(found["profiles"][0]["matmul_flops_per_s"]) > 1e8
