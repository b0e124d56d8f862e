"""What does not work yet, and why; a line goes with its fault."""

from __future__ import annotations

_LONGROPE = ("LoRA-untrained", "LoRA-trained", "LoRA-gradients", "LoRA-reference", "LoRA-values")
_FAULTS = (
    ("rotary factors change with the length", "Phi-3-(longrope)", _LONGROPE),
    ("rotary factors change with the length", "Phi-3-(longrope)", ("all weights-generate", "fitted reward")),
    ("rotary factors change with the length", "Phi-3-(longrope)", ("4 bits-untrained", "4 bits-trained")),
    ("rotary factors change with the length", "Phi-3-(longrope)", ("4 bits-reference",)),
)


def fault_of(architecture: str, feature: str, check: str = "") -> str | None:
    """What is wrong, where a check, or any of them, is known to fail."""
    for reason, names, features in _FAULTS:
        words = feature if not check else f"{feature}-{check}"
        known = not features or feature in features or any(f.startswith(words) for f in features)
        if known and architecture.replace(" ", "-") in names.split():
            return reason
    return None
