"""Score of a sequence classifier of the Hugging Face hub or a folder: a reward model, or any other.

    score = activation(logits)[label]     of the text that `template` makes of prompt and response

The model reads text through its own tokenizer, so it need not share the policy's. A score does not
depend on what else is in the batch: padding stands on the right and is not attended to. A model that
was trained on chats, as most reward models of the hub, reads them through its own chat template
(`template: chat`); the metric `chat` is 1 where it does.

    one label (a reward model):   score is the logit, unless `activation` says otherwise
    several labels (a classifier): `label` says which, by name or index

A text beyond the model's limit loses its beginning, so that the response's end is kept; the metric
`truncated` counts those. Only safetensors are read, and no code of the model's own is run. A model
without a trained head is refused: its scores would be random numbers.

A folder written by `ppokit reward fit` says how its texts are laid out, in `ppokit_reward.json`. It holds an
encoder with heads (`ppokit.reward_models.encoder`), or a PEFT adapter with a head on a causal LM, which is
then loaded beneath it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ppokit.plugin import (
    BuildContext,
    Component,
    Metric,
    ModelError,
    RewardOutput,
    Rollout,
    Sum,
    hookimpl,
    length_batches,
)
from ppokit.reward_models.artifact import read_settings
from ppokit.reward_models.templates import CHAT, encode, padding_of
from ppokit_rewards.classifiers import folder_of, load, load_tokenizer
from ppokit_rewards.reward_model_options import RewardModelOptions, check

if TYPE_CHECKING:
    from torch import Tensor

JOINED = "{prompt} {response}"


def reward_model(
    model: Any, encoded: Sequence[dict[str, list[int]]], *, batch_size: int, pad: dict[str, int]
) -> Tensor:
    """Logits of each text.

    Args:
        model: a sequence classifier.
        encoded: for each of B texts its token ids, attention mask and so on; not padded.
        batch_size: texts a forward pass; the longest go first.
        pad: what each of those is padded with, on the right.

    Returns: [B, labels] float32 on the CPU, in the order of the texts.
    """
    import torch

    logits = torch.zeros(len(encoded), model.config.num_labels)
    lengths = [len(text["input_ids"]) for text in encoded]
    for indices in length_batches(lengths, batch_size):
        width = lengths[indices[0]]
        batch = {
            key: torch.tensor(
                [encoded[i][key] + [value] * (width - len(encoded[i][key])) for i in indices],
                device=model.device,
            )
            for key, value in pad.items()
        }
        with torch.inference_mode():
            logits[indices] = model(**batch).logits.float().cpu()
    return logits


class RewardModel:
    marked = False  # whether the model is told which tokens are the response's

    def __init__(self, options: RewardModelOptions, context: BuildContext) -> None:
        self.options = options
        fitted = read_settings(folder_of(options.model))
        self.fitted_length = None if fitted is None else fitted.max_length
        self.max_length = options.max_length or self.fitted_length
        self._load(context)
        template = options.template or (None if fitted is None else tuple(fitted.template))
        if template is None:
            template = CHAT if context.chat and self.tokenizer.chat_template else JOINED
        self.templates = (template,) if isinstance(template, str) else template
        if self.templates == (CHAT,) and not self.tokenizer.chat_template:
            raise ModelError(
                f"template: chat, but the tokenizer of the reward model {options.model!r} has no chat "
                "template; expected a text of {prompt} and {response}"
            )
        self.pad = padding_of(self.tokenizer, marked=self.marked)
        if self.marked:
            *_, second = self.templates
            if len(self.templates) == 1 or "{response}" not in second or "{prompt}" in second:
                raise ModelError(
                    f"reward model {options.model!r} reads a pair of texts, the second of which is the "
                    f"response; template: {options.template!r}; expected such a pair, or leave it out"
                )

    def score(self, rollout: Rollout) -> RewardOutput:
        encoded, truncated = encode(
            self.tokenizer,
            self.templates,
            rollout.prompts,
            rollout.responses,
            limit=self.limit,
            pad=self.pad,
        )
        logits = self._logits(encoded)  # [B, labels]
        if self.options.activation == "sigmoid":
            logits = logits.sigmoid()
        elif self.options.activation == "softmax":
            logits = logits.softmax(dim=-1)
        metrics: dict[str, Metric] = {"truncated": Sum(truncated)}
        if self.templates == (CHAT,):
            metrics["chat"] = 1.0
        return RewardOutput.of_scores(logits[:, self.label], metrics=metrics)

    def _load(self, context: BuildContext) -> None:
        import torch

        from ppokit.reward_models.encoder import ResponseEncoder
        from ppokit.reward_models.loading import one_rotary_factor

        options = self.options
        dtype = options.dtype
        if dtype == "auto" and context.dtype == torch.float32:
            dtype = "float32"
        self.model, self.tokenizer = load(options.model, dtype, context.device)
        self.marked = isinstance(self.model, ResponseEncoder)
        self.label = _label(options, self.model.config)
        self.limit = _limit(options, self.max_length, self.model, self.tokenizer)
        subject = f"reward model {options.model!r}"
        one_rotary_factor(self.model, self.fitted_length, options.max_length, subject)

    def _logits(self, encoded: list[dict[str, list[int]]]) -> Tensor:
        return reward_model(self.model, encoded, batch_size=self.options.batch_size, pad=self.pad)


class OnSharedBase(RewardModel):
    """A fitted adapter and its head on the policy's own base, which then serves one role more."""

    def _load(self, context: BuildContext) -> None:
        if context.base is None:
            raise ModelError(
                "shared_base: there is no base here to share, as for no reward that is asked beside the "
                "policy's own passes; leave it out, or timeout, retries, concurrency, rate_limit and overlap"
            )
        self.base = context.base
        self.tokenizer = load_tokenizer(self.options.model)
        self.label, self.limit = 0, self.max_length

    def _logits(self, encoded: list[dict[str, list[int]]]) -> Tensor:
        ids = [one["input_ids"] for one in encoded]
        return self.base.reward(self.options.model, ids, self.fitted_length).unsqueeze(1)


def _build(options: RewardModelOptions, context: BuildContext) -> RewardModel:
    return (OnSharedBase if options.shared_base else RewardModel)(options, context)


def _label(options: RewardModelOptions, config: Any) -> int:
    """Index of the score among the logits."""
    names = {int(index): str(name) for index, name in config.id2label.items()}
    listed = ", ".join(f"{index}: {name}" for index, name in sorted(names.items()))
    count, label = config.num_labels, options.label
    if options.activation == "softmax" and count == 1:
        raise ModelError(
            f"reward model {options.model!r} has one label, whose softmax is always 1; use activation "
            f"sigmoid or none"
        )
    if label is None:
        if count == 1:
            return 0
        raise ModelError(
            f"reward model {options.model!r} has {count} labels; choose one by `label` ({listed})"
        )
    matches = [index for index, name in names.items() if label in (index, name)]
    if len(matches) != 1:
        raise ModelError(f"reward model {options.model!r} has no label {label!r}; expected one of {listed}")
    return matches[0]


def _limit(options: RewardModelOptions, wanted: int | None, model: Any, tokenizer: Any) -> int | None:
    """The most tokens of a text; None where neither the model nor its tokenizer knows a limit."""
    from ppokit.reward_models.loading import token_limit

    limit = token_limit(model, tokenizer)
    if wanted is None:
        return limit
    if limit is not None and wanted > limit:
        raise ModelError(
            f"reward model {options.model!r} reads at most {limit} tokens; max_length is {wanted}"
        )
    return wanted


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    return [
        Component(
            "reward_model",
            _build,
            options=RewardModelOptions,
            check=check,
            waivers={"names_examples": "the model decides what is better"},
        )
    ]
