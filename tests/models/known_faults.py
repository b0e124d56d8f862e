"""What does not work yet, and why; a line goes with its fault."""

from __future__ import annotations

_CACHE = """Qwen3-Next Qwen3.5 Qwen3.5-MoE OLMo-hybrid Falcon-Mamba Mamba Mamba-2 Jamba Bamba Zamba Zamba-2
Nemotron-H LFM2 LFM2-MoE Falcon-H1 GraniteMoE-hybrid RecurrentGemma"""
_PADDING = "BART mBART Pegasus Blenderbot"
_EXPERTS = (
    "Mixtral Qwen3-MoE Qwen3-Next OLMoE DeepSeek-V2 DeepSeek-V3 ERNIE-4.5-MoE GLM-4-MoE MiniMax dots1 PhiMoE"
)
_LONGROPE = ("LoRA-untrained", "LoRA-trained", "LoRA-gradients", "LoRA-reference", "LoRA-values")
_FAULTS = (
    ("no rows of a hybrid cache can be repeated or selected", _CACHE, ()),
    ("decoders that count positions by column", _PADDING, ()),
    ("dropout on experts", _EXPERTS, ("fitted reward",)),
    ("the state of RWKV is swallowed", "RWKV", ()),
    ("rotary factors change with the length", "Phi-3-(longrope)", _LONGROPE),
    ("rotary factors change with the length", "Phi-3-(longrope)", ("all weights-generate", "fitted reward")),
    ("rotary factors change with the length", "Phi-3-(longrope)", ("4 bits-untrained", "4 bits-trained")),
    ("rotary factors change with the length", "Phi-3-(longrope)", ("4 bits-reference",)),
    ("MiniMax has a cache of its own", "MiniMax", ()),
)


def fault_of(architecture: str, feature: str, check: str = "") -> str | None:
    """What is wrong, where a check, or any of them, is known to fail."""
    for reason, names, features in _FAULTS:
        words = feature if not check else f"{feature}-{check}"
        known = not features or feature in features or any(f.startswith(words) for f in features)
        if known and architecture.replace(" ", "-") in names.split():
            return reason
    return None
