"""Finding, checking and identifying checkpoints, without loading them."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from harness.domain import Checkpoint, EngineOptions
from harness.engines import digests, training, weights
from harness.engines.checkpoints import resolve
from harness.errors import CheckpointError, OptionError


def known(path: Path | str, **options: Any) -> Checkpoint:
    return resolve(str(path), "x", replace(EngineOptions(), **options))


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    """A copy of the reference that may be spoilt."""
    return Path(shutil.copytree(reference, tmp_path / "copy"))


@pytest.fixture
def adapter_copy(adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "adapter-copy"))


def edit(file: Path, **changes: Any) -> None:
    fields = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-4] ^= 1  # the last bit of the last float's mantissa
    file.write_bytes(bytes(content))


# ---------------------------------------------------------------- identity


def test_equal_bytes_elsewhere_are_the_same_checkpoint(reference: Path, copy: Path) -> None:
    here, there = known(reference), known(copy)
    assert here.identity == there.identity
    assert (here.path, here.spec) != (there.path, there.spec)
    assert len(here.identity) == 64
    assert here.short == here.identity[:12]


def test_one_changed_bit_of_the_weights_is_another_checkpoint(reference: Path, copy: Path) -> None:
    flip_last_byte(copy / "model.safetensors")
    changed = known(copy)
    assert changed.weights != known(reference).weights
    assert changed.identity != known(reference).identity
    assert (changed.tokenizer, changed.template) == (known(reference).tokenizer, known(reference).template)


@pytest.mark.parametrize(
    ("file", "changes", "field"),
    [
        ("config.json", {"rms_norm_eps": 0.5}, "weights"),
        ("generation_config.json", {"eos_token_id": [4, 9]}, "weights"),
        ("tokenizer_config.json", {"eos_token": "<|user|>"}, "tokenizer"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "tokenizer"),
    ],
)
def test_what_decides_results_is_part_of_the_identity(
    reference: Path, copy: Path, file: str, changes: dict[str, Any], field: str
) -> None:
    edit(copy / file, **changes)
    before, after = known(reference), known(copy)
    assert before.identity != after.identity
    assert [name for name in ("weights", "tokenizer", "template") if getattr(before, name) != getattr(after, name)] == [
        field
    ]


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"_name_or_path": "elsewhere", "transformers_version": "9", "use_cache": False, "dtype": "x"}),
        ("generation_config.json", {"temperature": 5.0, "transformers_version": "9"}),
        ("tokenizer_config.json", {"pad_token": "<|end|>", "padding_side": "left", "model_max_length": 5}),
        ("tokenizer.json", {"padding": {"strategy": "BatchLongest"}, "truncation": {"max_length": 9}}),
    ],
)
def test_noise_is_not(reference: Path, copy: Path, file: str, changes: dict[str, Any]) -> None:
    edit(copy / file, **changes)
    assert known(reference).identity == known(copy).identity


def test_the_template_may_lie_in_either_file(reference: Path, copy: Path, tmp_path: Path) -> None:
    template = (copy / "chat_template.jinja").read_text()
    expected = known(reference)
    (copy / "chat_template.jinja").unlink()
    for value in (template, [{"name": "tool_use", "template": "t"}, {"name": "default", "template": template}]):
        edit(copy / "tokenizer_config.json", chat_template=value)
        assert known(copy).identity == expected.identity
    (tmp_path / "other.jinja").write_text("{{ messages }}")
    override = known(copy, chat_template=str(tmp_path / "other.jinja"))
    assert override.template != expected.template
    assert override.template == known(reference, chat_template=str(tmp_path / "other.jinja")).template


def test_code_of_the_checkpoint_is_part_of_the_identity(copy: Path) -> None:
    edit(copy / "config.json", auto_map={"AutoModelForCausalLM": "mine.Model"})
    (copy / "mine.py").write_text("a = 1")
    before = known(copy)
    (copy / "mine.py").write_text("a = 2")
    assert known(copy).identity != before.identity


def test_shards_are_read_in_the_order_of_their_index(bench: Any) -> None:
    model, tokenizer = bench.llama(), bench.tokenizer()
    model.save_pretrained(bench.root / "sharded", max_shard_size="100KB")
    tokenizer.save_pretrained(bench.root / "sharded")
    assert len(weights.model_files(bench.root / "sharded", unsafe=False)) > 2
    before = known(bench.root / "sharded")
    shutil.copytree(bench.root / "sharded", bench.root / "again")
    assert known(bench.root / "again").identity == before.identity
    flip_last_byte(weights.model_files(bench.root / "again", unsafe=False)[1])
    assert known(bench.root / "again").identity != before.identity


def test_the_training_step(copy: Path) -> None:
    assert known(copy).step is None
    renamed = copy.rename(copy.parent / "checkpoint-24")
    assert known(renamed).step == 24
    (renamed / "trainer_state.json").write_text('{"global_step": 23}')
    assert known(renamed).step == 23


# ---------------------------------------------------------------- the memory of digests


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A fresh cache, files count as settled at once, and the names of the files that are really read."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "memory"))
    monkeypatch.setattr(digests, "SETTLED_S", -1)
    read: list[str] = []
    original = weights._digest_safetensors

    def spy(path: Path) -> digests.FileDigest:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(weights, "_digest_safetensors", spy)
    return read


def test_a_file_is_hashed_once(copy: Path, reads: list[str], tmp_path: Path) -> None:
    assert known(copy).identity == known(copy).identity
    assert reads == ["model.safetensors"]
    assert not list((tmp_path / "memory").glob("*.tmp"))


def test_overwriting_the_same_path_is_noticed(copy: Path, candidate: Path, reads: list[str]) -> None:
    before = known(copy)
    shutil.copyfile(candidate / "model.safetensors", copy / "model.safetensors")
    after = known(copy)
    assert after.weights != before.weights
    stat = (copy / "model.safetensors").stat()
    flip_last_byte(copy / "model.safetensors")
    os.utime(copy / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert known(copy).weights != after.weights, "even where size, inode and modification time are as before"
    assert len(reads) == 3


def test_a_file_that_was_just_written_is_not_remembered(
    copy: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_S", 3600)
    known(copy)
    known(copy)
    assert len(reads) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        '{"format": 99, "files": {}}',
        '{"format": 1, "files": {"PATH": {"a": 1}}}',
    ],
)
def test_a_damaged_memory_is_ignored_and_replaced(copy: Path, reads: list[str], tmp_path: Path, content: str) -> None:
    memory = tmp_path / "memory" / "digests.json"
    memory.parent.mkdir()
    memory.write_text(content.replace("PATH", str(copy / "model.safetensors")))
    known(copy)
    known(copy)
    assert len(reads) == 1


def test_a_forged_digest_is_not_believed(copy: Path, reads: list[str], tmp_path: Path) -> None:
    expected = known(copy)
    memory = tmp_path / "memory" / "digests.json"
    memory.write_text(memory.read_text().replace('"sha256": "', '"sha256": "zz'))
    assert known(copy).identity == expected.identity
    assert len(reads) == 2


def test_a_memory_that_cannot_be_written_is_done_without(
    copy: Path, reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "a-file" / "memory"))
    assert known(copy).identity == known(copy).identity
    assert len(reads) == 2


def test_nan_is_remembered_with_the_digest(copy: Path, reads: list[str]) -> None:
    put(copy / "model.safetensors", "model.norm.weight", np.nan)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="NaN or infinite"):
            known(copy)
    assert len(reads) == 1


def test_the_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert digests.cache_directory() == tmp_path / "dpo-harness"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert digests.cache_directory() == Path.home() / ".cache" / "dpo-harness"


# ---------------------------------------------------------------- what is wrong with a full checkpoint


def put(file: Path, tensor: str, value: float) -> None:
    tensors = load_file(file)
    tensors[tensor] = tensors[tensor].clone()
    tensors[tensor].view(-1)[-1] = value
    save_file(tensors, file, metadata={"format": "pt"})


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        for name in names:
            (path / name).unlink()

    return spoil


def only_training_checkpoints(path: Path) -> None:
    (path / "model.safetensors").unlink()
    for step in (8, 16, 100):
        (path / f"checkpoint-{step}").mkdir()


def only_pickles(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def missing_shard(path: Path) -> None:
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def no_index(path: Path) -> None:
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")


def bad_index(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text('{"weight_map": []}')


def truncated(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def truncated_in_header(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def empty(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"")


def garbage_header(path: Path) -> None:
    content = bytearray((path / "model.safetensors").read_bytes())
    content[8:20] = b"\xff" * 12
    (path / "model.safetensors").write_bytes(bytes(content))


def git_lfs_pointer(path: Path) -> None:
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")


def has_nan(path: Path) -> None:
    put(path / "model.safetensors", "model.norm.weight", np.nan)


def has_infinity(path: Path) -> None:
    put(path / "model.safetensors", "lm_head.weight", -np.inf)


def bad_config(path: Path) -> None:
    (path / "config.json").write_text("{")


def bad_generation_config(path: Path) -> None:
    (path / "generation_config.json").write_text("[]")


def no_template(path: Path) -> None:
    (path / "chat_template.jinja").unlink()


def adapter_and_weights(path: Path) -> None:
    (path / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("model.safetensors"), r"copy has no weights \(model.safetensors, .*it holds: .*config.json.*; give"),
        (only_training_checkpoints, r"copy holds no weights itself, .* checkpoint-8, checkpoint-16, checkpoint-100; "
         r"name one of them, for example \S+copy/checkpoint-100"),
        (remove("config.json"), r"copy has weights but no config.json; copy the one"),
        (only_pickles, r"copy/pytorch_model.bin is a pickle.*save_pretrained.*--allow-unsafe-weights"),
        (missing_shard, r"index.json names 2 shards of which 1 are missing: model-00002-of-00002.safetensors; copy"),
        (no_index, r"copy has model-00001-of-00002.safetensors but neither .*; save the model again"),
        (bad_index, r"index.json is not a valid weights index; save or download"),
        (truncated, r"model.safetensors is damaged .*bytes where its header promises [\d,]+\); copy or download"),
        (truncated_in_header, r"model.safetensors is damaged .*no readable header.*; copy or download it again"),
        (empty, r"model.safetensors is damaged .*\(0 bytes with no readable header\)"),
        (garbage_header, r"model.safetensors is damaged .*header is not valid"),
        (git_lfs_pointer, r"model.safetensors is a Git LFS pointer.*git lfs pull"),
        (has_nan, r"model.safetensors holds NaN or infinite numbers \(first in tensor 'model.norm.weight'\).*earlier"),
        (has_infinity, r"model.safetensors holds NaN or infinite numbers \(first in tensor 'lm_head.weight'\)"),
        (bad_config, r"config.json is not valid JSON .*copy or download it again"),
        (bad_generation_config, r"generation_config.json is not a JSON object; copy or download it again"),
        (remove("tokenizer.json"), r"no tokenizer files \(such as tokenizer.json\) in \S+copy; .*save_pretrained"),
        (no_template, r"no chat template \(chat_template.jinja, .*\) in \S+copy; .*--chat-template FILE"),
        (adapter_and_weights, r"copy holds both an adapter .* and full weights.*move one of them"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_checkpoint_is_said(copy: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(copy)
    with pytest.raises(CheckpointError, match=message):
        known(copy)


def test_a_template_option_cures_a_missing_template(copy: Path, tmp_path: Path) -> None:
    (copy / "chat_template.jinja").rename(tmp_path / "mine.jinja")
    known(copy, chat_template=str(tmp_path / "mine.jinja"))
    with pytest.raises(OptionError, match=r"--chat-template \S+nowhere.jinja: there is no such file"):
        known(copy, chat_template=str(tmp_path / "nowhere.jinja"))
    (tmp_path / "mine.jinja").write_text(" \n")
    with pytest.raises(OptionError, match=r"--chat-template \S+mine.jinja: the file is empty"):
        known(copy, chat_template=str(tmp_path / "mine.jinja"))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_nan_is_found_in_every_dtype(tmp_path: Path, dtype: str) -> None:
    import torch

    file = tmp_path / "w.safetensors"
    kind = getattr(torch, dtype)
    limits = torch.finfo(kind)
    finite = torch.tensor([limits.max, limits.min, 0.0, -0.0, limits.tiny], dtype=torch.float64).to(kind)
    save_file({"a": finite, "n": torch.arange(3)}, file)
    assert weights.digest(file).nonfinite == ""
    values = [float("nan")] if dtype == "float8_e4m3fn" else [float("nan"), float("inf"), float("-inf")]
    for value in values:
        save_file({"a": finite, "b": torch.tensor([1.0, value]).to(kind)}, file)
        assert weights.digest(file).nonfinite == "b"


def test_the_digest_is_that_of_the_file(reference: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hashlib

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "CHUNK", 4096)
    file = reference / "model.safetensors"
    assert weights.digest(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_header_and_shapes_must_agree(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    for header, size in (
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, 8),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8),
    ):
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * size)
        with pytest.raises(CheckpointError, match="damaged"):
            weights.spans(file)


# ---------------------------------------------------------------- adapters


def test_an_adapter_is_its_bytes_on_its_base(reference: Path, adapter: Path, adapter_copy: Path) -> None:
    here, there = known(adapter), known(adapter_copy)
    assert here.identity == there.identity
    assert here.weights == known(reference).weights
    assert here.adapter
    assert here.base == str(reference)
    assert here.identity != known(reference).identity
    edit(
        adapter_copy / "adapter_config.json", peft_version="9", target_modules=["v_proj", "o_proj", "q_proj"], new=None
    )
    assert known(adapter_copy).identity == here.identity, "noise, and the order of a set"
    edit(adapter_copy / "adapter_config.json", lora_alpha=99)
    assert known(adapter_copy).identity != here.identity
    flip_last_byte(adapter_copy / "adapter_model.safetensors")
    assert known(adapter_copy).adapter != here.adapter


def test_the_base_is_looked_for_beside_the_adapter_then_here(
    reference: Path, adapter_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidate: Path
) -> None:
    edit(adapter_copy / "adapter_config.json", base_model_name_or_path="../base")
    shutil.copytree(reference, tmp_path / "base")
    assert known(adapter_copy).base == str((tmp_path / "base").resolve())
    edit(adapter_copy / "adapter_config.json", base_model_name_or_path="bases/mine")
    shutil.copytree(reference, tmp_path / "elsewhere" / "bases" / "mine")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Path(known(adapter_copy).base).resolve() == (tmp_path / "elsewhere" / "bases" / "mine").resolve()
    assert known(adapter_copy, base=str(candidate)).base == str(candidate)
    assert known(adapter_copy, base=str(candidate)).weights == known(candidate).weights


def test_the_adapters_own_tokenizer_and_template_come_first(reference: Path, adapter_copy: Path) -> None:
    assert known(adapter_copy).tokenizer == known(reference).tokenizer
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(reference / name, adapter_copy / name)
    assert known(adapter_copy).identity == known(adapter_copy).identity
    (adapter_copy / "chat_template.jinja").write_text("{{ messages }}")
    edit(adapter_copy / "tokenizer_config.json", eos_token="<|user|>")
    assert known(adapter_copy).tokenizer != known(reference).tokenizer
    assert known(adapter_copy).template != known(reference).template


def no_adapter_weights(path: Path) -> None:
    (path / "adapter_model.safetensors").unlink()


def pickled_adapter(path: Path) -> None:
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")


def empty_adapter(path: Path) -> None:
    save_file({}, path / "adapter_model.safetensors")


def adapter_with_nan(path: Path) -> None:
    file = path / "adapter_model.safetensors"
    put(file, next(iter(load_file(file))), np.nan)


def missing_base(path: Path) -> None:
    edit(path / "adapter_config.json", base_model_name_or_path="./nowhere")


def no_base(path: Path) -> None:
    edit(path / "adapter_config.json", base_model_name_or_path=None)


def base_is_an_adapter(path: Path) -> None:
    shutil.copytree(path, path.parent / "other")
    edit(path / "adapter_config.json", base_model_name_or_path="../other")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_adapter_weights, r"adapter-copy has an adapter_config.json but no adapter_model.safetensors.*copy"),
        (pickled_adapter, r"adapter_model.bin is a pickle.*--allow-unsafe-weights"),
        (empty_adapter, r"adapter_model.safetensors holds no tensors.*changes nothing; save it again"),
        (adapter_with_nan, r"adapter_model.safetensors holds NaN or infinite numbers"),
        (missing_base, r"\S+adapter-copy is for the base model './nowhere', .*cannot be found .*--base PATH_OR_ID"),
        (no_base, r"adapter_config.json names no base model; pass it: --base PATH_OR_ID"),
        (base_is_an_adapter, r"base \S+other of the adapter \S+adapter-copy is an adapter itself.*merge_and_unload"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_adapter_is_said(adapter_copy: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(adapter_copy)
    with pytest.raises(CheckpointError, match=message):
        known(adapter_copy)


# ---------------------------------------------------------------- no template, and what the training run wrote down


def test_raw_is_a_template_of_its_own(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = known(copy, chat_template="raw")
    assert raw.template != known(copy).template
    assert raw.identity != known(copy).identity
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").write_text("{{ messages }}")
    assert known(copy, chat_template="raw") == raw, "the word, whatever files there are"
    assert known(copy, chat_template="./raw").template not in (raw.template, known(copy).template)
    (tmp_path / "raw").write_bytes(b"\xff")
    with pytest.raises(OptionError, match=r"--chat-template ./raw: the file cannot be read"):
        known(copy, chat_template="./raw")
    no_template(copy)
    assert known(copy, chat_template="raw") == raw
    with pytest.raises(CheckpointError, match="--chat-template FILE; .* without one: --chat-template raw"):
        known(copy)


def arguments(directory: Path, **settings: Any) -> Path:
    """training_args.bin as TRL's trainer saves it."""
    import torch

    trl = pytest.importorskip("trl")
    config = trl.DPOConfig(output_dir=str(directory), use_cpu=True, bf16=False, **settings)
    directory.mkdir(exist_ok=True)
    torch.save(config, directory / "training_args.bin")
    return directory / "training_args.bin"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.1),
        ({"beta": 0.3}, 0.3),
        ({"beta": 1}, 1.0),
        ({"beta": 1e-5, "adam_beta1": 0.77}, 1e-5),
        ({"beta": 0.2, "run_name": "beta"}, 0.2),
        ({"beta": 0.2, "model_init_kwargs": {"beta": 7.0}}, 0.2),
        ({"beta": 0.2, "loss_type": ["sigmoid", "sft"], "loss_weights": [7.0, 8.0]}, 0.2),
    ],
)
def test_beta_is_read_out_of_trls_own_arguments(tmp_path: Path, settings: dict[str, Any], expected: float) -> None:
    arguments(tmp_path / "run", **settings)
    assert training.beta(tmp_path / "run") == expected


def test_beta_is_told_and_no_part_of_the_identity(copy: Path, tmp_path: Path) -> None:
    before = known(copy)
    assert before.beta is None
    (copy / "training_args.json").write_text('{"beta": 0.25}')
    assert known(copy) == replace(before, beta=0.25)
    (copy / "training_args.json").unlink()
    run = tmp_path / "run"
    step = Path(shutil.copytree(copy, run / "checkpoint-7"))
    (run / "dpo_config.json").write_text('{"beta": 2}')
    assert training.beta(step) == 2.0, "of the run above checkpoint-N"
    assert training.beta(Path(shutil.copytree(copy, run / "merged"))) is None, "other directories are no part of a run"


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.file),), {"beta": 0.5})


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_executed_to_read_beta(tmp_path: Path, protocol: int) -> None:
    import pickle
    import zipfile

    boom = tmp_path / "boom"
    content = pickle.dumps(Bomb(boom), protocol=protocol)
    with zipfile.ZipFile(tmp_path / "training_args.bin", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    found = training.beta(tmp_path)
    assert not boom.exists()
    assert found == (0.5 if protocol else None), "protocol 0 has no dicts that are read"
    with pytest.raises(AttributeError):
        pickle.loads(content)
    assert boom.exists(), "the file does what it is said to do"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"not a zip",
        {"data.pkl": b""},
        {"data.pkl": b"\x80\x02}q"},
        {"data.pkl": b"0."},
        {"a": b"N."},
    ],
)
def test_damaged_arguments_are_no_beta(tmp_path: Path, content: Any) -> None:
    import zipfile

    file = tmp_path / "training_args.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        with zipfile.ZipFile(file, "w") as archive:
            for name, inside in content.items():
                archive.writestr(f"archive/{name}", inside)
    assert training.beta(tmp_path) is None


def test_arguments_cut_short_anywhere_are_no_beta(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(arguments(tmp_path / "run", beta=0.3)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        content = archive.read(name)
    assert training.attributes(content)["beta"] == 0.3
    for length in range(0, len(content), 97):
        with zipfile.ZipFile(tmp_path / "training_args.bin", "w") as archive:
            archive.writestr(name, content[:length])
        assert training.beta(tmp_path) is None, length


@pytest.mark.parametrize("text", ["{", "[]", '{"beta": "0.1"}', '{"beta": true}', '{"beta": NaN}', "{}"])
def test_json_arguments_without_a_number_are_no_beta(tmp_path: Path, text: str) -> None:
    (tmp_path / "training_args.json").write_text(text)
    assert training.beta(tmp_path) is None
