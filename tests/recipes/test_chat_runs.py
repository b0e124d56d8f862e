"""Runs on chats: messages of several turns, a template of one's own, ends and beginnings of responses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from chat_tokenizer import ENDS, TEMPLATE, chat_tokenizer
from ppokit import PPOTrainer, Recipe
from ppokit.cli import app
from ppokit.cli.generate import recipe_of_run
from ppokit.errors import PluginError, PpokitWarning, RecipeError
from ppokit.evaluation.texts import HeldOutTexts, measure_texts
from ppokit.evaluation.view import held_out_view
from ppokit.plugin import ChatPrompt
from ppokit.reward_models.gain import held_out_prompts
from ppokit.rollout.load_policy import load_policy
from runs import rollouts_of
from small_models import tiny_llama

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": {}}}]},
        {"role": "tool", "content": "12:00"},
    ],
    [{"role": "user", "content": "Hello"}],
]


@pytest.fixture
def chat_model(tmp_path: Path) -> Path:
    """A model that ends texts and not turns, as a base model does."""
    tokenizer = chat_tokenizer()
    model = tiny_llama(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def chat_recipe(chat_model: Path, recipe_dict: Callable[..., dict[str, Any]], tmp_path: Path) -> Any:
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"prompt": chat}) + "\n" for chat in CHATS))
    (tmp_path / "own.jinja").write_text("{# own #}" + TEMPLATE)

    def make(prompts: Any = None, rollout: Any = None, **sections: Any) -> dict[str, Any]:
        return recipe_dict(
            model={"name": str(chat_model), "dtype": "float32"},
            prompts={"path": str(tmp_path / "chats.jsonl"), "chat": True, **(prompts or {})},
            rollout={
                **{"max_new_tokens": 6, "prompts_per_step": 3, "responses_per_prompt": 2},
                **{"end_tokens": [ENDS], **(rollout or {})},
            },
            rewards=[{"use": "pattern", "pattern": "[a-z]", "mode": "count"}],
            run={"steps": 1, "out": str(tmp_path / "run"), "sample_every": 0},
            **sections,
        )

    return make


def by_transformers(folder: Path, ids: list[int], count: int) -> list[int]:
    """Greedy tokens, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ends = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(["<|endoftext|>", ENDS])
    config = GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=ends, pad_token_id=ends[0])
    generated = model.generate(torch.tensor([ids]), generation_config=config)
    return [int(token) for token in generated[0, len(ids) :]]


@pytest.mark.filterwarnings("ignore:evaluation.prompts. 3 of 3 held-out prompts are among the training")
def test_a_run_and_its_policy(chat_recipe: Any, chat_model: Path, tmp_path: Path) -> None:
    """Training, held-out prompts, recorded responses and `generate` give one prompt the same tokens."""
    own = {"chat_template": str(tmp_path / "own.jinja"), "chat_template_kwargs": {"enable_thinking": False}}
    evaluation = {
        "prompts": {"path": str(tmp_path / "chats.jsonl")},
        "evaluators": [{"use": "rewards"}],
    }
    prefill = "Well, "
    recipe = Recipe.from_dict(chat_recipe({**own, "prefill": prefill}, evaluation=evaluation))
    with PPOTrainer(recipe) as trainer:
        rollout = trainer.collect(next(trainer.prompts))
        view = trainer.collector.view(1)
        chats = [ChatPrompt(chat) for chat in CHATS]
        held_out = trainer.components.evaluation
        assert held_out is not None
        assert list(held_out.held_out.texts) == list(map(str, chats))
        recorded = view.recorded(CHATS, [prefill + "yes"] * 3)
        greedy = view.generate(CHATS)
        assert trainer.answer(CHATS) == greedy.responses
        assert [said.text for said in trainer.predict(CHATS)] == greedy.responses
        trainer.train()
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    expected = {
        str(chat): tokenizer(
            tokenizer.apply_chat_template(
                chat.messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            + prefill
        )["input_ids"]
        for chat in chats
    }
    for got in (rollout, recorded, greedy):
        assert all(ids == expected[prompt] for prompt, ids in zip(got.prompts, got.prompt_ids, strict=True))
        assert all(response.startswith(prefill) for response in got.responses), "rewards see it"
    for row, messages in zip(rollout.rows, rollout.prompts, strict=True):
        assert isinstance(messages, ChatPrompt)
        assert row["prompt"] == messages.messages
    yes = tokenizer("yes", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids(ENDS)
    assert recorded.response_ids[0, recorded.response_mask[0]].tolist() == [*yes, end]
    for prompt, ids, mask in zip(greedy.prompts, greedy.response_ids, greedy.response_mask, strict=True):
        assert ids[mask].tolist() == by_transformers(chat_model, expected[prompt], 6)
    saved = [row for rows in rollouts_of(tmp_path / "run").values() for row in rows]
    assert {row["prompt"] for row in saved} == set(expected)
    assert all(row["response"].startswith(prefill) for row in saved)
    (tmp_path / "own.jinja").unlink()  # the run has its own copy
    recipe = recipe_of_run(tmp_path / "run", [], None)
    policy = load_policy(recipe, tmp_path / "run" / "policy").generate(CHATS)
    assert policy.prompt_ids == [expected[str(chat)] for chat in chats]
    assert str(policy.responses[0]).startswith(prefill)
    asked = ["generate", str(tmp_path / "run"), json.dumps(CHATS[1]), "--greedy", "--base"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    base = greedy.responses[1].strip()
    assert result.stdout == f"base: {base}\npolicy: {policy.responses[1].strip()}\n"


@pytest.mark.filterwarnings("ignore:evaluation.prompts. 3 of 3 held-out prompts are among the training")
def test_texts_of_chats_are_asked_as_their_messages(chat_recipe: Any, tmp_path: Path) -> None:
    """A canary's file of ratings has the texts alone."""
    evaluation = {"evaluators": [{"use": "rewards"}], "prompts": {"path": str(tmp_path / "chats.jsonl")}}
    with PPOTrainer(Recipe.from_dict(chat_recipe(evaluation=evaluation))) as trainer:
        view = held_out_view(trainer.components, trainer.collector, 0)
        chats = [ChatPrompt(chat) for chat in CHATS]
        expected = view.policy.generate(chats).prompt_ids
        texts = [str(chat) for chat in chats]
        assert view.recorded(texts, ["yes"] * 3).prompt_ids == expected
        assert view.generate(texts).prompt_ids == expected
        assert not view.warnings
        view.recorded(["User: a\n\nAssistant: b\n\nUser: c"], ["yes"])
        (warning,) = view.warnings
        assert "1 prompts look like chats and are none of the run's" in warning
        measure_texts(HeldOutTexts(["Tom"], [" saw a cat."]), view)  # natural texts are no chats
        assert view.records[-1].rollout.prompt_ids == [trainer.components.tokenizer("Tom")["input_ids"]]


def test_held_out_chats_of_a_gain(chat_recipe: Any, tmp_path: Path) -> None:
    """Those that the run was not trained on."""
    recipe = Recipe.from_dict(chat_recipe())
    others = [[{"role": "user", "content": "Bye"}], [*CHATS[0], *CHATS[1]]]
    path = tmp_path / "others.jsonl"
    path.write_text("".join(json.dumps({"prompt": chat}) + "\n" for chat in (*CHATS, *others)))
    prompts, notes = held_out_prompts(recipe, str(path), "prompt")
    assert prompts == [str(ChatPrompt(chat)) for chat in others]
    assert isinstance(prompts[1], ChatPrompt)
    assert notes == ["prompts left out, since the run was trained on them: 3"]


def test_a_reward_of_answers(chat_recipe: Any) -> None:
    """The template ends the thinking, or the response does not: then there is no answer."""
    rewards = [
        {"use": "length", "name": name, "target": 1000, "unit": "characters", "text": text}
        for name, text in (("all", "whole"), ("answer", "answer"))
    ]
    for prefill, empty in (("<think>", True), ("<think></think>", False)):
        recipe = {**chat_recipe({"prefill": prefill}), "rewards": rewards}
        with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
            rollout = trainer.collect(next(trainer.prompts))
            scores = trainer.score(rollout).breakdown
        assert scores["all"].ne(scores["answer"]).all()
        assert all("<think>" in text for text in rollout.responses)
        if empty and not any("</think>" in text for text in rollout.responses):
            assert scores["answer"].eq(scores["answer"][0]).all()
    recipe = {**chat_recipe(), "rewards": [rewards[0], {"use": "kl_penalty", "text": "answer"}]}
    with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
        rollout = trainer.collect(next(trainer.prompts))
        with pytest.raises(PluginError, match=r"rewards\[1\]\.use.* scores tokens"):
            trainer.score(rollout)


@pytest.mark.parametrize("ends", [[ENDS], []])
def test_a_response_ends_with_a_named_token(chat_recipe: Any, ends: list[str]) -> None:
    recipe = chat_recipe(rollout={"end_tokens": ends, "max_new_tokens": 40, "responses_per_prompt": 8})
    if not ends:
        with pytest.warns(
            PpokitWarning, match=r"ends an answer with '<\|im_end\|>', .* Set rollout\.end_tok"
        ):
            trainer = PPOTrainer(Recipe.from_dict(recipe))
    else:
        trainer = PPOTrainer(Recipe.from_dict(recipe))
    with trainer:
        rollout = trainer.collect(next(trainer.prompts))
        end = trainer.components.tokenizer.convert_tokens_to_ids(ENDS)
        view = trainer.collector.view(1)
        assert (end in view.policy.end_ids) is bool(ends)
    for index, (ids, mask) in enumerate(zip(rollout.response_ids, rollout.response_mask, strict=True)):
        own = ids[mask].tolist()
        if end in own and ends:
            assert own.index(end) == len(own) - 1
            assert rollout.outcomes[index] == "finished"
            assert ENDS not in rollout.responses[index]


FIRST_LETTER = """
from ppokit.plugin import RewardOutput, Span

class FirstLetter:
    def score(self, rollout):
        assert all(text.startswith(" happy") and len(text) > 6 for text in rollout.responses)
        return RewardOutput.of_spans([[Span(6, 7, 1.0)]] * len(rollout))
"""


def test_a_prefill_of_plain_prompts(
    recipe_dict: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards see it, and spans of characters are counted with it."""
    monkeypatch.syspath_prepend(tmp_path)
    sections = recipe_dict()
    sections["prompts"]["prefill"] = " happy"
    (tmp_path / "first_letter.py").write_text(FIRST_LETTER)
    sections["rewards"] = [{"use": "first_letter:FirstLetter"}]
    with PPOTrainer(Recipe.from_dict(sections)) as trainer:
        rollout = trainer.collect(next(trainer.prompts))
        tokenizer = trainer.components.tokenizer
        assert trainer.score(rollout).token_rewards.sum(dim=1).tolist() == [1.0] * len(rollout)
    for prompt, ids, response in zip(rollout.prompts, rollout.prompt_ids, rollout.responses, strict=True):
        assert ids == tokenizer(prompt + " happy")["input_ids"]
        assert response.startswith(" happy")


@pytest.mark.parametrize(
    ("prompts", "rollout", "problem"),
    [
        ({"chat_template": "no.jinja"}, {}, r"prompts\.chat_template: no\.jinja cannot be read"),
        ({"chat": False, "chat_template_kwargs": {"a": 1}}, {}, r"chat_template_kwargs: .* needs chat: true"),
        ({"chat": False, "tools": "number"}, {}, r"prompts\.tools: .*"),
        ({}, {"end_tokens": ["<|imend|>"]}, r"rollout\.end_tokens: '<\|imend\|>' is no single token .*; did"),
        ({}, {"end_tokens": ["ab"]}, r"rollout\.end_tokens: 'ab' is no single token"),
        ({"chat_template": "refuses.jinja"}, {}, r"prompts\.chat: .* refuses a chat: no tool messages"),
        ({"chat_template": "broken.jinja"}, {}, r"prompts\.chat_template: .* no Jinja template, line 1"),
    ],
)
def test_validate_tells_without_weights(
    chat_recipe: Any,
    chat_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prompts: dict[str, Any],
    rollout: dict[str, Any],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refuses.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tool messages') }}{% endif %}"
        "{% endfor %}"
    )
    (tmp_path / "broken.jinja").write_text("{% if %}")
    (chat_model / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match=problem):
        Recipe.from_dict(chat_recipe(prompts, rollout))
    Recipe.from_dict(chat_recipe({"chat_template_kwargs": {"enable_thinking": False}}))
