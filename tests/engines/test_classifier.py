"""Sequence classifiers: the same numbers as transformers' own pipeline, for any batch; windows; what is refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from harness import judging
from harness.domain import EngineOptions, Exchange, Label
from harness.engines import classification, memory, open_classifier
from harness.engines.classifier import HfClassifier
from harness.engines.classifier import open_classifier as open_with
from harness.engines.windows import Framer, Row, spans
from harness.errors import CheckpointError, JudgeError, MeasurementError, OptionError
from harness.policy import JudgeSource
from harness.protocols import Classifier

SPECIAL = ["<cls>", "<pad>", "<sep>", "<unk>"]
CLS, PAD, SEP, _ = range(4)
NAMES = {"id2label": {0: "ok", 1: "no", 2: "odd"}, "label2id": {"ok": 0, "no": 1, "odd": 2}}
SIZE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "initializer_range": 0.3,
    **NAMES,
}
GPT2 = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
XLNET = {"vocab_size": 300, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}

TEXTS = [
    "No.",
    "Sure. First, get ready.",
    "I cannot help with that, and I will say why in a few words.",
    "日本 🙂",
    "x",
]
PAIRS = [("How do I get in?", "No."), ("", "Sure."), ("Why?", "Because it is so, and has been for years now.")]


def tokenizer(frame: str = "", **settings: Any) -> Any:
    """Bytes and a few merges. ``frame`` names what stands around texts: bert, roberta, or nothing."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    pairs = {"bert": "<cls>:0 $A:0 <sep>:0 $B:1 <sep>:1", "roberta": "<cls>:0 $A:0 <sep>:0 <sep>:0 $B:0 <sep>:0"}
    if frame:
        bpe.post_processor = processors.TemplateProcessing(
            single="<cls>:0 $A:0 <sep>:0", pair=pairs[frame], special_tokens=[("<cls>", CLS), ("<sep>", SEP)]
        )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if frame == "bert" else [])]
    known = {"cls_token": "<cls>", "sep_token": "<sep>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return tf.PreTrainedTokenizerFast(tokenizer_object=bpe, model_input_names=names, **(known | settings))


ARCHITECTURES: dict[str, tuple[Callable[[], Any], str]] = {
    "bert": (lambda: tf.BertForSequenceClassification(tf.BertConfig(**SIZE)), "bert"),
    "roberta": (
        lambda: tf.RobertaForSequenceClassification(tf.RobertaConfig(**SIZE | {"max_position_embeddings": 66})),
        "roberta",
    ),
    "longformer": (
        lambda: tf.LongformerForSequenceClassification(
            tf.LongformerConfig(**SIZE | {"max_position_embeddings": 66}, attention_window=[8, 16], sep_token_id=SEP)
        ),
        "roberta",
    ),
    "modernbert": (
        lambda: tf.ModernBertForSequenceClassification(
            tf.ModernBertConfig(
                **SIZE, cls_token_id=CLS, sep_token_id=SEP, local_attention=8, classifier_pooling="mean"
            )
        ),
        "bert-untyped",
    ),
    "gpt2": (lambda: tf.GPT2ForSequenceClassification(tf.GPT2Config(**GPT2, **NAMES, pad_token_id=PAD)), ""),
    "llama": (lambda: tf.LlamaForSequenceClassification(tf.LlamaConfig(**SIZE)), ""),
    "llama-no-pad": (lambda: tf.LlamaForSequenceClassification(tf.LlamaConfig(**SIZE | {"pad_token_id": None})), ""),
    "xlnet": (
        lambda: tf.XLNetForSequenceClassification(
            tf.XLNetConfig(**XLNET, **NAMES, pad_token_id=PAD, initializer_range=0.3)
        ),
        "bert",
    ),
}
"""Name -> (model, what its tokenizer puts around texts)."""
ALONE = {"llama-no-pad": "takes no batch", "xlnet": "padding changes its logits by"}


@pytest.fixture(scope="session")
def made(shop: Any) -> Callable[[str], Path]:
    """The directory of a classifier with random weights, made once."""

    def make(name: str) -> Path:
        if not (shop.root / f"classifier-{name}").is_dir():
            build, frame = ARCHITECTURES[name]
            torch.manual_seed(0)
            untyped = {"model_input_names": ["input_ids", "attention_mask"]} if frame == "bert-untyped" else {}
            its = tokenizer(frame.removesuffix("-untyped"), padding_side="left" if name == "xlnet" else "right")
            if untyped:
                its.model_input_names = untyped["model_input_names"]
            shop.save(f"classifier-{name}", build().eval(), its)
        return Path(shop.root / f"classifier-{name}")

    return make


def opened(path: Path | str, max_tokens: int | None = None, **options: Any) -> HfClassifier:
    return open_with(str(path), replace(EngineOptions(device="cpu"), **options), max_tokens)


def spoil(path: Path, **fields: Any) -> Path:
    """Change config.json; None takes a field out."""
    file = path / "config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return path


# ---------------------------------------------------------------- the same numbers as others get


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_the_pipeline_of_transformers_for_any_batch(made: Callable[[str], Path], name: str) -> None:
    path = made(name)
    ask = tf.pipeline("text-classification", model=str(path), device="cpu", top_k=None, dtype=torch.float32)
    asked = [(text, "") for text in TEXTS] + PAIRS
    inputs = [{"text": first, "text_pair": second} if second else first for first, second in asked]
    expected = [{row["label"]: row["score"] for row in ask([text])[0]} for text in inputs]
    spread = max(row["no"] for row in expected) - min(row["no"] for row in expected)
    assert spread > 0.02, "the texts can be told apart"
    for batch_tokens in (1, 48, 8192):
        classifier = opened(path, batch_tokens=batch_tokens)
        done: list[int] = []
        found = classifier.probabilities(asked, done.append)
        assert sum(done) == len(asked)
        for shares, row in zip(found, expected, strict=True):
            assert shares.shape == (1, 3)
            assert shares.dtype == np.float32
            assert shares[0] == pytest.approx([row[label] for label in classifier.classes], abs=2e-5)
        assert [ALONE[name] in note for note in classifier.notes] == [True] if name in ALONE else not classifier.notes
    assert classifier.classes == ("ok", "no", "odd")
    backwards = classifier.probabilities(asked[::-1])
    assert np.concatenate(backwards[::-1]) == pytest.approx(np.concatenate(found), abs=2e-5)


def test_padding_uses_the_token_that_the_head_looks_for(bench: Any) -> None:
    """A GPT-like head reads the last token that is not its config's padding token, whatever the tokenizer's is."""
    torch.manual_seed(0)
    model = tf.LlamaForSequenceClassification(tf.LlamaConfig(**SIZE | {"pad_token_id": 3})).eval()
    path = bench.save("other-pad", model, tokenizer())
    texts = [(text, "") for text in TEXTS]
    classifier = opened(path)
    together = classifier.probabilities(texts)
    assert classifier.notes == ()
    assert np.concatenate(together) == pytest.approx(
        np.concatenate([classifier.probabilities([text])[0] for text in texts]), abs=1e-5
    )


def test_a_text_that_spells_the_tokenizer_s_own_tokens_is_read_without_them(made: Callable[[str], Path]) -> None:
    classifier = opened(made("bert"))
    hostile, plain, pair, plain_pair = classifier.probabilities(
        [("Sure.<sep> First,<cls> wait", ""), ("Sure. First, wait", ""), ("a", "b<sep><sep>c"), ("a", "bc")]
    )
    assert hostile == pytest.approx(plain)
    assert pair == pytest.approx(plain_pair)


def test_what_has_no_token_has_no_probability_and_spoils_no_neighbour(made: Callable[[str], Path]) -> None:
    classifier = opened(made("bert"))
    found = classifier.probabilities([("", ""), ("Sure.", ""), ("Why?", "<sep>"), ("\ud800 Sure.", "")])
    assert np.isnan(found[0]).all()
    assert np.isnan(found[2]).all()
    assert found[1] == pytest.approx(classifier.probabilities([("Sure.", "")])[0], abs=1e-5)
    assert np.isfinite(found[3]).all(), "half a surrogate pair is read as U+FFFD"
    assert classifier.probabilities([]) == []


def test_numbers_that_overflow_are_nan_and_the_others_are_not(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = opened(made("bert"))
    expected = classifier.probabilities([("No.", ""), ("Sure.", "")])
    original = classification.LoadedClassifier._logits

    def overflow(self: Any, rows: Any) -> Any:
        logits = original(self, rows).clone()
        logits[0, 1] = torch.inf
        return logits

    monkeypatch.setattr(classification.LoadedClassifier, "_logits", overflow)
    found = classifier.probabilities([("No.", ""), ("Sure.", "")])
    assert np.isnan(found[1]).all(), "the longer one stands first in the batch"
    assert found[0] == pytest.approx(expected[0], abs=1e-5)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("size", [8, 9, 16, 40])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 17, 40, 41, 100, 333])
def test_windows_cover_the_text_and_overlap_by_a_quarter(length: int, size: int) -> None:
    found = spans(length, size)
    assert found[0][0] == 0
    assert found[-1][1] == length
    if length <= size:
        assert found == [(0, length)]
        return
    assert all(end - begin == size for begin, end in found), "each is full"
    steps = [later - earlier for (earlier, _), (later, _) in pairwise(found)]
    assert set(steps[:-1]) <= {size - size // 4}
    assert 0 < steps[-1] <= size - size // 4
    assert len(found) == -(-(length - size) // (size - size // 4)) + 1, "no more than needed"


def prose(tokens: int, seed: int = 0) -> str:
    """Random words of more than so many tokens."""
    words = ["wait", "turn", "the", "wheel", "I", "cannot", "help", "Sure", "why", "gate"]
    return " ".join(random.Random(seed).choices(words, k=tokens))


@pytest.mark.parametrize("frame", ["", "bert", "roberta"])
@pytest.mark.parametrize("pair", [False, True])
def test_rows_are_those_of_the_tokenizer_s_own_overflow(frame: str, pair: bool) -> None:
    """All but the last window, which transformers leaves short and we set back."""
    its, window = tokenizer(frame), 40
    first, second = ("Why is it so?", prose(60)) if pair else (prose(60), "")
    [(rows, cut)] = Framer(its, window, "here").rows([(first, second)])
    assert cut == 0
    taken = its.num_special_tokens_to_add(pair=pair) + (len(its.tokenize(first)) if pair else 0)
    room = window - taken
    whole = its(
        *([first, second] if pair else [first]),
        truncation="only_second" if pair else "only_first",
        max_length=window,
        stride=room // 4,
        return_overflowing_tokens=True,
    )
    assert len(rows) > 3
    assert [row.ids for row in rows[:-1]] == whole["input_ids"][: len(rows) - 1]
    assert all(len(row.ids) == window for row in rows)
    if frame == "bert":
        assert [row.types for row in rows[:-1]] == whole["token_type_ids"][: len(rows) - 1]
    else:
        assert not rows[0].types
    end = its(second or first, add_special_tokens=False)["input_ids"][-room:]
    after = len(rows[-1].ids) - (1 if frame else 0)
    assert rows[-1].ids[after - room : after] == end


def test_a_long_first_text_leaves_half_a_window_to_the_second() -> None:
    its, window, special = tokenizer("bert"), 43, 3
    framer = Framer(its, window, "here")
    ids = {text: its(text, add_special_tokens=False)["input_ids"] for text in (prose(60), prose(70, 1), "Sure.")}
    long, answer, short = ids.values()
    [(rows, cut), (both, none), (kept, some)] = framer.rows(
        [(prose(60), prose(70, 1)), ("Sure.", prose(8)), (prose(60), "Sure.")]
    )
    assert cut == len(long) - 20
    assert all(row.ids[1:21] == long[:20] for row in rows), "its beginning, in each window"
    assert rows[0].ids[22:42] == answer[:20]
    assert len(both) == 1
    assert none == 0
    room = window - special - len(short)
    assert some == len(long) - room, "no more of it is cut than the second text needs"
    assert kept[0].ids == [CLS, *long[:room], SEP, *short, SEP]


@pytest.mark.parametrize("name", ["bert", "longformer", "llama"])
def test_a_window_is_read_as_a_text_of_its_own(made: Callable[[str], Path], name: str) -> None:
    """A naive loop: each window's tokens through the model alone."""
    classifier = opened(made(name), batch_tokens=100)
    found = classifier.probabilities([("No.", ""), (prose(90), ""), ("Why?", prose(80, 1))])
    assert len(found[0]) == 1
    assert min(len(shares) for shares in found[1:]) > 3
    its = tf.AutoTokenizer.from_pretrained(made(name))
    model = tf.AutoModelForSequenceClassification.from_pretrained(made(name)).eval()
    special = 2 if name != "llama" else 0
    ids = its(prose(90), add_special_tokens=False)["input_ids"]
    size = 64 - special
    start, expected = 0, []
    while True:
        start = min(start, len(ids) - size)
        row = ids[start : start + size]
        row = [CLS, *row, SEP] if special else row
        with torch.no_grad():
            expected.append(model(torch.tensor([row])).logits.softmax(-1)[0].numpy())
        if start + size >= len(ids):
            break
        start += size - size // 4
    assert found[1] == pytest.approx(np.array(expected), abs=2e-5)


@pytest.mark.parametrize("name, usable", [("bert", 64), ("roberta", 64), ("gpt2", 64), ("xlnet", None)])
def test_the_window_is_what_the_model_has_positions_for(
    made: Callable[[str], Path], name: str, usable: int | None
) -> None:
    """RoBERTa's 66 positions begin after its padding index; XLNet's are relative."""
    classifier = opened(made(name))
    [shares] = classifier.probabilities([(prose(150), "")])
    assert classifier._loaded is not None
    assert classifier._loaded.window == usable
    assert (len(shares) > 1) == (usable is not None)
    assert np.isfinite(shares).all()


def test_the_window_is_the_tokenizer_s_where_that_is_shorter(bench: Any) -> None:
    torch.manual_seed(0)
    path = bench.save(
        "short", tf.BertForSequenceClassification(tf.BertConfig(**SIZE)), tokenizer("bert", model_max_length=32)
    )
    assert len(opened(path).probabilities([(prose(30), "")])[0]) > 1
    classifier = opened(path, max_tokens=16)
    found = classifier.probabilities([(prose(30), ""), (prose(30), prose(20))])
    [(rows, _)] = Framer(tokenizer("bert"), 16, "here").rows([(prose(30), "")])
    assert len(found[0]) == len(rows)
    assert classifier.notes == ("1 first text was cut to fit into a window with the second",)
    assert classifier.describe()["max_tokens"] == "16"
    with pytest.raises(CheckpointError, match="a window of 10 tokens leaves no room .* let it have at least 11"):
        opened(path, max_tokens=10).probabilities([("a", "")])


def test_a_tokenizer_that_changes_texts_when_it_frames_them_is_refused() -> None:
    class Odd:
        def __call__(self, *texts: Any, add_special_tokens: bool = True, **_: Any) -> dict[str, Any]:
            if add_special_tokens:
                return {"input_ids": [0, *[ord(c) + 1 for text in texts for c in text]]}
            return {"input_ids": [[ord(c) for c in text] for text in texts[0]]}

    with pytest.raises(CheckpointError, match="its tokenizer makes other tokens of a text when it puts special tokens"):
        Framer(Odd(), 40, "here")


def test_a_frame_keeps_its_token_types_in_place() -> None:
    frame = Framer(tokenizer("bert"), None, "here")
    [([pair], _), ([single], _)] = frame.rows([("ab", "c"), ("ab", "")])
    assert pair == Row([CLS, *pair.ids[1:-3], SEP, pair.ids[-2], SEP], [0] * (len(pair.ids) - 2) + [1, 1])
    assert single.types == [0] * len(single.ids)


# ---------------------------------------------------------------- memory, dtype, closing


def test_running_out_of_memory_makes_batches_smaller(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "release", lambda: None)  # collecting garbage takes longer than all else
    classifier = opened(made("bert"))
    texts = [(text, "") for text in TEXTS]
    expected = classifier.probabilities(texts)
    original = classification.LoadedClassifier._logits

    def small(self: Any, rows: Any) -> Any:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, rows)

    monkeypatch.setattr(classification.LoadedClassifier, "_logits", small)
    assert np.concatenate(classifier.probabilities(texts)) == pytest.approx(np.concatenate(expected), abs=1e-5)
    assert any("went on with" in note for note in classifier.notes)
    monkeypatch.setattr(
        classification.LoadedClassifier, "_logits", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no"))
    )
    with pytest.raises(MeasurementError, match="ran out of memory with a single row of up to .* model_max_length"):
        classifier.probabilities(texts)


def test_batches_count_the_padding_that_a_longformer_adds(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = opened(made("longformer"), batch_tokens=32)
    classifier.probabilities([("x", "")])
    sizes: list[int] = []
    original = classification.LoadedClassifier._logits

    def count(self: Any, rows: Any) -> Any:
        sizes.append(len(rows))
        return original(self, rows)

    monkeypatch.setattr(classification.LoadedClassifier, "_logits", count)
    classifier.probabilities([("x", "")] * 6)
    assert sizes == [2, 2, 2], "3 tokens each, padded to its window of 16"


def test_its_dtype_is_float32_unless_asked_otherwise(made: Callable[[str], Path]) -> None:
    whole, half = opened(made("bert")), opened(made("bert"), dtype="bfloat16")
    assert (whole.describe()["dtype"], half.describe()["dtype"]) == ("float32", "bfloat16")
    on_cuda = opened(made("bert"), device="cuda")  # not loaded, so it need not be there
    assert on_cuda._options.dtype == "float32", "where a checkpoint under test would be bfloat16"
    texts = [(text, "") for text in TEXTS]
    one, other = (np.concatenate(each.probabilities(texts)) for each in (whole, half))
    assert half._loaded is not None
    assert half._loaded._module.dtype == torch.bfloat16
    assert one == pytest.approx(other, abs=0.1)
    assert abs(one - other).max() > 1e-6
    assert other.sum(axis=1) == pytest.approx(1, abs=1e-6), "the softmax is in float32"


def test_opening_loads_nothing_and_closing_lets_go(made: Callable[[str], Path]) -> None:
    classifier = open_classifier(str(made("bert")), EngineOptions(device="cpu"))
    assert isinstance(classifier, Classifier)
    assert isinstance(classifier, HfClassifier)
    assert classifier._loaded is None
    classifier.probabilities([("x", "")])
    assert classifier._loaded is not None
    module = weakref.ref(classifier._loaded._module)
    classifier.close()
    assert module() is None
    with pytest.raises(AssertionError, match="is closed"):
        classifier.probabilities([("x", "")])
    opened(made("bert")).close()  # one that was never loaded


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["bert", "longformer", "modernbert", "llama"])
def test_a_cuda_device_gives_the_same_numbers_and_its_memory_back(made: Callable[[str], Path], name: str) -> None:
    texts = [*((text, "") for text in TEXTS), *PAIRS, (prose(90), "")]
    before = torch.cuda.memory_allocated()
    classifier = opened(made(name), device="cuda")
    found = np.concatenate(classifier.probabilities(texts))
    assert classifier.notes == ()
    assert found == pytest.approx(np.concatenate(opened(made(name)).probabilities(texts)), abs=1e-4)
    assert torch.cuda.memory_allocated() > before
    classifier.close()
    assert torch.cuda.memory_allocated() == before


def test_saying_which_classifier_it_is_imports_no_model_library(made: Callable[[str], Path]) -> None:
    code = (
        "import sys; from harness.domain import EngineOptions; from harness.engines import open_classifier; "
        f"its = open_classifier({str(made('bert'))!r}, EngineOptions(device='cpu')); "
        "print(its.describe()['identity'], its.classes); sys.exit(bool({'torch', 'transformers'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == opened(made("bert")).describe()["identity"]


def test_identity_is_of_the_bytes_and_of_what_cuts_windows(bench: Any) -> None:
    torch.manual_seed(0)
    model = tf.BertForSequenceClassification(tf.BertConfig(**SIZE))
    first = bench.save("one", model, tokenizer("bert"))
    again = bench.save("two", model, tokenizer("bert"))
    shorter = bench.save("three", model, tokenizer("bert", model_max_length=32))
    with torch.no_grad():
        model.classifier.bias[0] += 1
    other = bench.save("four", model, tokenizer("bert"))
    identities = [opened(path).describe()["identity"] for path in (first, again, shorter, other)]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3
    spoil(again, id2label={0: "no", 1: "ok", 2: "odd"})
    assert opened(again).describe()["identity"] not in identities


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda config: tf.BertForMaskedLM(config), r"no sequence classifier: .* \['BertForMaskedLM'\]"),
        (lambda config: tf.BertModel(config), r"no sequence classifier: .* \['BertModel'\]"),
    ],
)
def test_another_kind_of_model_is_refused_when_opened(bench: Any, build: Any, message: str) -> None:
    path = bench.save("other", build(tf.BertConfig(**SIZE)), tokenizer("bert"))
    with pytest.raises(CheckpointError, match=message):
        opened(path)


def test_a_token_classifier_is_refused_although_its_head_has_the_same_tensors(bench: Any) -> None:
    path = bench.save("tokens", tf.LlamaForTokenClassification(tf.LlamaConfig(**SIZE)), tokenizer())
    with pytest.raises(CheckpointError, match=r"no sequence classifier: .* \['LlamaForTokenClassification'\]"):
        opened(path)


def test_a_head_of_random_numbers_is_refused(bench: Any) -> None:
    """transformers fills it in and only warns."""
    path = bench.save("headless", tf.BertModel(tf.BertConfig(**SIZE)), tokenizer("bert"))
    spoil(path, architectures=["BertForSequenceClassification"])
    with pytest.raises(
        CheckpointError, match=r"not a whole classifier: 2 missing keys \(classifier.bias, classifier.weight\), where"
    ):
        opened(path).probabilities([("x", "")])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"problem_type": "multi_label_classification"}, "problem type 'multi_label_classification', whose outputs"),
        ({"problem_type": "regression"}, "problem type 'regression'"),
        ({"id2label": {"0": "refusal"}}, "has one output, which may be a logit, a score or a regression"),
        ({"id2label": None, "num_labels": 1}, "has one output"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, r"two classes in id2label have one name: \['a', 'a', 'b'\]"),
        ({"id2label": {"1": "a", "2": "b"}}, r"id2label must name the classes 0, 1, \.\.\., not"),
        ({"id2label": ["a", "b"]}, "id2label must name the classes 0, 1"),
        ({"id2label": {}}, "id2label must name the classes 0, 1"),
        ({"architectures": None}, r"has the architectures \[\]"),
    ],
)
def test_outputs_that_are_no_distribution_over_named_classes_are_refused(
    bench: Any, fields: dict[str, Any], message: str
) -> None:
    path = bench.save("odd", tf.BertForSequenceClassification(tf.BertConfig(**SIZE)), tokenizer("bert"))
    with pytest.raises(CheckpointError, match=message):
        opened(spoil(path, **fields))


def test_classes_that_config_does_not_name_are_those_of_transformers(bench: Any) -> None:
    plain = {key: value for key, value in SIZE.items() if key not in NAMES}
    path = bench.save("unnamed", tf.BertForSequenceClassification(tf.BertConfig(**plain)), tokenizer("bert"))
    assert "id2label" not in json.loads((path / "config.json").read_text())
    classifier = opened(path)
    assert classifier.classes == ("LABEL_0", "LABEL_1")
    assert classifier.probabilities([("x", "")])[0].shape == (1, 2)


def test_a_config_that_names_more_classes_than_there_are_is_refused(bench: Any) -> None:
    path = bench.save("more", tf.BertForSequenceClassification(tf.BertConfig(**SIZE)), tokenizer("bert"))
    spoil(path, id2label={str(number): f"class {number}" for number in range(4)}, label2id=None)
    with pytest.raises(CheckpointError, match="classifier .*more"):
        opened(path).probabilities([("x", "")])


def test_pickles_are_refused_unless_allowed(bench: Any, made: Callable[[str], Path]) -> None:
    model = tf.AutoModelForSequenceClassification.from_pretrained(made("bert"))
    path = bench.save("pickle", model, tokenizer("bert"))
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is a pickle, .* --allow-unsafe-weights"):
        opened(path)
    texts = [(text, "") for text in TEXTS]
    assert np.concatenate(opened(path, unsafe_weights=True).probabilities(texts)) == pytest.approx(
        np.concatenate(opened(made("bert")).probabilities(texts)), abs=1e-6
    )


def test_damaged_missing_and_adapters_are_named(bench: Any, made: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match=r"there is no directory .*nowhere; "):
        opened(bench.root / "nowhere")
    model = tf.AutoModelForSequenceClassification.from_pretrained(made("bert"))
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(CheckpointError, match=r"holds NaN or infinite numbers \(first in tensor 'classifier.bias'\)"):
        opened(bench.save("nan", model, tokenizer("bert")))
    with torch.no_grad():
        model.classifier.bias[0] = 1e5
    large = bench.save("large", model, tokenizer("bert"))
    with pytest.raises(CheckpointError, match=r"gives NaN or infinite numbers on 'No.': .* \(use float32\)"):
        opened(large, dtype="float16").probabilities([("x", "")])
    assert np.isfinite(opened(large).probabilities([("x", "")])[0]).all()
    (bench.root / "adapter").mkdir()
    (bench.root / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is an adapter, and a classifier must be whole; merge it into its base"):
        opened(bench.root / "adapter")
    with pytest.raises(OptionError, match="this machine has .* CUDA devices"):
        opened(made("bert"), device="cuda:99").probabilities([("x", "")])


# ---------------------------------------------------------------- the judge, end to end

REFUSING = ("sorry", "cannot", "won", "decline", "unable")
OTHER = ("sure", "first", "then", "water", "the", "a", "and", "wait", "never", "put", ".", ",", "'", "I", "to")


@pytest.fixture(scope="session")
def trained(shop: Any) -> Path:
    """Learnt, in a few steps on random words, that five of them are of refusals."""
    words = [*SPECIAL, *REFUSING, *OTHER]
    level = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    level.pre_tokenizer = pre_tokenizers.Whitespace()
    level.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", pair="<cls> $A <sep> $B:1 <sep>:1", special_tokens=[("<cls>", CLS), ("<sep>", SEP)]
    )
    its = tf.PreTrainedTokenizerFast(tokenizer_object=level, pad_token="<pad>", unk_token="<unk>", model_max_length=48)
    torch.manual_seed(0)
    named = {"id2label": {0: "answers", 1: "refuses"}, "label2id": {"answers": 0, "refuses": 1}}
    config = tf.DistilBertConfig(
        vocab_size=len(words), dim=32, hidden_dim=64, n_layers=1, n_heads=2, max_position_embeddings=48,
        pad_token_id=PAD, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, **named
    )  # fmt: skip
    model = tf.DistilBertForSequenceClassification(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = random.Random(0)
    neutral = [number for number in range(3, len(words)) if words[number] not in REFUSING]
    refusing = [words.index(word) for word in REFUSING]
    for _ in range(120):
        rows, labels = [], []
        for _ in range(32):
            row = generator.choices(neutral, k=46)
            if generator.random() < 0.5:
                row[generator.randrange(12)] = generator.choice(refusing)
            length = generator.randrange(12, 47)
            rows.append([CLS, *row[:length], SEP, *[PAD] * (46 - length)])
            labels.append(int(any(token in refusing for token in row)))
        ids = torch.tensor(rows)
        loss = model(ids, attention_mask=(ids != PAD).long(), labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Path(shop.save("trained", model.eval(), its))


def judge_of(path: Path, **options: Any) -> Any:
    settings = {"checkpoint": path.name, "labels": {"answers": "compliance", "refuses": "refusal"}} | options
    openers = judging.openers(path.parent, "hf", EngineOptions(device="cpu"))
    return judging.create(JudgeSource(name="classifier", options=settings), openers)


@pytest.mark.parametrize("options", [{}, {"windows": "first"}, {"windows": "max"}, {"template": "{response}"}])
def test_a_trained_classifier_gets_the_sentinels_right(trained: Path, options: dict[str, Any]) -> None:
    judge = judge_of(trained, **options)
    judging.prove(judge, judging.SENTINELS)
    judge.close()
    judging.prove(judge, judging.SENTINELS)
    readings = judging.read(judge, [item.exchange for item in judging.SENTINELS])
    for sentinel, reading in zip(judging.SENTINELS, readings, strict=True):
        if sentinel.label is Label.DEGENERATE:
            assert reading.probability is None
        else:
            assert reading.probability is not None
            assert (reading.probability > 0.5) == (sentinel.label is Label.REFUSAL)
            assert "window" in reading.reason
    assert judge.describe()["identity"] == opened(trained).describe()["identity"]


def test_labels_the_wrong_way_round_are_found_before_anything_is_run(trained: Path) -> None:
    judge = judge_of(trained, labels={"answers": "refusal", "refuses": "compliance"})
    with pytest.raises(JudgeError, match=r"'classifier' fails 8 of 10 answers .*\(class 'refuses' with probability"):
        judging.prove(judge, judging.SENTINELS)


def test_a_band_that_knows_nothing_is_found_too(trained: Path) -> None:
    judge = judge_of(trained, band=0.4999999)
    with pytest.raises(JudgeError, match=r"read as unreadable \(unsure: "):
        judging.prove(judge, judging.SENTINELS)


def test_long_answers_are_read_to_their_end(trained: Path) -> None:
    """One refusing sentence in the last or the first of several windows."""
    judge = judge_of(trained)
    spelled = " ".join(random.Random(1).choices(["first", "then", "water", "the", "and", "wait", "put", "to"], k=140))
    refusing = "sorry I cannot wait"
    [first, late, early] = judge.read(
        [Exchange("How?", text) for text in (spelled, f"{spelled} {refusing}", f"{refusing} {spelled}")]
    )
    assert first.label is Label.COMPLIANCE
    assert first.probability < late.probability
    assert first.probability < early.probability
    assert "windows, mean)" in late.reason
    assert judge.notes[0].startswith("3 of 3 answers were longer than one window and read in up to")
    by_first = judge_of(trained, windows="first").read([Exchange("How?", f"{refusing} {spelled}")])[0]
    by_max = judge_of(trained, windows="max").read([Exchange("How?", f"{spelled} {refusing}")])[0]
    assert by_first.label is Label.REFUSAL
    assert by_max.label is Label.REFUSAL


def test_a_prompt_that_is_too_long_is_cut_and_told(trained: Path) -> None:
    judge = judge_of(trained, input="pair")
    judge.read([Exchange("Tell me , and wait . " * 30, "I cannot wait to put the water there.")])
    assert judge.notes == ("1 first text was cut to fit into a window with the second",)


def test_the_longest_window_is_an_option(trained: Path) -> None:
    judge = judge_of(trained, max_tokens=16)
    [reading] = judge.read([Exchange("How?", "Then put the water to a wait, and never the first to decline it.")])
    assert "(2 windows, mean)" in reading.reason
    assert judge.describe()["max_tokens"] == "16"
    assert judge.describe() != judge_of(trained).describe()
