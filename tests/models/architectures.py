"""The architectures of the matrix: a configuration of each, tiny, with every kind of layer that it has.

A model made of one has random weights, wide enough that its logits are not flat. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version

VOCABULARY = 512
_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 128}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_SEQ2SEQ = {
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "is_decoder": True,
    "is_encoder_decoder": False,
}
_MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
_DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LONG = [1.0, 1.5, 2.0, 3.0]


FEATURES = ("LoRA", "all weights", "4 bits", "fitted reward")
"""What a recipe may ask of a model, and the matrix of each: by the page's columns."""


@dataclass(frozen=True)
class Refused:
    """What is not supported.

    Attributes:
        key: of the recipe, or the command's option, which the error begins with.
        message: what else is in the error's first line.
        since: the first transformers that refuses it.
    """

    key: str
    message: str
    since: str = "5.0"

    @property
    def holds(self) -> bool:
        """Whether the installed transformers refuses it."""
        return Version(transformers.__version__) >= Version(self.since)


@dataclass(frozen=True)
class Restricted:
    """What works with a restriction.

    Attributes:
        text: says which, for the page.
    """

    text: str


Outcome = Refused | Restricted


@dataclass(frozen=True)
class Architecture:
    """A family of causal language models, and how a tiny one is made.

    Attributes:
        name: as its makers write it.
        config: the class of its configuration.
        settings: what the configuration is made of.
        standard: whether the configuration gets the usual keys for sizes and heads.
        outcomes: of the features that do not simply work.
        steps: nats by which transformers' own steps with a cache differ from its own pass over the whole text;
            the sampler is then held to those steps.
    """

    name: str
    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    standard: bool = True
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    steps: float = 1e-5

    @property
    def exists(self) -> bool:
        """Whether the installed transformers has it."""
        return hasattr(transformers, self.config)

    def outcome(self, feature: str) -> Outcome | None:
        """That of a feature with the installed transformers; None if it works."""
        outcome = self.outcomes.get(feature)
        return None if isinstance(outcome, Refused) and not outcome.holds else outcome

    def configuration(self) -> Any:
        usual = {**_TOKENS, **(_SIZES | _HEADS if self.standard else {})}
        return getattr(transformers, self.config)(**{**usual, **self.settings})

    def save(self, folder: Path, tokenizer: Any) -> None:
        """A folder as people have it: random weights, and a tokenizer."""
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(self.configuration())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    wide = parameter.shape[0] == VOCABULARY
                    parameter.normal_(0, 0.3 if wide else 0.6 / parameter.shape[-1] ** 0.5)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


_NO_CLASSIFIER = {"fitted reward": Refused("--model", "cannot be loaded as a sequence classifier")}
_NO_4_BITS = {
    "4 bits": Refused("model.load_in_4bit", "has no layers that bitsandbytes keeps in 4 bits", "5.5")
}
_KEPT = {
    "4 bits": Restricted(
        "Most weights are not in linear layers (experts, embeddings per layer) and keep their dtype; a warning "
        "says so."
    )
}
_ANEW = dict.fromkeys(
    ("LoRA", "all weights", "4 bits"),
    Restricted(
        "It keeps no state that sampling could go on from: each text is read anew for each token, as a "
        "warning says."
    ),
)
_KEPT_ANEW = {"4 bits": Restricted(f"{_KEPT['4 bits'].text} {_ANEW['4 bits'].text}")}
_DIRECT = {"4 bits": Refused("model.load_in_4bit", "does not compute in 4 bits", "5.1")}
_DECODER = {"fitted reward": Refused("--model", "cannot be a reward model")}
_STEPS = {"Zamba 2": 1e-3, "Nemotron-H": 1e-3}


def _of(name: str, config: str = "", outcomes: Any = None, **settings: Any) -> Architecture:
    return Architecture(
        name, f"{config or name}Config", settings, True, outcomes or {}, _STEPS.get(name, 1e-5)
    )


def _own(name: str, config: str, outcomes: Any = None, **settings: Any) -> Architecture:
    """One whose configuration names its sizes in words of its own."""
    return Architecture(name, f"{config}Config", settings, False, outcomes or {})


_ALTERNATING = ["sliding_attention", "full_attention"]
_LINEAR = ["linear_attention", "full_attention"]

ARCHITECTURES = (
    _of("Llama"),
    _of("Llama 3 (rope scaling)", "Llama", rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
    _of("Mistral", sliding_window=8),
    _of("Mixtral", **_LOCAL_EXPERTS, outcomes=_KEPT),
    _of("Qwen2", tie_word_embeddings=True),
    _of("Qwen3", head_dim=16, tie_word_embeddings=True),
    _of("Qwen3-MoE", "Qwen3Moe", head_dim=16, **_EXPERTS, outcomes=_KEPT),
    _of("Qwen3-Next", "Qwen3Next", head_dim=16, **_EXPERTS, **_DELTA, shared_expert_intermediate_size=32, layer_types=_LINEAR, outcomes=_KEPT),
    _of("Qwen3.5", "Qwen3_5Text", head_dim=16, **_DELTA, layer_types=_LINEAR, tie_word_embeddings=True),
    _of("Gemma 2", "Gemma2", head_dim=16, sliding_window=8, query_pre_attn_scalar=16, final_logit_softcapping=3.0, attn_logit_softcapping=5.0),
    _of("Gemma 3", "Gemma3Text", head_dim=16, sliding_window=8, query_pre_attn_scalar=16, layer_types=_ALTERNATING),
    _of("Gemma 3n", "Gemma3nText", num_hidden_layers=4, head_dim=16, sliding_window=8, intermediate_size=64, hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCABULARY, num_kv_shared_layers=2, layer_types=_ALTERNATING * 2, laurel_rank=4, altup_num_inputs=2, activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0], final_logit_softcapping=3.0, outcomes=_KEPT | _NO_CLASSIFIER),
    _of("Gemma 4", "Gemma4Text", head_dim=16, global_head_dim=16, sliding_window=8, hidden_size_per_layer_input=0, vocab_size_per_layer_input=VOCABULARY, num_kv_shared_layers=0, layer_types=_ALTERNATING, outcomes=_NO_CLASSIFIER),
    _of("Phi", partial_rotary_factor=0.5),
    _of("Phi-3", "Phi3", sliding_window=None),
    _of("Phi-3 (longrope)", "Phi3", sliding_window=None, original_max_position_embeddings=16, rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": _LONG, "original_max_position_embeddings": 16}),
    _of("PhiMoE", "Phimoe", **_LOCAL_EXPERTS, outcomes=_KEPT),
    _of("SmolLM3", no_rope_layers=[1, 0]),
    _of("OLMo", "Olmo"),
    _of("OLMo 3", "Olmo3", sliding_window=8, layer_types=_ALTERNATING),
    _of("Granite", logits_scaling=0.5, residual_multiplier=0.5, embedding_multiplier=2.0, attention_multiplier=0.3, outcomes=_NO_CLASSIFIER),
    _of("GraniteMoE hybrid", "GraniteMoeHybrid", **_LOCAL_EXPERTS, **_MAMBA2, layer_types=["mamba", "attention"], shared_intermediate_size=32, logits_scaling=0.5, outcomes=_KEPT | _NO_CLASSIFIER),
    _of("Cohere", logit_scale=0.5, outcomes=_NO_CLASSIFIER),
    _of("Cohere 2", "Cohere2", logit_scale=0.5, sliding_window=8, layer_types=_ALTERNATING, outcomes=_NO_CLASSIFIER),
    _of("StableLM", "StableLm", partial_rotary_factor=0.5),
    _own("GPT-2", "GPT2", **_GPT),
    _own("GPT-J", "GPTJ", **_GPT, rotary_dim=4),
    _of("GPT-NeoX", "GPTNeoX"),
    _own("GPT-Neo", "GPTNeo", hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=8, max_position_embeddings=128),
    _own("GPT-BigCode", "GPTBigCode", **_GPT),
    _own("OPT", "OPT", hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=128, word_embed_proj_dim=32),
    _own("OPT 350M", "OPT", hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128, word_embed_proj_dim=16, do_layer_norm_before=False),
    _own("BLOOM", "Bloom", hidden_size=32, n_layer=2, n_head=4),
    _own("Falcon", "Falcon", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128, outcomes=_NO_4_BITS),
    _own("Falcon (alibi)", "Falcon", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, multi_query=False, parallel_attn=False, bias=True, outcomes=_NO_4_BITS),
    _of("Falcon-H1", "FalconH1", outcomes=_NO_CLASSIFIER, mamba_d_ssm=64, **_MAMBA2),
    _own("MPT", "Mpt", d_model=32, n_layers=2, n_heads=4, max_seq_len=128),
    _own("Mamba", "Mamba", outcomes=_DIRECT | _NO_CLASSIFIER, hidden_size=32, num_hidden_layers=2, state_size=8, tie_word_embeddings=False),
    _own("Mamba 2", "Mamba2", outcomes=_NO_CLASSIFIER, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=4, head_dim=16, n_groups=1, chunk_size=8),
    _own("RWKV", "Rwkv", hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, context_length=128, outcomes=_ANEW | _NO_CLASSIFIER),
    _of("Jamba", num_experts=4, num_experts_per_tok=2, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4, use_mamba_kernels=False, outcomes=_KEPT),
    _of("Bamba", attn_layer_indices=[1], **_MAMBA2, outcomes=_NO_CLASSIFIER),
    _of("Zamba 2", "Zamba2", num_key_value_heads=4, num_hidden_layers=4, layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], mamba_d_state=8, mamba_ngroups=1, mamba_headdim=16, num_mem_blocks=1, n_mamba_heads=4, use_mem_rope=True, adapter_rank=4, chunk_size=8, outcomes=_KEPT),
    _of("Nemotron", partial_rotary_factor=0.5),
    _of("Nemotron-H", "NemotronH", outcomes=_NO_CLASSIFIER, head_dim=8, layers_block_type=["mamba", "attention", "mlp"], ssm_state_size=8, mamba_num_heads=4, mamba_head_dim=16, n_groups=1, chunk_size=8),
    _of("LFM2", "Lfm2", layer_types=["conv", "full_attention"], block_ff_dim=64, block_auto_adjust_ff_dim=False, outcomes=_NO_CLASSIFIER),
    _of("DeepSeek V2", "DeepseekV2", **_MLA, outcomes=_KEPT),
    _of("DeepSeek V3", "DeepseekV3", **_MLA, outcomes=_KEPT),
    _of("DeepSeek V3.2 (sparse attention)", "DeepseekV32", **_MLA, index_topk=4, index_n_heads=32, index_head_dim=16, outcomes=_KEPT | _NO_CLASSIFIER),
    _of("HY 4 (sparse attention, hyper-connections)", "HYV4", **_MLA, index_topk=4, index_n_heads=32, index_head_dim=16, outcomes=_KEPT | _NO_CLASSIFIER),
    _of("GLM-4", "Glm4", head_dim=8, partial_rotary_factor=0.5),
    _of("GLM-4-MoE", "Glm4Moe", head_dim=8, moe_intermediate_size=32, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, n_group=2, topk_group=1, outcomes=_KEPT | _NO_CLASSIFIER),
    _of("gpt-oss", "GptOss", head_dim=8, **_LOCAL_EXPERTS, sliding_window=8, layer_types=_ALTERNATING, outcomes=_KEPT),
    _of("ERNIE 4.5-MoE", "Ernie4_5_Moe", moe_num_experts=4, moe_k=2, moe_intermediate_size=32, moe_num_shared_experts=1, outcomes=_KEPT | _NO_CLASSIFIER),
    _of("MiniMax", **_LOCAL_EXPERTS, head_dim=8, layer_types=_LINEAR, block_size=8, outcomes=_ANEW | _KEPT_ANEW),
    _own("BART", "Bart", **_SEQ2SEQ, outcomes=_DECODER),
    _own("Pegasus", "Pegasus", **_SEQ2SEQ, outcomes=_NO_CLASSIFIER),
    _of("BioGPT", "BioGpt", num_hidden_layers=3, tie_word_embeddings=False),
    _own("XGLM", "XGLM", tie_word_embeddings=False, d_model=32, num_layers=2, attention_heads=4, ffn_dim=64, max_position_embeddings=128, outcomes=_NO_CLASSIFIER),
    _of("RecurrentGemma", num_hidden_layers=3, head_dim=8, lru_width=32, attention_window_size=8, logits_soft_cap=3.0, outcomes=_ANEW | _NO_CLASSIFIER),
    _of("Apertus", outcomes=_NO_CLASSIFIER),
    _of("DiffLlama"),
    _of("BitNet", "BitNet", outcomes=_NO_CLASSIFIER),
)  # fmt: skip
