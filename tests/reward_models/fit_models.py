"""Models of a few thousand numbers to fit to a planted rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ppokit.reward_models.samples import Choice, Sample

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>", *"abcdefgh"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_tokenizer(path, **special) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = ["input_ids", "attention_mask"]
    if "cls_token" in special:
        names.append("token_type_ids")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", model_input_names=names, **special
    ).save_pretrained(path)


def save_bert(path: Path) -> None:
    """An encoder without a head."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=48, initializer_range=0.3, **SIZES)
    BertModel(config).save_pretrained(path)
    save_tokenizer(path, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


def save_llama(path: Path) -> None:
    """A causal LM whose tokenizer has no pad token."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=48, initializer_range=0.3, **SIZES)
    LlamaForCausalLM(config).save_pretrained(path)
    save_tokenizer(path, eos_token="</s>")


def samples_of(count, seed=0) -> list[Sample]:
    """The planted rule: 1 where the response is one of the first four letters, else -1."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        letter, *prompt = rng.choice(list("abcdefgh"), rng.integers(2, 8))
        samples.append(Sample(f"{i} {' '.join(prompt)}", str(letter), 1.0 if letter in "abcd" else -1.0, 1.0))
    return samples


def choices_of(count, seed=0) -> list[Choice]:
    left, right = samples_of(count, seed), samples_of(count, seed + 1)
    return [
        Choice(a.prompt, *((a.response, b.response) if a.rating > b.rating else (b.response, a.response)))
        for a, b in zip(left, right, strict=True)
        if a.rating != b.rating
    ]
