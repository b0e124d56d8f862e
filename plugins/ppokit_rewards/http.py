"""Scores by a service: prompts, responses and rows go to an address as JSON, scores come back.

    ppokit         {"prompts": [...], "responses": [...], "rows": [...]}
                   -> {"scores": [0.5, null, {"error": "why"}], "parts": {...}, "notes": {...}}
    llama_factory  {"model": "model", "messages": [prompt + response, ...]}           -> {"scores": [...]}
    openrlhf       {"query": [prompt + response, ...], "prompts": [...], "labels": [...]}
                   -> {"rewards": [...], "extra_logs": {...}}

`llama_factory` is what LLaMA-Factory's PPO, on TRL's trainer, asks with `reward_model_type: api` (TRL has no
format of its own); `openrlhf` what OpenRLHF asks its `remote_rm_url`, whose numbers per response in
`extra_logs` become parts. Both are given texts as the policy reads and writes them, chat template and special
tokens included, as their servers expect; ppokit's own has prompts and responses without them. One request has
all responses, or as many as `batch_size` says; `concurrency` in the recipe is the number of requests at once,
and divides them further where there are fewer. null abstains; what is no finite number fails its response,
and a wrong number of scores fails all of the request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ppokit.plugin import (
    CALL_METRICS,
    BuildContext,
    CheckContext,
    Component,
    RewardContext,
    RewardOutput,
    Rollout,
    hookimpl,
)
from ppokit_rewards.function_values import LARGEST_FLOAT32, shown
from ppokit_rewards.service import ServiceError, ServiceOptions, key_problems, post

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class HttpOptions(ServiceOptions):
    format: Literal["ppokit", "llama_factory", "openrlhf"] = Field(
        "ppokit", description="What is sent and what comes back."
    )
    label: str | None = Field(None, description="For openrlhf: column that is sent as labels.")
    batch_size: int | None = Field(None, gt=0, description="Responses in a request at most. Not set: any.")


class Http:
    def __init__(self, options: HttpOptions, context: BuildContext) -> None:
        self.options = options
        self.responses_per_call = options.batch_size

    async def score(self, rollout: Rollout, context: RewardContext) -> RewardOutput:
        answer = await post(self.options, "", payload(rollout, self.options, context.tokenizer))
        return read(answer, len(rollout), self.options.format)


def payload(
    rollout: Rollout, options: HttpOptions, tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, Any]:
    """What is sent.

    Args:
        tokenizer: the policy's; None outside a run, where texts have no template.
    """
    prompts, responses = list(map(str, rollout.prompts)), list(rollout.responses)
    if options.format == "ppokit":
        return {"prompts": prompts, "responses": responses, "rows": [dict(row) for row in rollout.rows]}
    whole = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    if tokenizer is not None:
        prompts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in rollout.prompt_ids]
        whole = [_as_tokens(rollout, index, prompt, tokenizer) for index, prompt in enumerate(prompts)]
    if options.format == "llama_factory":
        return {"model": "model", "messages": whole}
    labels = [None if options.label is None else row.get(options.label) for row in rollout.rows]
    return {"query": whole, "prompts": prompts, "labels": labels}


def _as_tokens(rollout: Rollout, index: int, prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Prompt and response with their special tokens; an answer without its thinking part as it is."""
    text = rollout.responses[index]
    ids = rollout.response_ids[index][rollout.response_mask[index]].tolist()
    if not text.endswith(tokenizer.decode(ids, skip_special_tokens=True).strip()):
        return prompt + text
    return str(tokenizer.decode([*rollout.prompt_ids[index], *ids], skip_special_tokens=False))


def read(answer: Any, count: int, form: str) -> RewardOutput:
    """An answer as an output.

    Raises:
        ServiceError: it is not one score per response.
    """
    key, named = ("rewards", "extra_logs") if form == "openrlhf" else ("scores", "parts")
    given = answer.get(key) if isinstance(answer, dict) else answer
    if not isinstance(given, list) or len(given) != count:
        actual = f"{len(given)} scores" if isinstance(given, list) else f"{shown(answer, 80)}"
        raise ServiceError(f"the service answered {actual}; expected {key!r} with {count} numbers")
    values = [number(value) for value in given]
    if form == "llama_factory" or not isinstance(answer, dict):
        return RewardOutput.from_values(values)
    columns = _columns(answer, named, count, strict=form == "ppokit")
    parts = {name: list(map(number, column)) for name, column in columns}
    notes: dict[str, list[str]] = {}
    if form == "ppokit":
        notes = {
            name: ["" if n is None else str(n) for n in column]
            for name, column in _columns(answer, "notes", count)
        }
    return RewardOutput.from_values(values, parts=parts, notes=notes)


def number(value: Any) -> float | Exception | None:
    """A score as it came: null abstains, `{"error": "why"}` and what is no number fail."""
    if value is None:
        return None
    if isinstance(value, dict) and "error" in value:
        return ServiceError(str(value["error"]))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ServiceError(f"the service scored {shown(value, 80)}; expected a number")
    if not abs(value) <= LARGEST_FLOAT32:  # also an integer that no float holds, and a NaN
        return ServiceError(f"the service scored {shown(value, 80)}; expected a finite number")
    return float(value)


def _columns(
    answer: dict[str, Any], key: str, count: int, *, strict: bool = True
) -> Iterable[tuple[str, list[Any]]]:
    given = answer.get(key) or {}
    if not isinstance(given, dict):
        raise ServiceError(f"the service answered {key} as {shown(given, 80)}; expected lists by name")
    for name, column in given.items():
        fits = isinstance(column, list) and len(column) == count
        if not strict:  # other numbers are of the whole request
            if fits and (plain := name.replace("/", "_").strip("_")):
                yield plain if plain not in CALL_METRICS else f"{plain}_", column
            continue
        if not fits:
            raise ServiceError(
                f"the service answered {key}.{name} as {shown(column, 80)}; expected {count} entries"
            )
        if not name or "/" in name or name in CALL_METRICS:
            raise ServiceError(
                f"the service answered {key} with the name {shown(name, 80)}, which is no name"
            )
        yield name, column


def check(options: HttpOptions, context: CheckContext) -> Iterable[str]:
    yield from key_problems(options)
    if options.label is not None:
        if options.format != "openrlhf":
            yield f"label has no effect with format {options.format}"
        else:
            yield from context.without_column("label", options.label)


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    waivers = {"names_examples": "the service decides what is better"}
    return [Component("http", Http, options=HttpOptions, check=check, waivers=waivers)]
