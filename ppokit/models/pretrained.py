"""Tokenizers, models and adapters by `from_pretrained`, and what it raises in one paragraph.

`subject` is what is loaded, as an error begins; options are those of `from_pretrained`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.errors import ModelError, first_line

if TYPE_CHECKING:
    from torch import Tensor

_EXPECTED = "a hub id, a folder saved by save_pretrained, or package:DISTRIBUTION/FILE.gguf"


def pretrained_tokenizer(where: str, subject: str, **options: Any) -> Any:
    """A tokenizer that can pad: where it has no pad token, the one that ends a sequence or is unknown serves.

    Raises:
        ModelError: it cannot be loaded, or has no token to pad with.
    """
    from transformers import AutoTokenizer

    with explained(subject):
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token_id is None:
            raise ModelError(f"{subject} has no token to pad with.")
    return tokenizer


def pretrained_model(
    auto: Any, where: str, subject: str, kind: str = "", **options: Any
) -> tuple[Any, list[str]]:
    """A model of any of transformers' Auto classes, and which of its weights the files lack.

    Raises:
        ModelError: it cannot be loaded.
    """
    with explained(subject, kind), quiet():
        model, info = auto.from_pretrained(where, output_loading_info=True, **options)
    return model, sorted(info["missing_keys"])


def pretrained_adapter(model: Any, folder: str | Path, subject: str, **options: Any) -> Any:
    """The model as a PeftModel with the adapter of a folder on.

    Raises:
        ModelError: it cannot be loaded, or its weights are not all of those that the model has places for.
    """
    from peft import PeftModel, get_peft_model_state_dict

    expected = "a folder with adapter_config.json and adapter_model.safetensors, for this model"
    with explained(f"{subject}: the adapter {folder}", expected=expected), peft_warnings():
        # peft goes on with new matrices in the place of those that a file lacks, or names otherwise.
        warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
        wrapped = PeftModel.from_pretrained(model, str(folder), **options)
        # And it passes over what it finds no place for: of names that are not its own, a second load tells.
        name = options.get("adapter_name", "default")
        own = get_peft_model_state_dict(wrapped, adapter_name=name, save_embedding_layers=False)
        if adapter_weights(folder, lambda key: key not in own):
            unexpected = wrapped.load_adapter(
                str(folder), name, is_trainable=options.get("is_trainable", False)
            ).unexpected_keys
            if unexpected:
                raise ValueError(f"the model has no place for {unexpected[0]}, and others.")
    return wrapped


def adapter_weights(folder: str | Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Some of the weights of an adapter's folder, or the hub's, by their names in its file."""
    from peft.utils import load_peft_weights
    from safetensors import safe_open

    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():
        return {key: t for key, t in load_peft_weights(str(folder), device="cpu").items() if wanted(key)}
    with safe_open(file, framework="pt") as tensors:
        return {key: tensors.get_tensor(key) for key in filter(wanted, tensors.keys())}


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no reports of transformers' own: the run's terminal is ours."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def explained(subject: str, kind: str = "", expected: str = _EXPECTED) -> Iterator[None]:
    """Turn what transformers or peft raises for a missing or unreadable model into one paragraph.

    Args:
        subject: what is loaded, as an error begins.
        kind: what it is loaded as, such as ` as an encoder`.
        expected: what can be loaded.

    Raises:
        ModelError: anything but a lack of memory was raised.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises what the library that reads it likes
        first = first_line(error)
        if not isinstance(error, OSError | ValueError):
            first = f"{type(error).__name__}: {first}"
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
        raise ModelError(
            f"{subject} cannot be loaded{kind}: {first} Expected {expected}."
            + (" HF_HUB_OFFLINE is set, so nothing is fetched from the hub." if offline else "")
        ) from error


@contextmanager
def peft_warnings() -> Iterator[None]:
    """Suppress warnings of peft that a user can do nothing about."""
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        # It sets what it warns of by itself, for models such as GPT-2.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        # One way of merging knows of tied weights, and an adapter on embeddings is saved with them.
        warnings.filterwarnings(
            "ignore", "Model has `tie_word_embeddings=True` and a tied layer", UserWarning
        )
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to `True`", UserWarning)
        # It looks for its own pattern of experts' ranks among modules, where parameters match it.
        experts = r"The following (rank|alpha)_pattern keys.*gate_up_proj"
        warnings.filterwarnings("ignore", experts, RuntimeWarning)
        yield
