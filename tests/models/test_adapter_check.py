"""Pre-trained adapters: computed as in peft, or refused by what they have."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import EvaConfig, IA3Config, LoraConfig, PeftModel, get_peft_model
from peft.utils import load_peft_weights
from safetensors.torch import load_file, save_file

from ppokit.config.settings import LoraSettings
from ppokit.errors import ModelError
from ppokit.models.adapter_check import check_adapter
from ppokit.models.roles import ModelRoles
from small_models import tiny_llama
from small_roles import logprobs, randomize, token_batch

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:lora with eva initialization:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]


def saved(folder: Path, **settings: Any) -> Path:
    """A trained adapter with these settings, written by peft."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **settings})
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(), config)
    randomize([p for n, p in model.named_parameters() if "lora_" in n])
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora (True)"),
        ({"bias": "lora_only"}, "bias ('lora_only')"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save (['lm_head'])"),
        ({"trainable_token_indices": [3, 4]}, "trainable_token_indices"),
        ({"layer_replication": [(0, 2), (1, 2)]}, "layer_replication"),
        ({"alora_invocation_tokens": [5], "task_type": "CAUSAL_LM"}, "alora_invocation_tokens ([5])"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights ('pissa'), which changes the base's own weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights ('olora'), which changes the base's own weights"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_adapter_is_refused_by_what_it_has(
    tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    folder = saved(tmp_path / "adapter", **settings)
    with pytest.raises(ModelError) as caught:
        check_adapter(folder, "lora.adapter")
    assert str(caught.value).startswith(f"lora.adapter: {folder} is an adapter with {named}")
    assert "; expected plain LoRA." in str(caught.value)


def test_another_kind_of_adapter(tmp_path: Path) -> None:
    config = IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])
    get_peft_model(tiny_llama(), config).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"is an adapter of the kind .*IA3; expected plain LoRA"):
        check_adapter(tmp_path, "lora.adapter")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "target_modules": ["q_proj", "v_proj"]},
        {"alpha_pattern": {"q_proj": 32}, "lora_dropout": 0.3},
        {"layers_to_transform": [1], "target_modules": ["q_proj", "up_proj"]},
        {"init_lora_weights": "gaussian", "exclude_modules": ["down_proj"], "target_modules": "all-linear"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"init_lora_weights": "eva", "eva_config": EvaConfig(), "rank_pattern": {"q_proj": 3}},
    ],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_plain_lora_is_computed_as_in_peft(tmp_path: Path, settings: dict[str, Any]) -> None:
    """By the policy, its sampler and the reference."""
    folder = saved(tmp_path / "adapter", **settings)
    base = tiny_llama(tie_word_embeddings=False)
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
    lora = LoraSettings(r=4, alpha=8, target_modules=["q_proj"], adapter=str(folder))
    roles = ModelRoles(base, lora=lora, value="own_adapter", reference=True)
    ids = torch.tensor([[1, 7, 8, 9, 10, 11, 12]])
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        torch.testing.assert_close(roles.sampler()(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
    row = expected[0].log_softmax(-1)[3:6].gather(1, ids[0, 4:, None])[:, 0]
    for role in ("policy", "reference"):
        ours = logprobs(roles, role, token_batch())[0, :3]
        torch.testing.assert_close(ours.detach(), row, atol=1e-4, rtol=1e-4)


def rewritten(folder: Path, change: Any) -> Path:
    """An adapter whose file has other entries."""
    file = saved(folder) / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda file: {k.removeprefix("base_model.model."): t for k, t in file.items()},
            "missing adapter keys",
        ),
        (lambda file: {k: t for k, t in file.items() if "layers.0" in k}, "missing adapter keys"),
        (lambda file: {k: t for k, t in file.items() if "lora_A" in k}, "missing adapter keys"),
        (
            lambda file: file | {k.replace("layers.1", "layers.2"): t.clone() for k, t in file.items()},
            "no place for base_model.model.model.layers.2.self_attn.q_proj.lora_A",
        ),
        (
            lambda file: file | {"base_model.model.model.norm.weight": torch.zeros(32)},
            "other weights for the base's model.norm.weight",
        ),
        (
            lambda file: file | {"base_model.model.lm_head.weight": torch.zeros(64, 32)},
            "other weights for the base's lm_head.weight",
        ),
    ],
)
def test_a_file_that_is_not_of_this_model(tmp_path: Path, change: Any, message: str) -> None:
    lora = LoraSettings(r=4, alpha=8, adapter=str(rewritten(tmp_path, change)))
    with pytest.raises(ModelError, match=rf"lora\.adapter: .*{message}"):
        ModelRoles(tiny_llama(), lora=lora, value=None, reference=True)


def test_a_file_with_the_bases_own_embeddings(tmp_path: Path) -> None:
    saved(tmp_path, target_modules=["embed_tokens"])
    assert "base_model.model.model.embed_tokens.base_layer.weight" in load_file(
        tmp_path / "adapter_model.safetensors"
    )
    lora = LoraSettings(r=4, alpha=8, adapter=str(tmp_path))
    ModelRoles(tiny_llama(), lora=lora, value=None, reference=True).sampler()


def test_an_adapter_is_read_once_per_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what peft warns of, and ppokit looks after, reaches nobody."""
    saved(tmp_path, target_modules=["embed_tokens", "q_proj"])
    saved(tmp_path / "plain")
    read: list[str] = []

    def load(folder: str, **options: Any) -> Any:
        read.append(folder)
        return load_peft_weights(folder, **options)

    monkeypatch.setattr("peft.peft_model.load_peft_weights", load)
    lora = LoraSettings(r=4, alpha=8, adapter=str(tmp_path / "plain"))
    ModelRoles(tiny_llama(), lora=lora, value=None, reference=True)
    assert len(read) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        lora = LoraSettings(r=4, alpha=8, adapter=str(tmp_path))
        roles = ModelRoles(tiny_llama(tie_word_embeddings=True), lora=lora, value=None, reference=True)
        roles.save_policy(tmp_path / "policy")
