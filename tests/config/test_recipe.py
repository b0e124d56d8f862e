"""Recipes: what is accepted, and every problem that is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

import fake_plugins
from ppokit import Component, Options, hookimpl
from ppokit.config.json_schema import recipe_schema
from ppokit.config.recipe import Recipe
from ppokit.config.registry import PluginRegistry
from ppokit.config.reward_settings import RewardSettings
from ppokit.config.section import Section
from ppokit.config.settings import CHOSEN, SECTIONS, Settings
from ppokit.data.prompt_rows import read_prompts
from ppokit.errors import RecipeError
from ppokit.models import quantization
from ppokit.plugin.generation import SamplingParams
from small_models import save_tokenizer

GOOD = """\
model: {name: some/model}
lora: {r: 8}
prompts: {path: prompts.jsonl}
rollout:
  use: transformers
  max_new_tokens: 24
  prompts_per_step: 4
  responses_per_prompt: 2
rewards:
  - use: good
    threshold: 1
    weight: 3e-1
    clip: [-1, 1]
  - {use: other}
advantages: {use: gae, whiten: minibatch}
losses:
  - {use: clip}
  - {use: vloss, weight: 0.1}
update: {minibatches: 4}
run: {steps: 3, out: runs/x}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "topic": "t"}\n')
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def registry(*more: EntryPoint) -> PluginRegistry:
    return PluginRegistry(entry_points=[*fake_plugins.entry_points(), *more])


def load(*overrides: str, text: str = GOOD) -> Recipe:
    Path("r.yaml").write_text(text)
    return Recipe.load("r.yaml", overrides, registry())


def problems(*overrides: str, text: str = GOOD) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(*overrides, text=text)
    assert "pydantic" not in str(caught.value)
    assert "Input should be" not in str(caught.value)
    return [str(problem) for problem in caught.value.problems]


def replaced(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_recipe() -> None:
    recipe = load()
    settings = recipe.settings
    assert settings.lora is not None
    assert (settings.lora.r, settings.lora.alpha) == (8, 32)
    assert settings.rewards[0] == RewardSettings(use="good", weight=0.3, clip=(-1.0, 1.0))
    assert settings.advantages.whiten == "minibatch"
    assert [c.name for c in recipe.rewards] == ["good", "other"]
    assert [c.key for c in recipe.losses] == ["losses[0]", "losses[1]"]
    assert recipe.rewards[0].options == fake_plugins.GoodOptions(threshold=1)
    assert recipe.rewards[0].plugin == "fake_plugins, unknown"
    assert recipe.engine.options == fake_plugins.EngineOptions(batch_size=8)
    assert settings.rollout.sampling == SamplingParams(max_new_tokens=24)
    assert recipe.observers == ()
    assert recipe.needs == {"values", "old_logprobs", "new_logprobs", "ref_logprobs"}


def test_where() -> None:
    recipe = load("run.steps=7")
    assert recipe.document.where("rewards[0].use") == "rewards[0].use, r.yaml line 10"
    assert recipe.document.where("rewards[1].name") == "rewards[1].name, r.yaml line 14"
    assert recipe.document.where("run.steps") == "run.steps, override 'run.steps=7'"
    assert recipe.document.where("observers") == "observers, r.yaml"


@pytest.mark.parametrize("overrides", [(), ("lora=null",), ("rewards.0.words=[a, '3e-6', no]",)])
def test_resolved_yaml_loads_as_an_equal_recipe(overrides: tuple[str, ...]) -> None:
    recipe = load(*overrides)
    again = load(text=recipe.to_yaml())
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
    assert Recipe.from_dict(recipe.resolved(), registry()) == recipe


def test_recipes_that_differ_are_not_equal() -> None:
    assert load("rewards.0.threshold=2") != load()
    assert load("run.seed=2") != load()


def test_resolved_has_every_default() -> None:
    data = load().resolved()
    assert list(data) == list(Settings.model_fields)
    assert data["update"]["learning_rate"] == 3e-4
    assert data["rewards"][0]["mode"] == "fast"
    assert data["rewards"][0]["timeout"] is None
    assert data["rollout"]["max_new_tokens"] == 24
    json.dumps(data)


def test_sections_with_defaults_may_be_left_out() -> None:
    text = "".join(
        line
        for line in GOOD.splitlines(keepends=True)
        if not line.startswith(("advantages", "update", "lora"))
    )
    recipe = load(text=text)
    assert recipe.advantages.component.name == "gae"
    assert recipe.settings.update.epochs == 2
    assert recipe.settings.lora is None


def test_name_of_a_choice() -> None:
    assert load("rewards.0.name=mine").rewards[0].name == "mine"


@pytest.mark.parametrize(
    ("overrides", "value"),
    [
        ((), "own_adapter"),
        (("lora=null",), "policy_trunk"),
        (("value=detached_trunk",), "detached_trunk"),
        (("advantages.use=plain", "losses=[{use: clip}]"), None),
        (("advantages.use=plain", "losses=[{use: clip}]", "value=policy_trunk"), "policy_trunk"),
    ],
)
def test_value_function(overrides: tuple[str, ...], value: str | None) -> None:
    assert load(*overrides).settings.value == value


def test_target_modules_are_a_pattern_or_names() -> None:
    assert load(r"lora.target_modules=.*\.q_proj").settings.lora is not None
    (messages,) = problems('lora.target_modules="["')
    assert "lora.target_modules: " in messages
    assert "'[' is no regular expression: unterminated character set" in messages
    (messages,) = problems("lora.target_modules=[]")
    assert "lora: target_modules: got none; expected some, or target_parameters" in messages
    assert (
        load("lora.target_modules=[]", "lora.target_parameters=[experts.down_proj]").settings.lora is not None
    )


def test_own_adapter_needs_lora() -> None:
    assert problems(text="value: own_adapter\n" + replaced("lora: {r: 8}\n", "")) == [
        "line 1, value: got own_adapter without lora; expected policy_trunk or detached_trunk, "
        "or a lora section"
    ]


def test_the_runs_folder_may_be_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert load("run.out=~/runs/x").settings.run.out == "/home/ada/runs/x"
    assert load("run.out=runs/x").settings.run.out == "runs/x"
    (messages,) = problems("run.out=~nobody-here/x")
    assert "run.out: " in messages
    assert "home directory" in messages


def test_four_bits_need_lora_and_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    in_four = replaced("{name: some/model}", "{name: some/model, load_in_4bit: true}")
    assert load(text=in_four).settings.model.load_in_4bit
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    messages = problems(text=in_four.replace("lora: {r: 8}\n", ""))
    assert [problem.removeprefix("line 1, model.load_in_4bit: ") for problem in messages] == [
        "got true without lora, and a base in 4 bits does not train; expected a lora section",
        "got true, but bitsandbytes is not installed: pip install 'ppokit[quantized]'",
    ]


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        replaced("r: 8", "r: '8'")
        .replace("weight: 3e-1", "wieght: 3")
        .replace("use: vloss", "use: vlos")
        .replace("steps: 3, ", "")
        .replace("model: {name: some/model}", "modle: {}")
    )
    assert problems(text=text) == [
        "line 1, modle: unknown key 'modle'; did you mean 'model'?",
        "line 2, lora.r: got '8' (text); expected a whole number",
        "line 12, rewards[0].wieght: unknown key 'wieght'; did you mean 'weight'?",
        "line 18, losses[1].use: no losses plugin 'vlos' is installed (installed: clip, vloss); "
        "did you mean 'vloss'?",
        "line 20, run.steps: this key is missing: Steps of the run.",
        "model: this section is missing: The base model.",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=''", "model.name: got '' (text); expected at least 1 characters"),
        ("model.name=3", "model.name: got 3; expected text"),
        ("model.dtype=float16", "expected 'auto', 'bfloat16' or 'float32'; did you mean 'bfloat16'?"),
        ("model.trust_remote_code=1", "model.trust_remote_code: got 1; expected true or false"),
        ("model.trust_remote_code=yes", "got 'yes' (text); expected true or false"),
        ("model=x", "model: got 'x' (text); expected a mapping"),
        ("model=null", "model: got null; expected a mapping"),
        ("lora.r=0", "lora.r: got 0; expected a number above 0"),
        ("lora.r=1.5", "lora.r: got 1.5; expected a whole number"),
        ("lora.r=true", "lora.r: got true; expected a whole number"),
        ("lora.alpha=0", "lora.alpha: got 0; expected a number above 0"),
        ("lora.alpha=true", "lora.alpha: got true; expected a number"),
        ("lora.target_modules=3", "lora.target_modules: got 3; expected text or a list"),
        ("lora.target_modules=[q, 3]", "lora.target_modules[1]: got 3; expected text"),
        ("lora.adapter=nowhere", "lora.adapter: there is no folder nowhere"),
        (
            "lora.adapter=.",
            "lora.adapter: . has no adapter_config.json; expected a folder with a PEFT adapter",
        ),
        ("value=own", "value: got 'own' (text); expected own_adapter, policy_trunk or detached_trunk"),
        ("prompts.system=hello", "prompts.system: a system message needs chat: true"),
        ("rollout.prompts_per_step=0", "rollout.prompts_per_step: got 0; expected a number above 0"),
        (
            "rollout={use: transformers, max_new_tokens: 4, responses_per_prompt: 1, dynamic_sampling: 0}",
            "rollout.dynamic_sampling: got 0 with responses_per_prompt 1",
        ),
        ("rollout.use=vllm", "rollout.use: no rollout plugin 'vllm' is installed (installed: transformers)"),
        ("rollout.use=3", "rollout.use: got 3; expected text"),
        (
            "rollout={max_new_tokens: 4, min_new_tokens: 5}",
            "rollout.min_new_tokens: got 5; expected at most max_new_tokens, 4",
        ),
        ("rollout.max_new_tokens=0", "rollout.max_new_tokens: got 0; expected a number above 0"),
        ("rollout.max_new_tokens='9'", "rollout.max_new_tokens: got '9' (text); expected a whole number"),
        ("rollout=[]", "rollout: got a list of 0; expected a mapping with use:"),
        ("rewards=[]", "rewards: got an empty list; expected at least one entry"),
        ("rewards=null", "rewards: got null; expected a list of mappings, each with use:"),
        ("rewards={use: good}", "rewards: got a mapping; expected a list of mappings, each with use:"),
        ("rewards=[good]", "rewards[0]: got 'good' (text); expected a mapping with use:"),
        ("rewards=[{weight: 1}]", "rewards[0].use: this key is missing: Reward provider."),
        ("rewards.0.weight=.inf", "rewards[0].weight: got inf; expected a finite number"),
        ("rewards.0.weight=.nan", "rewards[0].weight: got nan; expected a finite number"),
        (
            "rewards.0.scale=std",
            "rewards[0].scale: got 'std' (text); expected 'none', 'batch', 'running' or ",
        ),
        ("rewards.0.clip=[1, -1]", "rewards[0].clip: got [1.0, -1.0]; expected the lower bound before"),
        ("rewards.0.clip=[1, 1]", "rewards[0].clip: got [1.0, 1.0]; expected the lower bound before"),
        ("rewards.0.clip=[1]", "rewards[0].clip: got too short a list; expected at least 2 entries"),
        ("rewards.0.clip=[1, 2, 3]", "rewards[0].clip: got a list of 3; expected at most 2 entries"),
        ("rewards.0.clip=[a, 2]", "rewards[0].clip[0]: got 'a' (text); expected a number"),
        ("rewards.0.clip=5", "rewards[0].clip: got 5; expected a list"),
        ("rewards.0.timeout=0", "rewards[0].timeout: got 0; expected a number above 0"),
        ("rewards.0.name=a/b", "rewards[0].name: got 'a/b' (text); expected text that matches"),
        ("rewards.0.mode=slow", "rewards[0].mode: got 'slow' (text); expected 'fast' or 'careful'"),
        ("rewards.0.words={a: 1}", "rewards[0].words: got a mapping; expected text or a list"),
        ("rewards.0.bounds=[1, x]", "rewards[0].bounds[1]: got 'x' (text); expected a whole number"),
        ("rewards.0.treshold=1", "unknown key 'treshold'; did you mean 'threshold'?"),
        (
            "rewards.0.zzz=1",
            "known keys are use, name, weight, scale, clip, gate, text, thinking, parts, timeout, isolate, "
            "retries, concurrency, rate_limit, overlap, on_failure, threshold, mode, words",
        ),
        ("rewards.0.gate.reward=nobody", "rewards[0].gate.reward: got 'nobody'; other rewards are"),
        (
            "rewards.0.on_failure=ignore",
            "rewards[0].on_failure: got 'ignore' (text); expected 'fail', 'drop' or",
        ),
        ("rewards.1.use=good", "rewards[1]: rewards[0] is named 'good' as well; give one of them a name:"),
        (
            "rewards.0.name=mean",
            "rewards[0]: reward/mean is a metric of ppokit's own; give this reward another",
        ),
        ("losses.1={use: clip}", "losses[1]: losses[0] is named 'clip' as well; give one of them a name:"),
        ("losses=[]", "losses: got an empty list; expected at least one entry"),
        ("losses.0.weight=.inf", "losses[0].weight: got inf; expected a finite number"),
        ("losses.0.lr=1", "losses[0].lr: unknown key 'lr'; known keys are use, name and weight"),
        ("observers=[{use: watch}, {use: watch}]", "observers[0] is named 'watch' as well; list it once"),
        ("observers=null", "observers: got null; expected a list of mappings"),
        ("advantages.use=grpo", "advantages.use: no advantages plugin 'grpo' is installed"),
        ("advantages.use=plain", "losses[1].use: the loss 'vloss' trains a value function, but"),
        ("advantages.whiten=true", "advantages.whiten: got true; expected 'off', 'batch' or 'minibatch'"),
        ("update.epochs='10'", "update.epochs: got '10' (text); expected a whole number"),
        (
            "update.minibatches=3",
            "update.minibatches: got 3; expected a divisor of the 8 responses of a step",
        ),
        (
            "update.minibatches=16",
            "update.minibatches: got 16; expected a divisor of the 8 responses of a step",
        ),
        ("update.learning_rate=0", "update.learning_rate: got 0; expected a number above 0"),
        ("update.schedule=cosin", "did you mean 'cosine'?"),
        ("update.warmup_steps=-1", "update.warmup_steps: got -1; expected 0 or more"),
        ("update.aggregation=sum", "update.aggregation: got 'sum' (text); expected 'token_mean', "),
        ("update.target_kl=0", "update.target_kl: got 0; expected a number above 0"),
        ("run.steps=0", "run.steps: got 0; expected a number above 0"),
        ("run.seed=-1", "run.seed: got -1; expected 0 or more"),
        ("run.max_failed_rewards=1.1", "run.max_failed_rewards: got 1.1; expected 1 or less"),
        (
            "rewards.0.on_failure=impute",
            "rewards[0].on_failure: got impute with run.max_failed_rewards 0, by which the",
        ),
        ("run.keep_checkpoint=1", "unknown key 'keep_checkpoint'; did you mean 'keep_checkpoints'?"),
        (
            "extra=1",
            "extra: unknown key 'extra'; known keys are preset, plugins, model, lora, value, prompts",
        ),
    ],
)
def test_one_problem(override: str, message: str) -> None:
    (problem,) = problems(override)
    assert message in problem
    if "is named" not in message and "is a metric of" not in message and "trains a value" not in message:
        assert problem.endswith(f"(from the override {override!r})")


def test_a_whole_number_will_do_for_a_number() -> None:
    assert load("update.learning_rate=1").settings.update.learning_rate == 1.0


def test_a_validator_of_a_plugins_options_is_told() -> None:
    assert problems("rewards.0.words=none", "rewards.0.mode=careful") == [
        "line 10, rewards[0]: nothing to be careful about"
    ]


def test_a_plugins_check_is_told_under_its_key() -> None:
    assert problems("rewards.0.column=absent") == ["line 10, rewards[0]: no column absent"]
    assert load("rewards.0.column=topic").rewards[0].name == "good"


def test_a_plugins_check_that_fails_hides_nothing() -> None:
    assert problems("rewards.0.threshold=99", "update.minibatches=3") == [
        "line 10, rewards[0]: plugin fake_plugins, unknown: check failed: KeyError: 'boom'",
        "update.minibatches: got 3; expected a divisor of the 8 responses of a step (prompts_per_step 4 x "
        "responses_per_prompt 2) (from the override 'update.minibatches=3')",
    ]


def test_a_plugin_that_ends_the_program_is_named() -> None:
    """In its check, and in a validator of its options."""
    who = "line 10, rewards[0]: plugin fake_plugins, unknown"
    assert problems("rewards.0.threshold=98") == [f"{who}: check failed: SystemExit: 0"]
    assert problems("rewards.0.words=bye") == [f"{who}: reading its options failed: SystemExit: 0"]


def test_adapter_folder(folder: Path) -> None:
    config = folder / "adapter_config.json"
    config.write_text('{"peft_type": "LORA"}')
    assert load("lora.adapter=.").settings.lora is not None
    config.write_text('{"peft_type": "LORA", "init_lora_weights": "pissa"}')
    (problem,) = problems("lora.adapter=.")
    assert "lora.adapter: . is an adapter with init_lora_weights ('pissa')" in problem


@pytest.mark.parametrize(
    ("end", "prompt", "message"),
    [
        ("</s>", "a b", None),
        (
            "</s>",
            "a <new>",
            "prompts: row 1 has the token '<new>', id 13,",
        ),
        ("<new>", "a b", "model.name: the tokenizer ends a text with '<new>', id 13, and the model has emb"),
    ],
)
def test_tokens_that_the_model_was_not_resized_for(
    folder: Path, end: str, prompt: str, message: str | None
) -> None:
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": prompt, "topic": "t"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 13}))
    save_tokenizer(folder, eos_token=end, additional_special_tokens=["<new>"])
    if message is None:
        assert load("model.name=.").settings.model.name == "."
    else:
        (problem,) = problems("model.name=.")
        assert message in problem


def test_broken_plugin_keeps_its_cause() -> None:
    broken = registry(EntryPoint("rewards.gone", "fake_plugins_gone", "ppokit"))
    with pytest.raises(
        RecipeError, match="ModuleNotFoundError: No module named 'fake_plugins_gone'"
    ) as caught:
        Recipe.load("good.yaml", ["rewards.1.use=gone"], broken)
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value.__cause__.__cause__, ModuleNotFoundError)


class _Clashing(Options):
    weight: float = 2.0


class _Clash:
    """A plugin with an option that the core has."""

    @staticmethod
    @hookimpl
    def ppokit_reward_providers() -> list[Component]:
        return [Component("clash", lambda o, c: None, _Clashing)]


def test_an_option_named_like_a_core_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fake_clash", _Clash)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="has the option weight, which is a key of the core's"):
        Recipe.load(
            "good.yaml",
            ["rewards.1.use=clash"],
            registry(EntryPoint("rewards.clash", "fake_clash", "ppokit")),
        )


def write(name: str, content: str | bytes) -> None:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("p.jsonl", '\n{"a": 1, "b": "y"}\n{"b": "x\u2028y"}\n', "b"),
        ("p.json", '{"b": "1"}\n{"a": 1, "b": "2"}\n', "b"),
        ("p.json", ' \n[{"a": 1, "b":\n "2"}]', "b"),
        ("p.tsv", "a\tb\n1\t2,3\n", "b"),
        ("p.csv", 'a,"b\nc"\n1,2\n', "b\nc"),
        ("p.csv", "a,b\n1,2,\n3,4, \n", "b"),
        ("p.CSV", "\ufeffa,b\n1,2\n", "a"),
        ("p.txt", "hello\n", "text"),
    ],
)
def test_column_is_found(name: str, content: str, column: str) -> None:
    write(name, content)
    assert load(f"prompts={json.dumps({'path': name, 'column': column})}").settings.prompts.column == column


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", "", "prompts.path: p.jsonl is empty; expected at least one row"),
        ("p.jsonl", "\n\n", "p.jsonl is empty"),
        ("p.jsonl", '{"prompt": "a"}\n{x}\n', "p.jsonl: 1 of 2 rows cannot be used\n  row 2: not JSON"),
        ("p.jsonl", '{"prompt": 1}\n', "row 1: prompt is 1; expected text"),
        ("p.jsonl", '[1]\n{"prompt": "a"}', "p.jsonl is not JSON"),
        ("p.jsonl", '1\n{"prompt": "a"}', "row 1: 1 is no JSON object"),
        ("p.jsonl", b'{"prompt": "\x81"}\n', "p.jsonl is neither UTF-8 nor Windows-1252 text"),
        (
            "p.jsonl",
            '{"promt": 1, "x": 2}\n',
            "prompts.column: p.jsonl has no column 'prompt'; it has 'promt' and 'x'; did you mean 'promt'?",
        ),
        ("p.jsonl", '{"prompt": \n', "p.jsonl: 1 of 1 rows cannot be used\n  row 1: not JSON"),
        ("p.json", "[]", "p.json is empty"),
        ("p.json", "[x]", "p.json is not JSON"),
        ("p.json", '[3, {"prompt": "a"}]', "row 1: 3 is no JSON object"),
        ("p.json", "", "p.json is empty"),
        ("p.csv", "", "p.csv is empty"),
        ("p.csv", "prompt,b\n", "p.csv has a header but no rows"),
        ("p.csv", "a,b\n1,2\n", "p.csv has no column 'prompt'; it has 'a' and 'b'"),
        ("p.csv", 'prompt,b\na,1\n"b\nc",2,x\n', "row 3: 3 cells, but the header has 2"),
        (
            "p.csv",
            'prompt,b\na,1\n"b,2\nc,3\n',
            "row 3: a quoted cell that begins in this row is never closed",
        ),
        ("p.txt", "\n \n", "p.txt is empty"),
        ("p.txt", "hello\n", "p.txt has no column 'prompt'; it has 'text'"),
        ("p.parquet", "no", "p.parquet is not a Parquet file"),
        ("p.xlsx", "a\n", "p.xlsx ends in .xlsx; expected .csv, .tsv, .jsonl, .json, .parquet or .txt"),
        ("p", "a\n", "p ends in nothing; expected"),
    ],
)
def test_bad_prompts_file(name: str, content: str | bytes, message: str) -> None:
    write(name, content)
    (problem,) = problems(f"prompts.path={name}")
    assert message in problem


@pytest.mark.parametrize("path", ["gone.jsonl", "./gone", "/gone", "../gone", "~/gone-for-good"])
def test_prompts_file_that_is_not_there(path: str) -> None:
    assert f"prompts.path: there is no file {path}" in problems(f"prompts.path={path}")[0]


def test_parquet() -> None:
    parquet.write_table(pa.table({"prompt": ["x"]}), "p.parquet")
    assert load("prompts.path=p.parquet")
    assert "no column 'q'" in problems("prompts.path=p.parquet", "prompts.column=q")[0]
    parquet.write_table(pa.table({"prompt": pa.array([], pa.string())}), "p.parquet")
    assert "p.parquet is empty" in problems("prompts.path=p.parquet")[0]


def test_a_file_of_prompts_is_read_once_by_check_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    write("p.csv", "prompt,n\na,1\n")
    os.utime("p.csv", (1_000, 1_000))
    reads: list[str] = []
    read_bytes = Path.read_bytes

    def counting(path: Path) -> bytes:
        reads.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counting)
    table = read_prompts(load("prompts.path=p.csv").settings.prompts, chat=False)
    assert table.records() == [{"prompt": "a", "n": "1"}]
    assert reads.count("p.csv") == 1


def test_a_data_set_on_the_hub_is_not_checked() -> None:
    assert load("prompts.path=owner/set", "prompts.column=any", "rewards.0.column=any")


def test_yaml_faults_are_a_recipe_error() -> None:
    assert problems(text="a: [")[0].startswith("line 1, not YAML")
    assert problems(text="") == [
        "the file is empty; expected a mapping with model, prompts, rewards and so on"
    ]
    with pytest.raises(RecipeError, match=r"none\.yaml: 1 problem\n  cannot be read: No such file"):
        Recipe.load("none.yaml", registry=registry())


def test_a_duplicate_key_is_told_with_the_other_problems() -> None:
    assert problems(text=replaced("steps: 3", "steps: 3, steps: x, seed: y")) == [
        "line 20, run.steps: the key stands twice, on lines 20 and 20; keep one",
        "line 20, run.seed: got 'y' (text); expected a whole number",
    ]


def test_from_dict_has_no_lines() -> None:
    data: dict[str, Any] = yaml.safe_load(GOOD)
    data["rewards"][0].update(clip=(-1, 1), weight=0.3)
    assert Recipe.from_dict(data, registry()) == load()
    data["run"]["steps"] = 0
    with pytest.raises(
        RecipeError, match=r"recipe: 1 problem\n  run.steps: got 0; expected a number above 0"
    ):
        Recipe.from_dict(data, registry())


@pytest.mark.parametrize("model", [Settings, *SECTIONS.values(), *CHOSEN.values()])
def test_every_field_is_described(model: type[Section]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_schema_has_each_component_with_its_options() -> None:
    schema = recipe_schema(registry(EntryPoint("rewards.gone", "fake_plugins_gone", "ppokit")))
    assert "rewards 'gone' (plugin fake_plugins_gone, unknown) cannot be imported" in schema["$comment"]
    assert schema["required"] == ["model", "prompts", "rewards", "run"]
    assert schema["anyOf"] == [{"required": ["losses"]}, {"required": ["preset"]}]
    assert "grpo" in schema["properties"]["preset"]["enum"]
    assert schema["properties"]["rewards"]["items"]["oneOf"] == [
        {"$ref": "#/$defs/rewards.good"},
        {"$ref": "#/$defs/rewards.other"},
        {"$ref": "#/$defs/rewards.module:attribute"},
    ]
    good = schema["$defs"]["rewards.good"]
    assert good["properties"]["use"]["const"] == "good"
    assert good["properties"]["threshold"]["description"] == "Where good begins."
    assert {"weight", "clip", "threshold", "mode"} <= set(good["properties"])
    assert good["required"] == ["use"]
    assert good["additionalProperties"] is False
    assert schema["$defs"]["rollout.transformers"]["required"] == []
    for reference in _references(schema):
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def test_schema_without_plugins_allows_paths_alone() -> None:
    schema = recipe_schema(PluginRegistry(entry_points=[]))
    assert schema["properties"]["rewards"]["items"] == {
        "oneOf": [{"$ref": "#/$defs/rewards.module:attribute"}]
    }


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [r for value in node.values() for r in _references(value)]
    return [r for value in node for r in _references(value)] if isinstance(node, list) else []


def test_loading_imports_nothing_heavy(folder: Path) -> None:
    script = (
        "import sys, fake_plugins\n"
        "from ppokit.config.registry import PluginRegistry\nfrom ppokit import Recipe\n"
        "from ppokit.config.json_schema import recipe_schema\n"
        "c = PluginRegistry(entry_points=fake_plugins.entry_points())\n"
        "Recipe.load('good.yaml', registry=c).to_yaml()\nrecipe_schema(c)\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'accelerate', 'pyarrow', 'rich') "
        "if m in sys.modules])"
    )
    here = str(Path(fake_plugins.__file__).parent)
    program = f"import sys; sys.path.insert(0, {here!r})\n{script}"
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder)
    assert (completed.stdout, completed.returncode) == ("[]\n", 0), completed.stderr
