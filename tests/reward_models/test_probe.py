"""Heads on a frozen encoder: what they read, what they learn, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BartConfig,
    BartModel,
    BertModel,
    RobertaModel,
)

pytest.importorskip("scipy")

from planted_samples import choices_of, samples_of
from ppokit.errors import ModelError, TrainingError
from ppokit.reward_models import probe as probes
from ppokit.reward_models.base import find_base
from ppokit.reward_models.probe import Probe
from ppokit.reward_models.samples import Sample
from ppokit.reward_models.templates import RESPONSE_MASK, response_mask
from small_models import WORDS, save_tiny, save_tokenizer


def probe_on(model: Any, heads: int = 3, max_length: int = 32) -> Probe:
    return Probe(find_base(str(model)), heads=heads, max_length=max_length, device=torch.device("cpu"))


def solved_on(model: Any, fit: Any, validation: Any, held_out: Any, heads: int = 3) -> tuple[Any, Any]:
    """What was tried, and the scores of held-out samples."""
    probe = probe_on(model, heads)
    probe.read(probe.encode([*fit, *validation, *held_out]), lambda _: None)
    return probe.solve(fit, validation, seed=0), probe.scores(held_out)


def test_it_reads_the_means_of_the_responses_hidden_states(bert) -> None:
    """By plain transformers, text by text; the end token counts as the response's."""
    probe = probe_on(bert)
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()
    texts = [("a b c d e f", "g h"), ("a", "b c d e"), ("c", "")]
    encoded = probe.texts.encode(*zip(*texts, strict=True))
    with torch.inference_mode():
        features = probe.model.features(**probe.texts.batch(encoded, "cpu"))
    for row, (prompt, response) in zip(features, texts, strict=True):
        given = tokenizer(prompt, response, return_tensors="pt")
        with torch.inference_mode():
            states = model(**given, output_hidden_states=True).hidden_states
        count = len(response.split()) + 1
        mean = torch.cat([state[0, -count:].mean(dim=0) for state in states])
        torch.testing.assert_close(row, torch.cat([mean, np.log1p(count) * mean]), atol=1e-5, rtol=1e-5)
    assert features.shape == (3, 2 * 3 * 32)


def test_which_tokens_are_the_responses(bert, tmp_path) -> None:
    """As BERT's token types tell them; also where a tokenizer has none, and the prompt is cut away."""
    tokenizer = AutoTokenizer.from_pretrained(bert)
    for pair in (("a b", "c d e"), ("", "c")):
        assert response_mask(tokenizer(*pair)) == tokenizer(*pair)["token_type_ids"]
    assert response_mask(tokenizer("a b", "")) == [0, 0, 0, 1]
    save_tokenizer(tmp_path, pad_token="[PAD]")
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert response_mask(plain("a b", "c d e")) == [0, 0, 1, 1, 1]
    texts = probe_on(bert, max_length=6).texts
    cut, long = texts.encode(["a b c d"] * 2, ["e f", "e f g h a b c"])
    # The prompt loses its beginning first; only where that is not enough, both do.
    assert [WORDS[i] for i in cut["input_ids"]] == ["[CLS]", "d", "[SEP]", "e", "f", "[SEP]"]
    assert [WORDS[i] for i in long["input_ids"]] == ["[CLS]", "d", "[SEP]", "b", "c", "[SEP]"]
    assert cut[RESPONSE_MASK] == long[RESPONSE_MASK] == [0, 0, 0, 1, 1, 1]
    texts = probe_on(bert, max_length=10).texts
    (long,) = texts.encode(["a b c d e f"], ["e f g h a"])
    assert [WORDS[i] for i in long["input_ids"]] == ["[CLS]", *"ef", "[SEP]", *"efgha", "[SEP]"]


@pytest.mark.parametrize("heads", [1, 4])
def test_it_learns_a_planted_rule(bert, heads) -> None:
    held_out = samples_of(80, 2)
    tried, (scores, others) = solved_on(bert, samples_of(160), samples_of(40, 1), held_out, heads)
    assert others is None
    assert scores.shape == (80, heads)
    assert np.corrcoef(scores.mean(1), [sample.rating for sample in held_out])[0, 1] > 0.9
    assert [one.penalty for one in tried] == list(probes.PENALTIES)
    assert min(one.validation_loss for one in tried) < 0.3
    # A smaller penalty fits what it is fitted to better, always.
    assert (np.diff([one.train_loss for one in tried]) < 1e-9).all()


def test_it_learns_from_choices(bert) -> None:
    held_out = choices_of(80, 7)
    _, (chosen, rejected) = solved_on(bert, choices_of(200), choices_of(50, 5), held_out)
    assert (chosen.mean(1) > rejected.mean(1)).mean() > 0.9


def test_the_held_out_samples_choose_the_penalty(bert, monkeypatch) -> None:
    """Ratings without any rule are best met by the mean; a rule without noise by hardly any penalty."""
    rng = np.random.default_rng(0)
    noise = [replace(sample, rating=float(rng.normal())) for sample in samples_of(120)]
    for samples, likely in ((noise, probes.PENALTIES[:1]), (samples_of(120), probes.PENALTIES[-2:])):
        tried, (scores, _) = solved_on(bert, samples[:80], samples[80:], samples[80:], heads=1)
        best = min(tried, key=lambda one: one.validation_loss).penalty
        assert best in likely
        monkeypatch.setattr(probes, "PENALTIES", (best,))
        _, (alone, _) = solved_on(bert, samples[:80], samples[80:], samples[80:], heads=1)
        monkeypatch.undo()
        np.testing.assert_allclose(scores, alone, atol=1e-3)


def test_the_heads_mean_is_the_solution_for_all_samples(bert) -> None:
    """The bootstraps let the heads differ, and leave the score alone."""
    sets = samples_of(60), samples_of(20, 1), samples_of(30, 2)
    _, (one, _) = solved_on(bert, *sets, heads=1)
    _, (several, _) = solved_on(bert, *sets, heads=5)
    np.testing.assert_allclose(several.mean(1), one[:, 0], atol=1e-5)
    assert several.std(1).min() > 1e-3


def test_a_weight_counts(bert) -> None:
    """Of two ratings of one response, the one that weighs nothing is not learned."""
    prompts = [f"{a} {b}" for a in "abcd" for b in "efgh"]
    pulled = [Sample(p, "a", 1.0, 2.0) for p in prompts] + [Sample(p, "a", -1.0, 0.0) for p in prompts]
    _, (scores, _) = solved_on(bert, pulled, pulled[:16], pulled[:16])
    np.testing.assert_allclose(scores.mean(1), 1.0, atol=0.02)


def test_numbers_that_are_not_finite(bert) -> None:
    probe = probe_on(bert)
    with torch.no_grad():
        probe.model.encoder.embeddings.word_embeddings.weight[WORDS.index("h")] = torch.inf
    with pytest.raises(TrainingError, match="not finite"):
        probe.read(probe.encode([Sample("a", "h", 0.0, 1.0)]), lambda _: None)


def test_each_text_is_read_once(bert) -> None:
    samples, progress = samples_of(20), []
    probe = probe_on(bert)
    encoded = probe.encode([*samples, *samples[:7]])
    assert len(encoded) == 20
    probe.read(encoded, progress.append)
    assert sum(progress) == sum(len(one["input_ids"]) for one in encoded.values())


def test_a_deep_encoder_is_read_at_even_distances(tmp_path) -> None:
    save_tiny(tmp_path, BertModel, {"pad_token": "[PAD]"}, hidden_size=8, num_hidden_layers=15)
    probe = probe_on(tmp_path)
    assert probe.layers == [0, 2, 4, 6, 9, 11, 13, 15]
    assert probe.heads.in_features == 2 * 8 * 8


def test_a_wide_encoder_is_read_at_fewer_places(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(probes, "MOST_FEATURES", 2 * 32 * 3)
    save_tiny(tmp_path, BertModel, {"pad_token": "[PAD]"}, num_hidden_layers=6)
    assert probe_on(tmp_path).layers == [0, 3, 6]


def test_the_limit_leaves_out_positions_that_roberta_does_not_use(tmp_path) -> None:
    """Of 20 positions the first token takes the one after the padding index, here 0."""
    save_tiny(tmp_path, RobertaModel, {"pad_token": "[PAD]"}, max_position_embeddings=20, pad_token_id=0)
    probe = probe_on(tmp_path, max_length=256)
    assert probe.texts.max_length == 19
    probe.read(probe.encode([Sample("a " * 30, "b " * 30, 0.0, 1.0)]), lambda _: None)


def test_models_that_are_no_encoders(bert, tmp_path, monkeypatch) -> None:
    sizes = {
        "d_model": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
    }
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "pad_token_id": 0}
    BartModel(BartConfig(**sizes, **heads, vocab_size=len(WORDS))).save_pretrained(tmp_path / "bart")
    save_tokenizer(tmp_path / "bart", pad_token="[PAD]")
    with pytest.raises(ModelError, match="it is an encoder with a decoder; expected an encoder"):
        probe_on(tmp_path / "bart")
    model = AutoModel.from_pretrained(bert)
    state = {name: tensor for name, tensor in model.state_dict().items() if "layer.1" not in name}
    model.save_pretrained(tmp_path / "half", state_dict=state)
    save_tokenizer(tmp_path / "half", pad_token="[PAD]")
    with pytest.raises(ModelError, match=r"its files hold no encoder.layer.1"):
        probe_on(tmp_path / "half")
    with monkeypatch.context() as patch:
        patch.setattr(BertModel, "forward", lambda *_, **__: 1)
        with pytest.raises(ModelError, match="cannot read a text"):
            probe_on(bert)
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.is_fast", False)
    with pytest.raises(ModelError, match="does not tell which tokens are the response's"):
        probe_on(bert)
