"""`ppokit plugins new`: a distribution of one's own, from the templates beside this module."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ppokit import __version__
from ppokit.cli.options import Debug
from ppokit.errors import DataError

TEMPLATES = Path(__file__).with_name("templates")

Kind = Literal["reward", "advantage", "loss", "rollout", "evaluator", "observer"]

KINDS: dict[str, tuple[str, str, str]] = {
    "reward": ("rewards", "A reward", "rewards:\n  - {{use: {name}, weight: 1.0}}\n"),
    "advantage": ("advantages", "An advantage estimator", "advantages: {{use: {name}}}\n"),
    "loss": ("losses", "A loss", "losses:\n  - {{use: {name}}}\n"),
    "rollout": (
        "rollout",
        "A rollout engine",
        "rollout: {{use: {name}, max_new_tokens: 32, prompts_per_step: 4, responses_per_prompt: 4}}\n",
    ),
    "evaluator": (
        "evaluators",
        "An evaluator",
        "evaluation:\n  every: 5\n  prompts: {{path: prompts.jsonl}}\n  evaluators:\n    - {{use: {name}}}\n",
    ),
    "observer": ("observers", "An observer", "observers:\n  - {{use: {name}}}\n"),
}
"""By what `--kind` says: the kind, what it is, and its section of a recipe."""


def new(
    name: Annotated[str, typer.Argument(help="The component's name, as recipes will have it: politeness.")],
    kind: Annotated[Kind, typer.Option("--kind", help="What it is.")] = "reward",
    out: Annotated[Path, typer.Option("--out", help="Where the folder is made.")] = Path(),
    debug: Debug = False,
) -> None:
    """Begin a distribution of one's own: a component that works, its tests, a recipe, and what publishes it.

    The folder is ppokit-NAME. What stands in it passes its tests, ruff and mypy --strict as it is.
    """
    folder = create(name, kind, out)
    typer.echo(
        f"{folder} has {KINDS[kind][1].lower()}, {context(name, kind)['module']}.py, and its tests. Next:"
    )
    for line in (f"cd {folder}", "pip install -e '.[dev]'", "pytest", "ppokit validate recipe.yaml"):
        typer.echo(f"  {line}")


def create(name: str, kind: str, out: Path) -> Path:
    """Write the folder of a new distribution, and say where.

    Raises:
        DataError: the name cannot be one, is ppokit's own, or the folder is there.
    """
    from cookiecutter.generate import generate_files

    from ppokit.config.registry import PluginRegistry

    filled = context(name, kind)
    own = [entry for entry in PluginRegistry().entries_of(filled["kind"]) if entry.builtin]
    if filled["name"] in {entry.name for entry in own}:
        raise DataError(f"{filled['kind']} {filled['name']!r} is ppokit's own; choose another name")
    folder = out / str(filled["distribution"])
    if folder.exists():
        raise DataError(f"{folder} is there already; choose another name, or another place by --out")
    for template in ("common", kind):
        generate_files(
            str(TEMPLATES / template), {"cookiecutter": filled}, str(out), overwrite_if_exists=True
        )
    return folder


def context(name: str, kind: str) -> dict[str, Any]:
    """What the templates are filled with.

    Raises:
        DataError: the name cannot be a component's and a module's.
    """
    component = re.sub(r"[-.]+", "_", name.removeprefix("ppokit-").removeprefix("ppokit_")).lower()
    if not re.fullmatch("[a-z][a-z0-9_]{0,38}[a-z0-9]", component):
        raise DataError(
            f"{name!r} cannot be a component's name; expected at most 40 letters, digits and "
            "underscores, such "
            "as politeness"
        )
    plural, what, section = KINDS[kind]
    module = f"ppokit_{component}"
    return {
        "name": component,
        "kind": plural,
        "what": what,
        "distribution": module.replace("_", "-"),
        "module": module,
        "module_file": f"{module}.py",
        "test_file": f"test_{component}.py",
        "class_name": "".join(part.capitalize() for part in component.split("_")),
        "section": section.format(name=component),
        "ppokit": __version__,
    }
