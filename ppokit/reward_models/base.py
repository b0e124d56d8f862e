"""A causal LM with a LoRA adapter and several linear heads; and what a base is found by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ppokit.errors import ModelError, first_line
from ppokit.models.adapted_layers import out_of_reach
from ppokit.models.loading import find_model, pick_dtype
from ppokit.models.pretrained import explained, peft_warnings
from ppokit.models.rotary import fix_rotary
from ppokit.reward_models.artifact import HEADS
from ppokit.reward_models.loading import head_of, load_classifier, load_text_tokenizer, token_limit
from ppokit.reward_models.packaged import located
from ppokit.reward_models.texts import Texts

Kind = Literal["encoder", "causal"]
TEMPLATE = ("{prompt} {response}",)


@dataclass(frozen=True)
class Base:
    """Where a model is loaded from.

    Attributes:
        name: as the user named it.
        where: hub id or folder.
        kind: an `encoder` stays as it is beneath heads, a `causal` LM trains through LoRA.
    """

    name: str
    where: str
    kind: Kind

    @property
    def subject(self) -> str:
        """How errors about it begin."""
        return f"--model {self.name}"


def find_base(name: str) -> Base:
    """Resolve a name: hub id, folder, `package:DIST/FILE.gguf`, or `package:DIST/FOLDER` of a checkpoint.

    Raises:
        ModelError: it cannot be found, its configuration cannot be read, or it is quantised.
    """
    from transformers import AutoConfig

    packaged = name.startswith("package:") and not name.endswith(".gguf")
    where = located(name, f"--model {name}") if packaged else find_model(name).where
    expected = "a hub id, a folder saved by save_pretrained, package:DIST/FOLDER or package:DIST/FILE.gguf"
    with explained(f"--model {name}: its configuration", expected=expected):
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"--model {name}: its weights are quantised; expected the checkpoint that it was made of. A "
            "reward that was fitted on that also stands on the policy's base in 4 bits."
        )
    kinds = config.architectures or []
    causal = any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds)
    if Path(where).is_dir():
        where = str(Path(where).resolve())  # peft writes it down, and the folder may be used from elsewhere
    return Base(name, where, "causal" if causal else "encoder")


class Heads(nn.Linear):
    """Several linear heads on the same features; their mean is the score. [N, features] -> [N, heads]

    They start at different small numbers. Under autocast they compute in float32 all the same.
    """

    def __init__(self, features: int, heads: int, *, bias: bool) -> None:
        super().__init__(features, heads, bias=bias)
        nn.init.normal_(self.weight, std=0.02)
        if bias:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())

    def mean(self) -> nn.Linear:
        """One head that gives what the heads give on average."""
        one = nn.Linear(self.in_features, 1, bias=self.bias is not None, device=self.weight.device)
        with torch.no_grad():
            one.weight.copy_(self.weight.mean(0, keepdim=True))
            if self.bias is not None:
                one.bias.copy_(self.bias.mean(0, keepdim=True))
        return one


def load_heads(folder: Path) -> Heads:
    """The heads of a folder that `ppokit reward fit` made.

    Raises:
        ModelError: they cannot be loaded.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(str(folder / HEADS))
        heads = Heads(weights["weight"].shape[1], weights["weight"].shape[0], bias="bias" in weights)
        heads.load_state_dict(weights)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"reward model {str(folder)!r} cannot be loaded: {first_line(error)}") from error
    return heads


class Fitted:
    """A causal LM as a sequence classifier, with an adapter, and `Heads` in the place of its last layer.

    Attributes:
        model: a PeftModel that gives logits [N, heads].
        heads: what stands in that place.
        tokenizer: with a pad token.
        texts: lays texts out for it.
        autocast: whether to train in bfloat16 with float32 weights.
    """

    layers: tuple[int, ...] = ()  # of an encoder's, which of its layers are read

    def __init__(self, base: Base, *, heads: int, max_length: int, lora_r: int, device: torch.device) -> None:
        self.base = base
        self.tokenizer = load_text_tokenizer(base.where, base.subject)
        self.autocast = pick_dtype("auto", device) == torch.bfloat16
        # The frozen base stays as it is stored; what trains is in float32, or small steps would be lost.
        model, missing = load_classifier(base.where, base.subject, "auto", num_labels=1)
        model = model.to(device)
        model.config.get_text_config().pad_token_id = model.config.pad_token_id = self.tokenizer.pad_token_id
        name, old = head_of(model, base.subject)
        others = [key for key in missing if not key.startswith(f"{name}.")]
        if others:  # BART's classifier has an encoder too, beside the decoder of a causal LM
            raise ModelError(
                f"{base.subject} cannot be a reward model: {type(model).__name__} has {len(others)} weights "
                f"that its checkpoint lacks, among them {others[0]}, and they would be random numbers. Name "
                "another model."
            )
        features = old.in_features
        model.set_submodule(name, Heads(features, heads, bias=old.bias is not None).to(device))
        self.model = _with_lora(model, lora_r)
        limit = token_limit(self.model, self.tokenizer)
        self.texts = Texts(self.tokenizer, TEMPLATE, min(max_length, limit or max_length))
        fix_rotary(model, self.texts.max_length, base.subject)

    @property
    def heads(self) -> Heads:
        """The heads that train."""
        (heads,) = [
            m for n, m in self.model.named_modules() if isinstance(m, Heads) and "original_module" not in n
        ]
        return heads

    def save(self, folder: Path) -> None:
        """Write a PEFT folder with the mean of the heads. The heads themselves are lost to this object."""
        one = self.heads.mean()
        for name in [n for n, m in self.model.named_modules() if isinstance(m, Heads)]:
            self.model.set_submodule(name, one)
        # peft would look the base up on the hub, to see whether its vocabulary has grown.
        self.model.save_pretrained(folder, save_embedding_layers=False)
        # A form with nothing filled in but this machine's paths.
        (folder / "README.md").unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """What trains, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _with_lora(model: Any, r: int) -> Any:
    from peft import LoraConfig, get_peft_model

    # peft has no dropout before parameters of three dimensions, which experts are.
    experts = any(p.dim() == 3 and not name.endswith(".weight") for name, p in model.named_parameters())
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=r,
        lora_alpha=2 * r,
        lora_dropout=0.0 if experts else 0.05,
        target_modules="all-linear",
        exclude_modules=out_of_reach(model) or None,
    )
    with peft_warnings():
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(f"LoRA finds nothing to adapt: {first_line(error)}") from error
