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
    length_groups,
    next_token_logits,
)
from ppokit_rollouts.kv_cache import preallocated_cache, supports_concat

if TYPE_CHECKING:
    import torch
    from torch import Tensor


LEAST_TOKENS = 256
"""Of prompts that are read together, padding included: fewer are read no faster than these."""
MOST_GROUPS = 4
"""Passes over the prompts of a batch."""


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

        prompts_at_a_time = max(1, self.options.batch_size // request.n)
        parts: list[_Decoding] = []
        with torch.inference_mode():
            for start in range(0, len(request.prompts), prompts_at_a_time):
                stop = start + prompts_at_a_time
                drawn = None if uniforms is None else uniforms[start:stop].flatten(0, 1)
                decoding = _Decoding(request, policy, request.prompts.prompt_ids[start:stop], drawn)
                decoding.run()
                parts.append(decoding)
        policy_logprobs = [numbers for part in parts for numbers in part.policy_logprobs]
        return Generation(
            response_ids=[ids for part in parts for ids in part.ids],
            sampler_logprobs=[numbers for part in parts for numbers in part.sampler_logprobs],
            outcomes=["finished" if flag else "truncated" for part in parts for flag in part.finished],
            texts=[text for part in parts for text in part.texts()],
            policy_logprobs=policy_logprobs if request.policy_logprobs else None,
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
        self.model = policy.model()
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

    def run(self) -> None:
        import torch

        device, sampling = self.model.device, self.sampling
        logits, mask, cache, alive = self._read_prompts()
        positions = mask.sum(dim=1, keepdim=True) - 1
        for step in range(sampling.max_new_tokens):
            logits = logits.float()
            if sampling.temperature != 1.0:
                logits = logits / sampling.temperature
            allowed = self.process_logits(logits, step)
            if self.uniforms is None:
                tokens = allowed.argmax(dim=-1)
            else:
                tokens = sample(allowed, self.uniforms[alive, step].to(device))
            chosen = whole = _logprobs(allowed, tokens)
            if self.needs_policy_logprobs and allowed is not logits:
                whole = _logprobs(logits, tokens)
            active = self.append_tokens(alive.tolist(), tokens.tolist(), chosen.tolist(), whole.tolist())
            if not active or step + 1 == sampling.max_new_tokens:
                return
            if len(active) < len(alive):
                keep = torch.tensor(active)
                alive = alive[keep]
                keep = keep.to(device)
                cache.batch_select_indices(keep)
                tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            positions = positions + 1
            logits = self._forward(tokens.unsqueeze(-1), mask, positions, cache)

    def _read_prompts(self) -> tuple[Tensor, Tensor, Any, Tensor]:
        """Each prompt once, among those of like length.

        Returns: [b,V] logits of each response's first token, [b,P] mask, the cache, and which responses
            these rows are.
        """
        import torch
        from transformers import DynamicCache

        config, device = self.model.config, self.model.device
        lengths = [len(ids) for ids in self.prompt_ids]
        width = max(lengths)
        capacity = width + self.sampling.max_new_tokens
        concat = supports_concat(config)
        groups = [list(range(len(lengths)))]
        if concat:
            groups = length_groups(lengths, least_tokens=LEAST_TOKENS, most=MOST_GROUPS)
        parts, first = [], []
        for group in groups:
            group_width = max(lengths[i] for i in group)
            input_ids = _left_padded([self.prompt_ids[i] for i in group], group_width, device)
            mask = _left_padded([[1] * lengths[i] for i in group], group_width, device)
            cache = DynamicCache(config=config) if concat else preallocated_cache(config, capacity)
            first.append(self._forward(input_ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache))
            parts.append(cache)
        if concat:
            cache = preallocated_cache(config, capacity, parts, self.repeats)
        else:
            cache.batch_repeat_interleave(self.repeats)
        order = [index for group in groups for index in group]
        mask = _left_padded([[1] * lengths[i] for i in order], width, device)
        return (
            torch.cat(first).repeat_interleave(self.repeats, dim=0),
            mask.repeat_interleave(self.repeats, dim=0),
            cache,
            torch.tensor([i * self.repeats + k for i in order for k in range(self.repeats)]),
        )

    def _forward(self, input_ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """[b,V] logits of the next token."""
        logits, _ = next_token_logits(
            self.model,
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return logits

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

    def texts(self) -> list[str]:
        """Decoded responses, each up to a stop string."""
        prompts = [prompt for prompt in self.prompt_ids for _ in range(self.repeats)]
        decoded = decode_responses(self.tokenizer, prompts, self.ids)
        return [
            whole if stopped is None else stopped
            for whole, stopped in zip(decoded, self.stops_at, strict=True)
        ]


def _left_padded(rows: list[list[int]], width: int, device: torch.device) -> Tensor:
    """[len(rows), width] int64, 0 on the left."""
    import torch

    return torch.tensor([[0] * (width - len(row)) + row for row in rows]).to(device)


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
