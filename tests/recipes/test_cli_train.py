"""`ppokit train` and `generate`: bad input gets one paragraph, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ppokit import PPOTrainer, Recipe
from ppokit.cli import app
from runs import ENVIRONMENT

RecipeFile = Callable[..., Path]
Ppokit = Callable[..., subprocess.CompletedProcess[str]]
ESCAPE = "\x1b"


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that must fail well, in this process; returns what it says."""

    def run(*arguments: object) -> str:
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        after = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("ppokit: error: "), result.stderr
        assert "Traceback" not in result.stderr
        assert "\n\n" not in result.stderr.strip(), "one paragraph"
        assert ESCAPE not in result.stderr
        assert after == before, "nothing is left behind"
        return result.stderr

    return run


@pytest.mark.parametrize(
    ("prompts", "content", "message"),
    [
        ({"path": "none.jsonl"}, None, "there is no file none.jsonl"),
        ({"path": "p.jsonl", "column": "question"}, '{"prompt": "Hi"}', "no column 'question'"),
        ({"path": "p.jsonl"}, "", "is empty"),
        ({"path": "p.jsonl"}, '{"prompt": "Hi"\n', "row 1: not JSON"),
        ({"path": "p.jsonl"}, '{"prompt": 7}', "expected text"),
        ({"path": "p.jsonl"}, json.dumps({"prompt": "word " * 600}), "context holds 512"),
        ({"path": "p.jsonl", "colum": "prompt"}, '{"prompt": "Hi"}', "colum"),
        ({"path": "p.csv", "column": "question"}, "prompt\nHi\n", "no column 'question'"),
    ],
)
def test_prompts(
    recipe_file: RecipeFile,
    tmp_path: Path,
    fails: Callable[..., str],
    prompts: dict[str, Any],
    content: str | None,
    message: str,
) -> None:
    recipe = recipe_file(prompts=prompts)
    if content is not None:
        (tmp_path / prompts["path"]).write_text(content)
    assert message in fails("train", recipe)


def test_chat_without_a_template(
    recipe_file: RecipeFile, tiny_model: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(tiny_model, plain)
    tokenizer = AutoTokenizer.from_pretrained(plain)
    tokenizer.chat_template = None
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(plain)
    (tmp_path / "p.jsonl").write_text('{"prompt": "Hi"}')
    model = {"name": str(plain), "dtype": "float32"}
    assert "no chat template" in fails(
        "train", recipe_file(model=model, prompts={"path": "p.jsonl", "chat": True})
    )


def test_a_prompt_too_long_in_a_process_of_its_own(
    recipe_file: RecipeFile, tmp_path: Path, ppokit: Ppokit
) -> None:
    """Where transformers might have its say on stderr as well."""
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "word " * 600}))
    completed = ppokit("train", recipe_file(prompts={"path": str(tmp_path / "p.jsonl")}))
    assert completed.returncode == 2
    assert len(completed.stderr.splitlines()) == 2, completed.stderr
    assert "context holds 512" in completed.stderr


def test_keys(recipe_file: RecipeFile, fails: Callable[..., str]) -> None:
    output = fails("train", recipe_file(), "run.stepps=3", "rewards.0.patern=x", "update.epochs=none")
    assert "3 problems" in output
    assert "steps" in output
    assert "pattern" in output
    assert "update.epochs" in output


def test_no_such_recipe(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "none.yaml" in fails("train", tmp_path / "none.yaml")
    assert "none.yaml" in fails("train", tmp_path / "none.yaml", "run.steps=3")


def test_model_is_no_causal_lm(
    recipe_file: RecipeFile, tiny_model: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    from transformers import AutoTokenizer, BertModel

    from small_models import tiny

    tiny(BertModel, vocab_size=512).save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "bert")
    output = fails("train", recipe_file(model={"name": str(tmp_path / "bert")}))
    assert "BertModel, which is no causal language model" in output


@pytest.mark.parametrize(
    ("name", "message", "commands"),
    [
        ("./none", "has no config.json", ("train", "validate")),
        ("~nobody-here/x", "determine home directory", ("train", "validate")),
        ("package:no-such-dist/x.gguf", "not installed", ("train", "validate")),
        ("package:pytest/x.gguf", "ships no GGUF file", ("train", "validate")),
        ("nobody/nothing-at-all", "HF_HUB_OFFLINE is set", ("train",)),  # the hub is asked by training alone
    ],
)
def test_model_not_found(
    recipe_file: RecipeFile, fails: Callable[..., str], name: str, message: str, commands: tuple[str, ...]
) -> None:
    for command in commands:
        output = fails(command, recipe_file(model={"name": name}))
        assert message in output
        assert "model.name: " in output


def test_lora_adapts_nothing(recipe_file: RecipeFile, fails: Callable[..., str]) -> None:
    assert "lora" in fails("train", recipe_file(lora={"target_modules": "no_such_layer"}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.0]", "returned 1 number; expected 8 numbers, one per response"),
        ("return [float('nan')] * len(responses)", "expected a finite number"),
        ("return ['x'] * len(responses)", "expected a finite number"),
        ("return None", "expected 8 numbers"),
        ("raise ValueError('the judge is out')", "First cause: ValueError: the judge is out"),
        (r"raise ValueError('the judge\n\n  is out')", "First cause: ValueError: the judge is out"),
        ("raise AssertionError", "First cause: AssertionError\n"),
        ("import time; time.sleep(30)", "no answer in 0.5 s"),
    ],
)
def test_rewards(
    recipe_file: RecipeFile,
    reward_module: Callable[[str], None],
    fails: Callable[..., str],
    body: str,
    message: str,
) -> None:
    reward_module(f"def reward(responses):\n    {body}\n")
    timeout = 0.5 if "sleep" in body else None
    rewards = [{"use": "python", "function": "my_rewards:reward", "timeout": timeout}]
    output = fails("train", recipe_file(rewards=rewards))
    assert message in output
    assert "rewards[0]" in output
    assert "recipe.yaml line" in output


def test_a_reward_that_raises_later_leaves_a_run_to_go_on_with(
    recipe_file: RecipeFile, reward_module: Callable[[str], None], ppokit: Ppokit, tmp_path: Path
) -> None:
    reward_module(
        "from pathlib import Path\ncalls = 0\n"
        "def reward(responses):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == 3 and not Path('mended').exists():\n"
        "        raise ValueError('the judge is out')\n"
        "    return [float(len(text)) for text in responses]\n"
    )
    completed = ppokit("train", recipe_file(rewards=[{"use": "python", "function": "my_rewards:reward"}]))
    assert completed.returncode == 2
    assert completed.stderr.startswith("ppokit: error: reward 'python'")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    (tmp_path / "mended").touch()
    again = ppokit("train", "--resume", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert "step 3/3" in again.stdout


class TestOut:
    def test_not_empty(self, recipe_file: RecipeFile, tmp_path: Path, fails: Callable[..., str]) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.txt").write_text("mine")
        output = fails("train", recipe_file())
        assert "is not empty" in output
        assert "--resume" not in output
        (tmp_path / "run" / "checkpoints" / "step-000001").mkdir(parents=True)
        assert "--resume" in fails("train", recipe_file())

    def test_a_file(self, recipe_file: RecipeFile, tmp_path: Path, fails: Callable[..., str]) -> None:
        (tmp_path / "run").write_text("mine")
        assert "is a file" in fails("train", recipe_file())

    def test_below_a_file(self, recipe_file: RecipeFile, tmp_path: Path, fails: Callable[..., str]) -> None:
        (tmp_path / "file").write_text("mine")
        output = fails("train", recipe_file(), f"run.out={tmp_path / 'file' / 'deep' / 'run'}")
        assert "is not a writable folder" in output

    def test_an_awkward_place(
        self,
        recipe_file: RecipeFile,
        reward_module: Callable[[str], None],
        ppokit: Ppokit,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A name with a space, a reward that goes elsewhere, and an output that knows few characters."""
        reward_module(
            "import os\ndef reward(responses):\n"
            "    os.chdir('/')\n    return [1.0 * len(text) for text in responses]\n"
        )
        recipe = recipe_file(rewards=[{"use": "python", "function": "my_rewards:reward"}])
        overrides = ("run.out=my run", "run.steps=1", "run.sample_every=1")
        few = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
        completed = ppokit("train", recipe, *overrides, environment=few)
        assert completed.returncode == 0, completed.stderr
        assert "run      my run" in completed.stdout
        assert "try it   ppokit generate 'my run' \"your prompt\" --base" in completed.stdout
        assert (tmp_path / "my run" / "policy" / "adapter_config.json").is_file()
        monkeypatch.chdir(tmp_path)
        again = CliRunner().invoke(app, ["train", "--resume", "my run"])
        assert again.exit_code == 0, again.output
        assert "1 step is done; run.steps=11 would go on" in again.stdout

    def test_a_name_that_is_too_long(self, recipe_file: RecipeFile, fails: Callable[..., str]) -> None:
        assert "File name too long" in fails("train", recipe_file(), f"run.out={'a' * 300}")
        assert "File name too long" in fails("validate", recipe_file(), f"prompts.path={'a' * 300}")

    def test_empty_is_fine(self, recipe_file: RecipeFile, tmp_path: Path, ppokit: Ppokit) -> None:
        (tmp_path / "run").mkdir()
        completed = ppokit("train", recipe_file(), "run.steps=1")
        assert completed.returncode == 0, completed.stderr


class TestResume:
    def test_nonsense(self, tmp_path: Path, fails: Callable[..., str]) -> None:
        assert "it has no recipe.yaml" in fails("train", "--resume", tmp_path / "none")
        (tmp_path / "file").write_text("")
        assert "it has no recipe.yaml" in fails("train", "--resume", tmp_path / "file")

    def test_no_checkpoints(self, recipe_file: RecipeFile, fails: Callable[..., str], tmp_path: Path) -> None:
        recipe_file()
        assert "no checkpoint to go on from" in fails("train", "--resume", tmp_path)

    def test_recipe_that_is_none(self, fails: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").write_text("[1, 2]")
        assert "recipe.yaml" in fails("train", "--resume", tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("run.out=elsewhere", "a run goes on in its folder"),
            ("run={steps: 5, out: elsewhere}", "a run goes on in its folder"),
            ("other.yaml", "a run goes on by its own recipe"),
            ("a=b.yaml", "a run goes on by its own recipe"),
        ],
    )
    def test_what_a_resumed_run_would_not_heed(
        self, change: str, message: str, fails: Callable[..., str], recipe_file: RecipeFile, tmp_path: Path
    ) -> None:
        (tmp_path / "a=b.yaml").write_text("run: {}")
        assert message in fails("train", change, "--resume", recipe_file().parent)

    def test_neither_recipe_nor_resume(self) -> None:
        result = CliRunner().invoke(app, ["train", "--debug"])
        assert result.exit_code == 2
        assert "RECIPE" in result.stderr


def test_debug_shows_the_traceback(recipe_file: RecipeFile, ppokit: Ppokit) -> None:
    completed = ppokit("train", "--debug", recipe_file(model={"name": "nobody/nothing-at-all"}))
    assert completed.returncode == 2
    assert "Traceback (most recent call last)" in completed.stderr
    assert completed.stderr.rstrip().splitlines()[-1].startswith("ppokit: error: model.name")


@pytest.fixture
def trained(recipe_file: RecipeFile, tmp_path: Path) -> Path:
    PPOTrainer(Recipe.load(recipe_file(), ["run.steps=1"])).train()
    return tmp_path / "run"


class TestGenerate:
    def test_answers(self, trained: Path, tiny_model: Path, ppokit: Ppokit) -> None:
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
        generated = model.generate(ids, do_sample=False, max_new_tokens=10, pad_token_id=0)[0, ids.shape[1] :]
        expected = tokenizer.decode(generated, skip_special_tokens=True)
        completed = ppokit("generate", trained, "Once upon a time", "--base", "--greedy")
        assert completed.returncode == 0, completed.stderr
        assert completed.stderr == ""
        base, policy = completed.stdout.splitlines()
        assert base == f"base: {expected.strip()}"
        assert policy.startswith("policy: ")

    def test_drawn_answers_follow_the_seed(self, trained: Path) -> None:
        def answer(*more: str) -> str:
            result = CliRunner().invoke(
                app, ["generate", str(trained), "Once upon", "--max-new-tokens", "20", *more]
            )
            assert result.exit_code == 0, result.output
            return result.stdout

        assert answer() == answer("--seed", "0")
        assert answer() != answer("--seed", "1")
        assert len(answer("--max-new-tokens", "2")) < len(answer())

    def test_without_the_prompts_file(self, trained: Path, tmp_path: Path) -> None:
        (tmp_path / "prompts.jsonl").unlink()
        result = CliRunner().invoke(app, ["generate", str(trained), "Once"])
        assert result.exit_code == 0, result.output

    def test_bad_input(self, trained: Path, fails: Callable[..., str], tmp_path: Path) -> None:
        assert "has no recipe.yaml" in fails("generate", tmp_path / "none", "Hi")
        assert "has no recipe.yaml" in fails("generate", tmp_path / "prompts.jsonl", "Hi")
        (trained / "policy").rename(tmp_path / "elsewhere")
        assert "has no policy yet" in fails("generate", trained, "Hi")

    def test_damaged_policy(self, trained: Path, fails: Callable[..., str]) -> None:
        (trained / "policy" / "adapter_config.json").unlink()
        assert "policy" in fails("generate", trained, "Hi")

    def test_prompt_that_leaves_no_room(self, trained: Path, fails: Callable[..., str]) -> None:
        assert "512" in fails("generate", trained, "word " * 600)


def test_plain_output(recipe_file: RecipeFile, ppokit: Ppokit) -> None:
    run = yaml.safe_load(recipe_file().read_text())["run"]
    completed = ppokit("train", recipe_file(run={**run, "sample_every": 1}))
    assert completed.returncode == 0
    assert completed.stderr == ""
    assert ESCAPE not in completed.stdout
    assert "\r" not in completed.stdout
    lines = completed.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("step ")] == ["1/3", "2/3", "3/3"]
    assert "Before and after, likeliest tokens only:" in lines
    assert re.search(r"^reward \S+ -> \S+ in 3 steps$", completed.stdout, re.MULTILINE)


def test_an_evaluation_is_shown(recipe_file: RecipeFile, tmp_path: Path, ppokit: Ppokit) -> None:
    """A person who asks for evaluations sees what they say, that of the untrained policy included."""
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "Once"}\n')
    run = yaml.safe_load(recipe_file().read_text())["run"]
    section = {"every": 5, "prompts": {"path": "held_out.jsonl"}, "evaluators": [{"use": "rewards"}]}
    completed = ppokit("train", recipe_file(run={**run, "steps": 1}, evaluation=section))
    assert completed.returncode == 0, completed.stderr
    lines = [line for line in completed.stdout.splitlines() if "eval/rewards/mean" in line]
    assert [line.split()[:2] for line in lines] == [["step", "0/1"], ["step", "1/1"]]
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    for line, numbers in zip(lines, map(json.loads, metrics), strict=True):
        assert f"eval/rewards/mean {numbers['eval/rewards/mean']:.3f}" in line


def test_terminal_output(recipe_file: RecipeFile, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ppokit", "train", str(recipe_file())],
        cwd=tmp_path,
        env={**ENVIRONMENT, "TERM": "xterm-256color"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    output, until = b"", time.monotonic() + 90
    try:
        while time.monotonic() < until:
            if select.select([master], [], [], 1)[0]:
                output += os.read(master, 65536)
    except OSError as error:  # how Linux says that the other side has closed
        if error.errno != errno.EIO:
            raise
    finally:
        os.close(master)
        if process.poll() is None and time.monotonic() >= until:
            process.kill()
    assert process.wait(timeout=30) == 0, output.decode()
    text = output.decode()
    assert "━" in text, "a progress bar"
    assert re.search(r"step \d: (sampling|update)", text)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "the cursor is back"
    assert "Traceback" not in text
