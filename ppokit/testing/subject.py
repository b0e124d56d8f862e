"""What is checked: a component with its options, built as a run builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ppokit.config.components import BuiltComponent, SelectedComponent
from ppokit.config.settings import CHOSEN
from ppokit.errors import PluginError
from ppokit.plugin.examples import Example
from ppokit.plugin.protocols import BuildContext, Component


@dataclass(frozen=True)
class Subject:
    """A component and what it is checked with.

    Attributes:
        kind: `rewards`, `advantages`, `losses`, `rollout`, `evaluators` or `observers`.
        use: what a recipe would name.
        component: what the plugin offers.
        label: how errors name its plugin.
        options: keys beside `use`; of its first example, where none are given.
        given: those that were given; an example's own go before them.
        row: columns of the data set that it reads, the same in every row.
        seconds: that a call on twelve short responses may take.
        target: what finds it again in another process; the component itself, if not given.
        disabled: plugins that the target does not mean.
    """

    kind: str
    use: str
    component: Component
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 1.0
    target: str | Path | Component | None = None
    disabled: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`rewards.politeness`."""
        return f"{self.kind}.{self.component.name}"

    @property
    def where(self) -> str:
        """How errors name it."""
        return f"{self.kind} {self.component.name!r} (plugin {self.label})"

    @property
    def examples(self) -> tuple[Example, ...]:
        return tuple(self.component.examples)

    def validated(self, **changes: Any) -> BaseModel:
        """Its options, with changes.

        Raises:
            ValidationError: they are not valid.
        """
        return self.component.options.model_validate({**self.options, **changes})

    def request(self) -> dict[str, Any]:
        """Its name, and arguments of `find` that find it in another process."""
        return {
            "name": self.name,
            "target": self.component if self.target is None else self.target,
            "kind": self.kind,
            "options": dict(self.options),
            "row": dict(self.row),
            "seconds": self.seconds,
            "disabled": self.disabled,
        }

    def build(self, *, rank: int = 0) -> BuiltComponent:
        """Its object, as a run would build it; as process `rank` of two, where it is not the first.

        Raises:
            PluginError: the options are not enough, or building failed.
        """
        try:
            options = self.validated()
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise PluginError(
                f"{self.where}: {key or 'its options'}: {first['msg'].lower()}; give the options to "
                "check it with"
            ) from error
        settings = CHOSEN[self.kind].model_validate({"use": self.component.name})
        selected = SelectedComponent(
            self.kind,
            self.kind,
            self.component.name,
            settings,
            self.component,
            options,
            self.label,
            self.where,
        )
        on_main = self.kind == "observers" or self.component.runs_on == "main"
        beside = self.kind == "rewards" and self.component.is_async(options)
        return selected.build(build_context(0 if on_main else rank, has_base=not beside))


def build_context(rank: int = 0, *, has_base: bool = True) -> BuildContext:
    """As of a run on the CPU in float32."""
    import torch

    from ppokit.testing.fakes import FakeBase, tokenizer

    return BuildContext(
        device=torch.device("cpu"),
        dtype=torch.float32,
        seed=0,
        base=FakeBase() if has_base else None,
        tokenizer=tokenizer(),
        rank=rank,
        processes=2 if rank else 1,
    )
