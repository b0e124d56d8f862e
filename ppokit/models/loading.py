"""From a model's name in a recipe to a tokenizer and weights.

A name is a hub id, a folder, or `package:DISTRIBUTION/FILE.gguf` for weights that an installed Python
package ships. GGUF weights are converted once to an ordinary checkpoint, which is kept in the cache
folder (`PPOKIT_CACHE`, else `XDG_CACHE_HOME/ppokit`, else `~/.cache/ppokit`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ppokit.data.atomic import replacing_folder
from ppokit.errors import ModelError, first_line
from ppokit.models import quantization
from ppokit.models.names import named_folder, packaged_file

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CONVERSION = "2"  # part of the cache key: raise it when the conversion below changes


@dataclass(frozen=True)
class ModelSource:
    """Where to load from: `where` is a hub id or a folder."""

    name: str
    where: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def kwargs(self) -> dict[str, Any]:
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


def find_model(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> ModelSource:
    """Resolve a model's name; converts GGUF weights if they are not in the cache.

    Raises:
        ModelError: no such package, file or folder, or no GGUF support installed.
    """
    if name.startswith("package:"):
        return ModelSource(name, str(_converted(name)), None, trust_remote_code)
    folder = named_folder(name)
    if folder is not None:
        return ModelSource(name, str(folder), None, trust_remote_code)
    return ModelSource(name, name, revision, trust_remote_code)


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's tokenizer; where it has no pad token, the end-of-sequence token serves.

    Raises:
        ModelError: it cannot be loaded, or has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    with explained(f"model.name: the tokenizer of {source.name}"):
        tokenizer = AutoTokenizer.from_pretrained(source.where, **source.kwargs)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.name: the tokenizer of {source.name} has no end-of-sequence token.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(source: ModelSource) -> Any:
    """The model's configuration, read before any weights.

    Raises:
        ModelError: it cannot be read, is not that of a causal language model, or of one that is quantised
            in another way than in 4 bits by bitsandbytes.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    with explained(f"model.name: the configuration of {source.name}"):
        config = AutoConfig.from_pretrained(source.where, **source.kwargs)
    expected = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    actual = config.architectures or []
    remote = source.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if not remote and (expected is None or (actual and expected not in actual)):
        raise ModelError(
            f"model.name: {source.name} is {' / '.join(actual) or config.model_type}, which is no causal "
            f"language model"
            + (f" (expected {expected})" if expected else "")
            + ". PPO needs a model that predicts the next token."
        )
    quantization.check_checkpoint(config, source.name)
    return config


def load_model(
    source: ModelSource, dtype: torch.dtype, device: torch.device, *, load_in_4bit: bool = False
) -> PreTrainedModel:
    """The causal language model, in evaluation mode.

    Args:
        dtype: of all that is not in 4 bits.
        load_in_4bit: quantise its linear layers, unless the checkpoint is in 4 bits already.

    Raises:
        ModelError: it cannot be loaded, the checkpoint lacks some of its weights, or is quantised otherwise.
    """
    from transformers import AutoModelForCausalLM

    if load_in_4bit and not quantization.installed():
        raise ModelError(f"model.load_in_4bit: got true, but {quantization.MISSING}.")
    already = quantization.is_4bit_checkpoint(load_config(source))
    kwargs: dict[str, Any] = {}
    if load_in_4bit and not already:
        kwargs["quantization_config"] = quantization.quantization_config(dtype)
    if load_in_4bit or already:
        kwargs["device_map"] = {"": device}  # a GPU quantises as it loads; later it would hold both
    with explained(f"model.name: the weights of {source.name}"), quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            source.where, dtype=dtype, output_loading_info=True, **source.kwargs, **kwargs
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"model.name: the checkpoint {source.name} lacks {len(missing)} weights of a "
            f"{type(model).__name__}, among them {missing[0]}; training would start from random numbers."
        )
    if quantization.is_4bit(model):
        quantization.check_loaded(model, source.name)
        quantization.prepare(model, dtype)
        return model.eval()
    return model.to(device).eval()


def end_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> frozenset[int]:
    """What ends a response: the tokenizer's end of sequence, and all that the checkpoint names."""
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(token for token in (tokenizer.eos_token_id, *several) if token is not None)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it natively, float32 elsewhere."""
    import torch

    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else torch.float32
    return torch.float32


def _converted(name: str) -> Path:
    """The cached checkpoint of `package:DISTRIBUTION/FILE.gguf`, converted now if need be."""
    weights, content = packaged_file(name)
    key = hashlib.sha256(f"{_CONVERSION} {name} {content}".encode()).hexdigest()[:16]
    folder = cache_folder() / "converted" / f"{weights.stem}-{key}"
    if (folder / "config.json").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Several processes start at once; the others then find what the first one converted.
        with FileLock(cache_folder() / "converting.lock"):
            if not (folder / "config.json").is_file():
                with replacing_folder(folder) as tmp_folder:
                    _convert(weights, tmp_folder, name)
    except OSError as error:
        raise ModelError(
            f"model.name: {name} is converted into {folder.parent}, which cannot be written: "
            f"{first_line(error)} Name another cache folder in the environment variable PPOKIT_CACHE."
        ) from error
    return folder


def cache_folder() -> Path:
    """Where converted checkpoints are kept."""
    if own := os.environ.get("PPOKIT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppokit"


def _convert(weights: Path, folder: Path, name: str) -> None:
    """Write the GGUF file as an ordinary bf16 checkpoint with its tokenizer.

    A GGUF-loaded model refuses training and save_pretrained even when dequantised, so its numbers
    move into a fresh model without its GGUF settings.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ModelError(
            f"model.name: {name} is a GGUF file; reading it needs pip install 'ppokit[demo]'."
        ) from None
    with quiet():
        loaded = AutoModelForCausalLM.from_pretrained(
            weights.parent,
            gguf_file=weights.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict({key: value.bfloat16() for key, value in loaded.state_dict().items()})
    fresh.generation_config = loaded.generation_config
    _split_digits(tokenizer)
    tokenizer.save_pretrained(folder)
    with quiet():
        fresh.save_pretrained(folder, max_shard_size="100GB")


def _split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    """Restore what a GGUF import drops from a byte-level tokenizer: one token per digit."""
    from tokenizers import pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return
    vocabulary = tokenizer.get_vocab()
    if any(len(token) > 1 and token.isdecimal() for token in vocabulary):
        return  # a vocabulary with numbers of several digits was not trained on single ones
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


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
def explained(subject: str, kind: str = "") -> Iterator[None]:
    """Turn what transformers raises for a missing or unreadable model into one paragraph.

    Args:
        subject: what is loaded, as an error begins.
        kind: what it is loaded as, such as ` as an encoder`.

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
            f"{subject} cannot be loaded{kind}: {first} Expected a hub id, a folder saved by "
            "save_pretrained, or package:DISTRIBUTION/FILE.gguf."
            + (" HF_HUB_OFFLINE is set, so nothing is fetched from the hub." if offline else "")
        ) from error
