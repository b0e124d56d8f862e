"""docs/hooks/ has a page per hook and one of types; what stands below their marker is made of the code.

`python tests/docs/test_hook_pages.py` writes it anew. A hook, an event, a check or a type that is not
documented is therefore a failing test.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import ppokit.plugin
from ppokit.config.settings import CHOSEN
from ppokit.kinds import HOOK_BY_KIND
from ppokit.plugin import Component, Evaluator, hookspecs, protocols
from ppokit.plugin.generation import RolloutEngine
from ppokit.plugin.hookspecs import EVENTS, Events
from ppokit.testing import checks_of

HOOKS = Path(__file__).parents[2] / "docs" / "hooks"
MARK = "<!-- Below: made of the code by tests/docs/test_hook_pages.py -->\n"
PROTOCOLS: dict[str, tuple[type, ...]] = {
    "rewards": (protocols.RewardProvider, protocols.ResponseRewardProvider),
    "advantages": (protocols.AdvantageEstimator,),
    "losses": (protocols.Loss, protocols.AdvantageWeighting),
    "rollout": (RolloutEngine,),
    "evaluators": (Evaluator,),
}
"""By kind: what its objects are, each with one method that the core calls."""


def first_line(thing: Any) -> str:
    """Of its docstring, up to the end of its first sentence."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")


def signature(function: Any) -> str:
    return str(inspect.signature(function)).replace("'", "").replace("ppokit.plugin.types.", "")


def page(kind: str) -> str:
    """The generated part of a hook's page."""
    hook = HOOK_BY_KIND[kind]
    lines = ["\n## Signature\n\n", "```text\n", f"{hook}{signature(getattr(hookspecs, hook))}\n"]
    if kind in PROTOCOLS:
        for protocol in PROTOCOLS[kind]:
            methods = {n: m for n, m in vars(protocol).items() if inspect.isfunction(m) and n[0] != "_"}
            lines += [f"{protocol.__name__}.{name}{signature(method)}\n" for name, method in methods.items()]
        lines += ["```\n\n", " ".join(map(first_line, (getattr(hookspecs, hook), *PROTOCOLS[kind]))), "\n"]
    else:
        lines += [f"{name}{signature(getattr(Events, name))}\n" for name in EVENTS]
        lines += ["```\n\n", f"{first_line(getattr(hookspecs, hook))}\n"]
    core = sorted(set(CHOSEN[kind].model_fields))
    lines += ["\n## Keys of the core's beside `use`\n\n", ", ".join(f"`{key}`" for key in core) + ".\n"]
    lines += ["\n## What the conformance kit checks\n\n", "| check | what must hold |\n|---|---|\n"]
    lines += [f"| `{check.name}` | {check.what} |\n" for check in checks_of(kind)]
    return "".join(lines)


def types() -> str:
    """The generated part of the page of types."""
    lines = ["\n| name | what it is |\n|---|---|\n"]
    for name in sorted(ppokit.plugin.__all__, key=str.lower):
        thing = getattr(ppokit.plugin, name)
        has_own = inspect.isclass(thing) or inspect.isfunction(thing)
        told = first_line(thing) if has_own else OTHERS.get(name, "")
        assert told, f"ppokit.plugin.{name} has no docstring"
        lines.append(f"| `{name}` | {told} |\n")
    return "".join(lines)


OTHERS = {
    "CALL_METRICS": "What the core itself reports under `reward/<name>/`: names that a part may not have.",
    "hookimpl": "Marks a function as a hook of its module, or a method as one that hears of an event.",
    "KLEstimator": "`k1`, `k2` or `k3`.",
    "Metric": "A number, or one with how it is merged: `Mean`, `Sum` or `Max`.",
    "Need": "What the core computes for a component that names it.",
    "Outcome": "`scored`, `abstained` or `failed`: what a reward has of a response.",
    "ResponseOutcome": "`finished`, `truncated` or `failed`: how a response ended.",
    "Row": "A row of the data set: every column by name.",
    "Value": "A score; None abstains; an exception fails that response, and is the reason.",
    "Variance": "`sample` or `population`.",
    **{
        name: f"The decorator of {kind}: makes a function or a class a component of its module."
        for name, kind in {
            "reward": "rewards",
            "advantage_estimator": "advantage estimators",
            "loss": "losses",
            "rollout_engine": "rollout engines",
            "evaluator": "evaluators",
            "observer": "observers",
        }.items()
    },
}


def pages() -> dict[Path, str]:
    return {**{HOOKS / f"{kind}.md": page(kind) for kind in HOOK_BY_KIND}, HOOKS / "types.md": types()}


@pytest.mark.parametrize(
    "path", [*(HOOKS / f"{kind}.md" for kind in HOOK_BY_KIND), HOOKS / "types.md"], ids=str
)
def test_what_is_made_of_the_code_is_up_to_date(path: Path) -> None:
    _, mark, made = path.read_text(encoding="utf-8").partition(MARK)
    assert mark, f"{path} has no line {MARK!r}"
    assert made == pages()[path], "run python tests/docs/test_hook_pages.py"


@pytest.mark.parametrize("kind", HOOK_BY_KIND)
def test_each_page_says_what_only_people_know(kind: str) -> None:
    """When it is called, what to return, what None means, and what changed when."""
    written = (HOOKS / f"{kind}.md").read_text(encoding="utf-8").partition(MARK)[0]
    for heading in ("## When it is called", "## What to return", "## History"):
        assert heading in written
    assert "0.1.0" in written


def test_every_field_of_a_component_is_described() -> None:
    """And of what it is built by, on the page for authors."""
    text = (HOOKS.parent / "plugins.md").read_text(encoding="utf-8")
    assert not [field.name for field in fields(Component) if f"| `{field.name}` |" not in text]
    (about,) = [part for part in text.split("\n\n") if part.startswith("A `BuildContext` has")]
    assert not [field.name for field in fields(protocols.BuildContext) if f"`{field.name}`" not in about]


def main() -> None:
    for path, made in pages().items():
        written, mark, _ = path.read_text(encoding="utf-8").partition(MARK)
        path.write_text((written if mark else written.rstrip() + "\n\n") + MARK + made, encoding="utf-8")


if __name__ == "__main__":
    main()
