"""A device that computes on the CPU but keeps CUDA's rules, for tests where there is no card.

    with PretendedCard() as card:
        model.to(CARD)
        ...
    card.syncs      what would have made the host wait for the card

It is PyTorch's `meta`, which a model's passes take for any other device. peft and optimizers do not: whole
runs are on a backend of PyTorch's (`as_backend`), which stays until the process ends. Tensors on it are
wrappers around tensors of the CPU, so that everything has its real numbers. An operation
that mixes devices in a way that CUDA refuses raises here too, and one that reads a number back, or copies
without `non_blocking`, is counted: the two faults that a machine without a card cannot show otherwise.
Kernels of CUDA are not run: their numbers, speed and memory are for a card to show.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten


class _Module(ModuleType):
    """What PyTorch asks a backend's module for."""

    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    is_in_bad_fork = _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])


CARD = torch.device("meta")
ROOT = Path(__file__).resolve().parent.parent


def as_backend() -> torch.device:
    """Let the card be a backend of PyTorch, until the process ends; wants torch 2.11."""
    global CARD
    _setup_privateuseone_for_python_backend("card", backend_module=_Module("card"))
    CARD = torch.device("card", 0)
    return CARD


_WAITS = {  # their result, or its shape, is known on the card alone
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.unique_dim,
    aten._unique2,
    aten.unique_consecutive,
    aten.equal,
    aten.bincount,
}
_INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}
_TAKES_SCALARS = {aten.where, aten.masked_fill, aten.masked_fill_, aten.fill_, aten.full_like}
_COPIES = {aten.copy_, aten._to_copy}


class OnCard(Tensor):
    """A tensor of the card; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnCard:
        made: OnCard = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CARD,
            requires_grad=False,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnCard({self.inner!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = OnCard(self.inner.detach().clone())
        made = (
            torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        )
        memo[id(self)] = made
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, None)


class _Lists(TorchFunctionMode):
    """Python's numbers for tensors of the card come from the CPU; PyTorch reads none for `meta`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": None}).to(kwargs["device"])
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnCard):
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(p).to(CARD) if isinstance(p, list | range) else p for p in parts)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


class PretendedCard(TorchDispatchMode):
    """Within it, the device can be named.

    Attributes:
        syncs: how often which operation at which line of ppokit would have waited for the card.
    """

    def __init__(self) -> None:
        super().__init__()
        self.syncs: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> PretendedCard:
        # torch.tensor(..., device=CARD) then begins on the CPU and is moved where this mode sees it.
        self._lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        self._lists = _Lists()
        self._lists.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._lists.__exit__(*error)
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lifted)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self)

    def wait(self, what: str) -> None:
        """Count one."""
        self.syncs[what, _place()] += 1


def _run(func: Any, args: Any, kwargs: dict[str, Any], mode: PretendedCard | None) -> Any:
    packet = func.overloadpacket
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    onto = kwargs.get("device")
    onto = None if onto is None else torch.device(onto)
    on_card = [leaf for leaf in leaves if isinstance(leaf, OnCard)]
    if len(on_card) < sum(leaf.device == CARD for leaf in leaves):
        raise NotImplementedError(f"{func} got a tensor of the card that PyTorch made without its numbers")
    if mode is not None:
        _count(mode, packet, args, kwargs, leaves, onto)
    _check(func, args, leaves)
    if packet is aten._to_copy:
        to_card = onto == CARD if onto is not None else bool(on_card)
    elif packet in (aten.copy_, *_INDEXED):
        to_card = isinstance(args[0], OnCard)
    elif packet in (aten._pin_memory, aten.is_pinned):
        return args[0].clone() if packet is aten._pin_memory else False
    else:
        to_card = onto == CARD if onto is not None else bool(on_card)

    def inner(value: Any) -> Any:
        if isinstance(value, OnCard):
            return value.inner
        return torch.device("cpu") if isinstance(value, torch.device) and value == CARD else value

    plain_args, plain_kwargs = tree_map(inner, (args, kwargs))
    if "pin_memory" in plain_kwargs:
        plain_kwargs["pin_memory"] = False
    result = func(*plain_args, **plain_kwargs)
    if packet is aten._to_copy and isinstance(result, Tensor) and result is args[0]:
        result = result.clone()
    if not to_card:
        return result
    wrapped = tree_map(lambda value: OnCard(value) if isinstance(value, Tensor) else value, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if on_card else wrapped


def _check(func: Any, args: Any, leaves: list[Tensor]) -> None:
    """Raise where CUDA would: tensors of both devices, but for the cases that it allows."""
    packet = func.overloadpacket
    if len({leaf.device.type for leaf in leaves}) < 2 or packet in _COPIES:
        return
    others = [leaf for leaf in leaves if not isinstance(leaf, OnCard)]
    if packet in _INDEXED and isinstance(args[0], OnCard):
        indices = {id(leaf) for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)}
        others = [leaf for leaf in others if id(leaf) not in indices]  # it copies them itself
    if torch.Tag.pointwise in func.tags or packet in _TAKES_SCALARS or packet in _INDEXED:
        others = [leaf for leaf in others if leaf.dim() > 0]
    if others:
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {func} got one of shape {list(others[0].shape)} "
            "on the CPU beside those on the card"
        )


def _count(mode: PretendedCard, packet: Any, args: Any, kwargs: Any, leaves: list[Tensor], onto: Any) -> None:
    if packet in _COPIES:
        source = args[1] if packet is aten.copy_ else args[0]
        target = args[0].device if packet is aten.copy_ else onto or source.device
        if source.device.type != target.type:
            asynchronous = kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2])
            if not asynchronous:
                mode.wait(f"copy to {'the card' if target == CARD else target.type}")
        return
    if not any(isinstance(leaf, OnCard) for leaf in leaves):
        return
    if packet in _WAITS:
        mode.wait(packet.__name__)
    elif packet in _INDEXED:
        for leaf in tree_leaves(args[1]):
            if isinstance(leaf, Tensor) and leaf.dtype == torch.bool:
                mode.wait("index by mask")
            elif isinstance(leaf, Tensor) and not isinstance(leaf, OnCard):
                mode.wait("index from cpu")
    elif packet is aten.repeat_interleave and isinstance(args[-1], Tensor):
        mode.wait("repeat_interleave")


def _place() -> str:
    """The innermost line of ppokit that was at work."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and path.name != Path(__file__).name and ".venv" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "elsewhere"
