"""The command evaluate: what a recipe's evaluators measure of runs, adapters and models, side by side."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ppokit.cli.options import Debug, DisablePlugin, Json
from ppokit.cli.sections import Section, interval, number, show
from ppokit.errors import DataError, RunFolderError


@dataclass
class Measured:
    """What was measured of one policy.

    Attributes:
        name: as it was given.
        metrics: `<evaluator>/<name>`.
        by_prompt: what was recorded of single responses: a mean by prompt, by `<evaluator>/<name>`.
        warnings: the evaluators' sentences.
    """

    name: str
    metrics: dict[str, float]
    by_prompt: dict[str, dict[int, float]]
    warnings: list[str] = field(default_factory=list)


def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="Folders of runs or of adapters, or models; base for the recipe's own. The others are "
            "compared with the first.",
        ),
    ],
    recipe: Annotated[
        Path, typer.Option("--recipe", metavar="FILE", help="A recipe with the section evaluation.")
    ],
    set_keys: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the recipe; repeatable."),
    ] = None,
    as_json: Json = False,
    disable_plugin: DisablePlugin = None,
    debug: Debug = False,
) -> None:
    """Measure policies by a recipe's evaluation, side by side, without training.

    Prompts, chat template, sampling, rewards and evaluators are the recipe's; the model is each policy's. A
    number that is measured response by response has its difference from the first policy's, with the 95 %
    interval, paired by prompt.
    """
    measured = [_measure(policy, recipe, set_keys or [], disable_plugin) for policy in policies]
    for own in measured:
        for text in own.warnings:
            typer.echo(f"warning, {own.name}: {text}", err=True)
    if as_json:
        typer.echo(json.dumps([_as_data(own, measured[0]) for own in measured], indent=2))
        return
    header = ("", *[name for own in measured for name in _columns(own, measured[0])])
    names = dict.fromkeys(name for own in measured for name in own.metrics)
    rows = [(name, *[cell for own in measured for cell in _cells(name, own, measured[0])]) for name in names]
    show([Section("", header, rows)])


def _measure(policy: str, path: Path, changed: list[str], disabled: list[str] | None) -> Measured:
    """Of one policy, by the recipe's evaluation.

    Raises:
        DataError: the recipe has none.
        RunFolderError: a run has saved no policy.
    """
    from ppokit.config.recipe import Recipe
    from ppokit.config.registry import PluginRegistry
    from ppokit.evaluation.gains import by_prompt
    from ppokit.evaluation.view import held_out_view
    from ppokit.trainer import PPOTrainer

    registry = PluginRegistry(disabled or ())
    with tempfile.TemporaryDirectory() as folder:
        keys = [*changed, *_keys_of(policy, registry), f"run.out={json.dumps(str(Path(folder) / 'none'))}"]
        recipe = Recipe.load(path, keys, registry)
        if recipe.settings.evaluation is None:
            raise DataError(f"--recipe {path} has no section evaluation, which says what is measured.")
        with PPOTrainer(recipe) as trainer:
            evaluation = trainer.components.evaluation
            assert evaluation is not None
            result = evaluation.measure(0, held_out_view(trainer.components, trainer.collector, 0))
    return Measured(
        policy,
        {name.removeprefix("eval/"): value for name, value in result.metrics.items()},
        {
            f"{record.evaluator}/{name}": by_prompt(record.rollout.group_ids.tolist(), numbers)
            for record in result.records
            for name, numbers in record.values.items()
        },
        result.warnings,
    )


def _keys_of(policy: str, registry: Any) -> list[str]:
    """The recipe's keys that stand for a policy."""
    from ppokit.config.recipe import Recipe

    folder = Path(policy).expanduser()
    if policy == "base":
        return []
    if (folder / "adapter_config.json").is_file():
        return [f"lora.adapter={json.dumps(str(folder))}"]
    if not (folder / "recipe.yaml").is_file():
        return [f"model.name={json.dumps(policy)}", "model.revision=null"]
    if not (folder / "policy").is_dir():
        raise RunFolderError(f"{folder} has no policy yet; it is saved with the run's first checkpoint.")
    model = Recipe.load(folder / "recipe.yaml", (), registry, check_data=False).settings.model
    own = {key: getattr(model, key) for key in ("dtype", "load_in_4bit", "revision", "trust_remote_code")}
    adapter = (folder / "policy" / "adapter_config.json").is_file()
    name, weights = (model.name, str(folder / "policy")) if adapter else (str(folder / "policy"), None)
    keys = [f"model.{key}={json.dumps(value)}" for key, value in {**own, "name": name}.items()]
    return [*keys, "lora=null"] if weights is None else [*keys, f"lora.adapter={json.dumps(weights)}"]


def _columns(own: Measured, first: Measured) -> list[str]:
    return [own.name] if own is first else [own.name, "difference", "95 % interval"]


def _cells(name: str, own: Measured, first: Measured) -> list[str]:
    """A metric of one policy, and how far it is from the first one's."""
    from ppokit.evaluation.gains import paired_gain

    cells = [number(own.metrics.get(name))]
    if own is first:
        return cells
    gain = paired_gain(first.by_prompt.get(name, {}), own.by_prompt.get(name, {}))
    if gain is None:
        return [*cells, "", ""]
    return [*cells, f"{gain.mean:+.3f}", interval(gain.low, gain.high)]


def _as_data(own: Measured, first: Measured) -> dict[str, Any]:
    from dataclasses import asdict

    from ppokit.evaluation.gains import paired_gain

    gains = {
        name: paired_gain(first.by_prompt.get(name, {}), numbers) for name, numbers in own.by_prompt.items()
    }
    return {
        "policy": own.name,
        "metrics": own.metrics,
        "differences": {}
        if own is first
        else {name: asdict(gain) for name, gain in gains.items() if gain is not None},
        "warnings": own.warnings,
    }
