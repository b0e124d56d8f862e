"""Checks of chats and of what ends them, by the model's tokenizer where it is on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ppokit.config.prompt_settings import PromptSettings
from ppokit.config.settings import ModelSettings, RolloutSettings
from ppokit.config.yaml_file import Document
from ppokit.data.chat_templates import read_template, render, set_template
from ppokit.errors import DataError, ModelError
from ppokit.models.loading import ModelSource, end_token_ids, load_tokenizer
from ppokit.models.names import named_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEED_CHAT = {
    "system": "a system message",
    "chat_template": "a chat template",
    "chat_template_kwargs": "what a chat template gets",
    "tools": "a column of tools",
}


def check_chat(
    model: ModelSettings | None,
    prompts: PromptSettings | None,
    rollout: RolloutSettings | None,
    asked: Sequence[str],
    document: Document,
) -> None:
    """Report what is wrong with chats and with the tokens that end a response.

    Args:
        model, prompts, rollout: None for a section that is invalid.
        asked: prompts, to be put into the template.
        document: collects the problems.
    """
    if prompts is not None and not prompts.chat:
        for key, what in _NEED_CHAT.items():
            if getattr(prompts, key) not in (None, {}):
                document.report(f"prompts.{key}", f"{what} needs chat: true")
    chat = prompts is not None and prompts.chat
    try:
        if prompts is not None and chat and prompts.chat_template is not None:
            read_template(prompts.chat_template)
        ends = () if rollout is None else rollout.end_tokens
        tokenizer = _local_tokenizer(model) if chat or ends else None
        if tokenizer is None:
            return
        end_token_ids(tokenizer, ends)
        if prompts is not None and chat:
            set_template(tokenizer, prompts)
            for prompt in asked:
                render(prompt, tokenizer, prompts)
    except (DataError, ModelError) as error:
        key, _, sentence = str(error).partition(": ")
        document.report(key, sentence)


def _local_tokenizer(model: ModelSettings | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer, where it is on this machine as it is; None where it is not, or cannot be loaded."""
    if model is None or model.name.startswith("package:"):
        return None
    options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        folder = named_folder(model.name)
        source = ModelSource(model.name, model.name if folder is None else str(folder), **options)
        return load_tokenizer(source, local_files_only=True)
    except ModelError:  # a folder without a checkpoint is reported with the model's name
        return None
