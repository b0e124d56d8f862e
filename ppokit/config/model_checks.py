"""What a model's configuration and tokenizer and the adapters' files tell of a recipe, where they are here.

Nothing is fetched and no weights are read. Each fault is found and named by what finds it in a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.config.prompt_settings import PromptSettings
from ppokit.config.settings import LoraSettings
from ppokit.config.yaml_file import Document
from ppokit.data.chat_templates import read_template, set_template
from ppokit.data.prompt_rows import first_prompts
from ppokit.errors import DataError, ModelError
from ppokit.models import quantization
from ppokit.models.gguf import already_converted
from ppokit.models.loading import (
    ModelSource,
    check_ends,
    end_token_ids,
    find_model,
    load_config,
    load_tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from ppokit.config.settings import ModelSettings
    from ppokit.data.formats import Table
    from ppokit.data.prompts import PromptLimits

_NEED_CHAT = {
    "system": "a system message",
    "chat_template": "a chat template",
    "chat_template_kwargs": "what a chat template gets",
    "tools": "a column of tools",
}


def check_model(
    sections: Mapping[str, Any], table: Table | None, held_out: Table | None, document: Document
) -> None:
    """Report what is wrong with the model, with its adapters, and with what it is asked.

    Args:
        sections: validated sections by key; one that is invalid is left out.
        table, held_out: prompts that can be read, those of training and of the evaluation.
        document: collects the problems.
    """
    _adapters(sections.get("lora"), document)
    prompts: PromptSettings | None = sections.get("prompts")
    if prompts is not None and not _template(prompts, document):
        prompts = None
    source = None if sections.get("model") is None else _local(sections["model"])
    if source is None:
        return
    from ppokit.data.prompts import PromptLimits

    with _reported(document, source):
        config = load_config(source, local_files_only=True)
        if "lora" in sections and sections["lora"] is None and quantization.is_4bit_checkpoint(config):
            raise ModelError(quantization.NO_LORA)
        tokenizer = load_tokenizer(source, local_files_only=True)
        if sections.get("rollout") is not None:
            limits = PromptLimits.of(config, sections["rollout"].max_new_tokens)
            _texts(sections, prompts, table, held_out, limits, tokenizer, document)


def _template(prompts: PromptSettings, document: Document) -> bool:
    """Whether what the recipe says of chats can be done with some model."""
    problems = len(document.problems)
    if not prompts.chat:
        for key, what in _NEED_CHAT.items():
            if getattr(prompts, key) not in (None, {}):
                document.report(f"prompts.{key}", f"{what} needs chat: true")
    elif prompts.chat_template is not None:
        with _reported(document):
            read_template(prompts.chat_template)
    return len(document.problems) == problems


def _adapters(lora: LoraSettings | None, document: Document) -> None:
    """Report adapters that are none, or none that can be gone on from."""
    if lora is None:
        return
    from ppokit.models.adapter_check import check_adapter, check_fitted

    for key, check in (("adapter", check_adapter), ("value_adapter", check_fitted)):
        folder = getattr(lora, key)
        if folder is not None and (Path(folder) / "adapter_config.json").is_file():
            with _reported(document):
                check(Path(folder), f"lora.{key}")


def _texts(
    sections: Mapping[str, Any],
    prompts: PromptSettings | None,
    table: Table | None,
    held_out: Table | None,
    limits: PromptLimits,
    tokenizer: PreTrainedTokenizerBase,
    document: Document,
) -> None:
    """Report what ends no response, and prompts that cannot be asked."""
    from ppokit.data.prompts import Prompts, longest_prompt

    with _reported(document):
        named = end_token_ids(tokenizer, sections["rollout"].end_tokens)
        if limits.vocabulary is not None:
            check_ends(tokenizer, named, limits.vocabulary)
    if prompts is None:
        return
    with _reported(document):
        set_template(tokenizer, prompts)
        if table is not None and sections.get("run") is not None:
            Prompts(table, tokenizer, prompts, sections["rollout"], sections["run"], limits)
        if held_out is not None:
            texts, _, numbers = first_prompts(held_out, sections["evaluation"].prompts)
            longest_prompt(numbers, texts, tokenizer, prompts, limits, "evaluation.prompts")


@contextmanager
def _reported(document: Document, source: ModelSource | None = None) -> Iterator[None]:
    """Collect what is raised, under the key that it begins with.

    Args:
        source: what is loaded; of a hub id, some files may not be on this machine.
    """
    try:
        yield
    except (DataError, ModelError) as error:
        if source is not None and error.__cause__ is not None and not Path(source.where).is_dir():
            return
        key, _, sentence = str(error).partition(": ")
        document.report(key, sentence)


def _local(model: ModelSettings) -> ModelSource | None:
    """Where a model's files are on this machine; None where they are not."""
    options: dict[str, Any] = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        if model.name.startswith("package:"):
            return None if already_converted(model.name) is None else find_model(model.name, **options)
        source = find_model(model.name, **options)
    except ModelError:  # reported with the model's name
        return None
    if Path(source.where).is_dir():
        return source
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    except HFValidationError:
        return None
    return source if isinstance(cached, str) else None
