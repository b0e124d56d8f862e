"""Whole texts through the policy's base: as vectors, and as scores of a fitted reward model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ppokit.data.batches import TokenBatch
from ppokit.data.context import first_context
from ppokit.errors import ModelError, PluginError
from ppokit.models.heads import FittedHead
from ppokit.models.roles import ModelRoles
from ppokit.models.rotary import depends_on_length, same_factors
from ppokit.plugin.batching import token_batches
from ppokit.plugin.output_head import output_head

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_AT_A_TIME = 4096


class SharedBaseModel:
    """Reads texts, not responses after prompts, with the base that the policy stands on.

    Args:
        roles: the policy's.
        longest_text: tokens of the run's longest text, by which its rotary factors go.
    """

    def __init__(self, roles: ModelRoles, longest_text: int) -> None:
        self.roles, self.longest_text = roles, longest_text
        self._rewards: dict[Path, tuple[str, FittedHead]] = {}

    @torch.no_grad()
    def embed(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Texts as vectors: the mean over tokens of the frozen base's final hidden states, of length 1.

        Args:
            token_ids: of each text, at least one token.

        Returns: [n,H] float32 on the CPU.

        Raises:
            ModelError: the base itself is trained, and there is no frozen copy.
        """
        if self.roles.lora is None and self.roles.frozen_copy is None:
            raise ModelError(
                "without lora the base model itself is trained, so that its hidden states would drift; name "
                "an encoder of its own, or add a lora section"
            )
        out = torch.zeros(len(token_ids), output_head(self.roles.model).weight.shape[1])
        for indices, hidden, mask in self._read(token_ids, "base"):
            mean = (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            out[indices] = nn.functional.normalize(mean, dim=1).cpu()
        return out

    @torch.no_grad()
    def reward(self, folder: Path, token_ids: Sequence[Sequence[int]], longest: int | None) -> Tensor:
        """Scores of texts by a fitted reward adapter on this base: its head on the last token's hidden state.

        Args:
            folder: what `ppokit reward fit` made of the base; loaded at the first call.
            token_ids: of each text, at least one token.
            longest: tokens of a text at most that it was fitted on; None where that is not known.

        Returns: [n] float32 on the CPU.

        Raises:
            ModelError: there is no lora, or the adapter was fitted on another base or other rotary factors.
        """
        if self.roles.lora is None:
            raise ModelError(
                "shared_base: the base itself is trained, so that no other adapter can stand on it; add a "
                "lora section, or leave shared_base out"
            )
        config = self.roles.model.config
        if depends_on_length(config) and (
            longest is None or not same_factors(config, self.longest_text, longest)
        ):
            raise ModelError(
                f"shared_base: {folder} was fitted on {longest or 'an unknown number of'} tokens of a text, "
                f"and the longest text of the run (its longest prompt, rollout.max_new_tokens) has "
                f"{self.longest_text}. The base's rotary factors change with that length, and it reads all "
                "texts with the run's; leave shared_base out, or fit with that --max-length."
            )
        with self.roles.lock:  # rewards in other threads read with the same base
            if folder not in self._rewards:
                name = f"reward_{len(self._rewards)}"
                self._rewards[folder] = (name, self.roles.add_fitted(folder, name, key="shared_base"))
            name, head = self._rewards[folder]
        out = torch.zeros(len(token_ids))
        for indices, hidden, mask in self._read(token_ids, name):
            last = hidden[torch.arange(len(indices)), mask.sum(dim=1) - 1].cpu()
            out[indices] = nn.functional.linear(last, head.weight, head.bias).squeeze(1)
        return out

    def _read(
        self, token_ids: Sequence[Sequence[int]], role: str
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Batch by batch: indices [b], float32 hidden states [b,T,H] and mask [b,T]."""
        lengths = [len(ids) for ids in token_ids]
        device = self.roles.device
        for indices in token_batches(range(len(token_ids)), lengths, TOKENS_AT_A_TIME):
            width = max(lengths[index] for index in indices)
            ids = torch.tensor([[*token_ids[p], *[0] * (width - lengths[p])] for p in indices])
            mask = torch.arange(width) < torch.tensor([[lengths[p]] for p in indices])
            nothing = torch.zeros(0, dtype=torch.long)
            batch = TokenBatch(ids.to(device), nothing, nothing, nothing, mask.to(device), nothing)
            yield indices, self.roles.hidden(batch, role).float(), batch.mask


class DeferredBase:
    """The base as components see it, a `SharedBase`; `texts` is set once the model is loaded."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
        self.tokenizer = tokenizer
        self.limit = first_context(config)
        self.texts: SharedBaseModel | None = None

    def embed(self, texts: Sequence[str]) -> Tensor:
        encoded = self.tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
        empty = [self.tokenizer.eos_token_id]
        return self._loaded().embed([list(ids)[: self.limit] or empty for ids in encoded])

    def reward(self, folder: str, token_ids: Sequence[Sequence[int]], longest: int | None) -> Tensor:
        return self._loaded().reward(Path(folder).expanduser(), token_ids, longest)

    def _loaded(self) -> SharedBaseModel:
        refuse_in_coroutine()
        if self.texts is None:
            raise PluginError("BuildContext.base: the model is not loaded before training has begun.")
        return self.texts


def refuse_in_coroutine() -> None:
    """That the base is not read on the event loop of rewards, beside the policy's own passes.

    Raises:
        PluginError: it is.
    """
    if threading.current_thread() is threading.main_thread():  # a notebook's loop runs there
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise PluginError(
        "BuildContext.base: it was called in a coroutine, which runs beside the policy's own passes and lets "
        "no other coroutine go on meanwhile; write a plain function in place of async def"
    )
