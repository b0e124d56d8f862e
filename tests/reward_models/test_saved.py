"""The folder of a fitted reward model: what it gives back, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel, LlamaForCausalLM, MixtralForCausalLM, Qwen2MoeForCausalLM

pytest.importorskip("scipy")

from planted_samples import samples_of
from ppokit.config.settings import LoraSettings
from ppokit.errors import DataError, ModelError
from ppokit.models.roles import ModelRoles
from ppokit.models.shared_base import SharedBaseModel
from ppokit.reward_models import saved as folder
from ppokit.reward_models.artifact import HEADS, SETTINGS
from ppokit.reward_models.base import Fitted, find_base
from ppokit.reward_models.encoder import load_response_encoder
from ppokit.reward_models.probe import Probe
from ppokit.reward_models.training import Plan, encode, predict, train
from small_models import save_tiny

CPU = torch.device("cpu")


def trained(model: str, heads: int) -> tuple[Any, np.ndarray]:
    """A model on the causal LM, and its heads' scores of twelve samples."""
    torch.manual_seed(0)
    fitted = Fitted(find_base(model), heads=heads, max_length=32, lora_r=8, device=CPU)
    fitted.autocast = False
    train(fitted, encode(fitted, samples_of(60)), encode(fitted, samples_of(8, 1)), Plan(2, 2e-3, 16, 0))
    return fitted, predict(fitted, encode(fitted, samples_of(12, 2)).first).double().numpy()


def solved(model: str, heads: int) -> tuple[Any, np.ndarray]:
    """The same on the encoder."""
    probe = Probe(find_base(model), heads=heads, max_length=32, device=CPU)
    fit, validation, held_out = samples_of(60), samples_of(8, 1), samples_of(12, 2)
    probe.read(probe.encode([*fit, *validation, *held_out]), lambda _: None)
    probe.solve(fit, validation, seed=0)
    return probe, probe.scores(held_out)[0]


def save(fitted, path) -> None:
    with folder.writing(path) as tmp_folder:
        folder.save(fitted, tmp_folder, "a score")


@pytest.fixture(params=["bert", "llama"])
def make(request) -> Any:
    model = request.getfixturevalue(request.param)
    return lambda heads: (solved if request.param == "bert" else trained)(model, heads)


def test_a_folder_gives_the_same_scores(make, tmp_path) -> None:
    """One head, each head and their standard deviation, as before it was saved."""
    fitted, scores = make(3)
    save(fitted, tmp_path / "made")
    texts = [s.prompt for s in samples_of(12, 2)], [s.response for s in samples_of(12, 2)]
    again = folder.Scorer(tmp_path / "made", heads=True).score(*texts)
    assert scores.std(axis=0).min() > 0.01
    np.testing.assert_allclose(again, scores, atol=1e-5)
    single = folder.Scorer(tmp_path / "made").score(*texts)
    np.testing.assert_allclose(single[:, 0], scores.mean(1), atol=1e-5)
    np.testing.assert_allclose(folder.uncertainty(tmp_path / "made", *texts), scores.std(1), atol=1e-5)
    assert folder.uncertainty(tmp_path / "made", [], []).shape == (0,)
    assert not [path for path in (tmp_path / "made").iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (MixtralForCausalLM, {"num_local_experts": 2}),
        (Qwen2MoeForCausalLM, {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}),
        (GPT2LMHeadModel, {}),
    ],
)
def test_any_causal_language_model_alone_and_on_the_shared_base(kind, settings, tmp_path) -> None:
    """Whatever layers peft finds in it, experts included."""
    sizes = {"num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 64}
    base = save_tiny(tmp_path / "base", kind, {"eos_token": "</s>"}, **{**sizes, **settings})
    fitted, scores = trained(str(base), 1)
    save(fitted, tmp_path / "made")
    scorer = folder.Scorer(tmp_path / "made", device=CPU)
    texts = [s.prompt for s in samples_of(12, 2)], [s.response for s in samples_of(12, 2)]
    np.testing.assert_allclose(scorer.score(*texts), scores, atol=1e-5)
    model = kind.from_pretrained(base).eval()
    roles = ModelRoles(
        model, lora=LoraSettings(target_modules=["o_proj", "c_proj"]), value="own_adapter", reference=True
    )
    ids = [encoded["input_ids"] for encoded in scorer.texts.encode(*texts)]
    shared = SharedBaseModel(roles, 40).reward(tmp_path / "made", ids, 64)
    np.testing.assert_allclose(shared, scores[:, 0], atol=1e-5)


def test_rotary_factors_by_length_are_those_of_the_longest_text(tmp_path) -> None:
    """A score depends on no other text, and stands on the policy's base where that has the same factors."""
    rope = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 100.0}
    base = save_tiny(
        tmp_path / "base",
        LlamaForCausalLM,
        {"eos_token": "</s>"},
        initializer_range=0.5,
        max_position_embeddings=16,
        rope_parameters=rope,
    )
    made = Fitted(find_base(str(base)), heads=1, max_length=16, lora_r=2, device=CPU)
    assert made.texts.max_length == 16
    save(made, tmp_path / "short")
    scorer = folder.Scorer(tmp_path / "short", device=CPU)
    scorer.texts.max_length = 40  # beyond the first context
    with pytest.raises(ModelError, match="a text of 40 tokens came"):
        scorer.score(["a b c"], ["d " * 50])
    roles = ModelRoles(
        LlamaForCausalLM.from_pretrained(base).eval(),
        lora=LoraSettings(),
        value="own_adapter",
        reference=True,
    )
    ids = [[5, 6, 7], [8, 9]]
    assert SharedBaseModel(roles, 12).reward(tmp_path / "short", ids, 16).shape == (2,)
    for longest in (16, None):
        with pytest.raises(ModelError, match=r"shared_base: .*short was fitted on .* of a text"):
            SharedBaseModel(roles, 40).reward(tmp_path / "short", ids, longest)


def test_a_folder_of_one_head_has_no_std(make, tmp_path) -> None:
    fitted, _ = make(1)
    save(fitted, tmp_path / "made")
    with pytest.raises(ModelError, match="fitted with one head"):
        folder.uncertainty(tmp_path / "made", ["a"], ["b"])


def test_a_folder_of_another_version(bert, tmp_path) -> None:
    fitted, _ = solved(bert, 1)
    save(fitted, tmp_path / "made")
    settings = tmp_path / "made" / SETTINGS
    settings_dict = json.loads(settings.read_text())
    del settings_dict["layers"]
    settings.write_text(json.dumps(settings_dict | {"version": 1}))
    for read in (folder.Scorer, load_response_encoder):
        with pytest.raises(ModelError, match=r"of version 1; this ppokit reads version 2\. Fit"):
            read(tmp_path / "made")


def test_a_folder_that_is_broken(bert, tmp_path) -> None:
    """Heads of another encoder, and a file that was cut short."""
    fitted, _ = solved(bert, 2)
    save(fitted, tmp_path / "made")
    heads = tmp_path / "made" / HEADS
    whole = heads.read_bytes()
    save_file({"weight": torch.zeros(2, 5), "bias": torch.zeros(2)}, heads)
    with pytest.raises(ModelError, match="do not belong together"):
        load_response_encoder(tmp_path / "made")
    heads.write_bytes(whole[:-20])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_response_encoder(tmp_path / "made")
    (tmp_path / "made" / "config.json").unlink()
    with pytest.raises(ModelError, match="cannot be loaded as an encoder in safetensors"):
        load_response_encoder(tmp_path / "made")


def test_a_folder_that_is_none(bert, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"no ppokit_reward.json there"):
        folder.uncertainty(bert, ["a"], ["b"])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(DataError, match="is there already"):
        folder.new_folder(tmp_path / "taken")
    with pytest.raises(DataError, match=r"cannot be made: .*file is not a folder"):
        folder.new_folder(tmp_path / "taken" / "file" / "made")
    with (
        pytest.raises(DataError, match="cannot be written"),
        folder.writing(tmp_path / "taken" / "file" / "made"),
    ):
        pass


def test_a_write_that_fails_leaves_nothing(tmp_path) -> None:
    def fill() -> None:
        with folder.writing(tmp_path / "out") as path:
            (path / "half").touch()
            raise OSError("the disk is full")

    with pytest.raises(DataError, match="the disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []
