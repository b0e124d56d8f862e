"""The folder of a fitted reward model: what stands in it, and its scores as `reward_model` gives them.

config.json, model.safetensors          the encoder, in float32; or
adapter_config.json, adapter_model...   a PEFT adapter with its head, for a causal LM
tokenizer files
ppokit_reward.json                      how texts are laid out, and what the score means
heads.safetensors                       weight [heads, features], bias [heads]: the score is their mean
report.json, learning_curve.png         how good it is
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppokit.errors import DataError, ModelError, first_line
from ppokit.plugin.batching import length_batches
from ppokit.reward_models.artifact import HEADS, VERSION, FittedSettings, need_settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ppokit.reward_models.base import Fitted, Heads
    from ppokit.reward_models.probe import Probe


def new_folder(path: Path) -> None:
    """A model is never written over another.

    Raises:
        DataError: something stands there, or no folder can be made there.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(
            f"--out {path} is there already and is not overwritten; name a new folder, or remove it."
        )
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise DataError(f"--out {path} cannot be made: {parent} is not a folder that can be written to.")


def write(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all.

    Args:
        fill: puts the files in the folder that it is given.

    Raises:
        DataError: it cannot be written.
    """
    beside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        fill(beside)
        beside.chmod(0o777 & ~_umask())
        if path.is_dir():
            path.rmdir()  # it is empty
        beside.rename(path)
    except OSError as error:
        raise DataError(f"--out {path} cannot be written: {first_line(error)}") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def save(fitted: Fitted | Probe, folder: Path, score: str) -> None:
    """Write model, heads, tokenizer and settings; the heads are lost to a `Fitted`."""
    from safetensors.torch import save_file

    heads = {name: p.detach().float().cpu().contiguous() for name, p in fitted.heads.named_parameters()}
    save_file(heads, str(folder / HEADS), {"format": "pt"})
    fitted.save(folder)
    layout = fitted.texts.layout
    base = fitted.base
    name = base.where if Path(base.name).expanduser().is_dir() else base.name
    settings = FittedSettings(
        VERSION, name, base.kind, list(layout.template), layout.max_length, score, list(fitted.layers)
    )
    settings.write(folder)


class Scorer:
    """A saved reward model.

    Args:
        folder: what `ppokit reward fit` wrote.
        heads: give each head's score in place of the saved head's.
        device: where to compute; None for the first GPU, else the CPU.

    Raises:
        ModelError: it cannot be loaded.
    """

    def __init__(self, folder: Path, *, heads: bool = False, device: Any = None) -> None:
        import torch
        from transformers import AutoTokenizer

        from ppokit.reward_models.texts import Layout, Texts

        self.settings = need_settings(folder)
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.texts = Texts(tokenizer, Layout(tuple(self.settings.template), self.settings.max_length))
        self.model = _load(folder, self.settings, self.device, each=heads)
        self.model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        self.model.config.pad_token_id = tokenizer.pad_token_id

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], *, batch_size: int = 64
    ) -> NDArray[np.float64]:
        """Scores of responses. [N, 1], or [N, heads]"""
        import torch

        from ppokit.reward_models.texts import lengths

        encoded = self.texts.encode(prompts, responses)
        out: list[Any] = [None] * len(encoded)
        for chosen in length_batches(lengths(encoded), batch_size):
            with torch.inference_mode():
                logits = self.model(**self.texts.batch([encoded[i] for i in chosen], self.device)).logits
            for index, row in zip(chosen, logits.double().cpu().numpy(), strict=True):
                out[index] = row
        return np.array(out, np.float64)


def uncertainty(folder: str | Path, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float64]:
    """How far the heads of a reward model lie apart: standard deviation of their scores. [N]

    In the units of the score. The heads share a trunk, so it is a lower bound; use it to rank.

    Args:
        folder: what `ppokit reward fit` wrote.
        prompts, responses: texts. [N], [N]

    Raises:
        ModelError: it is no such folder, or was fitted with a single head.
    """
    place = Path(folder).expanduser()
    if _heads(place).out_features < 2:
        raise ModelError(f"{folder} was fitted with one head, which has no spread; fit with --heads 5.")
    if not len(prompts):
        return np.zeros(0)
    return np.asarray(Scorer(place, heads=True).score(prompts, responses).std(axis=1))


def _heads(folder: Path) -> Heads:
    import torch
    from safetensors.torch import load_file

    from ppokit.reward_models.base import Heads

    need_settings(folder)
    try:
        held = load_file(str(folder / HEADS))
    except OSError as error:
        raise ModelError(f"{folder}: {HEADS} cannot be read: {first_line(error)}") from error
    heads = Heads(held["weight"].shape[1], held["weight"].shape[0], bias="bias" in held)
    with torch.no_grad():
        for name, parameter in heads.named_parameters():
            parameter.copy_(held[name])
    return heads


def _load(folder: Path, settings: FittedSettings, device: Any, *, each: bool) -> Any:
    from ppokit.models.loading import quiet
    from ppokit.reward_models.encoder import load_response_encoder

    with quiet():
        model = load_response_encoder(folder, each=each)
    if model is None:
        model = _causal(folder, settings, _heads(folder) if each else None)
    return model.to(device).eval().requires_grad_(False)


def _causal(folder: Path, settings: FittedSettings, heads: Heads | None) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from ppokit.models.loading import quiet
    from ppokit.models.lora import peft_warnings
    from ppokit.reward_models.base import find_base, head_of, in_float32

    try:
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(
                find_base(settings.base).where,
                num_labels=1,
                dtype="auto",
                trust_remote_code=False,
                use_safetensors=True,
            )
        in_float32(head_of(model, settings.base)[1])
        with peft_warnings():
            model = PeftModel.from_pretrained(model, folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder} cannot be loaded: {first_line(error)}") from error
    if heads is not None:
        model.set_submodule(head_of(model, settings.base)[0], heads)
    return model


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
