"""What the recipe for translation takes with a larger model, by plan: memory and arithmetic per step.

    python benchmarks/uses/plan.py

Nothing is loaded and nothing measured. Sizes are those of the models' published configurations. Bytes: the
frozen base in bfloat16; adapters of the recipe's rank on every linear layer with gradient, master weights and
two moments in float32 (18 bytes per parameter); the cache of the responses of a step; with activation
checkpointing, each layer's input for the tokens of a micro-batch. Logits are made a few at a time, and left
out. Arithmetic: 2 operations per parameter and
token of a forward pass, for sampling and for the reference's log-probabilities; 6 in each epoch,
since a frozen layer's backward pass takes 2 and checkpointing computes it again.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from uses import RECIPES

RECIPE = yaml.safe_load((RECIPES / "translation" / "recipe.yaml").read_text(encoding="utf-8"))
RANK = RECIPE["lora"]["r"]
RESPONSES = RECIPE["rollout"]["prompts_per_step"] * RECIPE["rollout"]["responses_per_prompt"]
PROMPT, RESPONSE = 28, RECIPE["rollout"]["max_new_tokens"]
"""Tokens, at most."""
MICRO_BATCH = RECIPE["update"]["tokens_per_microbatch"]
EPOCHS = RECIPE["update"]["epochs"]


@dataclass(frozen=True)
class Size:
    """A decoder of Llama's kind; `bias` of the query, key and value projections, as Qwen's have."""

    name: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int
    tied: bool = True
    bias: bool = True

    @property
    def keys(self) -> int:
        """Outputs of the key projection, and of the value's."""
        return self.hidden // self.heads * self.key_heads

    @property
    def linear(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's projections."""
        square, key, up, down = (
            (self.hidden,) * 2,
            (self.hidden, self.keys),
            (self.hidden, self.inner),
            (self.inner, self.hidden),
        )
        return [square, key, key, square, up, up, down]

    @property
    def parameters(self) -> int:
        biases = self.hidden + 2 * self.keys if self.bias else 0
        layer = sum(a * b for a, b in self.linear) + biases + 2 * self.hidden
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def adapters(self) -> int:
        return self.layers * sum(RANK * (a + b) for a, b in self.linear)

    @property
    def memory(self) -> tuple[int, int, int]:
        """Bytes of the base, of what is trained, and of cache and activations."""
        cache = RESPONSES * (PROMPT + RESPONSE) * self.layers * 2 * self.keys * 2
        activations = MICRO_BATCH * self.layers * self.hidden * 2
        return 2 * self.parameters, 18 * self.adapters, cache + activations

    @property
    def operations(self) -> float:
        """Of a step."""
        tokens = RESPONSES * (PROMPT + RESPONSE)
        return self.parameters * tokens * (2 + 2 + EPOCHS * 6)


SIZES = (
    Size("SmolLM2-135M-Instruct", 576, 30, 9, 3, 1536, 49152, bias=False),
    Size("Qwen2.5-0.5B-Instruct", 896, 24, 14, 2, 4864, 151936),
    Size("Qwen2.5-1.5B-Instruct", 1536, 28, 12, 2, 8960, 151936),
    Size("Qwen2.5-7B-Instruct", 3584, 28, 28, 4, 18944, 152064, tied=False),
)


def table() -> str:
    lines = [
        "| model | parameters | base | trained | cache, activations | per step | times SmolLM2's |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size in SIZES:
        base, trained, rest = (f"{amount / 1e9:.2f} GB" for amount in size.memory)
        lines.append(
            f"| {size.name} | {size.parameters / 1e6:,.0f} M | {base} | {trained} | {rest} "
            f"| {size.operations / 1e12:.0f} TFLOP | {size.operations / SIZES[0].operations:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
