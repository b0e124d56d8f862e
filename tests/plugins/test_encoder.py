"""An encoder's vectors: means over real tokens, and a limit that its table of positions can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from ppokit.errors import ModelError
from ppokit_rewards.encoder import Encoder
from test_reward_model import words

CPU = torch.device("cpu")


def encoder(folder: Path) -> Encoder:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=20, max_position_embeddings=10, pad_token_id=0, **sizes)
    RobertaModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words(), pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    return Encoder(str(folder), CPU)


def test_long_texts_are_truncated_where_robertas_positions_end(tmp_path: Path) -> None:
    """Its positions begin behind the padding index; with the whole table as the limit it would crash."""
    embed = encoder(tmp_path)
    assert embed.limit == 9
    vectors = embed(["a b " * 25, "a b a b a b a b a", "c"], batch_size=2)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(vectors[0], vectors[1])


def test_no_such_encoder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"encoder .* cannot be loaded as an encoder in safetensors"):
        Encoder(str(tmp_path / "none"), CPU)
