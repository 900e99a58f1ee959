"""Opening checkpoints: shared bases, adapters that do something, first signs of life, memory."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ask
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from harness.domain import Decoding, EngineOptions, PreferencePair, Prompt
from harness.engines.hf import HfEngine
from harness.errors import CheckpointError, MeasurementError, OptionError
from harness.protocols import Engine, Model


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories whose weights were loaded, in order."""
    loaded: list[str] = []
    original = transformers.AutoModelForCausalLM.from_pretrained

    def spy(path: Path, *args: Any, **kwargs: Any) -> Any:
        loaded.append(Path(path).name)
        return original(path, *args, **kwargs)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", spy)
    return loaded


def sums(model: Model, pairs: list[PreferencePair]) -> list[float]:
    return [logprob for score in ask.scores(model, pairs) for logprob in (score.chosen.logprob, score.rejected.logprob)]


def run(paths: list[Path], pairs: list[PreferencePair], **options: Any) -> dict[str, list[float]]:
    engine = HfEngine(replace(EngineOptions(), **options))
    checkpoints = [engine.resolve(str(path), f"{number}-{path.name}") for number, path in enumerate(paths)]
    return {model.checkpoint.name: sums(model, pairs) for model in engine.models(checkpoints)}


def test_the_engine_keeps_the_contracts(reference: Path) -> None:
    engine = HfEngine(EngineOptions())
    assert isinstance(engine, Engine)
    for model in engine.models([engine.resolve(str(reference), "r")]):
        assert isinstance(model, Model)
        assert all(value < 0 for value in model.canary)


def test_adapters_share_one_base(
    shop: Any, reference: Path, adapter: Path, pairs: list[PreferencePair], loads: list[str]
) -> None:
    second = shop.adapter("second", reference, seed=4, target_modules=["gate_proj", "lm_head"])
    results = run([reference, adapter, second, reference, adapter], pairs, allow_identical=True)
    assert loads == ["reference"], "one base, loaded once"
    assert results["0-reference"] == results["3-reference"], "the reference is untouched by adapters that ran before"
    assert results["1-adapter"] == results["4-adapter"]
    assert len({tuple(values) for values in results.values()}) == 3
    alone = run([reference], pairs) | run([second], pairs)
    assert alone["0-reference"] == results["0-reference"]
    assert alone["0-second"] == results["2-second"], "an adapter does not see the one before it"


def test_an_adapter_equals_its_merged_model(
    opened: Callable[..., Any], adapter: Path, pairs: list[PreferencePair], prompts: list[Prompt]
) -> None:
    unmerged, merged = opened(adapter), opened(adapter.parent / "merged")
    assert sums(unmerged, pairs) == pytest.approx(sums(merged, pairs), abs=1e-3)
    decoding = Decoding(max_new_tokens=8)
    assert unmerged.generate(prompts, decoding) == merged.generate(prompts, decoding)
    assert ask.first_tokens(unmerged, pairs).log_probs == pytest.approx(
        ask.first_tokens(merged, pairs).log_probs, abs=1e-4
    )


@pytest.mark.parametrize("kind", ["dora", "loha"])
def test_any_adapter_on_the_head_is_in_the_unembedding(kind: str) -> None:
    """W is what the head makes of the identity, so logits are its products with the hidden state."""
    import architectures
    import peft

    from harness.engines import head

    settings = {"r": 4, "target_modules": ["lm_head"], "init_weights": False}
    config = (
        peft.LoHaConfig(**settings)
        if kind == "loha"
        else peft.LoraConfig(r=4, target_modules=["lm_head"], use_dora=True, init_lora_weights=False)
    )
    wrapped = peft.get_peft_model(architectures.build("llama"), config)
    model = wrapped.get_base_model().eval()
    hidden = torch.randn(5, 64)
    with torch.no_grad():
        expected = model.lm_head(hidden)
        assert float((hidden @ model.lm_head.weight.T - expected).abs().max()) > 0.01, "the adapter does something"
    assert float((hidden @ head.unembedding(model).T - expected).abs().max()) < 1e-4


def test_an_adapted_head_moves_the_directions(
    shop: Any, reference: Path, opened: Callable[..., Any], pairs: list[PreferencePair]
) -> None:
    headed = shop.adapter("headed", reference, seed=5, merged="headed-merged", target_modules=["lm_head"])
    unmerged, merged = (ask.first_tokens(opened(path), pairs) for path in (headed, shop.root / "headed-merged"))
    assert unmerged.directions == pytest.approx(merged.directions, abs=1e-3)
    assert unmerged.log_probs == pytest.approx(merged.log_probs, abs=1e-4)


def test_an_adapter_that_replaces_whole_modules(shop: Any, reference: Path, pairs: list[PreferencePair]) -> None:
    saving = shop.adapter("saving", reference, seed=6, modules_to_save=["lm_head"])
    file = saving / "adapter_model.safetensors"
    tensors = load_file(file)
    head = next(key for key in tensors if "lm_head" in key)
    tensors[head] = tensors[head] * 1.5
    save_file(tensors, file, metadata={"format": "pt"})
    results = run([reference, saving, reference], pairs, allow_identical=True)
    assert results["0-reference"] == results["2-reference"]
    assert results["0-reference"] != results["1-saving"]


def test_a_base_changed_by_an_adapter_is_loaded_afresh(
    shop: Any, reference: Path, pairs: list[PreferencePair], loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that also trains biases overwrites the base's; here any change that stays behind stands for it."""
    import peft

    original = peft.tuners.lora.LoraModel.unload

    def leave_something(self: Any) -> Any:
        base = original(self)
        with torch.no_grad():
            base.model.norm.weight.mul_(1.1)
        return base

    adapter = shop.adapter("untidy", reference, seed=7)
    loads.clear()
    monkeypatch.setattr(peft.tuners.lora.LoraModel, "unload", leave_something)
    results = run([reference, adapter, reference], pairs, allow_identical=True)
    assert results["0-reference"] == results["2-reference"]
    assert loads == ["reference", "reference"]


def test_an_adapter_that_changes_nothing_is_refused(shop: Any, reference: Path, pairs: list[PreferencePair]) -> None:
    zero = shop.adapter("zero", reference, scale=0.0)
    with pytest.raises(CheckpointError, match=r"zero changes nothing: .*reference; .*--allow-identical"):
        run([zero], pairs)
    results = run([reference, zero], pairs, allow_identical=True)
    assert results["0-reference"] == results["1-zero"]


def test_an_adapter_for_another_architecture_is_refused(
    bench: Any, adapter: Path, candidate: Path, pairs: list[PreferencePair]
) -> None:
    deeper = bench.full("deeper", num_hidden_layers=3)
    deep_adapter = bench.adapter("deep-adapter", deeper)
    shallow = bench.full("shallow", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"deep-adapter does not fit .*shallow: .* tensors are not used .*--base"):
        run([deep_adapter], pairs, base=str(shallow))
    wide = bench.full("wide", hidden_size=128)
    with pytest.raises(CheckpointError, match=r"deep-adapter does not fit its base .*wide: .*--base PATH_OR_ID"):
        run([deep_adapter], pairs, base=str(wide))
    half = bench.root / "half"
    shutil.copytree(deep_adapter, half)
    tensors = load_file(half / "adapter_model.safetensors")
    save_file({key: value for key, value in tensors.items() if "layers.0" in key}, half / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"half does not fit its base .*: .* tensors are missing .*--base"):
        run([half], pairs)


def test_prompt_learning_adapters_are_refused(bench: Any, reference: Path, pairs: list[PreferencePair]) -> None:
    from peft import PromptTuningConfig, get_peft_model

    model = transformers.AutoModelForCausalLM.from_pretrained(reference)
    get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).save_pretrained(
        bench.root / "soft"
    )
    with pytest.raises(CheckpointError, match=r"soft is of the kind PROMPT_TUNING.*merged model"):
        run([bench.root / "soft"], pairs)


def test_logits_that_are_not_finite_are_refused(bench: Any, pairs: list[PreferencePair]) -> None:
    module = bench.llama()
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight.fill_(3e38)
    path = bench.save("overflowing", module)
    with pytest.raises(CheckpointError, match=r"overflowing gives NaN or infinite logits .*--model-dtype float32"):
        run([path], pairs)


def test_weights_that_do_not_fit_the_config_are_refused(
    bench: Any, reference: Path, pairs: list[PreferencePair]
) -> None:
    path = bench.root / "deeper-config"
    shutil.copytree(reference, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"deeper-config: the weights do not fit config.json: 9 missing keys"):
        run([path], pairs)
    (path / "config.json").write_text(json.dumps(config | {"model_type": "no-such-type"}))
    with pytest.raises(CheckpointError, match=r"deeper-config cannot be loaded: .*no-such-type"):
        run([path], pairs)


def test_code_of_the_checkpoint_is_not_run(bench: Any, reference: Path, pairs: list[PreferencePair]) -> None:
    path = bench.root / "custom"
    shutil.copytree(reference, path)
    config = json.loads((path / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (path / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": auto_map}))
    (path / "evil.py").write_text("raise SystemExit('code of the checkpoint ran')")
    with pytest.raises(CheckpointError, match=r"custom cannot be loaded: .*--trust-remote-code"):
        run([path], pairs)


def test_pickle_weights_load_only_when_allowed(
    bench: Any, reference: Path, model: Model, pairs: list[PreferencePair]
) -> None:
    path = bench.root / "pickled"
    shutil.copytree(reference, path)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"pytorch_model.bin is a pickle.*save_pretrained.*--allow-unsafe-weights"
    ):
        run([path], pairs)
    assert run([path], pairs, unsafe_weights=True)["0-pickled"] == sums(model, pairs)


def test_a_model_is_freed_before_the_next_is_loaded(reference: Path, candidate: Path) -> None:
    engine = HfEngine(EngineOptions())
    models = engine.models([engine.resolve(str(path), path.name) for path in (reference, candidate)])
    module = weakref.ref(next(models)._module)  # type: ignore[attr-defined]
    assert module() is not None
    second = next(models)
    assert module() is None
    module = weakref.ref(second._module)  # type: ignore[attr-defined]
    models.close()  # type: ignore[attr-defined]
    gc.collect()
    assert module() is None


def test_a_small_model_runs_on_one_thread_and_gives_the_others_back(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of a tiny model wait for each other; on a busy machine that made a run twenty times slower."""
    engine = HfEngine(EngineOptions(device="cpu"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inside = [torch.get_num_threads() for _ in engine.models([engine.resolve(str(reference), "r")])]
        monkeypatch.setattr("harness.engines.loading.SMALL", 0)
        large = [torch.get_num_threads() for _ in engine.models([engine.resolve(str(reference), "r")])]
        assert (inside, large, torch.get_num_threads()) == ([1], [2], 2)
    finally:
        torch.set_num_threads(before)


def test_canaries_tell_models_apart(model: Model, opened: Callable[..., Model], candidate: Path) -> None:
    assert len(model.canary) == 3
    assert model.canary != opened(candidate).canary


def test_dtype_and_device(reference: Path, opened: Callable[..., Any]) -> None:
    assert opened(reference)._module.dtype == torch.float32
    assert opened(reference, dtype="bfloat16")._module.dtype == torch.bfloat16
    assert not opened(reference)._module.training
    for options, message in (
        ({"dtype": "int3"}, r"--model-dtype 'int3' is not known; use auto, float32, bfloat16, float16"),
        ({"device": "nowhere"}, r"--model-device 'nowhere' is not a device; use auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, r"--model-device 'meta' is not supported"),
        ({"device": "cuda:99"}, r"--model-device 'cuda:99': this machine has \d+ CUDA devices"),
    ):
        with pytest.raises(OptionError, match=message):
            opened(reference, **options)


def test_describe_says_what_numbers_depend_on() -> None:
    told = HfEngine(EngineOptions(device="cpu", batch_tokens=77)).describe()
    assert told["engine"] == "hf"
    assert told["device"] == "cpu"
    assert told["dtype"] == "float32"
    assert told["batch_tokens"] == "77"
    assert told["torch"] == torch.__version__
    assert told["transformers"] == transformers.__version__
    assert "peft" in told
    assert HfEngine(EngineOptions(device="cpu", dtype="bfloat16")).describe()["dtype"] == "bfloat16"


def test_a_short_context_still_opens(bench: Any) -> None:
    """Canary texts are cut to what the model can take."""
    path = bench.full("short", max_position_embeddings=16)
    engine = HfEngine(EngineOptions())
    for model in engine.models([engine.resolve(str(path), "short")]):
        assert len(model.canary) == 3


def test_running_out_of_memory_says_what_to_do(
    reference: Path,
    opened: Callable[..., Any],
    pairs: list[PreferencePair],
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = opened(reference, batch_tokens=400)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model._module, "forward", full)
    monkeypatch.setattr(model._module, "generate", full)
    for work, cure in (
        (lambda: ask.scores(model, pairs), "ran out of memory with a single pair, .* leave out the longest"),
        (lambda: ask.first_tokens(model, pairs), "ran out of memory with a single pair, .* --model-dtype bfloat16"),
        (lambda: model.gradients(pairs[:1]), "ran out of memory with the gradients of one pair"),
        (
            lambda: model.generate(prompts, Decoding(max_new_tokens=2)),
            "ran out of memory with --batch-tokens 400; use fewer.* 100",
        ),
    ):
        with pytest.raises(MeasurementError, match=cure):
            work()
