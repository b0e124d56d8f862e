"""From a model's name in a recipe to a tokenizer and weights.

A name is a hub id, a folder, or `package:DISTRIBUTION/FILE.gguf` for weights that an installed Python
package ships, see `ppokit.models.gguf`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppokit.data.context import rotary_parameters
from ppokit.errors import ModelError
from ppokit.messages import NOT_RESIZED, READS_AHEAD, listed, suggest
from ppokit.models import quantization
from ppokit.models.gguf import converted
from ppokit.models.names import named_folder
from ppokit.models.pretrained import explained, pretrained_model, pretrained_tokenizer, quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
        return ModelSource(name, str(converted(name)), None, trust_remote_code)
    folder = named_folder(name)
    if folder is not None:
        return ModelSource(name, str(folder), None, trust_remote_code)
    return ModelSource(name, name, revision, trust_remote_code)


def load_tokenizer(source: ModelSource, **options: Any) -> PreTrainedTokenizerBase:
    """The model's tokenizer; where it has no pad token, the end-of-sequence token serves.

    Args:
        options: for transformers' `from_pretrained`.

    Raises:
        ModelError: it cannot be loaded, or has no end-of-sequence token.
    """
    subject = f"model.name: the tokenizer of {source.name}"
    tokenizer = pretrained_tokenizer(source.where, subject, **source.kwargs, **options)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{subject} has no end-of-sequence token.")
    return tokenizer


def load_config(source: ModelSource, **options: Any) -> Any:
    """The model's configuration, read before any weights.

    Args:
        options: for transformers' `from_pretrained`.

    Raises:
        ModelError: it cannot be read, is not that of a causal language model, or of one that is quantised
            in another way than in 4 bits by bitsandbytes, has rotary factors of an unknown kind, or attends
            by random hashes.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    with explained(f"model.name: the configuration of {source.name}"), quiet():
        config = AutoConfig.from_pretrained(source.where, **source.kwargs, **options)
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
    if not remote:
        if _reads_ahead(config):
            raise ModelError(f"model.name: {expected} {READS_AHEAD}")
        _check_rotary(config, source.name)
        _check_hashes(config, source.name)
    return config


def _reads_ahead(config: Any) -> bool:
    """Whether a configuration says so. Of encoders with a causal class, the default does."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    text = config.get_text_config(decoder=True)
    masked = config.model_type in (*MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation")
    return (
        (masked and not config.is_encoder_decoder and getattr(config, "is_decoder", True) is False)
        or getattr(text, "is_causal", True) is False
        or getattr(text, "use_bidirectional_attention", None) in (True, "all")
    )


def _check_rotary(config: Any, name: str) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    known = ("default", *ROPE_INIT_FUNCTIONS)
    for kind in filter(None, (own.get("rope_type") for own in rotary_parameters(config))):
        if kind not in known:
            raise ModelError(
                f"model.name: the rotary factors of {name} are of the type {kind!r} (rope_parameters in its "
                f"config.json){suggest(kind, known)}; expected {listed(known, last='or')}."
            )


def _check_hashes(config: Any, name: str) -> None:
    if "lsh" in (getattr(config, "attn_layers", None) or ()):
        raise ModelError(
            f"model.name: {name} attends by random hashes (lsh among attn_layers in its config.json), so "
            "that a text has other numbers each time; expected one whose numbers depend on the text alone."
        )


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
    subject = f"model.name: the weights of {source.name}"
    model, missing = pretrained_model(
        AutoModelForCausalLM, source.where, subject, dtype=dtype, **source.kwargs, **kwargs
    )
    if missing:
        raise ModelError(
            f"model.name: the checkpoint {source.name} lacks {len(missing)} weights of a "
            f"{type(model).__name__}, among them {missing[0]}; training would start from random numbers."
        )
    if quantization.is_4bit(model):
        quantization.check_loaded(model, source.name)
        quantization.prepare(model, dtype)
        quantization.check_forward(model, source.name)
        return model.eval()
    loaded: PreTrainedModel = model.to(device).eval()
    return loaded


def end_token_ids(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[int]:
    """Ids of the tokens of `rollout.end_tokens`, named by their texts.

    Raises:
        ModelError: a text is no single token of the tokenizer's.
    """
    ids: list[int] = []
    for text in tokens:
        token = tokenizer.convert_tokens_to_ids(text)
        encoded = [] if token is None else [token]
        if tokenizer.decode(encoded, skip_special_tokens=False) != text:  # another name, as of a line break
            encoded = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if len(encoded) != 1 or (encoded[0] == tokenizer.unk_token_id and text != tokenizer.unk_token):
            near = suggest(text, tokenizer.get_added_vocab())
            raise ModelError(
                f"rollout.end_tokens: {text!r} is no single token of the model's tokenizer{near}; expected "
                "texts of its tokens, such as <|im_end|>. A text of several tokens ends a response by "
                "rollout.stop."
            )
        ids += encoded
    return ids


def end_ids(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, named: Sequence[int] = ()
) -> frozenset[int]:
    """What ends a response: the tokenizer's end of sequence, all that the checkpoint names, and the recipe's.

    Args:
        named: see `end_token_ids`.

    Raises:
        ModelError: the model has no embedding for the first or the last.
    """
    by_checkpoint = model.generation_config.eos_token_id
    several = by_checkpoint if isinstance(by_checkpoint, list) else [by_checkpoint]
    size = model.get_input_embeddings().weight.shape[0]
    check_ends(tokenizer, named, size)
    ends = (tokenizer.eos_token_id, *several, *named)
    return frozenset(token for token in ends if token is not None and token < size)


def check_ends(tokenizer: PreTrainedTokenizerBase, named: Sequence[int], size: int) -> None:
    """That a model with so many embeddings has one for what ends a response by the tokenizer and the recipe.

    Raises:
        ModelError: it has none.
    """
    end = tokenizer.eos_token_id
    if end is not None and end >= size:
        raise ModelError(
            f"model.name: the tokenizer ends a text with {tokenizer.eos_token!r}, id {end}, and the model "
            f"has embeddings for ids below {size}. {NOT_RESIZED}"
        )
    for token in named:
        if token >= size:
            raise ModelError(
                f"rollout.end_tokens: {tokenizer.convert_ids_to_tokens(token)!r} has the id {token}, and the "
                f"model has embeddings for ids below {size}. {NOT_RESIZED}"
            )


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
