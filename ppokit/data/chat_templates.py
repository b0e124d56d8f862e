"""The policy's chat template: the recipe's own, what it reads, and what it ends an answer with."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.errors import DataError, PpokitWarning, first_line
from ppokit.messages import listed, suggest
from ppokit.plugin.chats import Message, chat_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ppokit.config.prompt_settings import PromptSettings
    from ppokit.plugin.generation import SamplingParams

_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # tags of transformers' own
_SENTINEL = "sentinel"  # an answer that is looked for in what a template makes of it


def read_template(path: str) -> str:
    """The text of a file with a chat template.

    Raises:
        DataError: it cannot be read, or is no Jinja template.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"prompts.chat_template: {path} cannot be read: {first_line(error)}") from error
    _variables(text, f"prompts.chat_template: {path}")
    return text


def set_template(tokenizer: PreTrainedTokenizerBase, settings: PromptSettings) -> None:
    """Give a tokenizer the recipe's template, and look at what it will be asked to do.

    A warning names keys of `prompts.chat_template_kwargs` that the template does not read.

    Raises:
        DataError: there is no template, or it cannot be used.
    """
    if settings.chat_template is not None:
        tokenizer.chat_template = read_template(settings.chat_template)
    if not settings.chat:
        return
    if not tokenizer.chat_template:
        raise DataError(
            "prompts.chat: true, but the model's tokenizer has no chat template. Use chat: false, an "
            "instruction-tuned model, or a template of your own by prompts.chat_template."
        )
    known = _variables(_template_text(tokenizer), "prompts.chat: the tokenizer's chat template")
    unread = [key for key in settings.chat_template_kwargs if key not in known]
    if unread:
        keys = listed(map(repr, unread)) + suggest(unread[0], known)
        warnings.warn(
            f"prompts.chat_template_kwargs: the chat template does not read {keys}",
            PpokitWarning,
            stacklevel=2,
        )


def render(
    prompt: str, tokenizer: PreTrainedTokenizerBase, settings: PromptSettings, *, answer: str | None = None
) -> str:
    """A prompt as the text that its template makes, ready for the assistant's answer.

    Args:
        prompt: text, or a `ChatPrompt`, whose own system message goes before that of the settings.
        answer: the assistant's, which the text then ends with.

    Raises:
        DataError: the template refuses the messages, such as one of the system.
    """
    from jinja2 import TemplateError

    chat = chat_of(prompt)
    messages: list[Message] = list(chat.messages)
    own_system = messages[0]["role"] in ("system", "developer")
    if settings.system is not None and not own_system:
        messages.insert(0, {"role": "system", "content": settings.system})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    options: dict[str, Any] = {"add_generation_prompt": answer is None, **settings.chat_template_kwargs}
    try:
        return str(tokenizer.apply_chat_template(messages, tools=chat.tools, tokenize=False, **options))
    except (TemplateError, TypeError, ValueError) as error:
        with_system = (
            " with the message of prompts.system" if settings.system is not None and not own_system else ""
        )
        shown = f" It begins {str(prompt)[:60]!r}." if len(messages) > 1 + bool(with_system) else ""
        raise DataError(
            f"prompts.chat: the tokenizer's chat template refuses a chat{with_system}: {first_line(error)}"
            f"{shown}"
        ) from error


def warn_of_turn_end(
    tokenizer: PreTrainedTokenizerBase,
    settings: PromptSettings,
    end_ids: Collection[int],
    sampling: SamplingParams,
) -> None:
    """Warn where what the template writes behind an answer ends no response.

    Args:
        end_ids: tokens that end one, besides those of `sampling`.
    """
    if not settings.chat:
        return
    try:
        text = render("What is it?", tokenizer, settings, answer=_SENTINEL)
    except DataError:  # a template that takes no such chat has refused the run's own prompts, or takes them
        return
    end = text.rpartition(_SENTINEL)[2].strip()
    ids = tokenizer(end, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids or ids[0] in {*end_ids, *sampling.stop_token_ids} or end.startswith(tuple(sampling.stop)):
        return
    token = tokenizer.decode(ids[:1], skip_special_tokens=False)
    remedy = f"rollout.stop: [{end[:40]!r}]"
    if token in tokenizer.get_added_vocab():  # others stand in answers too
        remedy = f"rollout.end_tokens: [{token}], or a string of rollout.stop"
    warnings.warn(
        f"prompts.chat: the chat template ends an answer with {end[:40]!r}, which ends no response here: the "
        f"policy would go on behind it. Set {remedy}",
        PpokitWarning,
        stacklevel=2,
    )


def _template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise DataError(f"prompts.chat: {first_line(error)}") from error


def _variables(template: str, subject: str) -> set[str]:
    """Names that a template reads and does not set itself.

    Raises:
        DataError: it is no template.
    """
    from jinja2 import TemplateError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        source = _GENERATION.sub("", template)
        environment.compile(source)  # finds filters that there are none of
        return meta.find_undeclared_variables(environment.parse(source))
    except TemplateError as error:
        number = getattr(error, "lineno", None)
        line = f", line {number}" if number else ""
        raise DataError(f"{subject} is no Jinja template{line}: {first_line(error)}") from error
