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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppokit.data.atomic import replacing_folder
from ppokit.errors import DataError, ModelError, first_line
from ppokit.plugin.batching import length_batches
from ppokit.reward_models.artifact import HEADS, VERSION, FittedSettings, need_settings
from ppokit.reward_models.texts import lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ppokit.reward_models.base import Fitted
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


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A folder to put files into, which becomes `path`, whole or not at all.

    Raises:
        DataError: it cannot be written, or something stands there by now.
    """
    try:
        with replacing_folder(path) as tmp_folder:
            yield tmp_folder
            new_folder(path)  # the fit took its time
    except OSError as error:
        raise DataError(f"--out {path} cannot be written: {first_line(error)}") from error


def save(fitted: Fitted | Probe, folder: Path, score: str) -> None:
    """Write model, heads, tokenizer and settings; the heads are lost to a `Fitted`."""
    from safetensors.torch import save_file

    heads = {name: p.detach().float().cpu().contiguous() for name, p in fitted.heads.named_parameters()}
    save_file(heads, str(folder / HEADS), {"format": "pt"})
    fitted.save(folder)
    base, texts = fitted.base, fitted.texts
    name = base.where if Path(base.name).expanduser().is_dir() else base.name
    settings = FittedSettings(
        VERSION, name, base.kind, list(texts.template), texts.max_length, score, list(fitted.layers)
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

        from ppokit.models.pretrained import quiet
        from ppokit.reward_models.encoder import load_response_encoder
        from ppokit.reward_models.loading import load_text_tokenizer
        from ppokit.reward_models.texts import Texts

        self.settings = need_settings(folder)
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = load_text_tokenizer(str(folder), f"reward model {str(folder)!r}")
        self.texts = Texts(tokenizer, self.settings.template, self.settings.max_length)
        with quiet():
            model = load_response_encoder(folder, each=heads) or _causal(folder, self.settings, each=heads)
        self.model: Any = model.to(self.device).eval().requires_grad_(False)
        self.model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        self.model.config.pad_token_id = tokenizer.pad_token_id

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], *, batch_size: int = 64
    ) -> NDArray[np.float64]:
        """Scores of responses. [N, 1], or [N, heads]"""
        import torch

        encoded = self.texts.encode(prompts, responses)
        out: list[Any] = [None] * len(encoded)
        for chosen in length_batches(lengths(encoded), batch_size):
            with torch.inference_mode():
                logits = self.model(**self.texts.batch([encoded[i] for i in chosen], self.device)).logits
            for index, row in zip(chosen, logits.double().cpu().numpy(), strict=True):
                out[index] = row
        return np.array(out, np.float64)


def uncertainty(folder: str | Path, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float64]:
    """Standard deviation of the scores that the heads of a reward model give. [N]

    In the units of the score. The heads share a trunk, so it is a lower bound; use it to rank.

    Args:
        folder: what `ppokit reward fit` wrote.
        prompts, responses: texts. [N], [N]

    Raises:
        ModelError: it is no such folder, or was fitted with a single head.
    """
    from ppokit.reward_models.base import load_heads

    path = Path(folder).expanduser()
    need_settings(path)
    if load_heads(path).out_features < 2:
        raise ModelError(
            f"{folder} was fitted with one head, which has no standard deviation; fit with --heads 5."
        )
    if not len(prompts):
        return np.zeros(0)
    return np.asarray(Scorer(path, heads=True).score(prompts, responses).std(axis=1))


def _causal(folder: Path, settings: FittedSettings, *, each: bool) -> Any:
    from ppokit.models.rotary import fix_rotary
    from ppokit.reward_models.base import find_base, load_heads
    from ppokit.reward_models.loading import head_of, load_classifier, with_fitted_adapter

    subject = f"reward model {str(folder)!r}"
    base, _ = load_classifier(find_base(settings.base).where, subject, "auto", num_labels=1)
    fix_rotary(base, settings.max_length, subject)
    model = with_fitted_adapter(base, folder, subject)
    if each:
        model.set_submodule(head_of(model, subject)[0], load_heads(folder))
    return model
