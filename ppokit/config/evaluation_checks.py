"""Checks of the section `evaluation`, and the components' own checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from ppokit.config.components import SelectedComponent
from ppokit.config.evaluation_settings import GREEDY, SAMPLED, TEXTS, EvaluationSettings
from ppokit.config.yaml_file import Document
from ppokit.data.tables import is_file
from ppokit.errors import PpokitError, RecipeError, plugin_call
from ppokit.messages import listed, suggest
from ppokit.plugin.protocols import CheckContext

if TYPE_CHECKING:
    from ppokit.config.recipe import Recipe
    from ppokit.data.formats import Table

EVALUATOR_NEEDS = frozenset({"old_logprobs", "ref_logprobs"})
"""What an evaluator may need: what can be computed of any responses without training."""


def cells_of(table: Table | None, limit: int | None) -> Callable[[str], list[tuple[int, Any]]]:
    """The cells of a column of the first rows of a table, see `CheckContext.cells`."""

    def cells(column: str) -> list[tuple[int, Any]]:
        if table is None or column not in table.header:
            return []
        numbers = [number for number, _ in table.rows[:limit]]
        return list(zip(numbers, table.cells(column), strict=False))

    return cells


def check_components(
    by_kind: Mapping[str, Sequence[SelectedComponent | None]],
    evaluation: EvaluationSettings | None,
    training: CheckContext,
    held_out: CheckContext,
    document: Document,
) -> None:
    """Report what the components find wrong with the recipe and the columns of its data.

    Args:
        by_kind: by kind; None for one that is invalid.
        evaluation: None where it is invalid or not there.
        training: what is known of the recipe and the training prompts.
        held_out: columns and cells of the held-out prompts.
        document: collects the problems.
    """
    for selected in filter(None, chain(*by_kind.values())):
        if selected.kind != "evaluators":
            for sentence in component_check(selected, training):
                document.report(selected.key, sentence)
    check_evaluation(evaluation, by_kind, training, held_out, document)


def check_fetched(
    recipe: Recipe,
    table: Table,
    held_out: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
) -> None:
    """Ask the components about data sets that are not read with the recipe: folders, and those of the hub.

    Args:
        table: of the training prompts.
        held_out: all columns of each held-out prompt.
        numbers: of these in their data set.

    Raises:
        RecipeError: with every problem.
    """
    settings, evaluation = recipe.settings, recipe.settings.evaluation
    asked = None if evaluation is None else evaluation.prompts
    if is_file(settings.prompts.path) and (asked is None or is_file(asked.path)):
        return
    document = replace(recipe.document, problems=[])
    training = CheckContext(
        table.header,
        settings.rollout.responses_per_prompt,
        chat=settings.prompts.chat,
        prompt_column=settings.prompts.column,
        cells=cells_of(table, None),
        overlap=settings.overlaps,
    )
    context = CheckContext(
        tuple(held_out[0]) if held_out else (),
        cells=lambda column: [
            (n, row[column]) for n, row in zip(numbers, held_out, strict=True) if column in row
        ],
    )
    by_kind = {
        "rewards": recipe.rewards,
        "evaluators": recipe.evaluators,
        "others": (recipe.engine, recipe.advantages, *recipe.losses, *recipe.observers),
    }
    check_components(by_kind, evaluation, training, context, document)
    if document.problems:
        raise RecipeError(document.problems, document.source)


def check_evaluation(
    evaluation: EvaluationSettings | None,
    by_kind: Mapping[str, Sequence[SelectedComponent | None]],
    training: CheckContext,
    held_out: CheckContext,
    document: Document,
) -> None:
    """Report what is wrong with the section `evaluation`.

    Args:
        evaluation: None where it is invalid or not there.
        by_kind: by kind; None for one that is invalid.
        training: what the other components' checks are given.
        held_out: columns and cells of the held-out prompts.
        document: collects the problems.
    """
    evaluators = [selected for selected in by_kind["evaluators"] if selected is not None]
    if evaluation is None:
        return

    def check_rewards(columns: Collection[str]) -> list[str]:
        """What the rewards find wrong with these columns and not with the training prompts'."""
        problems = []
        context = replace(training, columns=tuple(columns), cells=lambda column: ())
        for reward in filter(None, by_kind["rewards"]):
            known = component_check(reward, training)
            new = [problem for problem in component_check(reward, context) if problem not in known]
            problems += [f"{reward.key} cannot score it: {problem}" for problem in new]
        return problems

    context = replace(
        training,
        columns=held_out.columns,
        cells=held_out.cells,
        training_columns=training.columns,
        check_rewards=check_rewards,
        scaled=tuple(
            f"{reward.key}.scale"
            for reward in filter(None, by_kind["rewards"])
            if reward.settings.scale != "none"
        ),
    )
    for selected in evaluators:
        if unusable := selected.needs - EVALUATOR_NEEDS:
            document.report(
                f"{selected.key}.use",
                f"the evaluator {selected.component.name!r} needs {listed(sorted(unusable))}; expected "
                f"{listed(sorted(EVALUATOR_NEEDS))} at most",
            )
        for sentence in component_check(selected, context):
            document.report(selected.key, sentence)
        if selected.name in (GREEDY, SAMPLED, TEXTS):
            document.report(
                selected.key,
                f"eval/{selected.name}/ holds metrics of ppokit's own; give this evaluator another name:",
            )
    if evaluation.patience is not None and evaluation.best is None:
        document.report(
            "evaluation.patience",
            f"got {evaluation.patience} without best; expected best, the metric that is to get better",
        )
    if evaluation.best_is == "lowest" and evaluation.best is None:
        document.report("evaluation.best_is", "got lowest without best; expected best, the metric it is of")
    if None not in by_kind["evaluators"]:
        _best(evaluation.best, [selected.name for selected in evaluators], document)


def _best(best: str | None, names: Sequence[str], document: Document) -> None:
    if best is None:
        return
    prefixes = [f"eval/{name}/" for name in names]
    if not any(best.startswith(prefix) and len(best) > len(prefix) for prefix in prefixes):
        hint = suggest(best.rpartition("/")[0] + "/", prefixes)
        document.report(
            "evaluation.best",
            f"got {best!r}; expected a metric of an evaluator of this recipe, beginning with "
            f"{listed(prefixes, 'or')}{hint}",
        )


def component_check(selected: SelectedComponent, context: CheckContext) -> list[str]:
    """What the component itself finds wrong."""
    if selected.component.check is None:
        return []
    try:
        with plugin_call(f"plugin {selected.plugin}", "check"):
            problems = selected.component.check(selected.options, context)
            return [problems] if isinstance(problems, str) else list(problems)
    except PpokitError as error:  # a plugin's fault must not hide the recipe's other problems
        return [str(error)]
