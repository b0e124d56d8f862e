"""`ppokit evaluate`: what it measures afterwards is what the run measured of the same policies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ppokit import PPOTrainer, Recipe
from ppokit.cli import app
from runs import OPENERS, metrics_of

RecipeDict = Callable[..., dict[str, Any]]

runner = CliRunner()


def evaluate(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(app, ["evaluate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def section(tmp_path: Path) -> dict[str, Any]:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": f"{text} then"}) + "\n" for text in OPENERS))
    return {
        "every": 3,
        "prompts": {"path": str(held_out), "limit": 5},
        "evaluators": [{"use": "rewards", "samples": 2}],
    }


@pytest.mark.parametrize("lora", [{"r": 4}, None], ids=["lora", "all weights"])
def test_as_in_the_run(
    recipe_dict: RecipeDict,
    recipe_file: Callable[..., Path],
    section: dict[str, Any],
    tiny_model: Path,
    tmp_path: Path,
    lora: dict[str, Any] | None,
) -> None:
    run = tmp_path / "run"
    reward = [{"use": "pattern", "pattern": "[aeiou]", "mode": "count"}]
    PPOTrainer(Recipe.from_dict(recipe_dict(evaluation=section, rewards=reward, lora=lora))).train()
    before = sorted(path for path in run.rglob("*"))
    recipe = recipe_file(evaluation=section, rewards=reward, lora=lora)
    if lora is not None:  # of a recipe that goes on from an adapter, the base is the model's name
        further = recipe_file(
            evaluation=section, rewards=reward, lora={**lora, "adapter": str(run / "policy")}
        )
        code, out, error = evaluate("base", tiny_model, "--recipe", further, "--json")
        assert code == 0, error
        begun, untouched = (own["metrics"]["rewards/mean"] for own in json.loads(out))
        lines = [line["eval/rewards/mean"] for line in metrics_of(run) if "eval/rewards/mean" in line]
        assert [untouched, begun] == pytest.approx(lines, abs=1e-5)
        recipe = recipe_file(evaluation=section, rewards=reward, lora=lora)
    answers = tmp_path / "answers.parquet"
    code, out, error = evaluate("base", run, "--recipe", recipe, "--json", "--out", answers)
    assert code == 0, error
    first, last = (line for line in metrics_of(run) if "eval/rewards/mean" in line)
    base, trained = json.loads(out)
    assert (base["policy"], trained["policy"]) == ("base", str(run))
    assert base["metrics"]["rewards/mean"] == pytest.approx(first["eval/rewards/mean"])
    assert base["differences"] == {}
    assert trained["metrics"]["rewards/mean"] == pytest.approx(last["eval/rewards/mean"], abs=1e-5)
    difference = trained["differences"]["rewards/mean"]
    for part, name in (("mean", "gain"), ("low", "gain_low"), ("high", "gain_high")):
        assert difference[part] == pytest.approx(last[f"eval/rewards/mean/{name}"], abs=1e-5)
    assert sorted(path for path in run.rglob("*")) == before  # it writes nothing there
    if lora is not None:  # of another model than the base it is not known
        assert base["metrics"]["sampled/kl"] == 0
        assert trained["metrics"]["sampled/kl"] == pytest.approx(last["eval/sampled/kl"], rel=1e-3)
        assert last["eval/sampled/kl"] > 0
        other = tmp_path / "other"
        shutil.copytree(tiny_model, other)
        weights = load_file(other / "model.safetensors")
        save_file({name: 2 * w for name, w in weights.items()}, other / "model.safetensors", {"format": "pt"})
        on_other = ("--recipe", recipe, "--json", "--set", f"model.name={other}")
        code, out, error = evaluate(run, run / "policy", *on_other)
        assert code == 0, error
        whole, adapter = json.loads(out)  # each on the run's model
        assert whole["metrics"]["rewards/mean"] == trained["metrics"]["rewards/mean"]
        assert adapter["metrics"] == whole["metrics"]
    written = pq.read_table(answers).to_pylist()
    mine = [row for row in written if row["policy"] == str(run) and row["evaluator"] == "rewards"]
    assert len(mine) == 10
    assert sum(row["mean"] for row in mine) / 10 == pytest.approx(trained["metrics"]["rewards/mean"])
    in_run = pq.read_table(run / "evaluation" / "step-000003.parquet").to_pylist()
    assert [row["response"] for row in mine] == [row["response"] for row in in_run[:10]]


def test_the_table(recipe_file: Callable[..., Path], section: dict[str, Any], tiny_model: Path) -> None:
    """A model beside itself: no difference, and an interval of none."""
    recipe = recipe_file(evaluation=section, rewards=[{"use": "length", "target": 5}])
    code, out, error = evaluate("base", tiny_model, "--recipe", recipe, "--set", "evaluation.prompts.limit=2")
    assert code == 0, error
    header, *rows = out.splitlines()
    assert header.split() == ["base", str(tiny_model), "difference", "95", "%", "interval"]
    (mean,) = [row.split() for row in rows if row.startswith("rewards/mean")]
    assert mean[1] == mean[2]
    assert mean[3:] == ["+0.000", "0.000", "to", "0.000"]


def policy_folders(tmp_path: Path, tiny_model: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Models by what is measured: a base, one fine-tuned before, a run's adapter, a run's weights."""
    torch.manual_seed(0)

    def changed() -> Any:
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.02 * torch.randn_like(weight)
        return model

    sft, whole = changed(), changed()
    sizes = {"r": 4, "lora_alpha": 32, "target_modules": "all-linear", "init_lora_weights": False}
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(task_type="CAUSAL_LM", **sizes)
    )
    for name, lora in (("A", {"r": 4}), ("B", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "lora": lora}))
    folders = {"sft": sft, "A/policy": adapted, "B/policy": whole}
    for name, model in folders.items():
        model.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / name)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    return {
        "base": base,
        str(tmp_path / "sft"): sft,
        str(tmp_path / "A"): adapted,
        str(tmp_path / "B"): whole,
    }


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_four_side_by_side_as_plain_transformers_answers(
    recipe_dict: RecipeDict,
    recipe_file: Callable[..., Path],
    section: dict[str, Any],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    """Vowels of each one's greedy answers, its difference from the base's, and what is known of each KL."""
    keys: dict[str, Any] = {
        "evaluation": {**section, "evaluators": [{"use": "rewards"}]},
        "rewards": [{"use": "pattern", "pattern": "[aeiou]", "mode": "count"}],
    }
    models = policy_folders(tmp_path, tiny_model, recipe_dict(**keys))
    code, out, error = evaluate(*models, "--recipe", recipe_file(**keys), "--json")
    assert code == 0, error
    measured = {own["policy"]: own for own in json.loads(out)}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    counts: dict[str, list[int]] = {}
    for name, model in models.items():
        counts[name] = []
        for opener in OPENERS[:5]:
            ids = tokenizer(f"{opener} then", return_tensors="pt").input_ids
            written = model.generate(input_ids=ids, do_sample=False, max_new_tokens=10)[0, ids.shape[1] :]
            counts[name].append(
                sum(letter in "aeiou" for letter in tokenizer.decode(written, skip_special_tokens=True))
            )
    assert list(measured) == list(counts)
    assert len({tuple(own) for own in counts.values()}) == 4
    for name, own in counts.items():
        assert measured[name]["metrics"]["rewards/mean"] == pytest.approx(sum(own) / 5)
        gains = [after - before for before, after in zip(counts["base"], own, strict=True)]
        difference = measured[name]["differences"].get("rewards/mean", {"low": 0, "mean": 0, "high": 0})
        assert difference["mean"] == pytest.approx(sum(gains) / 5)
        assert min(gains) <= difference["low"] <= difference["mean"] <= difference["high"] <= max(gains)
    kl = [own["metrics"].get("greedy/kl") for own in measured.values()]
    assert [kl[0], kl[1], kl[3]] == [0, None, None]
    assert kl[2] > 0


def test_what_it_cannot_measure(
    recipe_file: Callable[..., Path], section: dict[str, Any], tmp_path: Path
) -> None:
    code, _, error = evaluate("base", "--recipe", recipe_file())
    assert (code, "has no section evaluation, which says what is measured" in error) == (2, True)
    for out, message in (("a.csv", "ends in .parquet"), ("none/a.parquet", "there is no folder none")):
        code, _, error = evaluate("base", "--recipe", "none.yaml", "--out", out)
        assert (code, message in error) == (2, True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.yaml").write_text("model: {}\n")
    code, _, error = evaluate(tmp_path / "empty", "--recipe", recipe_file(evaluation=section))
    assert (code, "has no policy yet" in error) == (2, True)
    code, _, error = evaluate(tmp_path / "nowhere", "--recipe", recipe_file(evaluation=section))
    assert code == 2
    assert "nowhere" in error
    code, _, error = evaluate("base", "nowhere", "--recipe", recipe_file(evaluation=section))
    assert (code, "POLICY: there is no folder nowhere, and no model of that name was" in error) == (2, True)
