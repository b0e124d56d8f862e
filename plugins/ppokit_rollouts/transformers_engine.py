"""Samples responses with the policy's own transformers model.

A prompt is read once for its G responses, and finished responses leave the batch. A token y is drawn
by inverting the cumulative distribution at a given uniform number u:

    y = min { v : sum_{w <= v} p_w > u },   p = softmax(min_p(top_p(top_k(logits / temperature))))

so that a response depends on its own numbers and not on its neighbours in the batch. Top-p is that of
Holtzman et al. 2020, arXiv:1904.09751; min-p that of Nguyen et al. 2024, arXiv:2407.01082.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ppokit.plugin import (
    Component,
    Generation,
    GenerationRequest,
    Options,
    PolicyHandle,
    hookimpl,
)
from ppokit_rollouts.decoding import Decoding
from ppokit_rollouts.reading import reading_of

if TYPE_CHECKING:
    from torch import Tensor


CHECK_EVERY = 16
"""Tokens between two looks at a device that works on while the CPU waits."""


class TransformersOptions(Options):
    batch_size: int = Field(256, gt=0, description="responses sampled at a time")
    decoding: Literal["auto", "dynamic", "static", "compiled"] = Field(
        "auto",
        description="how each token is read: from a cache that grows (dynamic), from one of fixed size "
        "(static), or from that by torch.compile, with CUDA graphs on a GPU (compiled); auto is compiled on "
        "a GPU, and dynamic elsewhere",
    )
    check_every: int | None = Field(
        None,
        gt=0,
        description="tokens after which the CPU looks for stop strings and lets finished responses leave the "
        "batch; nothing else of the token loop waits for the device, but transformers' mask for a cache that "
        "grows. Not set: 1 on a CPU, 16 on other devices",
    )


class TransformersEngine:
    """Samples prompt by prompt, n responses each."""

    def __init__(self, options: TransformersOptions) -> None:
        self.options = options

    def generate(self, policy: PolicyHandle, request: GenerationRequest) -> Generation:
        seeds = request.seeds
        uniforms = None if seeds is None else seeds.uniforms(request.sampling.max_new_tokens)
        return self.sample(policy, request, uniforms)

    def sample(self, policy: PolicyHandle, request: GenerationRequest, uniforms: Tensor | None) -> Generation:
        """Responses drawn by these numbers.

        Args:
            uniforms: [prompts, n, max_new_tokens] float32 in [0, 1): the randomness of each token; None for
                greedy ones.
        """
        import torch

        prompt_ids = request.prompts.prompt_ids
        parts: list[Decoding] = []
        order: list[int] = []
        # Not inference_mode, whose tensors torch.compile does not always take.
        with torch.no_grad():
            model = policy.model()
            way = self.options.decoding
            if way == "auto":
                way = "compiled" if model.device.type == "cuda" else "dynamic"
            reading = reading_of(model, static=way != "dynamic", compiled=way == "compiled")
            check_every = self.options.check_every or (1 if model.device.type == "cpu" else CHECK_EVERY)
            size = max(1, self.options.batch_size // request.n)
            for batch in reading.batches([len(ids) for ids in prompt_ids], size):
                drawn = None if uniforms is None else uniforms[batch].flatten(0, 1)
                decoding = Decoding(request, policy, [prompt_ids[i] for i in batch], drawn, check_every)
                decoding.run(reading.reader(request.sampling.max_new_tokens))
                parts.append(decoding)
                order += [i * request.n + k for i in batch for k in range(request.n)]
        back = sorted(range(len(order)), key=order.__getitem__)

        def in_order(name: str) -> list[Any]:
            whole = [own for part in parts for own in getattr(part, name)]
            return [whole[position] for position in back]

        return Generation(
            response_ids=in_order("ids"),
            sampler_logprobs=in_order("sampler_logprobs"),
            outcomes=["finished" if flag else "truncated" for flag in in_order("finished")],
            texts=in_order("texts"),
            policy_logprobs=in_order("policy_logprobs") if request.policy_logprobs else None,
        )


@hookimpl
def ppokit_rollout_engines() -> list[Component]:
    return [
        Component(
            name="transformers",
            build=lambda options, context: TransformersEngine(options),
            options=TransformersOptions,
        )
    ]
