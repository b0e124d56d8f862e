"""The command evaluate: what a recipe's evaluators measure of runs, adapters and models, side by side."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppokit.cli.generate import recipe_of_run
from ppokit.cli.options import Debug, DisablePlugin, Json
from ppokit.cli.sections import Section, interval, number, show
from ppokit.data.atomic import replacing
from ppokit.errors import DataError, ModelError, printable
from ppokit.evaluation.gains import Gain, by_prompt, paired_gain
from ppokit.run.evaluation_table import evaluation_table

if TYPE_CHECKING:
    from ppokit.build import TrainerComponents
    from ppokit.config.recipe import Recipe
    from ppokit.config.settings import Settings
    from ppokit.evaluation.view import HeldOutView


@dataclass
class Measured:
    """What was measured of one policy.

    Attributes:
        name: as it was given.
        metrics: `<evaluator>/<name>`.
        by_prompt: what was recorded of single responses: a mean by prompt, by `<evaluator>/<name>`.
        warnings: the evaluators' sentences.
        answers: every response with its numbers, see `ppokit.run.evaluation_table`; None for none.
    """

    name: str
    metrics: dict[str, float]
    by_prompt: dict[str, dict[int, float]]
    warnings: list[str] = field(default_factory=list)
    answers: Any = None


def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="Folders of runs or of adapters, or models; base for what the recipe begins with. The "
            "others are compared with the first.",
        ),
    ],
    recipe: Annotated[
        Path, typer.Option("--recipe", metavar="FILE", help="A recipe with the section evaluation.")
    ],
    set_keys: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the recipe; repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.parquet", help="Write every response with its numbers there."),
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
    from ppokit.config.recipe import Recipe
    from ppokit.config.registry import PluginRegistry

    if out is not None:
        _check_out(out)
    changed = set_keys or []
    settings = Recipe.load(recipe, changed, PluginRegistry(disable_plugin or ())).settings
    if settings.evaluation is None:
        raise DataError(f"--recipe {recipe} has no section evaluation, which says what is measured.")
    # All of them first: what is wrong with the last one must not come after the measuring of the others.
    keys = [[*changed, *_keys_of(policy, settings, disable_plugin)] for policy in policies]
    loaded = [Recipe.load(recipe, own, PluginRegistry(disable_plugin or ())) for own in keys]
    for policy, own_recipe in zip(policies, loaded, strict=True):
        _check_model(policy, own_recipe)
    measured = [_measure(policy, own, settings) for policy, own in zip(policies, loaded, strict=True)]
    for own in measured:
        for text in own.warnings:
            typer.echo(f"warning, {own.name}: {printable(text)}", err=True)
    if as_json:
        typer.echo(json.dumps([_as_data(own, measured[0]) for own in measured], indent=2))
    else:
        show([_table(measured)])
    if out is not None:  # last: what was measured is shown even if it cannot be written
        _write_answers(measured, out)


def _check_out(out: Path) -> None:
    """Refuse what cannot be written before anything is measured.

    Raises:
        DataError: it is no Parquet file, or its folder is not there.
    """
    if out.suffix != ".parquet":
        raise DataError(f"--out: got {out}; expected a file whose name ends in .parquet.")
    if out.is_dir() or not out.absolute().parent.is_dir():
        what = "it is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise DataError(f"--out: {out} cannot be written: {what}.")


def _write_answers(measured: list[Measured], out: Path) -> None:
    """Every response of each policy with its numbers, the policy's name in the column `policy`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [
        own.answers.add_column(0, "policy", pa.array([own.name] * len(own.answers)))
        for own in measured
        if own.answers is not None
    ]
    if not tables:
        raise DataError("--out: none of the recipe's evaluators records single responses; leave it out.")
    try:
        with replacing(out) as tmp_path:
            pq.write_table(pa.concat_tables(tables, promote_options="default"), tmp_path)
    except OSError as error:
        raise DataError(f"--out: {out} cannot be written: {error}") from error


def _measure(policy: str, recipe: Recipe, own: Settings) -> Measured:
    """Of one policy.

    Args:
        recipe: with the policy in its model's place.
        own: the recipe without; KL is taken from its reference.
    """
    from ppokit.evaluation.view import held_out_view
    from ppokit.trainer import PPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        run = recipe.settings.run.model_copy(update={"out": str(Path(folder) / "none")})
        recipe = replace(recipe, settings=recipe.settings.model_copy(update={"run": run}))
        with PPOTrainer(recipe) as trainer:
            parts = trainer.components
            evaluation = parts.evaluation
            assert evaluation is not None
            view = held_out_view(parts, trainer.collector, 0)
            if policy != "base":
                _set_reference(view, parts, recipe.settings, own)
            result = evaluation.measure(0, view)
    return Measured(
        policy,
        {name.removeprefix("eval/"): value for name, value in result.metrics.items()},
        {
            f"{record.evaluator}/{name}": by_prompt(record.rollout.group_ids.tolist(), numbers)
            for record in result.records
            for name, numbers in record.values.items()
        },
        result.warnings,
        evaluation_table(result.records) if result.records else None,
    )


def _set_reference(view: HeldOutView, parts: TrainerComponents, settings: Settings, own: Settings) -> None:
    """Compare an adapter's policy with the recipe's own reference, and other models with none."""
    if settings.lora is not None and settings.model.name == own.model.name:
        parts.roles.set_reference(None if own.lora is None else own.lora.adapter)
        return
    view.has_reference = False
    if "ref_logprobs" in (parts.reward_needs | view.needs):
        view.warn(
            "its weights are its own, so that what compares with the reference, such as a KL penalty, "
            "compares it with itself"
        )


def _keys_of(policy: str, own: Settings, disabled: list[str] | None) -> list[str]:
    """The recipe's keys that stand for a policy.

    Args:
        own: the recipe without it.

    Raises:
        RunFolderError: a run has saved no policy.
    """
    folder = Path(policy).expanduser()
    if policy == "base":
        return []
    is_run = (folder / "recipe.yaml").is_file()
    run, saved = (folder, folder / "policy") if is_run else (folder.parent, folder)
    is_adapter = (saved / "adapter_config.json").is_file()
    if not is_run and not is_adapter:
        whole = [] if own.lora is None else ["lora.adapter=null"]
        return [f"model.name={json.dumps(policy)}", "model.revision=null", *whole]
    keys = [f"lora.adapter={json.dumps(str(saved))}" if is_adapter else "lora=null"]
    if is_run or (run / "recipe.yaml").is_file():  # an adapter in a run's folder belongs on the run's model
        model = recipe_of_run(run, [], disabled).settings.model
        loading = ("dtype", "load_in_4bit", "revision", "trust_remote_code")
        values = {key: getattr(model, key) for key in loading}
        values["name"] = model.name if is_adapter else str(saved)
        keys += [f"model.{key}={json.dumps(value)}" for key, value in values.items()]
    return keys


def _check_model(policy: str, recipe: Recipe) -> None:
    """Refuse a policy that is no model.

    Raises:
        ModelError: its configuration cannot be loaded.
    """
    from ppokit.models.loading import find_model, load_config

    model = recipe.settings.model
    try:
        load_config(
            find_model(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
        )
    except ModelError as error:
        if policy == "base" or Path(policy).expanduser().is_dir():
            raise
        raise ModelError(
            f"POLICY: there is no folder {policy}, and no model of that name was loaded: {error}"
        ) from error


def _differences(own: Measured, first: Measured) -> dict[str, Gain]:
    """How far one policy's numbers are from the first one's, where they are known by prompt."""
    if own is first:
        return {}
    gains = {
        name: paired_gain(first.by_prompt.get(name, {}), numbers) for name, numbers in own.by_prompt.items()
    }
    return {name: gain for name, gain in gains.items() if gain is not None}


def _table(measured: list[Measured]) -> Section:
    """A row per metric, and a column per policy; those after the first have their differences too."""
    first, *others = measured
    header = ["", first.name]
    for own in others:
        header += [own.name, "difference", "95 % interval"]
    gains = [_differences(own, first) for own in others]
    rows = []
    for name in dict.fromkeys(name for own in measured for name in own.metrics):
        row = [name, number(first.metrics.get(name))]
        for own, known in zip(others, gains, strict=True):
            gain = known.get(name)
            shown = ["", ""] if gain is None else [f"{gain.mean:+.3f}", interval(gain.low, gain.high)]
            row += [number(own.metrics.get(name)), *shown]
        rows.append(tuple(row))
    return Section("", tuple(header), rows)


def _as_data(own: Measured, first: Measured) -> dict[str, Any]:
    return {
        "policy": own.name,
        "metrics": own.metrics,
        "differences": {name: asdict(gain) for name, gain in _differences(own, first).items()},
        "warnings": own.warnings,
    }
