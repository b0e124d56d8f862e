"""One batch of responses, token by token, without the CPU.

Tokens, their log-probabilities and which rows have ended stay on the model's device. The CPU looks at them
every few tokens: it then finds stop strings, and lets finished rows leave. Until it looks, a row that has
ended goes on drawing tokens, which are dropped: no row's numbers depend on another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppokit.plugin import decode_responses
from ppokit_rollouts.stop_strings import StopStrings

if TYPE_CHECKING:
    from torch import Tensor

    from ppokit.plugin import GenerationRequest, PolicyHandle
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


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """[b] of one token per row."""
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)


class Decoding:
    """One batch in progress.

    Args:
        uniforms: [responses, max_new_tokens] in [0, 1): the randomness of each token; None for greedy ones.
        check_every: tokens between two looks at what has ended.

    Attributes:
        ids, sampler_logprobs, policy_logprobs, finished, texts: one entry per response, once it has run. A
            text ends before a stop string.
    """

    ids: list[list[int]]
    sampler_logprobs: list[list[float]]
    policy_logprobs: list[list[float]]
    finished: list[bool]

    def __init__(
        self,
        request: GenerationRequest,
        policy: PolicyHandle,
        prompt_ids: list[list[int]],
        uniforms: Tensor | None,
        check_every: int,
    ) -> None:
        self.sampling = request.sampling
        self.tokenizer = policy.tokenizer
        self.prompt_ids = prompt_ids
        self.repeats = request.n
        self.uniforms = uniforms
        self.check_every = check_every
        self.needs_policy_logprobs = request.policy_logprobs
        self.end_ids = policy.end_ids | set(request.sampling.stop_token_ids)
        self.stops = StopStrings(policy.tokenizer, request.sampling.stop)
        self.stopped: dict[int, str] = {}  # texts of responses that a stop string has ended

    def run(self, reader: Reader) -> None:
        import torch

        longest = self.sampling.max_new_tokens
        logits, order = reader.read(self.prompt_ids, self.repeats)
        device, count = logits.device, len(order)
        alive = order.to(device)
        uniforms = None if self.uniforms is None else self.uniforms.to(device)
        self._end_ids = torch.tensor(sorted(self.end_ids), dtype=torch.long, device=device)
        self._tokens = torch.zeros(count, longest, dtype=torch.long, device=device)
        self._lengths = torch.zeros(count, dtype=torch.long, device=device)
        self._ended = torch.zeros(count, dtype=torch.bool, device=device)
        chosen = torch.zeros(count, longest, device=device)
        whole = torch.zeros_like(chosen) if self.needs_policy_logprobs else chosen
        known = 0  # tokens that have been looked at
        for step in range(longest):
            logits = logits.float()
            if self.sampling.temperature != 1.0:
                logits = logits / self.sampling.temperature
            allowed = self.process_logits(logits, step)
            tokens = allowed.argmax(dim=-1) if uniforms is None else sample(allowed, uniforms[alive, step])
            self._append(alive, tokens, step)
            chosen[alive, step] = own = logprobs_of(allowed, tokens)
            if self.needs_policy_logprobs:
                whole[alive, step] = own if allowed is logits else logprobs_of(logits, tokens)
            last = step + 1 == longest
            if last or (step + 1) % self.check_every == 0:
                active = self._look(alive, known, step + 1)
                known = step + 1
                if last or not active:
                    break
                if len(active) < len(alive):
                    keep = torch.tensor(active)
                    reader.select(keep)
                    keep = keep.to(device)
                    alive, tokens = alive[keep], tokens[keep]
            logits = reader.append(tokens)
        self._collect(chosen, whole)

    def process_logits(self, logits: Tensor, step: int) -> Tensor:
        """[b,V] logits of the sampling distribution: the policy's own, where no option rules tokens out."""
        from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        sampling = self.sampling
        if step < sampling.min_new_tokens and self.end_ids:
            logits = logits.index_fill(-1, self._end_ids, -float("inf"))
        if sampling.top_k is not None:
            logits = TopKLogitsWarper(sampling.top_k)(None, logits)
        if sampling.top_p is not None and sampling.top_p < 1.0:
            logits = TopPLogitsWarper(sampling.top_p)(None, logits)
        if sampling.min_p is not None:
            logits = MinPLogitsWarper(sampling.min_p)(None, logits)
        return logits

    def _append(self, alive: Tensor, tokens: Tensor, step: int) -> None:
        """One token [b] of the responses `alive` [b]; those that have ended do not grow."""
        ended = self._ended[alive]
        self._tokens[alive, step] = tokens
        self._lengths[alive] += ~ended
        self._ended[alive] = ended | (tokens[:, None] == self._end_ids).any(dim=1)

    def _look(self, alive: Tensor, known: int, now: int) -> list[int]:
        """The positions in `alive` of the responses that go on; stop strings end some.

        Args:
            known: tokens of each response that have been looked at.
            now: tokens of each that has not ended.
        """
        if self.sampling.stop:
            columns = (alive, self._lengths[alive], self._ended[alive], self._tokens[alive, :now])
            for index, length, ended, ids in zip(*(column.tolist() for column in columns), strict=True):
                prompt = self.prompt_ids[index // self.repeats]
                ending = self.stops.find(prompt, ids[: length - ended], known)  # an end is no text
                if ending is not None:
                    self._lengths[index], self.stopped[index] = ending
                    self._ended[index] = True
        return (~self._ended[alive]).nonzero().flatten().tolist()

    def _collect(self, chosen: Tensor, whole: Tensor) -> None:
        """What the responses have become, as lists."""
        lengths = self._lengths.tolist()

        def cut(rows: Tensor) -> list[list[Any]]:
            return [row[:length] for row, length in zip(rows.tolist(), lengths, strict=True)]

        self.ids, self.sampler_logprobs, self.policy_logprobs = cut(self._tokens), cut(chosen), cut(whole)
        self.finished = self._ended.tolist()

    @property
    def texts(self) -> list[str]:
        """Decoded responses, each up to a stop string."""
        prompts = [prompt for prompt in self.prompt_ids for _ in range(self.repeats)]
        decoded = decode_responses(self.tokenizer, prompts, self.ids)
        return [self.stopped.get(index, text) for index, text in enumerate(decoded)]
