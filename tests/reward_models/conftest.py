"""Small models that reward models are fitted on."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> str:
    """An encoder without a head."""
    from transformers import BertModel

    from small_models import ENCODER_TOKENS, save_tiny

    sizes = {"max_position_embeddings": 48, "initializer_range": 0.3}
    return str(save_tiny(tmp_path_factory.mktemp("bert"), BertModel, ENCODER_TOKENS, **sizes))


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> str:
    """A causal LM whose tokenizer has no pad token."""
    from transformers import LlamaForCausalLM

    from small_models import save_tiny

    sizes = {"max_position_embeddings": 48, "initializer_range": 0.3}
    return str(save_tiny(tmp_path_factory.mktemp("llama"), LlamaForCausalLM, {"eos_token": "</s>"}, **sizes))
