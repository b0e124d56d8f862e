"""Responses are read and written behind their prompts, whatever a tokenizer does with a first blank."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ppokit.plugin import decode_responses, encode_response

CORPUS = ["Once upon a time, there was a little girl.", "The dog ran to the park with time to play."] * 20
SPECIAL = ["<unk>", "<s>", "</s>"]


def fast(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def like_llama() -> PreTrainedTokenizerFast:
    """A blank is put before each text, and the first one is dropped when a text is decoded."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    initial = [*SPECIAL, *byte_tokens]
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=340, special_tokens=initial))
    state = json.loads(backend.to_str())  # bytes are plain tokens, which decoding does not skip
    state["added_tokens"] = [own for own in state["added_tokens"] if own["content"] not in byte_tokens]
    return fast(Tokenizer.from_str(json.dumps(state)))


def like_t5() -> PreTrainedTokenizerFast:
    """The same by Metaspace, word by word."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="<unk>")
    backend.train_from_iterator(CORPUS, trainer)
    return fast(backend)


def byte_level() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    return fast(backend)


TOKENIZERS: list[Callable[[], PreTrainedTokenizerFast]] = [like_llama, like_t5, byte_level]
BUILT = {make.__name__: make() for make in TOKENIZERS}


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("start", [[], ["<s>"]], ids=["bare", "with a start token"])
@pytest.mark.parametrize("response", [" time, there was", " a little girl.", " to play"])
def test_tokens_are_those_of_the_whole_text(name: str, start: list[str], response: str) -> None:
    tokenizer = BUILT[name]
    prompt = tokenizer.convert_tokens_to_ids(start) + ids_of(tokenizer, "Once upon a")
    whole = ids_of(tokenizer, "Once upon a" + response)
    ids = encode_response(tokenizer, prompt, response)
    assert ids == whole[len(ids_of(tokenizer, "Once upon a")) :]
    assert decode_responses(tokenizer, [prompt], [ids]) == [response]


@pytest.mark.parametrize("name", BUILT)
def test_a_sampled_text_keeps_its_first_blank(name: str) -> None:
    """Where the policy says a word of its own, and where it goes on with the prompt's last one."""
    tokenizer = BUILT[name]
    prompt = ids_of(tokenizer, "Once upon a")
    word = ids_of(tokenizer, "Once upon a time")[len(prompt) :]
    tail = tokenizer.convert_tokens_to_ids(["t", "o"])
    assert decode_responses(tokenizer, [prompt, prompt], [word, tail]) == [" time", "to"]


@pytest.mark.parametrize("name", BUILT)
def test_special_tokens_are_no_text(name: str) -> None:
    tokenizer = BUILT[name]
    prompt = [1, *ids_of(tokenizer, "Once upon a")]
    word = ids_of(tokenizer, "Once upon a time")[len(prompt) - 1 :]
    assert decode_responses(tokenizer, [prompt, [1]], [[*word, 2], [2]]) == [" time", ""]
    assert encode_response(tokenizer, prompt, "") == []


def test_half_a_character_at_the_prompts_end() -> None:
    """é is two bytes, of which the prompt has one: the other cannot be told from it."""
    tokenizer = BUILT["byte_level"]
    first, second = ids_of(tokenizer, "é")
    (text,) = decode_responses(tokenizer, [[first]], [[second, *ids_of(tokenizer, " a")]])
    assert text.endswith(" a")


@pytest.mark.parametrize(
    ("name", "letters"), [("like_llama", "aeiontgr ,."), ("byte_level", "aeio é,.ß漢\n")]
)
@given(data=st.data())
def test_what_is_encoded_comes_back(name: str, letters: str, data: st.DataObject) -> None:
    tokenizer = BUILT[name]
    words = st.text(st.sampled_from(letters), max_size=12)
    prompt, response = "Once" + data.draw(words), data.draw(words)
    context = ids_of(tokenizer, prompt)
    ids = encode_response(tokenizer, context, response)
    assert decode_responses(tokenizer, [context], [ids]) == [response]


def test_the_tiny_models_own(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt = list(tokenizer("Once upon a")["input_ids"])
    assert decode_responses(tokenizer, [prompt], [encode_response(tokenizer, prompt, " time")]) == [" time"]


@pytest.mark.parametrize("name", ["like_llama", "byte_level"])
@pytest.mark.parametrize("characters", range(1, 9))
@pytest.mark.parametrize("response", ["!", "\n", "語です", " ok 👍"])
def test_a_context_that_begins_within_a_character(name: str, characters: int, response: str) -> None:
    """The last tokens of a prompt of emoji or of Japanese, each some bytes, are cut at any of them."""
    tokenizer = BUILT[name]
    girls, days = "👧" * characters, "日" * characters
    for prompt in (f"Once {girls}", f"Once {days}", f"Once é{days}a👧"):
        prompt_ids = ids_of(tokenizer, prompt)
        ids = encode_response(tokenizer, prompt_ids, response)
        assert decode_responses(tokenizer, [prompt_ids], [ids]) == [response]
        assert ids == ids_of(tokenizer, prompt + response)[len(prompt_ids) :]


def test_a_prompt_that_ends_within_a_character() -> None:
    tokenizer = BUILT["like_llama"]
    prompt, response = ids_of(tokenizer, "a👧")[:-1], ids_of(tokenizer, "a!")[-1:]
    assert decode_responses(tokenizer, [prompt], [response]) == ["!"]
