"""Decorators that make a function or a class a component of its module, without a hook.

    from ppokit.plugin import reward

    @reward
    def brief(responses: list[str], limit: int = 80) -> list[float]:
        return [float(len(text) <= limit) for text in responses]

with the entry point `"rewards.brief" = "my_module"`. What may be decorated, and what its parameters, fields
and attributes mean, is what `use: my_module:brief` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

from ppokit.plugin.examples import Example

T = TypeVar("T", bound=Callable[..., Any])

OFFER = "ppokit_offer"
"""The attribute by which a module's loader knows what was decorated: kind and name."""


class Offer:
    """A decorator for one kind of component."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @overload
    def __call__(self, thing: T, /) -> T: ...

    @overload
    def __call__(
        self,
        /,
        *,
        name: str | None = None,
        needs: Iterable[str] = (),
        examples: Sequence[Example] = (),
        waivers: Mapping[str, str] | None = None,
    ) -> Callable[[T], T]: ...

    def __call__(
        self,
        thing: T | None = None,
        /,
        *,
        name: str | None = None,
        needs: Iterable[str] = (),
        examples: Sequence[Example] = (),
        waivers: Mapping[str, str] | None = None,
    ) -> T | Callable[[T], T]:
        """Decorate, or with arguments make a decorator.

        Args:
            name: what stands behind `use:` and in the entry point; the function's own, if not given.
            needs, examples, waivers: as of `Component`.
        """

        def mark(decorated: T) -> T:
            declared = {
                "needs": needs if isinstance(needs, str) else frozenset(needs),  # a text is refused later
                "examples": tuple(examples),
                "waivers": dict(waivers or {}),
            }
            for attribute, value in declared.items():
                if value:
                    setattr(decorated, attribute, value)
            setattr(decorated, OFFER, (self.kind, name or decorated.__name__))
            return decorated

        return mark if thing is None else mark(thing)


reward = Offer("rewards")
advantage_estimator = Offer("advantages")
loss = Offer("losses")
rollout_engine = Offer("rollout")
evaluator = Offer("evaluators")
observer = Offer("observers")
