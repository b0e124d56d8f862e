"""Models of a few thousand random weights, and a tokenizer of a few words, for tests."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>", *"abcdefgh"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER_TOKENS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"
"""What a forward calls the cache that it takes and gives; renamed in transformers 5.24."""


def tiny(kind: type[PreTrainedModel], seed: int = 0, **settings: Any) -> PreTrainedModel:
    """A model of this class with random weights: two layers and the tokens of WORDS, unless given."""
    torch.manual_seed(seed)
    return kind(kind.config_class(**{"vocab_size": len(WORDS), **SIZES, **settings})).eval()


def tiny_llama(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """Two layers, 64 tokens, with random weights large enough for tokens to differ."""
    settings = {
        "vocab_size": 64,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return tiny(LlamaForCausalLM, seed, **{**settings, **changes}).to(dtype)


def tiny_gpt2(seed: int = 0) -> PreTrainedModel:
    """Biases everywhere, and Conv1D in the place of Linear."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=64,
            n_positions=64,
            n_embd=32,
            n_layer=2,
            n_head=4,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()


def save_tiny(folder: Path, kind: type[PreTrainedModel], tokens: Mapping[str, str], **settings: Any) -> Path:
    """A folder with a tiny model and a tokenizer that has these special tokens."""
    tiny(kind, **settings).save_pretrained(folder)
    save_tokenizer(folder, **tokens)
    return folder


def save_tokenizer(folder: Path, **special: str) -> None:
    """One token per word; texts stand between [CLS] and [SEP] where `special` has them."""
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
    ).save_pretrained(folder)
