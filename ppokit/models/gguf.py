"""GGUF weights, converted once to an ordinary checkpoint.

It is kept in the cache folder: `PPOKIT_CACHE`, else `XDG_CACHE_HOME/ppokit`, else `~/.cache/ppokit`.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ppokit.data.atomic import replacing_folder
from ppokit.errors import ModelError, first_line
from ppokit.models.names import packaged_file
from ppokit.models.pretrained import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONVERSION = "3"  # part of the cache key: raise it when the conversion below changes


def converted(name: str) -> Path:
    """The cached checkpoint of `package:DISTRIBUTION/FILE.gguf`, converted now if need be."""
    weights, folder = _place(name)
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


def already_converted(name: str) -> Path | None:
    """The cached checkpoint, where there is one."""
    folder = _place(name)[1]
    return folder if (folder / "config.json").is_file() else None


def _place(name: str) -> tuple[Path, Path]:
    """The GGUF file, and the folder of what it is converted to."""
    weights, content = packaged_file(name)
    key = hashlib.sha256(f"{_CONVERSION} {name} {content}".encode()).hexdigest()[:16]
    return weights, cache_folder() / "converted" / f"{weights.stem}-{key}"


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
    import transformers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ModelError(
            f"model.name: {name} is a GGUF file; reading it needs pip install 'ppokit[demo]'."
        ) from None
    options: dict[str, Any] = {"gguf_file": weights.name, "dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):  # versions without it always dequantise
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    # What takes half a minute shows its progress, where a person sees it.
    silent = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    with quiet(), silent:
        loaded = AutoModelForCausalLM.from_pretrained(weights.parent, **options)
        # AutoTokenizer of some versions takes the class of the first model with this architecture's name.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(weights.parent, gguf_file=weights.name)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict({key: value.bfloat16() for key, value in loaded.state_dict().items()})
    fresh.generation_config = loaded.generation_config
    _name_special_tokens(tokenizer, weights)
    _split_digits(tokenizer)
    tokenizer.save_pretrained(folder)
    with quiet():
        fresh.save_pretrained(folder, max_shard_size="100GB")


def _name_special_tokens(tokenizer: PreTrainedTokenizerBase, weights: Path) -> None:
    """Those that the file names; transformers 5.0 takes the first token of a text for the last one."""
    from gguf import GGUFReader

    fields = GGUFReader(weights).fields
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        if (field := fields.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(int(field.contents())))


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
