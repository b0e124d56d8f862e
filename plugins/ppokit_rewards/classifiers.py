"""Sequence classifiers in safetensors, from the hub or a folder, and what `ppokit reward fit` made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.plugin import ModelError

if TYPE_CHECKING:
    import torch

ADAPTER = "adapter_config.json"


def load(model: str, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """A classifier in evaluation mode, and its tokenizer, which pads on the right and truncates on the left.

    Args:
        model: hub id; or folder of a classifier, of a PEFT adapter with a head on a causal LM, or of an
            encoder with heads.
        dtype: as in transformers; `auto` is as stored.

    Raises:
        ModelError: it cannot be loaded, has no trained head, or no token to pad with.
    """
    import torch

    from ppokit.reward_models.encoder import load_response_encoder
    from ppokit.reward_models.loading import load_classifier, with_fitted_adapter

    encoder = load_response_encoder(folder_of(model))
    if encoder is not None:
        if dtype != "auto":
            encoder.encoder.to(getattr(torch, dtype))
        return encoder.to(device), load_tokenizer(model)
    subject, base = f"reward model {model!r}", base_of(model)
    tokenizer = load_tokenizer(model)
    if base is not None:
        loaded, _ = load_classifier(base, subject, dtype, num_labels=1)
        loaded = with_fitted_adapter(loaded, folder_of(model), subject)
    else:
        loaded, missing = load_classifier(_where(model), subject, dtype)
        if missing:
            raise ModelError(
                f"{subject} has no trained head: its files hold no {', '.join(missing[:4])}"
                f"{' and others' if len(missing) > 4 else ''}, so its scores would be random; choose a model "
                f"that was trained as a classifier or reward model"
            )
    loaded.config.get_text_config().pad_token_id = loaded.config.pad_token_id = tokenizer.pad_token_id
    return loaded.to(device).eval().requires_grad_(False), tokenizer


def load_tokenizer(model: str) -> Any:
    """Its tokenizer, which pads on the right and truncates on the left.

    Raises:
        ModelError: it cannot be loaded, or has no token to pad with.
    """
    from ppokit.reward_models.loading import load_text_tokenizer

    return load_text_tokenizer(_where(model), f"reward model {model!r}")


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer in a folder has a chat template, in a file of its own or in its configuration."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # said where it is loaded
        return True
    return (folder / "chat_template.jinja").is_file() or bool(config.get("chat_template"))


def base_of(model: str) -> str | None:
    """What an adapter's folder is an adapter on; None for a whole model.

    Raises:
        ModelError: its configuration cannot be read, or names a folder that is not there.
    """
    try:
        config = json.loads((folder_of(model) / ADAPTER).read_text(encoding="utf-8"))
        base = str(config["base_model_name_or_path"])
    except OSError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"reward model {model!r}: its {ADAPTER} cannot be read: {error!r}") from error
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ModelError(
            f"reward model {model!r} is an adapter on the model in {base}, and there is no such folder; "
            f"bring it back, or write where it is now as base_model_name_or_path in {ADAPTER}"
        )
    return base


def folder_of(model: str) -> Path:
    """The folder that a name means, if it means one."""
    return Path(model).expanduser()


def is_path(model: str) -> bool:
    """Whether it is meant as a folder; a hub id is `name` or `owner/name`."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or Path(model).is_dir()


def _where(model: str) -> str:
    return str(folder_of(model)) if is_path(model) else model
