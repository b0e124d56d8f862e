"""A sequence classifier as a reward, on tiny random ones: batching, padding, labels, limits and refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    RobertaForSequenceClassification,
)

from chat_tokenizer import chat_tokenizer
from ppokit.plugin import ChatPrompt, ModelError, Sum
from ppokit.reward_models.artifact import FittedSettings
from ppokit_rewards.reward_model import RewardModel
from ppokit_rewards.reward_model_options import RewardModelOptions, check
from small_models import ENCODER_TOKENS, save_tiny, tiny

TEXTS = ["a b c d e f", "b", "c a", "h g f e d c b a a b", "", "a </s>", "d d d"]
ALONE = "{response}"


def save_llama(folder, kind=LlamaForSequenceClassification, **settings):
    """Its tokenizer has no pad token and adds nothing to a text."""
    sizes = {"max_position_embeddings": 64, "eos_token_id": 4, **settings}
    return save_tiny(folder, kind, {"eos_token": "</s>"}, **sizes)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """One label."""
    return save_llama(tmp_path_factory.mktemp("llama"), num_labels=1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Three named labels, a pad token, pairs, and at most 12 tokens."""
    labels = dict(enumerate(["bad", "fair", "good"]))
    return save_tiny(
        tmp_path_factory.mktemp("bert"),
        BertForSequenceClassification,
        ENCODER_TOKENS,
        max_position_embeddings=12,
        id2label=labels,
        label2id={name: i for i, name in labels.items()},
        initializer_range=0.5,
    )


def score(context, rollout, **options):
    return RewardModel(
        RewardModelOptions(**{k: v if k != "model" else str(v) for k, v in options.items()}), context
    ).score(rollout)


@pytest.fixture(params=["llama", "bert"])
def either(request):
    """Folder and label of either model."""
    folder = request.getfixturevalue(request.param)
    return {"model": folder, "label": None if request.param == "llama" else "good"}


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_score_does_not_depend_on_the_batch(context, make_rollout, either, batch_size) -> None:
    together = score(context, make_rollout(TEXTS), template=ALONE, batch_size=batch_size, **either)
    alone = [score(context, make_rollout([text]), template=ALONE, **either).scores for text in TEXTS]
    torch.testing.assert_close(together.scores, torch.cat(alone), atol=1e-6, rtol=1e-5)
    assert together.outcomes == ("scored",) * len(TEXTS)
    assert together.scores.dtype == torch.float32
    assert len(set(together.scores.tolist())) > 3  # it does look at the text


def test_permuting_the_batch_permutes_the_scores(context, make_rollout, either) -> None:
    forward = score(context, make_rollout(TEXTS), batch_size=3, **either).scores
    order = [3, 0, 6, 2, 5, 1, 4]
    rollout = make_rollout([TEXTS[i] for i in order], prompts=[f"prompt {i}" for i in order])
    torch.testing.assert_close(score(context, rollout, batch_size=3, **either).scores, forward[order])


def test_a_reward_model_scores_by_its_logit_at_the_last_token(context, make_rollout, llama) -> None:
    """Computed here by hand, without any padding."""
    model = LlamaForSequenceClassification.from_pretrained(llama).eval()
    with torch.no_grad():
        hidden = model.model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state[0, -1]
        expected = model.score(hidden)
    got = score(context, make_rollout(["a b c", "a b c d e f g"]), model=llama, template=ALONE).scores[0]
    torch.testing.assert_close(got, expected[0])
    sigmoid = score(context, make_rollout(["a b c"]), model=llama, template=ALONE, activation="sigmoid")
    torch.testing.assert_close(sigmoid.scores[0], expected[0].sigmoid())


def test_a_trailing_end_token_that_is_the_pad_token_scores_as_if_it_were_not_there(
    context, make_rollout, llama
) -> None:
    scores = score(context, make_rollout(["a b", "a b </s>", "a b c d"]), model=llama, template=ALONE).scores
    assert scores[0].item() == pytest.approx(scores[1].item(), abs=1e-6)


def test_a_classifier_scores_by_the_label_and_activation(context, make_rollout, bert) -> None:
    model = BertForSequenceClassification.from_pretrained(bert).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[2, 5, 6, 3]])).logits[0]
    rollout = make_rollout(["a b"])

    def one(**options):
        return score(context, rollout, model=bert, template=ALONE, **options).scores[0]

    torch.testing.assert_close(one(label="fair"), logits[1])
    torch.testing.assert_close(one(label=1), logits[1])
    torch.testing.assert_close(one(label="bad", activation="softmax"), logits.softmax(-1)[0])
    torch.testing.assert_close(one(label="good", activation="sigmoid"), logits.sigmoid()[2])


def test_a_pair_is_joined_by_the_tokenizer(context, make_rollout, bert) -> None:
    model = BertForSequenceClassification.from_pretrained(bert).eval()
    ids, types = torch.tensor([[2, 5, 3, 6, 7, 3]]), torch.tensor([[0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        expected = model(input_ids=ids, token_type_ids=types).logits[0, 2]
    rollout = make_rollout(["b c", "d"], prompts=["a", "a b c d"])
    got = score(context, rollout, model=bert, label=2, template=["{prompt}", "{response}"])
    torch.testing.assert_close(got.scores[0], expected)


def test_braces_in_a_text_are_text(context, make_rollout, llama) -> None:
    got = score(context, make_rollout(["{prompt} {x} {0}", "[UNK] [UNK] [UNK]"]), model=llama, template=ALONE)
    assert got.scores[0].item() == pytest.approx(got.scores[1].item(), abs=1e-6)


def test_truncation_keeps_the_end_and_is_counted(context, make_rollout, bert) -> None:
    long = "h " * 20 + "a b c d e f g h a b"  # 12 tokens less [CLS] and [SEP] leave its last 10 words
    rollout = make_rollout([long, "a b c d e f g h a b", "a"])
    output = score(context, rollout, model=bert, label=0, template=ALONE)
    assert output.metrics == {"truncated": Sum(1)}
    assert output.scores[0].item() == pytest.approx(output.scores[1].item(), abs=1e-6)
    shorter = score(context, rollout, model=bert, label=0, template=ALONE, max_length=8)
    assert shorter.metrics == {"truncated": Sum(2)}


def test_the_limit_leaves_out_positions_that_roberta_does_not_use(tmp_path, context, make_rollout) -> None:
    """Its table of 12 starts behind the padding index 0: 11 tokens fit, a twelfth would be out of range."""
    sizes = {"max_position_embeddings": 12, "type_vocab_size": 1, "pad_token_id": 0, "num_labels": 1}
    save_tiny(tmp_path, RobertaForSequenceClassification, {"pad_token": "[PAD]"}, **sizes)
    rollout = make_rollout(["h " * 9 + "a b c", "h " * 8 + "a b c"])
    output = score(context, rollout, model=tmp_path, template=ALONE)
    assert output.metrics == {"truncated": Sum(1)}
    assert output.scores[0].item() == pytest.approx(output.scores[1].item(), abs=1e-6)


def test_rotary_factors_by_length_need_a_length(tmp_path, context, make_rollout) -> None:
    """By it all texts get the same ones, whatever stands beside them."""
    factors = {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8, "original_max_position_embeddings": 4}
    rope = {"rope_type": "longrope", "rope_theta": 100.0, **factors}
    save_llama(tmp_path, num_labels=1, initializer_range=0.5, rope_parameters=rope)
    rollout = make_rollout(["a b c", "a b c d e f g h"])
    with pytest.raises(ModelError, match=r"max_length: not set, and the rotary factors of reward model"):
        score(context, rollout, model=tmp_path, template=ALONE)
    both = score(context, rollout, model=tmp_path, template=ALONE, max_length=32).scores
    alone = score(context, make_rollout(["a b c"]), model=tmp_path, template=ALONE, max_length=32).scores
    assert both[0].item() == pytest.approx(alone[0].item(), abs=1e-5)


def test_an_empty_share_of_the_rollout(context, make_rollout, llama) -> None:
    output = score(context, make_rollout([]), model=llama)
    assert output.scores.shape == (0,)
    assert output.outcomes == ()


def test_nothing_trains(context, llama) -> None:
    model = RewardModel(RewardModelOptions(model=str(llama)), context).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_dtype(context, llama, name) -> None:
    reward = RewardModel(RewardModelOptions(model=str(llama), dtype=name), context)
    assert reward.model.dtype == getattr(torch, name)


@pytest.mark.parametrize(
    ("which", "options", "message"),
    [
        ("bert", {}, r"has 3 labels; choose one by `label` \(0: bad, 1: fair, 2: good\)"),
        ("bert", {"label": "great"}, "no label 'great'; expected one of 0: bad, 1: fair, 2: good"),
        ("bert", {"label": 3}, "no label 3"),
        ("bert", {"label": 0, "max_length": 13}, "reads at most 12 tokens; max_length is 13"),
        ("llama", {"activation": "softmax"}, "one label, whose softmax is always 1"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(request, context, which, options, message) -> None:
    folder = request.getfixturevalue(which)
    with pytest.raises(ModelError, match=message):
        RewardModel(RewardModelOptions(model=str(folder), **options), context)


def test_a_model_without_a_trained_head_is_refused(tmp_path, context, unknown_columns) -> None:
    options = RewardModelOptions(model=str(save_llama(tmp_path / "lm", LlamaForCausalLM)), label=0)
    with pytest.raises(ModelError, match=r"has no trained head: its files hold no score\.weight"):
        RewardModel(options, context)
    (problem,) = check(options, unknown_columns)
    assert "is a LlamaForCausalLM; expected a sequence classifier" in problem


def test_a_trained_language_model_is_refused(tiny_model, context, unknown_columns) -> None:
    options = RewardModelOptions(model=str(tiny_model), label=0)
    assert len(list(check(options, unknown_columns))) == 1
    with pytest.raises(ModelError, match="has no trained head"):
        RewardModel(options, context)


def test_folders_are_checked_before_a_model_is_loaded(tmp_path, llama, unknown_columns) -> None:
    def problems(model):
        return list(check(RewardModelOptions(model=str(model)), unknown_columns))

    assert problems(llama) == []
    assert problems("someone/some-model") == []  # of the hub: not looked up
    assert "there is no such folder" in problems(tmp_path / "missing")[0]
    assert "there is no such folder" in problems("./missing")[0]
    (tmp_path / "empty").mkdir()
    assert "no config.json" in problems(tmp_path / "empty")[0]
    shutil.copytree(llama, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("{")
    assert "cannot be read" in problems(tmp_path / "copy")[0]


def test_only_safetensors_are_read(tmp_path, llama, context) -> None:
    shutil.copytree(llama, tmp_path / "copy")
    weights = LlamaForSequenceClassification.from_pretrained(llama).state_dict()
    torch.save(weights, tmp_path / "copy" / "pytorch_model.bin")
    (tmp_path / "copy" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="in safetensors"):
        RewardModel(RewardModelOptions(model=str(tmp_path / "copy")), context)


def test_code_of_the_models_own_is_not_run(tmp_path, llama, context) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(llama, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "of_its_own", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        RewardModel(RewardModelOptions(model=str(folder)), context)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{prompt}", "has no {response}"),
        ("{answer} {response}", r"names \{answer\}"),
        ("{response.__class__}", "names"),
        ("{response!r}", "names"),
        ("{response", "write a brace of the text itself twice"),
        (["{prompt}", "x"], "has no {response}"),
    ],
)
def test_a_template_needs_the_response_and_knows_nothing_else(template, message) -> None:
    with pytest.raises(ValidationError, match=message):
        RewardModelOptions(model="m", template=template)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"model": "m", "label": True},
        {"model": "m", "batch_size": 0},
        {"model": "m", "trust_remote_code": True},
    ],
)
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        RewardModelOptions(**wrong)


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Who are you?"},
]


class TestChats:
    """A reward model that was trained on chats, as those of the hub; scored by transformers alone."""

    @pytest.fixture
    def speaker(self, tmp_path):
        folder = tmp_path / "speaker"
        tokenizer = chat_tokenizer()
        tiny(
            LlamaForSequenceClassification,
            vocab_size=len(tokenizer),
            num_labels=1,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.5,
        ).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    def expected(self, folder, messages, tools=None):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer.apply_chat_template(messages, tools=tools, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            return LlamaForSequenceClassification.from_pretrained(folder).eval()(ids).logits[0, 0].item()

    @pytest.mark.parametrize("options", [{}, {"template": "chat"}])
    def test_prompt_and_response_go_through_its_template(self, context, make_rollout, speaker, options):
        tools = [{"type": "function", "function": {"name": "clock"}}]
        prompts = ["Hello", ChatPrompt(CHAT), ChatPrompt(CHAT, tools)]
        rollout = make_rollout(["I am Ben.", "Ben", "It is 12."], prompts=prompts)
        chats = [([{"role": "user", "content": "Hello"}], None), (CHAT, None), (CHAT, tools)]
        expected = [
            self.expected(speaker, [*chat, {"role": "assistant", "content": response}], own)
            for (chat, own), response in zip(chats, rollout.responses, strict=True)
        ]
        output = score(replace(context, chat=not options), rollout, model=speaker, **options)
        assert output.scores.tolist() == pytest.approx(expected, abs=1e-5)
        assert len(set(expected)) == 3
        assert output.metrics["chat"] == 1.0

    def test_plain_prompts_and_models_without_a_template(self, context, make_rollout, speaker, llama):
        """Their numbers are those of {prompt} {response}."""
        rollout, joined = make_rollout(["a b", "c"]), "{prompt} {response}"
        for model, chat in ((speaker, False), (llama, True)):
            output = score(replace(context, chat=chat), rollout, model=model)
            assert output.scores.equal(score(context, rollout, model=model, template=joined).scores)
            assert "chat" not in output.metrics

    def test_a_template_that_there_is_none_of(self, context, make_rollout, llama, speaker, unknown_columns):
        with pytest.raises(ModelError, match=r"^template: chat, but .* has no chat template"):
            score(context, make_rollout(["a"]), model=llama, template="chat")
        for folder, problems in ((llama, 1), (speaker, 0)):
            options = RewardModelOptions(model=str(folder), template="chat")
            assert len(list(check(options, unknown_columns))) == problems

    def test_a_fitted_model_reads_as_it_was_fitted(self, speaker, tmp_path, unknown_columns):
        """Also chats, whose text it was fitted to: its chat template would make another text of them."""
        shutil.copytree(speaker, tmp_path / "fitted")
        FittedSettings(2, "m", "causal", ["{prompt} {response}"], 64, "", []).write(tmp_path / "fitted")
        for template, problems in (("chat", 1), ("Q: {prompt} {response}", 1), ("{prompt} {response}", 0)):
            options = RewardModelOptions(model=str(tmp_path / "fitted"), template=template)
            faults = list(check(options, unknown_columns))
            assert len(faults) == problems
            assert all("was fitted on ['{prompt} {response}']" in fault for fault in faults)

    def test_a_chat_that_it_refuses(self, context, make_rollout, speaker, tmp_path):
        shutil.copytree(speaker, tmp_path / "refuses")
        (tmp_path / "refuses" / "chat_template.jinja").write_text("{{ raise_exception('no chats') }}")
        with pytest.raises(ModelError, match="chat template refuses: no chats"):
            score(context, make_rollout(["a"]), model=tmp_path / "refuses", template="chat")
