"""Which tokens a response has, on tiny and on real tokenizers and templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ask
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from harness.domain import Message, PreferencePair
from harness.engines.templates import RAW_TEMPLATE
from harness.engines.tokens import ChatTokenizer, stop_tokens
from harness.errors import CheckpointError, MeasurementError

CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def chat_of(tokenizer: Any, **settings: Any) -> ChatTokenizer:
    return ChatTokenizer(tokenizer, where="there", **settings)


def text_of(chat: ChatTokenizer, ids: tuple[int, ...]) -> str:
    return str(chat.tokenizer.decode(ids))


def test_a_response_ends_with_the_end_of_turn_and_follows_the_prompt(bench: Any) -> None:
    chat = chat_of(bench.tokenizer())
    prompt, response, apart = chat.response_ids("Hi", "Yes, I can.")
    assert text_of(chat, prompt) == "<|bos|><|user|>Hi<|end|><|assistant|>"
    assert text_of(chat, response) == "Yes, I can.<|end|>"
    assert prompt == chat.prompt_ids("Hi")
    assert not apart
    assert chat.stops == (chat.tokenizer.eos_token_id,)


def test_a_template_that_trims_answers_is_followed(bench: Any) -> None:
    template = bench.tokenizer().chat_template.replace("message['content']", "(message['content'] | trim)")
    chat = chat_of(bench.tokenizer(template))
    assert text_of(chat, chat.response_ids("Hi", "  Yes \n")[1]) == "Yes<|end|>"
    assert text_of(chat_of(bench.tokenizer()), chat.response_ids("Hi", "  Yes \n")[1]) == "Yes<|end|>"


def test_white_space_around_answers_belongs_to_them(bench: Any) -> None:
    """Llama-2 style: ``[/INST] answer </s>``."""
    template = (
        "{{- bos_token }}{%- for m in messages %}{%- if m['role'] == 'user' %}"
        "{{- '[INST] ' + m['content'] + ' [/INST]' }}{%- else %}"
        "{{- ' ' + m['content'] + ' ' + eos_token }}{%- endif %}{%- endfor %}"
    )
    chat = chat_of(bench.tokenizer(template))
    assert text_of(chat, chat.response_ids("Hi", "Yes")[1]) == " Yes <|end|>"


def test_other_text_before_answers_belongs_to_none(bench: Any) -> None:
    """A template that writes an empty thinking block into finished turns: both answers would start with it."""
    template = bench.tokenizer().chat_template.replace(
        "message['content']", "('<think></think>' if message['role'] == 'assistant' else '') + message['content']"
    )
    chat = chat_of(bench.tokenizer(template))
    assert text_of(chat, chat.response_ids("Hi", "Yes")[1]) == "Yes<|end|>"


def test_a_template_that_rewrites_answers_does_not_change_what_is_scored(bench: Any) -> None:
    template = bench.tokenizer().chat_template.replace("message['content']", "(message['content'] | upper)")
    chat = chat_of(bench.tokenizer(template.replace("| upper", "| replace('Yes', 'No')")))
    assert text_of(chat, chat.response_ids("Hi", "Yes")[1]) == "Yes<|end|>"


def test_without_a_special_token_after_answers_the_eos_ends_them(bench: Any) -> None:
    template = "{%- for m in messages %}{{- m['role'] + ': ' + m['content'] + '\n' }}{%- endfor %}"
    chat = chat_of(bench.tokenizer(template))
    assert text_of(chat, chat.response_ids("Hi", "Yes")[1]) == "Yes<|end|>"
    chat = chat_of(bench.tokenizer(template, eos_token=None), stop_tokens=(3,))
    assert chat.end.token == 3
    with pytest.raises(CheckpointError, match=r"there: .* which token ends an answer; set eos_token"):
        chat_of(bench.tokenizer(template, eos_token=None))


def test_generation_stops_on_the_templates_and_every_eos(bench: Any) -> None:
    special = ["<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>", "<|eos|>"]
    chat = chat_of(bench.tokenizer(special=special, eos_token="<|eos|>"), stop_tokens=(7,))
    assert chat.stops == (4, 5, 7)
    assert chat.end.token == 4


def test_never_a_second_bos(bench: Any) -> None:
    """A tokenizer that adds BOS by itself, with a template that writes one and with one that does not."""
    tokenizer = bench.tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.bos_token_id)]
    )
    chat = chat_of(tokenizer)
    prompt, response, _ = chat.response_ids("Hi", "Yes")
    assert prompt.count(chat.bos) == 1
    assert chat.bos not in response
    tokenizer.chat_template = tokenizer.chat_template.replace("{{- bos_token }}", "")
    chat = chat_of(tokenizer)
    assert chat.prompt_ids("Hi")[0] == chat.bos, "the tokenizer's BOS where the template writes none"
    assert chat.prompt_ids("Hi") == prompt
    assert chat.bos not in chat.response_ids("Hi", "Yes")[1]
    tokenizer.backend_tokenizer.post_processor = None
    assert chat_of(tokenizer).bos not in chat_of(tokenizer).prompt_ids("Hi"), "no BOS that nobody asked for"


def test_a_merge_across_the_boundary_is_tokenised_apart(bench: Any) -> None:
    """A prompt ending in text that merges with the answer: its tokens must not change, and the pair is counted."""
    template = bench.tokenizer().chat_template.replace("'<|assistant|>'", "'<|assistant|>Sor'")
    chat = chat_of(bench.tokenizer(template))
    pair = PreferencePair("a", "Hi", "ry, I cannot", "Yes")
    ids = chat.pair_ids(pair)
    assert ids.apart
    assert ids.chosen_prompt == ids.rejected_prompt == chat.prompt_ids("Hi")
    assert text_of(chat, ids.chosen) == "ry, I cannot<|end|>"
    assert not chat.pair_ids(PreferencePair("b", "Hi", "Yes", "No")).apart


def test_apart_is_recorded_in_scores(bench: Any, opened: Any) -> None:
    template = bench.tokenizer().chat_template.replace("'<|assistant|>'", "'<|assistant|>Sor'")
    model = opened(bench.save("merging", bench.llama(), bench.tokenizer(template)))
    scores = ask.scores(
        model, [PreferencePair("a", "Hi", "ry, I cannot", "Yes"), PreferencePair("b", "Hi", "Yes", "No")]
    )
    assert [score.tokenised_apart for score in scores] == [True, False]


def test_a_template_that_fails_or_forgets_is_named(bench: Any) -> None:
    with pytest.raises(
        CheckpointError, match=r"there: its chat template fails \(.*bad roles.*\).*--chat-template FILE"
    ):
        chat_of(bench.tokenizer("{{ raise_exception('bad roles') }}"))
    with pytest.raises(CheckpointError, match=r"leaves out the assistant's answer; .*--chat-template FILE"):
        chat_of(bench.tokenizer("{{ messages[0]['content'] }}"))


def test_vocabulary(bench: Any) -> None:
    chat = chat_of(bench.tokenizer())
    vocabulary = chat.vocabulary(320)
    assert len(vocabulary) == 320
    assert vocabulary[4] == "<|end|>"
    assert vocabulary[chat.largest_id] != ""
    assert set(vocabulary[chat.largest_id + 1 :]) == {""}
    assert len(chat.vocabulary(10)) == 10


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ('{"eos_token_id": [1, 2]}', "{}", (1, 2)),
        ("{}", '{"eos_token_id": 3}', (3,)),
        (None, '{"eos_token_id": null}', ()),
    ],
)
def test_stop_tokens(tmp_path: Path, generation: str | None, config: str, expected: tuple[int, ...]) -> None:
    (tmp_path / "config.json").write_text(config)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(generation)
    assert stop_tokens(tmp_path) == expected


# ---------------------------------------------------------------- conversations and third responses

TURNS = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Lock?"))


def test_a_conversation_goes_through_the_template(bench: Any) -> None:
    chat = chat_of(bench.tokenizer())
    ids = chat.pair_ids(PreferencePair("a", "as people read it", "Sure.", "No", messages=TURNS))
    assert text_of(chat, ids.chosen_prompt) == (
        "<|bos|><|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Yes?<|end|><|user|>Lock?<|end|><|assistant|>"
    )
    assert (text_of(chat, ids.chosen), text_of(chat, ids.rejected)) == ("Sure.<|end|>", "No<|end|>")
    assert ids.chosen_prompt == ids.rejected_prompt == chat.prompt_ids(TURNS)
    single = chat.pair_ids(PreferencePair("a", "Hi", "Sure.", "No", messages=(Message("user", "Hi"),)))
    assert single == chat.pair_ids(PreferencePair("a", "Hi", "Sure.", "No"))


def test_third_responses_are_tokenised_like_the_others(bench: Any) -> None:
    chat = chat_of(bench.tokenizer())
    ids = chat.pair_ids(PreferencePair("a", "Hi", "Yes", "No", others=("Never", "Sure.")))
    assert ids.others == tuple(chat.response_ids("Hi", text)[:2] for text in ("Never", "Sure."))
    assert not ids.apart
    template = bench.tokenizer().chat_template.replace("'<|assistant|>'", "'<|assistant|>Sor'")
    assert chat_of(bench.tokenizer(template)).pair_ids(PreferencePair("a", "Hi", "A", "B", others=("ry, I",))).apart


REFUSES = "{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}"
DROPS = "{%- if messages[0]['role'] == 'system' %}{%- set messages = messages[1:] %}{%- endif %}"


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (REFUSES, "does not take its conversation .*System role not supported"),
        (DROPS, "leaves out a turn of the system"),
    ],
)
def test_a_template_that_does_not_take_a_conversation_names_the_pair_and_the_cure(
    bench: Any, before: str, words: str
) -> None:
    chat = chat_of(bench.tokenizer(before + bench.tokenizer().chat_template))
    pair = PreferencePair("a7", "as people read it", "Sure.", "No", messages=TURNS)
    with pytest.raises(MeasurementError, match=f"pair 'a7': .*{words}.*write the system text into the user's turn"):
        chat.pair_ids(pair)
    chat.pair_ids(PreferencePair("a7", "as people read it", "Sure.", "No", messages=TURNS[1:]))


# ---------------------------------------------------------------- no template


def test_raw_is_the_prompt_the_answer_and_eos(bench: Any) -> None:
    chat = chat_of(bench.tokenizer(RAW_TEMPLATE))
    ids = chat.pair_ids(PreferencePair("a", "Hi  ", " Yes \n", "No<|end|>"))
    assert text_of(chat, ids.chosen_prompt) == "Hi  "
    assert text_of(chat, ids.chosen) == " Yes \n<|end|>"
    assert text_of(chat, ids.rejected) == "No<|end|>", "an EOS that is there is not added"
    talk = chat.pair_ids(PreferencePair("a", "as people read it", "Sure.", "No", messages=TURNS))
    assert text_of(chat, talk.chosen_prompt) == "Be brief.HiYes?Lock?"
    assert chat_of(bench.tokenizer(RAW_TEMPLATE, eos_token=None), stop_tokens=(3,)).end.token == 3


@pytest.mark.parametrize("bos", [False, True])
def test_raw_tokens_are_those_trl_trains_on(bench: Any, reference: Path, tmp_path: Path, bos: bool) -> None:
    """Standard format, through DPOTrainer's own preparation; with a tokenizer that adds BOS and one that does not."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    tokenizer = bench.tokenizer(RAW_TEMPLATE)
    if bos:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.bos_token_id)]
        )
    pairs = [
        PreferencePair("a", "How do I pick a lock?", " Sorry, I cannot.", " Sure. First, get ready."),
        PreferencePair("b", "\n\nHuman: Hi\n\nAssistant:", " Yes ", " naïve 🙂"),
        PreferencePair("c", "Hi", " No<|end|>", " Never"),
    ]
    rows = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]
    trainer = trl.DPOTrainer(
        model=LlamaForCausalLM.from_pretrained(reference),
        args=trl.DPOConfig(
            output_dir=str(tmp_path), max_length=None, use_cpu=True, bf16=False, report_to=[], disable_tqdm=True
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    chat = chat_of(tokenizer)
    for pair, row in zip(pairs, trainer.train_dataset, strict=True):
        ids = chat.pair_ids(pair)
        assert not ids.apart
        assert list(ids.chosen_prompt) == row["prompt_ids"]
        assert list(ids.chosen) == row["chosen_ids"]
        assert list(ids.rejected) == row["rejected_ids"]
        assert (ids.chosen_prompt[0] == chat.bos) is bos


REAL = {
    # template: (BOS, EOS, special tokens, the token that ends a turn, what an answer starts with)
    "llama-3-instruct": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ["<|start_header_id|>", "<|end_header_id|>"],
        "<|eot_id|>",
        "",
    ),
    "gemma-it": ("<bos>", "<eos>", ["<start_of_turn>"], "<end_of_turn>", ""),
    "qwen2.5-instruct": (None, "<|endoftext|>", ["<|im_start|>"], "<|im_end|>", ""),
    "mistral-instruct": ("<s>", "</s>", [], "</s>", " "),
}


def real_tokenizer(shared_data: Path, file: str, template: str) -> Any:
    bos, eos, special, end, _ = REAL[template]
    backend = Tokenizer.from_file(str(shared_data / "tokenizers" / file))
    backend.post_processor = None
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, additional_special_tokens=[*special, end]
    )
    text = (shared_data / "tokenizers" / f"{template}.jinja").read_text()
    # Their authors indent all but Qwen's for reading, to be joined before use.
    tokenizer.chat_template = text if template.startswith("qwen") else text.replace("    ", "").replace("\n", "")
    return tokenizer


@pytest.mark.parametrize("template", REAL)
@pytest.mark.parametrize("file", ["olmo_dolma2.json", "olmo_neox_dolma_v1_5.json"])
def test_real_templates(shared_data: Path, file: str, template: str) -> None:
    bos, eos, _, end, lead = REAL[template]
    chat = chat_of(real_tokenizer(shared_data, file, template))
    ids = chat.tokenizer.convert_tokens_to_ids
    assert chat.end.token == ids(end)
    assert set(chat.stops) == {ids(end), ids(eos)}
    prompt, response, apart = chat.response_ids("Is it  fine?\n", "No, never.")
    if bos is not None:
        written = "bos_token" in chat.tokenizer.chat_template
        assert prompt.count(ids(bos)) == int(written)
        assert ids(bos) not in response
    # NeoX splits "\n\n" in two before a letter and not at the end of a text: the prompt's tokens would change.
    assert apart == ("neox" in file and template == "llama-3-instruct")
    assert response.count(chat.end.token) == 1
    assert response[-1] == chat.end.token
    assert text_of(chat, response) == f"{lead}No, never.{end}"
    assert text_of(chat, (*prompt, *response)) in chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Is it  fine?\n"}, {"role": "assistant", "content": "No, never."}], tokenize=False
    )


def test_real_templates_and_system_turns(shared_data: Path) -> None:
    pair = PreferencePair("a", "as people read it", "Sure.", "No", messages=TURNS)
    for template in REAL:
        chat = chat_of(real_tokenizer(shared_data, "olmo_dolma2.json", template))
        prompt = text_of(chat, chat.pair_ids(pair).chosen_prompt)
        assert all(turn.content in prompt for turn in TURNS), template
        assert text_of(chat, chat.pair_ids(pair).chosen).strip() == f"Sure.{REAL[template][3]}"


def test_real_template_with_a_tokenizer_that_adds_bos(shared_data: Path) -> None:
    """This Gemma template writes no BOS and Gemma's tokenizer does: one BOS either way."""
    for template in ("gemma-it", "llama-3-instruct"):
        tokenizer = real_tokenizer(shared_data, "olmo_dolma2.json", template)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)]
        )
        ids = chat_of(tokenizer).prompt_ids("Hello")
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


def test_real_preferences_tokenise_with_their_prompt(shared_data: Path) -> None:
    import json

    chat = chat_of(real_tokenizer(shared_data, "olmo_dolma2.json", "llama-3-instruct"))
    lines = (shared_data / "preferences" / "coconot_pref.jsonl").read_text().splitlines()[:100]
    for number, line in enumerate(lines):
        row = json.loads(line)
        prompt, response, apart = chat.response_ids(row["prompt"], row["chosen"])
        assert not apart, number
        assert text_of(chat, response) == row["chosen"].strip() + "<|eot_id|>"
        assert prompt == chat.prompt_ids(row["prompt"])


TEXTS = ("Yes, I can.", "No,  never.\n\tReally", "naïve 日本語 👩‍👩‍👧 Ω", " <b>x</b>", "a" * 50)


@pytest.mark.parametrize("template", REAL)
@pytest.mark.parametrize("file", ["olmo_dolma2.json", "olmo_neox_dolma_v1_5.json"])
def test_the_texts_of_tokens_joined_are_what_is_scored(shared_data: Path, file: str, template: str) -> None:
    chat = chat_of(real_tokenizer(shared_data, file, template))
    for chosen in TEXTS:
        ids = chat.pair_ids(PreferencePair("a", "Is it fine?", chosen, "No, never."))
        for tokens, pieces in zip((ids.chosen, ids.rejected), ids.pieces, strict=True):
            assert len(pieces) == len(tokens)
        whole = "".join(ids.pieces[0])
        assert whole.strip() == chat.tokenizer.decode(ids.chosen).strip()
        assert whole.removesuffix(chat.end.text).strip() == chosen.strip()
    tokens, pieces = ids.rejected, ids.pieces[1]
    plain = [text for text in zip(tokens, pieces, strict=True) if text[1].isascii()]
    assert len(plain) == len(tokens)
    for token, piece in plain:  # each is its own token's text, not its neighbour's
        assert chat.tokenizer.decode([token]).strip() == piece.strip()


def test_texts_of_tokens_where_prompt_and_answer_are_tokenised_apart(bench: Any) -> None:
    template = (
        "{%- for m in messages %}{{- m['content'] }}{%- endfor %}{%- if add_generation_prompt %}{{- 'S' }}{%- endif %}"
    )
    chat = chat_of(bench.tokenizer(template))
    ids = chat.pair_ids(PreferencePair("a", "Hi", "ure.", "orry, I"))
    assert "".join(ids.pieces[0]).removesuffix("<|end|>") == "ure."
    assert [len(part) for part in ids.pieces] == [len(ids.chosen), len(ids.rejected)]


def test_metaspace_tokens_keep_their_spaces() -> None:
    """SentencePiece vocabularies write a space as part of the next token; decoding one token alone loses it."""
    from tokenizers import decoders, models, pre_tokenizers

    words = ["<unk>", "<s>", "</s>", "▁", *["▁yes", "▁no", "▁I", "▁can"], "yes", "no", *"yesnoIca,."]
    merges = [("y", "e"), ("ye", "s"), ("n", "o"), ("▁", "yes"), ("▁", "no")]
    vocabulary = dict.fromkeys([*words, "ye"])
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(vocabulary)}, merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = RAW_TEMPLATE
    chat = chat_of(tokenizer)
    ids = chat.pair_ids(PreferencePair("a", "no", " yes no", " no yes"))
    assert ids.pieces[0] == (" yes", " no", "</s>")
    assert ids.pieces[1] == (" no", " yes", "</s>")


def test_a_tokenizer_that_knows_no_places_gives_no_texts(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_of(bench.tokenizer())
    fast = chat.pair_ids(PreferencePair("a", "Hi", "Yes", "No"))
    monkeypatch.setattr(ChatTokenizer, "_tells_offsets", False)
    slow = chat.pair_ids(PreferencePair("a", "Hi", "Yes", "No"))
    assert slow.pieces == ((), ())
    assert (slow.chosen, slow.rejected) == (fast.chosen, fast.rejected)
