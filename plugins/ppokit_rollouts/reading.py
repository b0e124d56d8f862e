"""How a causal language model is read for sampling, found out on a few tokens when it first comes.

Models differ in what they keep of the tokens read so far, and some accept arguments that they ignore. So what
sampling would compute is compared with plain forwards of each whole text:

    gap   = max over rows of the median over tokens of rms(reader's logits - the model's own)
    scale = rms over texts and tokens of (logits - their mean)

and the first way whose gap is rounding, in units of the scale, is taken:

1. from a state, prompts of several lengths padded on the left
2. from a state, prompts of one length together: positions or states that padding would move
3. each text read whole for each token: no state, or none that can be gone on from

A static cache is tried out in the same way, where the first of these is taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ppokit.plugin import PpokitWarning
from ppokit_rollouts.readers import CachedReader, Forward, ModelState, Reader, WholeTextReader
from ppokit_rollouts.static_reader import ATTENTION, StaticReader, share_keys, windows_of

if TYPE_CHECKING:
    from torch import Tensor

_FLOOR = 2e-3  # of the scale: float32 with and without a cache
_EPS = 8  # in units of the dtype's precision
_NOISE = 4  # times what a text differs by alone and beside a longer one
_PROMPTS = (10, 10, 2)  # tokens: two of one length, and one shorter than the kernels of convolutions
_SEVERAL, _SAME = (0, 2), (0, 1)
_TOKENS = 4  # that follow each


@dataclass(frozen=True)
class Reading:
    """What a model can be sampled by.

    Attributes:
        forward: its forward pass.
        state: None reads whole texts.
        padded: whether prompts of several lengths can be read together.
        static: whether tokens are read with the same shapes each time.
        compiled: whether that is compiled.
    """

    forward: Forward
    state: ModelState | None
    padded: bool
    static: bool = False
    compiled: bool = False

    def reader(self, max_new_tokens: int) -> Reader:
        """A reader for one batch."""
        if self.state is None:
            return WholeTextReader(self.forward)
        if self.static:
            return StaticReader(
                self.forward, self.state, max_new_tokens=max_new_tokens, compiled=self.compiled
            )
        return CachedReader(self.forward, self.state, padded=self.padded, max_new_tokens=max_new_tokens)

    def batches(self, lengths: Sequence[int], size: int) -> list[list[int]]:
        """Prompts that are sampled together, by their lengths; at most `size`."""
        groups: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            groups.setdefault(0 if self.padded else length, []).append(index)
        return [own[start : start + size] for own in groups.values() for start in range(0, len(own), size)]


_KNOWN: WeakKeyDictionary[Any, tuple[ModelState | None, bool]] = WeakKeyDictionary()


_STATIC: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def reading_of(model: Any, *, static: bool = False, compiled: bool = False) -> Reading:
    """How this model is read; tried out when it first comes.

    Args:
        static: whether from a static cache, where the model can be; else a warning says so.
        compiled: whether that is compiled.
    """
    import torch

    if model not in _KNOWN:
        with torch.no_grad():
            _KNOWN[model] = _Probe(model).result()
    state, padded = _KNOWN[model]
    if static and model not in _STATIC:
        with torch.no_grad():
            _STATIC[model] = _Probe(model).reads_statically(state, padded)
        if not _STATIC[model]:
            warnings.warn(
                f"rollout.decoding: {type(model).__name__} does not give the same numbers from a cache of "
                "fixed size, so that it is sampled from one that grows.",
                PpokitWarning,
                stacklevel=2,
            )
    return Reading(Forward(model), state, padded, static and _STATIC[model], compiled)


class _Probe:
    """Compares ways of reading with the model's own logits of whole texts."""

    def __init__(self, model: Any) -> None:
        import torch

        self.model = model
        vocabulary = model.get_input_embeddings().weight.shape[0]
        draw = torch.Generator().manual_seed(0)

        def text(length: int) -> list[int]:
            return torch.randint(vocabulary, (length,), generator=draw).tolist()

        self.prompts = [text(length) for length in _PROMPTS]
        self.responses = [text(_TOKENS) for _ in range(2 * len(_PROMPTS))]  # two per prompt
        pad = getattr(model.config.get_text_config(), "pad_token_id", None)
        if pad is not None and 0 <= pad < vocabulary:  # which some models count no position for, as RoBERTa
            self.responses = [[pad, *own[1:]] for own in self.responses]
        self._known: dict[int, Tensor] = {}
        centered = _centered(torch.cat([self.logits(row) for row in _rows(_SEVERAL)]))
        self.scale = _rms(centered - centered.mean(dim=0))
        self.rounding = max(_FLOOR, _EPS * torch.finfo(model.dtype).eps)

    def text(self, row: int) -> list[int]:
        """A prompt and a response."""
        return self.prompts[row // 2] + self.responses[row]

    def logits(self, row: int) -> Tensor:
        """[tokens + 1, V] of a response's tokens and of what follows it, by one plain forward."""
        if row not in self._known:
            whole = self.model(input_ids=self._batch(self.text(row)), use_cache=False).logits
            self._known[row] = whole[0, len(self.prompts[row // 2]) - 1 :].float()
        return self._known[row]

    def _batch(self, text: list[int]) -> Tensor:
        import torch

        return torch.tensor([text], device=self.model.device)

    def result(self) -> tuple[ModelState | None, bool]:
        """State, and whether prompts are padded."""
        forward = Forward(self.model)
        allowed = self._allowed(forward)
        for padded in (True, False):
            for state in self._states(forward):
                reader = CachedReader(forward, state, padded=padded, max_new_tokens=_TOKENS)
                if self._gap(reader, _SEVERAL if padded else _SAME) <= allowed:
                    return state, padded
        warnings.warn(
            f"model.name: {type(self.model).__name__} keeps no state that sampling could go on from, so that "
            "each text is read anew for each token. The numbers are right; long responses take long.",
            PpokitWarning,
            stacklevel=2,
        )
        return None, True

    def reads_statically(self, state: ModelState | None, padded: bool) -> bool:
        """Whether a static cache gives the numbers that this state does."""
        if state is None or state.start != "configured" or not padded or not windows_of(self.model.config):
            return False
        forward = Forward(self.model)
        reader, allowed = StaticReader(forward, state, max_new_tokens=_TOKENS), self._allowed(forward)
        share_keys(self.model)
        if self._gap(reader, _SEVERAL) <= allowed:
            return True
        if self.model.config._attn_implementation == ATTENTION:
            self.model.set_attn_implementation("sdpa")
        return False

    def _allowed(self, forward: Forward) -> float:
        """The largest gap that is rounding."""
        return max(self.rounding, _NOISE * min(self._noise(forward), self.rounding))

    def _states(self, forward: Forward) -> Iterator[ModelState]:
        """Usual ones first: the model is asked for its own where they fail."""
        cache = "cache" if "cache" in forward.names else "past_key_values"  # its name since transformers 5.24
        yield ModelState(cache, "configured")
        yield ModelState(cache, "growing")
        try:
            _, output = forward(input_ids=self._batch(self.prompts[0]), use_cache=True)
        except Exception:  # as where it cannot make a state
            return
        for name in output:
            if name in forward.names:  # it returns it and takes it
                yield ModelState(name, "own")
        yield ModelState(cache, "prepared")

    def _noise(self, forward: Forward) -> float:
        """How far a text beside a longer one is from the same text alone, in units of the logits' scale."""
        import torch

        rows = _rows(_SEVERAL)
        logits, _ = WholeTextReader(forward).read([self.text(row) for row in rows], 1)
        gaps = [
            _rms(own - _centered(self.logits(row)[-1]))
            for row, own in zip(rows, _centered(logits.float()), strict=True)
        ]
        return float(torch.tensor(gaps[2:]).median()) / self.scale if any(gaps) else 0.0

    def _gap(self, reader: Reader, prompts: tuple[int, int]) -> float:
        """How far a reader is from the model's own logits, in units of their scale; infinite where it fails.

        Rows are repeated, dropped and put into another order, as sampling does.
        """
        import torch

        gaps: dict[int, list[float]] = {row: [] for row in _rows(prompts)}
        try:
            logits, order = reader.read([self.prompts[prompt] for prompt in prompts], 2)
            rows = [_rows(prompts)[index] for index in order.tolist()]
            for step in range(_TOKENS + 1):
                for row, own in zip(rows, _centered(logits.float()), strict=True):
                    gaps[row].append(_rms(own - _centered(self.logits(row)[step])))
                if step == 1:
                    keep = [3, 0, 2]
                    reader.select(torch.tensor(keep))
                    rows = [rows[position] for position in keep]
                if step < _TOKENS:
                    tokens = [self.responses[row][step] for row in rows]
                    logits = reader.append(torch.tensor(tokens, device=self.model.device))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a model raises what it likes where it is given what it cannot take
            return float("inf")
        worst = max(float(torch.tensor(gaps[row]).median()) for row in rows)
        return worst / self.scale if worst else 0.0


def _rows(prompts: tuple[int, int]) -> list[int]:
    """The responses to two prompts."""
    return [2 * prompt + k for prompt in prompts for k in range(2)]


def _centered(logits: Tensor) -> Tensor:
    """A constant that is added to all logits changes no probability."""
    return logits - logits.mean(dim=-1, keepdim=True)


def _rms(numbers: Tensor) -> float:
    return float(numbers.square().mean().sqrt())
