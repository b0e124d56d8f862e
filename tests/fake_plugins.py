"""A plugin of every kind, and distributions made of files, for tests of the registry and the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ppokit import Component, Options, hookimpl
from ppokit.plugin.protocols import CheckContext

KINDS = {
    "rewards": ("good", "other"),
    "advantages": ("gae", "plain"),
    "losses": ("clip", "vloss"),
    "rollout": ("transformers",),
    "evaluators": ("measure",),
    "observers": ("watch",),
}


class GoodOptions(Options):
    threshold: float = Field(0.5, description="Where good begins.")
    mode: Literal["fast", "careful"] = "fast"
    words: str | list[str] = "all"
    column: str | None = None
    bounds: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _mode_and_words(self) -> GoodOptions:
        if self.words == "none" and self.mode == "careful":
            raise ValueError("nothing to be careful about")
        if self.words == "bye":
            raise SystemExit(0)
        return self


class EngineOptions(Options):
    batch_size: int = Field(8, gt=0)


def check_good(options: GoodOptions, context: CheckContext) -> Iterator[str]:
    if options.column is not None and context.columns is not None and options.column not in context.columns:
        yield f"no column {options.column}"
    if options.threshold == 99:
        raise KeyError("boom")
    if options.threshold == 98:
        raise SystemExit(0)


class MeasureOptions(Options):
    limit: int = 3


def check_measure(options: MeasureOptions, context: CheckContext) -> Iterator[str]:
    if context.columns == ():
        yield "no held-out prompts"
    yield from context.check_rewards(context.columns or ())


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    """Two rewards."""
    return [
        Component("good", lambda o, c: None, GoodOptions, check=check_good),
        Component("other", lambda o, c: None, needs=frozenset({"ref_logprobs"})),
    ]


@hookimpl
def ppokit_advantage_estimators() -> list[Component]:
    """One with values, one without."""
    return [
        Component("gae", lambda o, c: None, needs=frozenset({"values"})),
        Component("plain", lambda o, c: None),
    ]


@hookimpl
def ppokit_losses() -> list[Component]:
    """One of the policy, one of the value function."""
    return [
        Component("clip", lambda o, c: None, needs=frozenset({"new_logprobs", "old_logprobs"})),
        Component("vloss", lambda o, c: None, needs=frozenset({"values"})),
    ]


@hookimpl
def ppokit_rollout_engines() -> list[Component]:
    """One engine."""
    return [Component("transformers", lambda o, c: None, EngineOptions)]


@hookimpl
def ppokit_evaluators() -> list[Component]:
    """One evaluator, which says what it is told of the held-out data."""
    return [Component("measure", lambda o, c: None, MeasureOptions, check=check_measure)]


@hookimpl
def ppokit_observers() -> list[Component]:
    """One observer."""
    return [Component("watch", lambda o, c: None)]


def entry_points() -> list[EntryPoint]:
    """Of this module, without a distribution."""
    return [EntryPoint(f"{k}.{n}", "fake_plugins", "ppokit") for k, names in KINDS.items() for n in names]


def distribution(
    folder: Path, name: str, points: Mapping[str, str] | list[tuple[str, str]], modules: Mapping[str, str]
) -> None:
    """Install a distribution, version 1.5, by writing its files."""
    info = folder / f"{name.replace('-', '_')}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    pairs = points.items() if isinstance(points, Mapping) else points
    (info / "entry_points.txt").write_text("[ppokit]\n" + "".join(f"{k} = {v}\n" for k, v in pairs))
    for module, source in modules.items():
        path = folder / (module.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
