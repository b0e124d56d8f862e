"""Hold what a reward provider returned to its contract, before anything is computed of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.errors import PluginError, excerpt_of
from ppokit.messages import listed
from ppokit.plugin.reward_output import CALL_METRICS, Outcome, RewardOutput
from ppokit.plugin.types import Rollout
from ppokit.training.contracts import check_tensor, component_metrics


def check_output(output: object, rollout: Rollout, reward: BuiltComponent) -> RewardOutput:
    """What a provider returned of a rollout, as float32 on the CPU, without gradient; 0 where not scored.

    Raises:
        PluginError: it is not what the contract says.
    """
    if inspect.iscoroutine(output):
        output.close()
        raise _broken(
            reward,
            "a coroutine",
            "a RewardOutput: score is called as a plain function; write async def score, which is awaited",
        )
    if not isinstance(output, RewardOutput):
        hint = ": RewardOutput.from_values(numbers) makes one of numbers"
        is_numbers = isinstance(output, Sequence) or hasattr(output, "tolist")
        raise _broken(reward, f"a {type(output).__name__}", f"a RewardOutput{hint if is_numbers else ''}")
    b, r = rollout.response_ids.shape
    outcomes = _outcomes(output, b, reward)
    failures, parts = _failures(output, outcomes, reward), _parts(output, b, reward)
    weights: Mapping[str, float] = reward.settings.parts or {}
    if not weights and output.scores is None and output.token_scores is None:
        weights = dict.fromkeys(parts, 1.0)
    lacking, outcomes, failures = _without_parts(output, parts, weights, outcomes, failures)
    scored = torch.tensor([outcome == "scored" for outcome in outcomes], dtype=torch.bool)
    tokens = output.token_scores
    scores = _weighed(parts, weights, scored, reward) if weights else output.scores
    if scores is None and tokens is None and bool(scored.any()):
        raise _broken(reward, "neither scores nor token_scores", "one of them where the outcome is scored")
    zero = torch.zeros(())
    whole = torch.zeros(b)
    if scores is not None:
        scores = _tensor(reward, "scores", scores, [b], "responses").where(scored, zero)
        whole = scores
    if tokens is not None:
        tokens = _tensor(reward, "token_scores", tokens, [b, r], "responses, response tokens")
        tokens = tokens.where(rollout.loss_mask, zero)
        tokens[lacking] = 0
        _check_unscored_tokens(tokens, scored, rollout, reward)
        whole = whole + tokens.sum(dim=1)
    _check_finite(whole, rollout, reward)
    prefix = f"reward/{reward.name}/"
    taken = [prefix + name for name in (*CALL_METRICS, *parts)]
    return RewardOutput(
        scores,
        outcomes,
        tokens,
        component_metrics(output.metrics, reward.where, responses=b, prefix=prefix, taken=taken),
        failures=failures,
        parts=parts,
        notes=_notes(output, b, reward),
    )


def check_text(output: RewardOutput, reward: BuiltComponent) -> None:
    """Tokens, and the characters that become their scores, are those of whole responses.

    Raises:
        PluginError: it scores them by answers.
    """
    scores_tokens = output.token_scores is not None or output.spans is not None
    if scores_tokens and reward.settings.text == "answer":
        raise PluginError(
            f"{reward.where} scores tokens, which are those of the whole response; got text: answer, "
            "expected text: whole."
        )


def _broken(reward: BuiltComponent, actual: str, expected: str) -> PluginError:
    return PluginError(f"{reward.where} returned {actual}; expected {expected}.")


def _tensor(reward: BuiltComponent, name: str, given: object, shape: list[int], axes: str) -> Tensor:
    tensor = check_tensor(reward.where, name, given, shape, axes)
    if tensor.is_complex() or tensor.is_meta or tensor.layout != torch.strided:
        raise _broken(
            reward, f"{name} of {tensor.dtype} on {tensor.device}", "real numbers in a dense tensor"
        )
    return tensor.detach().to("cpu", torch.float32)


def _outcomes(output: RewardOutput, b: int, reward: BuiltComponent) -> tuple[Outcome, ...]:
    outcomes = output.outcomes
    if isinstance(outcomes, str) or not isinstance(outcomes, Sequence) or len(outcomes) != b:
        actual = (
            f"{len(outcomes)} outcomes"
            if isinstance(outcomes, list | tuple)
            else f"outcomes {excerpt_of(outcomes)}"
        )
        if output.scores is not None:  # a wrong number of both is one of scores
            check_tensor(reward.where, "scores", output.scores, [b], "responses")
        raise _broken(reward, actual, f"{b} (responses)")
    for outcome in outcomes:
        if outcome not in get_args(Outcome):
            raise _broken(reward, f"the outcome {outcome!r}", "scored, abstained or failed")
    return tuple(outcomes)


def _check_unscored_tokens(tokens: Tensor, scored: Tensor, rollout: Rollout, reward: BuiltComponent) -> None:
    """Token scores of a response without a score would count or not by what others make of it."""
    wrong = (tokens.ne(0).any(dim=1) & ~scored).nonzero().flatten().tolist()
    if wrong:
        raise _broken(
            reward,
            f"token_scores for sample {rollout.ids[wrong[0]]}, whose outcome is not scored",
            "0 on its tokens, or the outcome scored (RewardOutput.of_tokens gives token scores alone)",
        )


def _check_finite(whole: Tensor, rollout: Rollout, reward: BuiltComponent) -> None:
    for index in (~whole.isfinite()).nonzero().flatten().tolist():
        response = rollout.responses[index][:60]
        raise _broken(
            reward,
            f"{whole[index].item()} for sample {rollout.ids[index]} (response {response!r})",
            "a finite number, or the outcome abstained or failed",
        )


def _failures(
    output: RewardOutput, outcomes: Sequence[Outcome], reward: BuiltComponent
) -> dict[int, str | BaseException]:
    if not isinstance(output.failures, Mapping):
        raise _broken(reward, f"failures of type {type(output.failures).__name__}", "reasons by index")
    given = output.part_failures
    if not isinstance(given, Mapping) or not all(isinstance(each, Mapping) for each in given.values()):
        raise _broken(reward, f"part_failures as {excerpt_of(given)}", "reasons by name and index")
    for index, reason in output.failures.items():
        if not isinstance(index, int) or not 0 <= index < len(outcomes) or outcomes[index] != "failed":
            raise _broken(reward, f"a failure of response {index!r}", "one whose outcome is failed")
        if not isinstance(reason, str | BaseException):
            raise _broken(reward, f"the failure {excerpt_of(reason)}", "a text or an exception")
    return dict(output.failures)


def _parts(output: RewardOutput, b: int, reward: BuiltComponent) -> dict[str, Tensor]:
    if not isinstance(output.parts, Mapping):
        raise _broken(reward, f"parts of type {type(output.parts).__name__}", "numbers [B] by name")
    parts = {}
    for name, numbers in output.parts.items():
        _check_name(name, "part", reward)
        part = _tensor(reward, f"the part {name!r}", numbers, [b], "responses")
        if bool(part.isinf().any()):
            raise _broken(reward, f"an infinite number in the part {name!r}", "finite numbers, or NaN")
        parts[name] = part
    return parts


def _weighed(
    parts: Mapping[str, Tensor], weights: Mapping[str, float], scored: Tensor, reward: BuiltComponent
) -> Tensor:
    """Scores [B]: the weighted sum of the parts that count."""
    scores = torch.zeros(len(scored))
    if not bool(scored.any()):
        return scores
    if missing := sorted(set(weights) - set(parts)):
        known = listed(sorted(parts)) if parts else "none"
        raise PluginError(
            f"{reward.where} gives no part {listed(map(repr, missing))}, which {reward.key}.parts weighs; "
            f"its parts: {known}."
        )
    for name, weight in weights.items():
        scores = scores + weight * parts[name].where(scored, torch.zeros(()))
    return scores


def _without_parts(
    output: RewardOutput,
    parts: Mapping[str, Tensor],
    weights: Mapping[str, float],
    outcomes: tuple[Outcome, ...],
    failures: Mapping[int, str | BaseException],
) -> tuple[list[int], tuple[Outcome, ...], dict[int, str | BaseException]]:
    """Responses that lack a part which counts, and all outcomes and failures by that.

    Such a response has abstained, or failed where the provider says why the part is not there.
    """
    after, reasons = list(outcomes), dict(failures)
    for name in weights:
        for index in parts[name].isnan().nonzero().flatten().tolist() if name in parts else ():
            reason = output.part_failures.get(name, {}).get(index)
            if outcomes[index] == "scored" and reason is not None:
                after[index] = "failed"
                reasons.setdefault(index, reason)
            elif after[index] == "scored":
                after[index] = "abstained"
    lacking = [index for index, outcome in enumerate(outcomes) if outcome != after[index]]
    return lacking, tuple(after), reasons


def _notes(output: RewardOutput, b: int, reward: BuiltComponent) -> dict[str, tuple[str, ...]]:
    if not isinstance(output.notes, Mapping):
        raise _broken(reward, f"notes of type {type(output.notes).__name__}", "texts by name")
    notes = {}
    for name, texts in output.notes.items():
        _check_name(name, "note", reward)
        if isinstance(texts, str) or not isinstance(texts, Sequence) or len(texts) != b:
            raise _broken(reward, f"the note {name!r} as {excerpt_of(texts)}", f"{b} texts, one per response")
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise _broken(reward, f"{excerpt_of(wrong[0])} in the note {name!r}", "texts")
        notes[name] = tuple(texts)
    return notes


def _check_name(name: object, what: str, reward: BuiltComponent) -> None:
    if not isinstance(name, str) or not name or "/" in name or name in CALL_METRICS:
        raise _broken(
            reward,
            f"a {what} with the name {name!r}",
            f"a text without a slash, and none of {listed(CALL_METRICS)}",
        )
