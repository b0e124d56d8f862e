"""What does not work yet, and why; a line goes with its fault."""

from __future__ import annotations

_FAULTS = (
    ("a reward model is compared at one rotary factor for all texts", "Phi-3-(longrope)", ("fitted reward",)),
)


def fault_of(architecture: str, feature: str, check: str = "") -> str | None:
    """What is wrong, where a check, or any of them, is known to fail."""
    for reason, names, features in _FAULTS:
        words = feature if not check else f"{feature}-{check}"
        known = not features or feature in features or any(f.startswith(words) for f in features)
        if known and architecture.replace(" ", "-") in names.split():
            return reason
    return None
