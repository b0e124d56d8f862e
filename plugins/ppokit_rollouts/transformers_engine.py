"""Samples responses with the policy's own transformers model.

A prompt is read once for its G responses, and finished responses leave the batch. A token y is drawn
by inverting the cumulative distribution at a given uniform number u:

    y = min { v : sum_{w <= v} p_w > u },   p = softmax(min_p(top_p(top_k(logits / temperature))))

so that a response depends on its own numbers and not on its neighbours in the batch. Top-p is that of
Holtzman et al. 2020, arXiv:1904.09751; min-p that of Nguyen et al. 2024, arXiv:2407.01082.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from ppokit.plugin import (
    Component,
    Generation,
    GenerationRequest,
    Options,
    PolicyHandle,
    decode_responses,
    hookimpl,
)
from ppokit_rollouts.reading import reading_of

if TYPE_CHECKING:
    from torch import Tensor

    from ppokit_rollouts.readers import Reader


def sample(logits: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row: the first whose cumulative probability exceeds the row's uniform number.

    Args:
        logits: [b,V] float32; -inf rules a token out.
        uniforms: [b] in [0, 1).

    Returns: [b] int64. A token of probability 0 is never drawn.
    """
    import torch

    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1]
    # Rounding may carry u * total up to total itself, behind which no token stands.
    below = torch.nextafter(total, torch.zeros_like(total))
    wanted = torch.minimum(uniforms.to(total) * total, below)
    return torch.searchsorted(cumulative, wanted.unsqueeze(-1), right=True).squeeze(-1)


class TransformersOptions(Options):
    batch_size: int = Field(256, gt=0, description="responses sampled at a time")


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
        parts: list[_Decoding] = []
        order: list[int] = []
        with torch.inference_mode():
            reading = reading_of(policy.model())
            size = max(1, self.options.batch_size // request.n)
            for batch in reading.batches([len(ids) for ids in prompt_ids], size):
                drawn = None if uniforms is None else uniforms[batch].flatten(0, 1)
                decoding = _Decoding(request, policy, [prompt_ids[i] for i in batch], drawn)
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


class _Decoding:
    """One batch in progress; `ids`, `sampler_logprobs` and `finished` hold one entry per response."""

    def __init__(
        self,
        request: GenerationRequest,
        policy: PolicyHandle,
        prompt_ids: list[list[int]],
        uniforms: Tensor | None,
    ) -> None:
        self.sampling = request.sampling
        self.tokenizer = policy.tokenizer
        self.prompt_ids = prompt_ids
        self.repeats = request.n
        self.uniforms = uniforms
        self.needs_policy_logprobs = request.policy_logprobs
        count = len(prompt_ids) * request.n
        self.ids: list[list[int]] = [[] for _ in range(count)]
        self.sampler_logprobs: list[list[float]] = [[] for _ in range(count)]
        self.policy_logprobs: list[list[float]] = [[] for _ in range(count)]
        self.finished = [False] * count
        self.stops_at: list[str | None] = [None] * count
        self.end_ids = policy.end_ids | set(request.sampling.stop_token_ids)

    def run(self, reader: Reader) -> None:
        import torch

        sampling = self.sampling
        logits, alive = reader.read(self.prompt_ids, self.repeats)
        for step in range(sampling.max_new_tokens):
            logits = logits.float()
            if sampling.temperature != 1.0:
                logits = logits / sampling.temperature
            allowed = self.process_logits(logits, step)
            if self.uniforms is None:
                tokens = allowed.argmax(dim=-1)
            else:
                tokens = sample(allowed, self.uniforms[alive, step].to(logits.device))
            chosen = whole = _logprobs(allowed, tokens)
            if self.needs_policy_logprobs and allowed is not logits:
                whole = _logprobs(logits, tokens)
            active = self.append_tokens(alive.tolist(), tokens.tolist(), chosen.tolist(), whole.tolist())
            if not active or step + 1 == sampling.max_new_tokens:
                return
            if len(active) < len(alive):
                keep = torch.tensor(active)
                reader.select(keep)
                alive, tokens = alive[keep], tokens[keep.to(tokens.device)]
            logits = reader.append(tokens)

    def process_logits(self, logits: Tensor, step: int) -> Tensor:
        """[b,V] logits of the sampling distribution: the policy's own, where no option rules tokens out."""
        from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        sampling = self.sampling
        if step < sampling.min_new_tokens and self.end_ids:
            logits = logits.clone()
            logits[:, sorted(self.end_ids)] = -float("inf")
        if sampling.top_k is not None:
            logits = TopKLogitsWarper(sampling.top_k)(None, logits)
        if sampling.top_p is not None and sampling.top_p < 1.0:
            logits = TopPLogitsWarper(sampling.top_p)(None, logits)
        if sampling.min_p is not None:
            logits = MinPLogitsWarper(sampling.min_p)(None, logits)
        return logits

    def append_tokens(
        self, alive: list[int], tokens: list[int], logprobs: list[float], whole: list[float]
    ) -> list[int]:
        """Record one token per response; return the positions in `alive` that go on."""
        active = []
        for position, (index, token) in enumerate(zip(alive, tokens, strict=True)):
            self.ids[index].append(token)
            self.sampler_logprobs[index].append(logprobs[position])
            self.policy_logprobs[index].append(whole[position])
            if token in self.end_ids or self._stopped(index):
                self.finished[index] = True
            else:
                active.append(position)
        return active

    def _stopped(self, index: int) -> bool:
        """Whether the text now holds a stop string."""
        if not self.sampling.stop:
            return False
        prompt = self.prompt_ids[index // self.repeats]
        (text,) = decode_responses(self.tokenizer, [prompt], [self.ids[index]])
        positions = [text.index(stop) for stop in self.sampling.stop if stop in text]
        if not positions:
            return False
        self.stops_at[index] = text[: min(positions)]
        return True

    @property
    def texts(self) -> list[str]:
        """Decoded responses, each up to a stop string."""
        prompts = [prompt for prompt in self.prompt_ids for _ in range(self.repeats)]
        decoded = decode_responses(self.tokenizer, prompts, self.ids)
        return [
            whole if stopped is None else stopped
            for whole, stopped in zip(decoded, self.stops_at, strict=True)
        ]


def _logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """[b] of one token per row."""
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)


@hookimpl
def ppokit_rollout_engines() -> list[Component]:
    return [
        Component(
            name="transformers",
            build=lambda options, context: TransformersEngine(options),
            options=TransformersOptions,
        )
    ]
