"""Checks of prompts and of what ends a response, by the model's tokenizer where it is on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ppokit.config.prompt_settings import PromptSettings
from ppokit.config.settings import ModelSettings, RolloutSettings
from ppokit.config.yaml_file import Document
from ppokit.data.chat_templates import read_template, render, set_template
from ppokit.errors import DataError, ModelError
from ppokit.models.loading import ModelSource, check_ends, end_token_ids, load_tokenizer
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
    """Report what is wrong with chats, and with tokens that end a response or that the model has not.

    Args:
        model, prompts, rollout: None for a section that is invalid.
        asked: prompts, to be put into the template and tokenized.
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
        size = None if model is None else _too_few_embeddings(model)
        tokenizer = _local_tokenizer(model) if chat or ends or size is not None else None
        if tokenizer is None:
            return
        named = end_token_ids(tokenizer, ends)
        if prompts is not None and chat:
            set_template(tokenizer, prompts)
            for prompt in asked:
                render(prompt, tokenizer, prompts)
        if size is not None:
            check_ends(tokenizer, size, named)
            if prompts is not None:
                _check_ids(asked, tokenizer, prompts, size)
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


def _too_few_embeddings(model: ModelSettings) -> int | None:
    """The embeddings of a model whose tokenizer has tokens without one; None for others, or where not known.

    By the files alone: most tokenizers need not be loaded, which takes seconds.
    """
    try:
        folder = named_folder(model.name)
        if folder is None:
            return None
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        size = int(config.get("text_config", config)["vocab_size"])
        return size if any(token["id"] >= size for token in added) else None
    except (ModelError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _check_ids(
    asked: Sequence[str], tokenizer: PreTrainedTokenizerBase, prompts: PromptSettings, size: int
) -> None:
    """Raises: DataError: a prompt has a token without an embedding."""
    from ppokit.data.prompts import encode_prompts, without_embedding

    for prompt, ids in zip(asked, encode_prompts(asked, tokenizer, prompts), strict=True):
        if max(ids, default=0) >= size:
            raise DataError(
                f"prompts.path: the prompt that begins {str(prompt)[:60]!r} "
                f"{without_embedding(ids, tokenizer, size)}"
            )
