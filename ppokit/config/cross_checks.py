"""What no single key shows: keys that contradict each other, files and columns, plugins' own checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ppokit.config.components import SelectedComponent
from ppokit.config.evaluation_checks import cells_of, check_components
from ppokit.config.model_checks import check_model
from ppokit.config.prompt_settings import PromptFileSettings
from ppokit.config.settings import LoraSettings
from ppokit.config.yaml_file import Document
from ppokit.data.formats import Table
from ppokit.data.prompt_rows import key_at_fault, usable_prompts
from ppokit.data.tables import is_file, read_table
from ppokit.errors import DataError, ModelError
from ppokit.messages import listed
from ppokit.models import quantization
from ppokit.models.names import check_name
from ppokit.plugin.protocols import CheckContext


def check(
    sections: Mapping[str, Any],
    by_kind: Mapping[str, Sequence[SelectedComponent | None]],
    document: Document,
    *,
    data: bool,
) -> None:
    """Note every contradiction that can be seen.

    Args:
        sections: validated sections by key; one that is invalid is left out.
        by_kind: by kind; None for one that is invalid.
        document: notes the problems.
        data: whether to look at prompts and ask the plugins for theirs, which training needs.
    """
    _value(sections, by_kind, document)
    check_names(by_kind, document)
    _imputed(sections.get("run"), by_kind["rewards"], document)
    _overlap(sections, by_kind, document)
    _minibatches(sections, document)
    _groups(sections.get("rollout"), document)
    _adapter(sections.get("lora"), sections.get("value"), document)
    _value_adapter(sections.get("lora"), by_kind, document)
    if not data:
        return
    _model(sections, document)
    prompts, rollout, evaluation = (
        sections.get("prompts"),
        sections.get("rollout"),
        sections.get("evaluation"),
    )
    chat = prompts is not None and prompts.chat
    columns, table = _read(prompts, "prompts", chat, document)
    held_out = None if evaluation is None else evaluation.prompts
    held_out_columns, held_out_table = _read(held_out, "evaluation.prompts", chat, document)
    if evaluation is not None and evaluation.texts is not None:
        _read(evaluation.texts.table, "evaluation.texts", False, document)
    check_model(sections, table, held_out_table, document)
    context = CheckContext(
        columns,
        None if rollout is None else rollout.responses_per_prompt,
        chat=chat,
        prompt_column="prompt" if prompts is None else prompts.column,
        cells=cells_of(table, None),
        overlap=any(reward is not None and reward.settings.overlap for reward in by_kind["rewards"]),
    )
    held_out_data = CheckContext(
        () if held_out is None else held_out_columns,
        cells=cells_of(held_out_table, None if held_out is None else held_out.limit),
    )
    check_components(by_kind, evaluation, context, held_out_data, document)


def default_value(lora: bool, needs: frozenset[str]) -> str | None:
    """The value function where the recipe leaves it open; None where nothing needs values."""
    if "values" not in needs:
        return None
    return "own_adapter" if lora else "policy_trunk"


def _value(
    sections: Mapping[str, Any], by_kind: Mapping[str, Sequence[SelectedComponent | None]], document: Document
) -> None:
    if sections.get("value") == "own_adapter" and "lora" in sections and sections["lora"] is None:
        document.report(
            "value",
            "got own_adapter without lora; expected policy_trunk or detached_trunk, or a lora section",
        )
    estimator = next(iter(by_kind["advantages"]), None)
    if estimator is None or "values" in estimator.needs:
        return
    for loss in filter(None, by_kind["losses"]):
        if "values" in loss.needs:
            document.report(
                f"{loss.key}.use",
                f"the loss {loss.component.name!r} trains a value function, but the advantages "
                f"{estimator.component.name!r} have no values and so no returns to train it on; "
                f"leave the loss out, or choose another estimator",
            )


_REWARD_METRICS = ("mean", "excluded", "greedy_mean")  # under `reward/`, beside those of each reward's name


def check_names(by_kind: Mapping[str, Sequence[SelectedComponent | None]], document: Document) -> None:
    """Note names that two components have, and gates on rewards that are not there."""
    _gates(by_kind["rewards"], document)
    for kind, advice in {
        "rewards": "give one of them a name:",
        "losses": "give one of them a name:",
        "evaluators": "give one of them a name:",
        "observers": "list it once",
    }.items():
        seen: dict[str, str] = {}
        for selected in filter(None, by_kind[kind]):
            name, key = selected.name, selected.key
            if name in seen:
                document.report(key, f"{seen[name]} is named {name!r} as well; {advice}")
            if kind == "rewards" and name in _REWARD_METRICS:
                document.report(
                    key, f"reward/{name} is a metric of ppokit's own; give this reward another name:"
                )
            seen.setdefault(name, key)


def _gates(rewards: Sequence[SelectedComponent | None], document: Document) -> None:
    """A gate is on another reward."""
    if None in rewards:
        return
    names = [reward.name for reward in rewards if reward is not None]
    for reward in rewards:
        if reward is None or (gate := reward.settings.gate) is None:
            continue
        others = [name for name in names if name != reward.name]
        if gate.reward not in others:
            known = f"other rewards are {listed(others)}" if others else "there is no other reward"
            document.report(f"{reward.key}.gate.reward", f"got {gate.reward!r}; {known}")


def _imputed(run: Any, rewards: Sequence[SelectedComponent | None], document: Document) -> None:
    """Nothing is imputed where the first failure stops the run."""
    if run is None or run.max_failed_rewards:
        return
    for reward in filter(None, rewards):
        if reward.settings.on_failure == "impute":
            document.report(
                f"{reward.key}.on_failure",
                "got impute with run.max_failed_rewards 0, by which the first failure stops the run; "
                "expected a share of responses there that may fail, such as 0.1",
            )


def _overlap(
    sections: Mapping[str, Any], by_kind: Mapping[str, Sequence[SelectedComponent | None]], document: Document
) -> None:
    """Responses of an earlier policy are trained on by their ratio to it."""
    key = next((r.key for r in by_kind["rewards"] if r is not None and r.settings.overlap), None)
    if key is None:
        return
    update = sections.get("update")
    if update is not None and update.old_logprobs == "sampler":
        document.report(
            f"{key}.overlap",
            "got true with update.old_logprobs: sampler; the sampler's log-probabilities are compared with "
            "the trainer's before a weight moves, and with overlap the step before moves them first; "
            "expected update.old_logprobs: trainer",
        )
    losses = by_kind["losses"]
    if None not in losses and not any(
        {"new_logprobs", "old_logprobs"} <= loss.needs for loss in losses if loss is not None
    ):
        document.report(
            f"{key}.overlap",
            "got true, and no loss of this recipe has a ratio of the policy to the one that answered, which "
            "is one update older; expected a loss with old_logprobs, such as ppo_clip",
        )


def _minibatches(sections: Mapping[str, Any], document: Document) -> None:
    rollout, update = sections.get("rollout"), sections.get("update")
    if rollout is None or update is None:
        return
    responses = rollout.prompts_per_step * rollout.responses_per_prompt
    if responses % update.minibatches:
        document.report(
            "update.minibatches",
            f"got {update.minibatches}; expected a divisor of the {responses} responses of a step "
            f"(prompts_per_step {rollout.prompts_per_step} x responses_per_prompt "
            f"{rollout.responses_per_prompt})",
        )


def _groups(rollout: Any, document: Document) -> None:
    if rollout is None or rollout.dynamic_sampling is None:
        return
    if rollout.responses_per_prompt == 1:
        document.report(
            "rollout.dynamic_sampling",
            f"got {rollout.dynamic_sampling} with responses_per_prompt 1: the only response to a prompt has "
            "nothing to differ from, so that every prompt would be dropped; expected 2 or more responses a "
            "prompt, or no dynamic_sampling",
        )


def _model(sections: Mapping[str, Any], document: Document) -> None:
    model = sections.get("model")
    if model is None:
        return
    try:
        check_name(model.name)
    except ModelError as error:
        document.report("model.name", str(error).removeprefix("model.name: "))
    if not model.load_in_4bit:
        return
    if "lora" in sections and sections["lora"] is None:
        document.report(
            "model.load_in_4bit",
            "got true without lora, and a base in 4 bits does not train; expected a lora section",
        )
    if not quantization.installed():
        document.report("model.load_in_4bit", f"got true, but {quantization.MISSING}")


def _adapter(lora: LoraSettings | None, value: Any, document: Document) -> None:
    if lora is None:
        return
    for key, name in (("lora.adapter", lora.adapter), ("lora.value_adapter", lora.value_adapter)):
        if name is None:
            continue
        folder = Path(name)
        if not folder.is_dir():
            document.report(key, f"there is no folder {name}")
        elif not (folder / "adapter_config.json").is_file():
            document.report(key, f"{name} has no adapter_config.json; expected a folder with a PEFT adapter")
    if lora.value_adapter is not None and value not in (None, "own_adapter"):
        document.report(
            "lora.value_adapter", f"got value: {value}; only own_adapter can begin as another model"
        )


def _value_adapter(
    lora: LoraSettings | None, by_kind: Mapping[str, Sequence[SelectedComponent | None]], document: Document
) -> None:
    chosen = list(chain(*by_kind.values()))
    if lora is None or lora.value_adapter is None or None in chosen:
        return
    if not any("values" in selected.needs for selected in filter(None, chosen)):
        document.report(
            "lora.value_adapter",
            "no estimator or loss of this recipe needs a value function, so nothing would begin as that "
            "reward model; leave it out, or choose an estimator with values, such as gae",
        )


def _read(
    prompts: PromptFileSettings | None, key: str, chat: bool, document: Document
) -> tuple[tuple[str, ...] | None, Table | None]:
    """Columns of a file of prompts and what can be asked; None where that cannot be known here."""
    if prompts is None or not is_file(prompts.path):
        return None, None
    try:
        table = read_table(prompts.path, {prompts.column})
    except DataError as error:
        document.report(f"{key}.path", str(error))
        return None, None
    try:
        return table.header, usable_prompts(table, prompts, chat=chat)
    except DataError as error:
        document.report(f"{key}.{key_at_fault(table.header, prompts)}", str(error))
        return table.header, None
