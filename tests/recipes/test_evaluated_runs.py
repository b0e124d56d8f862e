"""Evaluation during training: what it leaves behind, that it changes nothing, and that it can be resumed."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sacrebleu
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppokit import PPOTrainer, Recipe, hookimpl
from ppokit.errors import PluginError, RecipeError, RewardError
from runs import OPENERS, lasting, metrics_of

RecipeDict = Callable[..., dict[str, Any]]


class Ear:
    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, float]]] = []
        self.warned: list[str] = []

    @hookimpl
    def on_evaluation(self, step: int, metrics: Any) -> None:
        self.heard.append((step, dict(metrics)))

    @hookimpl
    def on_warning(self, step: int, text: str) -> None:
        self.warned.append(text)


@pytest.fixture
def section(tmp_path: Path) -> dict[str, Any]:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": f"{text} then"}) + "\n" for text in OPENERS))
    return {
        "every": 2,
        "prompts": {"path": str(held_out), "limit": 5},
        "evaluators": [{"use": "rewards", "samples": 2, "pass_at": [1, 2], "threshold": 2}],
        "best": "eval/rewards/mean",
    }


def run(
    given: dict[str, Any], out: Path, steps: int = 3, checkpoint_every: int = 1, **more: Any
) -> PPOTrainer:
    settings = {"steps": steps, "out": str(out), "sample_every": 0, "checkpoint_every": checkpoint_every}
    trainer = PPOTrainer(Recipe.from_dict({**given, "run": settings}), **more)
    trainer.train()
    return trainer


def without_seconds(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: own for name, own in columns.items() if not name.startswith("seconds/")}


def evaluated(folder: Path) -> dict[int, dict[str, Any]]:
    return {
        line["step"]: {key: value for key, value in line.items() if key.startswith("eval/")}
        for line in metrics_of(folder)
        if any(key.startswith("eval/") for key in line)
    }


def test_parts_of_an_evaluation_are_announced(
    recipe_dict: RecipeDict, section: dict[str, Any], tmp_path: Path
) -> None:
    """Two evaluators, responses, texts: before the one step, and after it."""
    (tmp_path / "texts.txt").write_text("The sun rises in the east.\n")
    heard: list[tuple[int, str]] = []

    class Hears:
        @hookimpl
        def on_phase(self, step: int, phase: str) -> None:
            heard.append((step, phase))

    evaluators = [*section["evaluators"], {"use": "rewards", "name": "again"}]
    given = {**section, "evaluators": evaluators, "texts": {"path": str(tmp_path / "texts.txt")}}
    run(recipe_dict(evaluation=given), tmp_path / "run", steps=1, observers=[Hears()])
    assert [step for step, phase in heard if phase == "evaluation"] == [0] * 4 + [1] * 4


def test_first_every_and_last_with_the_best_policy(
    recipe_dict: RecipeDict, section: dict[str, Any], tmp_path: Path
) -> None:
    ear = Ear()
    run(recipe_dict(evaluation=section), tmp_path / "run", observers=[ear])
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    results = evaluated(tmp_path / "run")
    assert list(results) == [0, 2, 3]
    assert set(lines[0]) == {"step", "time/evaluation_s", *results[0]}
    assert results[0]["eval/rewards/scored"] == 1
    assert 0 <= results[0]["eval/rewards/pass@1"] <= results[0]["eval/rewards/pass@2"] <= 1
    assert {"eval/rewards/mean", "eval/rewards/std_error", "eval/rewards/score/pattern"} <= set(results[0])
    assert "time/evaluation_s" in lines[2]
    assert "time/evaluation_s" not in lines[1]
    assert [step for step, _ in ear.heard] == [0, 2, 3]
    best = json.loads((tmp_path / "run" / "policy-best" / "best.json").read_text())
    means = {step: result["eval/rewards/mean"] for step, result in results.items()}
    assert best["value"] == max(means.values())
    assert means[best["step"]] == best["value"]
    names = {path.name for path in (tmp_path / "run" / "policy").iterdir()}
    assert names <= {path.name for path in (tmp_path / "run" / "policy-best").iterdir()}


def test_training_is_the_same_without_it(
    recipe_dict: RecipeDict, section: dict[str, Any], tmp_path: Path
) -> None:
    """Also with scaled rewards, a controller, and several mini-batches."""
    given = recipe_dict(
        rewards=[
            {"use": "pattern", "pattern": "[aeiou]", "mode": "count", "scale": "running"},
            {"use": "kl_penalty", "weight": 0.05},
        ],
        update={"minibatches": 2, "learning_rate": 3e-3},
    )
    scored = {"use": "rewards", "samples": 2}  # of scaled rewards nothing else can pass, or be best
    every = {**section, "every": 1, "best": "eval/rewards/score/pattern", "evaluators": [scored]}
    with_it = run({**given, "evaluation": every}, tmp_path / "with")
    without = run(given, tmp_path / "without")
    assert with_it.components.policy_hash() == without.components.policy_hash()
    expected = [lasting(line) for line in metrics_of(tmp_path / "without")]
    evaluated = [lasting(line) for line in metrics_of(tmp_path / "with") if line["step"] > 0]
    assert [{k: v for k, v in line.items() if not k.startswith("eval/")} for line in evaluated] == expected


def test_a_resumed_run_evaluates_as_if_it_had_not_stopped(
    recipe_dict: RecipeDict, section: dict[str, Any], tmp_path: Path
) -> None:
    given = recipe_dict(evaluation={**section, "every": 1})
    run(given, tmp_path / "whole", steps=4)
    run(given, tmp_path / "parts", steps=2)
    again = Recipe.load(tmp_path / "parts" / "recipe.yaml", ["run.steps=4"])
    PPOTrainer(again, resume=tmp_path / "parts").train()
    assert evaluated(tmp_path / "parts") == evaluated(tmp_path / "whole")
    before: list[float] = []
    for step, numbers in evaluated(tmp_path / "whole").items():
        files = [tmp_path / name / "evaluation" / f"step-{step:06d}.parquet" for name in ("parts", "whole")]
        first, second = (pq.read_table(file).to_pydict() for file in files)
        assert without_seconds(first) == without_seconds(second)
        means = [sum(first["mean"][i : i + 2]) / 2 for i in range(0, 10, 2)]
        before = before or means
        assert sum(means) / 5 == pytest.approx(numbers["eval/rewards/mean"])
        gains = [own - old for own, old in zip(means, before, strict=True)]
        if step:
            assert sum(gains) / 5 == pytest.approx(numbers["eval/rewards/mean/gain"], abs=1e-6)
            assert numbers["eval/rewards/mean/gain_low"] <= sum(gains) / 5 + 1e-6
    best = [json.loads((tmp_path / n / "policy-best" / "best.json").read_text()) for n in ("parts", "whole")]
    assert best[0] == best[1]


def test_patience_ends_a_run_and_a_larger_one_goes_on(
    recipe_dict: RecipeDict,
    section: dict[str, Any],
    reward_module: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if it had been the larger one from the beginning."""
    monkeypatch.chdir(tmp_path)
    reward_module("def falling(view, step):\n    return {'x': -step}\n")
    own = {**section, "every": 1, "evaluators": [{"use": "my_rewards:falling"}], "best": "eval/falling/x"}
    ear = Ear()
    given = recipe_dict(evaluation={**own, "patience": 2})
    trainer = run(given, tmp_path / "parts", steps=9, observers=[ear], checkpoint_every=50)
    assert (trainer.step, trainer.stopped) == (2, True)
    assert ear.warned == [
        "eval/falling/x has not been better than 0 in 2 evaluations, so that the run ends here "
        "(evaluation.patience)"
    ]
    kept = [json.loads(line) for line in (tmp_path / "parts" / "warnings.jsonl").read_text().splitlines()]
    assert [(line["step"], line["text"]) for line in kept] == [(2, text) for text in ear.warned]
    assert json.loads((tmp_path / "parts" / "policy-best" / "best.json").read_text())["step"] == 0
    (checkpoint,) = (tmp_path / "parts" / "checkpoints").glob("step-*")
    assert checkpoint.name == "step-000002"
    resumed = PPOTrainer(Recipe.load(tmp_path / "parts" / "recipe.yaml"), resume=tmp_path / "parts")
    resumed.train()  # and has nothing to do
    assert (resumed.step, resumed.stopped) == (2, True)
    changed = ["evaluation.patience=3"]
    PPOTrainer(Recipe.load(tmp_path / "parts" / "recipe.yaml", changed), resume=tmp_path / "parts").train()
    run(recipe_dict(evaluation={**own, "patience": 3}), tmp_path / "whole", steps=9)
    assert list(evaluated(tmp_path / "parts")) == [0, 1, 2, 3]
    parts, whole = ([lasting(line) for line in metrics_of(tmp_path / name)] for name in ("parts", "whole"))
    assert parts == whole


def test_a_loop_of_ones_own_evaluates_too(
    recipe_dict: RecipeDict, section: dict[str, Any], tmp_path: Path
) -> None:
    given = recipe_dict(evaluation=section, run={"steps": 2, "out": str(tmp_path / "run")})
    with PPOTrainer(Recipe.from_dict(given)) as trainer:
        for prompts in trainer.prompts:
            rollout = trainer.collect(prompts)
            rewards = trainer.score(rollout)
            rollout, rewards = trainer.resample(rollout, rewards)
            advantages = trainer.estimate(rollout, rewards)
            stats = trainer.update(rollout, advantages)
            trainer.evaluate()
            trainer.report(rollout, rewards, advantages, stats)
    assert list(evaluated(tmp_path / "run")) == [0, 2]


def test_one_file_of_ones_own(
    recipe_dict: RecipeDict,
    section: dict[str, Any],
    reward_module: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reward, an estimator, a loss and an evaluator by path; resumed by the recipe that was written."""
    monkeypatch.chdir(tmp_path)
    reward_module(
        "from ppokit.plugin import Advantages, LossOutput, Options, broadcast_to_tokens\n"
        "def vowels(responses, letters: str = 'aeiou'):\n"
        "    return [sum(text.count(x) for x in letters) for text in responses]\n"
        "def centred(rollout, rewards):\n"
        "    scores = rewards.scores - rewards.scores.mean()\n"
        "    return Advantages(broadcast_to_tokens(scores, rollout.response_mask))\n"
        "class Ratio:\n"
        "    needs = {'new_logprobs', 'old_logprobs'}\n"
        "    class Options(Options):\n"
        "        strength: float = 1.0\n"
        "    def __init__(self, options, context):\n"
        "        self.strength = options.strength\n"
        "    def token_losses(self, inputs):\n"
        "        ratio = (inputs.new_logprobs - inputs.old_logprobs).exp()\n"
        "        return LossOutput(-self.strength * ratio * inputs.advantages)\n"
        "def longest(view, step):\n"
        "    return {'characters': max(map(len, view.generate().responses)), 'step': step}\n"
    )
    given = recipe_dict(
        rewards=[{"use": "my_rewards:vowels", "letters": "ae"}],
        advantages={"use": "my_rewards:centred"},
        losses=[{"use": "my_rewards:Ratio", "strength": 0.5}],
        evaluation={**section, "evaluators": [{"use": "my_rewards:longest"}], "best": None},
    )
    run(given, tmp_path / "run", steps=2)
    again = Recipe.load(tmp_path / "run" / "recipe.yaml", ["run.steps=3"])
    assert again.losses[0].options.strength == 0.5  # type: ignore[attr-defined]
    PPOTrainer(again, resume=tmp_path / "run").train()
    results = evaluated(tmp_path / "run")
    assert {step: result["eval/longest/step"] for step, result in results.items()} == {0: 0, 2: 2, 3: 3}
    assert "loss/Ratio" in metrics_of(tmp_path / "run")[-1]


def test_a_broken_evaluator_ends_the_run_before_training(
    recipe_dict: RecipeDict,
    section: dict[str, Any],
    reward_module: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    reward_module("def broken(view, step):\n    return 1 / 0\n")
    given = recipe_dict(evaluation={**section, "evaluators": [{"use": "my_rewards:broken"}], "best": None})
    with pytest.raises(PluginError, match=r"evaluator 'broken' .*evaluate failed: ZeroDivisionError"):
        run(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_reward_that_fails_on_held_out_prompts_is_named_with_the_evaluation(
    recipe_dict: RecipeDict,
    section: dict[str, Any],
    reward_module: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before training it leaves nothing behind; after a step, the answers with what failed."""
    monkeypatch.chdir(tmp_path)
    reward_module(
        "ASKED = []\n"
        "def flaky(response, prompt, times: int = 0):\n"
        "    ASKED.append(prompt)\n"
        "    if 'dog was then' in prompt and ASKED.count(prompt) > times:\n"
        "        raise OSError('no room')\n"
        "    return 1.0\n"
    )
    given = recipe_dict(rewards=[{"use": "my_rewards:flaky"}], evaluation={**section, "every": 1})
    with pytest.raises(
        RewardError,
        match=r"evaluator 'rewards' .*evaluation\.evaluators\[0\].*: reward 'flaky' .*rewards\[0\].* failed "
        r"for 2 of 10 responses, more than run\.max_failed_rewards .*First cause: OSError: no room$",
    ):
        run(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    given["rewards"][0]["times"] = 4  # of the first run's evaluation, and of this one's first
    with pytest.raises(RewardError, match=r"failed for 2 of 10 responses"):
        run(given, tmp_path / "run")
    table = pq.read_table(tmp_path / "run" / "evaluation" / "step-000001.parquet")
    assert table["outcome/flaky"].to_pylist() == ["scored"] * 6 + ["failed"] * 2 + ["scored"] * 2


def test_what_rewards_fail_of_stands_with_the_answers(
    recipe_dict: RecipeDict,
    section: dict[str, Any],
    reward_module: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of the canary's responses, of which it records no number."""
    monkeypatch.chdir(tmp_path)
    reward_module(
        "def flaky(response, prompt):\n"
        "    if 'dog' in prompt:\n"
        "        raise OSError('no room')\n"
        "    return None if 'Tom' in prompt else 1.0\n"
    )
    (tmp_path / "rated.csv").write_text("prompt,response,rating\nThe dog, ran,1\nThe cat, sat,2\n")
    evaluators = [*section["evaluators"], {"use": "canary", "path": "rated.csv"}]
    ear = Ear()
    given = recipe_dict(
        rewards=[{"use": "my_rewards:flaky"}], evaluation={**section, "evaluators": evaluators}
    )
    out = str(tmp_path / "run")
    settings = {"steps": 1, "out": out, "sample_every": 0, "max_failed_rewards": 0.5}
    PPOTrainer(Recipe.from_dict({**given, "run": settings}), observers=[ear]).train()
    rows = pq.read_table(tmp_path / "run" / "evaluation" / "step-000000.parquet").to_pylist()
    of_rewards, of_canary = (
        [row for row in rows if row["evaluator"] == name] for name in ("rewards", "canary")
    )
    assert [row["mean"] for row in of_rewards] == [1, 1, 1, 1, None, None, None, None, 1, 1]
    asked = ["scored"] * 4 + ["abstained"] * 2 + ["failed"] * 2 + ["scored"] * 2
    assert [row["outcome/flaky"] for row in of_rewards] == asked
    assert [row["reason/flaky"] for row in of_rewards] == [
        "OSError: no room" if outcome == "failed" else "" for outcome in asked
    ]
    assert all(row["seconds/flaky"] >= 0 for row in of_rewards)
    assert [(row["response"], row["outcome/flaky"], row["mean"]) for row in of_canary] == [
        (" ran", "failed", None),
        (" sat", "scored", None),
    ]
    assert [text for text in ear.warned if "in the evaluation" in text] == [
        "in the evaluation by 'rewards', the reward 'flaky' failed for 2 of 10 responses: OSError: no room",
        "in the evaluation by 'rewards', the reward 'flaky' abstained from 2 of 10 responses",
        "in the evaluation by 'canary', the reward 'flaky' failed for 1 of 2 responses: OSError: no room",
        "in the evaluation by 'rewards', the reward 'flaky' failed for 2 of 10 responses: OSError: no room",
        "in the evaluation by 'canary', the reward 'flaky' failed for 1 of 2 responses: OSError: no room",
    ]


def test_columns_of_a_folder_are_looked_at_before_the_model(
    recipe_dict: RecipeDict, tiny_model: Path, tmp_path: Path
) -> None:
    """As those of a data set on the hub, which is not there when the recipe is read."""
    for name in ("train", "held_out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text(
            '{"prompt": "a", "text": "b"}\n{"prompt": "c", "text": "d"}\n'
        )
    evaluators = [{"use": "lm", "reference": "txt"}, {"use": "metric", "metric": "chrf", "reference": "text"}]
    given = recipe_dict(
        model={"name": str(tmp_path / "no weights")},
        prompts={"path": str(tmp_path / "train")},
        rewards=[{"use": "metric", "metric": "chrf", "reference": "summary"}],
        evaluation={"prompts": {"path": str(tmp_path / "held_out")}, "evaluators": evaluators},
    )
    (tmp_path / "no weights").mkdir()
    for path in tiny_model.glob("*.json"):
        shutil.copy(path, tmp_path / "no weights")
    with pytest.raises(RecipeError) as caught:
        PPOTrainer(Recipe.from_dict(given))
    assert [(problem.key, problem.message) for problem in caught.value.problems] == [
        ("rewards[0]", "reference 'summary' is no column of the prompts (prompt, text)"),
        ("evaluation.evaluators[0]", "reference 'txt' is no column of the held-out prompts (prompt, text)"),
    ]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_the_best_policy_is_that_of_its_evaluation_and_metrics_are_those_of_the_libraries(
    recipe_dict: RecipeDict,
    reward_module: Callable[[str], None],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first step's policy is the best one, and answers as it did then; BLEU is sacrebleu's."""
    monkeypatch.chdir(tmp_path)
    reward_module("def first(view, step):\n    return {'x': 1.0 if step == 1 else 0.0}\n")
    texts = [f"{text} then" for text in OPENERS]
    references = [
        [" the big dog was very happy.", " she saw a little girl."],
        [" he said to his mom."] * 2,
    ] * 3
    (tmp_path / "held_out.jsonl").write_text(
        "".join(
            json.dumps({"prompt": text, "one": one, "other": other}) + "\n"
            for text, (one, other) in zip(texts, references, strict=True)
        )
    )
    metric = {"use": "metric", "metric": ["sacrebleu", "chrf"], "reference": ["one", "other"]}
    evaluation = {
        "every": 1,
        "prompts": {"path": "held_out.jsonl"},
        "evaluators": [metric, {"use": "my_rewards:first"}],
        "best": "eval/first/x",
    }
    given = recipe_dict(evaluation=evaluation, update={"learning_rate": 3e-2, "epochs": 2})
    run(given, tmp_path / "run", steps=2)
    answers: dict[int, list[str]] = {}
    scores: dict[int, float] = {}
    for step, numbers in evaluated(tmp_path / "run").items():
        rows = pq.read_table(tmp_path / "run" / "evaluation" / f"step-{step:06d}.parquet").to_pylist()
        answers[step] = [row["response"] for row in rows if row["evaluator"] == "metric"]
        bleu = sacrebleu.corpus_bleu(answers[step], [list(own) for own in zip(*references, strict=True)])
        scores[step] = numbers["eval/metric/sacrebleu/score"]
        assert scores[step] == pytest.approx(bleu.score)
        if step:
            gain = numbers["eval/metric/sacrebleu/score/gain"]
            assert gain == pytest.approx(scores[step] - scores[0])
            assert numbers["eval/metric/sacrebleu/score/gain_low"] <= gain
    assert answers[0] != answers[1] != answers[2]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "policy-best")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    best = PeftModel.from_pretrained(model, tmp_path / "run" / "policy-best")
    for text, answer in zip(texts, answers[1], strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        written = best.generate(input_ids=ids, do_sample=False, max_new_tokens=10)[0, ids.shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True) == answer


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_texts_of_people_as_plain_transformers_reads_them(
    recipe_dict: RecipeDict, tiny_model: Path, tmp_path: Path
) -> None:
    """Likelihoods by one forward pass of the model; keys by asking it after each letter that is typed."""
    pairs = {"Lily and Tom went to the": " park to play.", "One day, a cat": " saw a funny dog, and smiled"}
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": p, "text": t}) + "\n" for p, t in pairs.items()))
    stories = ["The dog was big and red. It ran.", "The cat", "Mom said no."]
    (tmp_path / "stories.txt").write_text("\n".join(stories))
    evaluation = {
        "prompts": {"path": str(held_out)},
        "texts": {"path": str(tmp_path / "stories.txt")},
        "evaluators": [{"use": "lm", "reference": "text"}],
    }
    sampled = {"max_new_tokens": 4, "prompts_per_step": 4, "responses_per_prompt": 2, "temperature": 0.7}
    trainer = run(recipe_dict(evaluation=evaluation, rollout=sampled), tmp_path / "run", steps=1)
    before, after = evaluated(tmp_path / "run").values()
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    typist = Typist(model, tokenizer)
    expected: dict[str, list[float]] = defaultdict(list)
    for prompt, text in pairs.items():
        ids = tokenizer(prompt)["input_ids"]
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        logits = model(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1]
        total = logits.log_softmax(-1)[range(len(tokens)), tokens].sum().item()
        expected["logprob_per_token"].append(total / len(tokens))
        expected["bits_per_byte"].append(-total / math.log(2) / len(text))
        typed = [
            (match.end() - match.start(), typist.letters(ids, tokens, text, match.start(), match.end()))
            for match in re.finditer(r"\w+", text)
        ]
        expected["next_word_accuracy"].append(sum(k == 0 for _, k in typed) / len(typed))
        saved = sum(max(0, length - 1 - k) for length, k in typed if k is not None)
        expected["keystrokes_saved"].append(saved / len(text))
    for name, numbers in expected.items():
        assert before[f"eval/lm/{name}"] == pytest.approx(sum(numbers) / 2, abs=1e-5), name
        assert f"eval/lm/{name}/gain_low" in after
    sums, counts = [], []
    for text in stories:
        first, whole = (tokenizer(part)["input_ids"] for part in (text.split()[0], text))
        logits = model(torch.tensor([whole])).logits[0, len(first) - 1 : -1]
        counts.append(len(whole) - len(first))
        sums.append(logits.log_softmax(-1)[range(counts[-1]), whole[len(first) :]].sum().item())
    assert before["eval/texts/perplexity"] == pytest.approx(math.exp(-sum(sums) / sum(counts)), rel=1e-5)
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    assert before["eval/texts/logprob_per_token"] == pytest.approx(sum(means) / 3, abs=1e-5)
    assert "eval/texts/logprob_per_token/gain_low" in after
    gained = after["eval/texts/perplexity"] - before["eval/texts/perplexity"]
    assert after["eval/texts/perplexity/gain"] == pytest.approx(gained, abs=1e-6)
    assert after["eval/texts/perplexity/gain_low"] <= gained <= after["eval/texts/perplexity/gain_high"]
    rollout = trainer.collector.recorded(list(pairs), list(pairs.values()), 1)
    beside = trainer.collector.beside_reference(rollout)
    policy = PeftModel.from_pretrained(model, tmp_path / "run" / "policy")
    for index, prompt in enumerate(rollout.prompt_ids):
        tokens = rollout.response_ids[index][rollout.response_mask[index]].tolist()
        with torch.no_grad():
            own = policy(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1] / 0.7
            with policy.disable_adapter():
                other = policy(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1] / 0.7
        log_p, log_q = own.log_softmax(-1), other.log_softmax(-1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        assert kl.sum() > 0
        assert torch.allclose(beside[index, : len(tokens), 0], kl, atol=1e-5)
        assert torch.allclose(beside[index, : len(tokens), 1], log_q[range(len(tokens)), tokens], atol=1e-4)
    assert 0 < before["eval/lm/keystrokes_saved"] < 1
    assert after["eval/lm/logprob_per_token"] != before["eval/lm/logprob_per_token"]


class Typist:
    """Types a word letter by letter until greedy decoding writes it by its tokens, one forward for each."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.texts = [tokenizer.decode([token], skip_special_tokens=True) for token in range(len(tokenizer))]

    def letters(self, prompt: list[int], tokens: list[int], text: str, start: int, end: int) -> int | None:
        ends = list(itertools.accumulate(len(self.texts[token]) for token in tokens))
        first = next(i for i, own in enumerate(ends) if own > start)
        last = next(i for i, own in enumerate(ends) if own >= end)
        begin, own = ends[first] - len(self.texts[tokens[first]]), tokens[first : last + 1]
        for typed in range(end - start):
            if self._suggestion(prompt + tokens[:first], text[begin : start + typed]) == own:
                return typed
        return None

    @torch.no_grad()
    def _suggestion(self, ids: list[int], rest: str) -> list[int]:
        """Tokens of the word that begins with `rest`."""
        written: list[int] = []
        while len(written) < 8:
            logits = self.model(torch.tensor([ids + written])).logits[0, -1]
            if rest:
                agree = [own != "" and (own.startswith(rest) or rest.startswith(own)) for own in self.texts]
                logits = logits.masked_fill(~torch.tensor(agree), -math.inf)
            token = int(logits.argmax())
            if not rest and written and not self.texts[token][:1].isalnum():
                break
            written.append(token)
            rest = rest[len(self.texts[token]) :]
        return written
