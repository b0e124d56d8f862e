"""Sequence classifiers in safetensors, from the hub or a folder, and what `ppokit reward fit` made."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.plugin import ModelError

if TYPE_CHECKING:
    import torch

ADAPTER = "adapter_config.json"


def load(model: str, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """A classifier in evaluation mode, and its tokenizer, which pads on the right and cuts on the left.

    Args:
        model: hub id; or folder of a classifier, of a PEFT adapter with a head on a causal LM, or of an
            encoder with heads.
        dtype: as in transformers; `auto` is as stored.

    Raises:
        ModelError: it cannot be loaded, has no trained head, or no token to pad with.
    """
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    from ppokit.reward_models.encoder import load_response_encoder

    with without_bars():
        encoder = load_response_encoder(folder_of(model))
    if encoder is not None:
        if dtype != "auto":
            encoder.encoder.to(getattr(torch, dtype))
        return encoder.to(device), load_tokenizer(model)
    name = str(folder_of(model)) if is_path(model) else model
    base = base_of(model)
    tokenizer = load_tokenizer(model)
    level = logging.get_verbosity()
    if base:
        logging.set_verbosity_error()  # it would warn that the head is new; the adapter brings its own
    try:
        with without_bars():
            loaded, info = AutoModelForSequenceClassification.from_pretrained(
                base or name,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **({"num_labels": 1} if base else {}),
            )
        random = sorted(info["missing_keys"])
        if base:
            loaded, random = _with_adapter(loaded, name), []
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"reward model {model!r} cannot be loaded as a sequence classifier in safetensors: {error}"
        ) from error
    finally:
        logging.set_verbosity(level)
    if random:
        raise ModelError(
            f"reward model {model!r} has no trained head: its files hold no {', '.join(random[:4])}"
            f"{' and others' if len(random) > 4 else ''}, so its scores would be random; choose a model "
            f"that was trained as a classifier or reward model"
        )
    loaded.config.get_text_config().pad_token_id = loaded.config.pad_token_id = tokenizer.pad_token_id
    return loaded.to(device).eval().requires_grad_(False), tokenizer


def load_tokenizer(model: str) -> Any:
    """Its tokenizer, which pads on the right and cuts on the left.

    Raises:
        ModelError: it cannot be loaded, or has no token to pad with.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder_of(model)) if is_path(model) else model,
            trust_remote_code=False,
            padding_side="right",
            truncation_side="left",
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"the tokenizer of reward model {model!r} cannot be loaded: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token_id is None:
            raise ModelError(f"the tokenizer of reward model {model!r} has no token to pad with")
    return tokenizer


def base_of(model: str) -> str | None:
    """What an adapter's folder is an adapter on; None for a whole model.

    Raises:
        ModelError: its configuration cannot be read, or names a folder that is not there.
    """
    try:
        said = json.loads((folder_of(model) / ADAPTER).read_text(encoding="utf-8"))
        base = str(said["base_model_name_or_path"])
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


@contextmanager
def without_bars() -> Iterator[None]:
    """No bar of transformers' own on the run's terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _with_adapter(model: Any, folder: str) -> Any:
    """The base with the adapter and its head; the head computes in float32, since bfloat16 scores tie."""
    import torch
    from peft import PeftModel
    from safetensors import safe_open

    with safe_open(str(Path(folder) / "adapter_model.safetensors"), "pt") as file:
        keys = list(file.keys())
    if all("lora_" in key for key in keys):
        raise ValueError("the adapter has no trained head")
    head = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1][-1]
    head.float().register_forward_pre_hook(_as_float32)
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        # It sets what it warns of by itself, for models such as GPT-2.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        return PeftModel.from_pretrained(model, folder)


def _as_float32(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() for x in given)
