"""The keys of the reward `reward_model`, and what its model's folder tells of them before it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from string import Formatter
from typing import Literal

from pydantic import Field, StrictInt, field_validator

from ppokit.plugin import CheckContext, ModelError, Options
from ppokit.reward_models.artifact import HEADS, read_settings
from ppokit.reward_models.templates import CHAT
from ppokit_rewards import classifiers
from ppokit_rewards.classifiers import ADAPTER, folder_of, is_path

Activation = Literal["none", "sigmoid", "softmax"]
_KIND = "ForSequenceClassification"


class RewardModelOptions(Options):
    model: str = Field(
        min_length=1,
        description="Hub id, or folder, of a sequence classifier; or a folder of ppokit reward fit.",
    )
    template: str | tuple[str, str] | None = Field(
        None,
        description="The text that is scored, made of {prompt} and {response}; or two such texts, which "
        "the tokenizer joins as a pair, for a model that was trained on pairs; or chat: prompt and response "
        "through the model's own chat template. Not set: as the model's folder says, else chat with "
        "prompts.chat: true and a model that has a chat template, else {prompt} {response}.",
    )
    label: StrictInt | str | None = Field(
        None, description="Which label is the score, by name or index; needed where there are several."
    )
    activation: Activation = Field(
        "none", description="none: the logit itself; sigmoid, softmax: the label's probability."
    )
    batch_size: int = Field(16, ge=1, description="Texts per forward pass; changes the speed only.")
    max_length: int | None = Field(
        None,
        ge=8,
        description="Tokens of a text that are read, counted from its end. Not set: as the model's folder "
        "says, else all that the model can.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Of the weights; auto: as they are stored, but float32 beside a base in float32, where "
        "the hardware is slow at anything else.",
    )
    shared_base: bool = Field(
        False,
        description="Run a fitted adapter on the policy's own base, instead of on a copy of it.",
    )

    @field_validator("template")
    @classmethod
    def _has_a_response(cls, value: str | tuple[str, str] | None) -> str | tuple[str, str] | None:
        if value is None or value == CHAT:
            return value
        try:
            fields = [field for _, *field in Formatter().parse("".join(value)) if field[0] is not None]
        except ValueError as error:
            raise ValueError(f"{value!r}: {error}; write a brace of the text itself twice") from None
        for name, spec, conversion in fields:
            if name not in ("prompt", "response") or spec or conversion:
                raise ValueError(f"{value!r} names {{{name}}}; expected {{prompt}} and {{response}} alone")
        if "response" not in [name for name, *_ in fields]:
            raise ValueError(f"{value!r} has no {{response}}: every response would score the same")
        return value


def check(options: RewardModelOptions, context: CheckContext) -> Iterable[str]:
    if options.shared_base and (options.label is not None or options.dtype != "auto"):
        yield "shared_base: the adapter has one label, and the base's dtype; leave label and dtype out"
    if not is_path(options.model):
        return
    folder = folder_of(options.model)
    if options.shared_base and not (folder / ADAPTER).is_file():
        yield f"shared_base: {options.model!r} is no adapter on a causal language model"
    if not folder.is_dir():
        yield f"model {options.model!r}: there is no such folder"
        return
    if options.template == CHAT and not classifiers.has_chat_template(folder):
        yield f"template: chat, but the tokenizer of {options.model!r} has no chat template"
    try:
        fitted = read_settings(folder)
    except ModelError as error:
        yield str(error)
        return
    if fitted is not None and options.template is not None:
        own = (options.template,) if isinstance(options.template, str) else options.template
        if own != tuple(fitted.template):
            yield (
                f"template: {options.template!r}, but {options.model!r} was fitted on {fitted.template}, as "
                "which it reads chats too; leave template out"
            )
    if (folder / ADAPTER).is_file() or (fitted is not None and (folder / HEADS).is_file()):
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield f"model {options.model!r}: no config.json in that folder; expected a saved sequence classifier"
        return
    except ValueError as error:
        yield f"model {options.model!r}: its config.json cannot be read: {error}"
        return
    kinds = config.get("architectures") or []
    if kinds and not any(kind.endswith(_KIND) for kind in kinds):
        yield f"model {options.model!r} is a {', '.join(kinds)}; expected a sequence classifier (*{_KIND})"
