"""An encoder's vectors: means over real tokens, and a limit that its table of positions can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import RobertaModel

from ppokit.errors import ModelError
from ppokit_rewards.encoder import Encoder
from small_models import save_tiny

CPU = torch.device("cpu")


def encoder(folder: Path) -> Encoder:
    save_tiny(folder, RobertaModel, {"pad_token": "[PAD]"}, max_position_embeddings=10, pad_token_id=0)
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
