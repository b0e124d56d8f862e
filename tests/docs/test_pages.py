"""What README and the pages of docs/ show is run: their code, their recipes and their commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from pages import KINDS, REPOSITORY, Block, Command, blocks_of, commands_of, read
from ppokit import Recipe
from ppokit.cli import app
from ppokit.messages import listed

# peft 0.21 asks transformers 5 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

RUN = ("README.md", "docs/recipes.md", "docs/plugins.md")
READ = (
    "docs/human-ratings.md",
    "docs/algorithms.md",
    "docs/tutorial.md",
    "docs/report.md",
    "CONTRIBUTING.md",
)
ALL = (*RUN, *READ)
EXAMPLES = REPOSITORY / "examples"

# Commands in blocks that no test can run, and why. Of `ppokit train`, the recipe and its changes are checked.
NOT_RUN = {
    "ppokit train recipes/human_ratings/sampled.yaml rewards.0.match=model rewards.0.model=reward": (
        "trains a model of 135M parameters for minutes"
    ),
}
# README's recipe is one of 100 steps of 16 prompts; the test's is the same with these numbers.
SMALL = {
    "steps: 100": "steps: 1",
    "prompts_per_step: 16": "prompts_per_step: 2",
    "responses_per_prompt: 4": "responses_per_prompt: 2",
    "max_new_tokens: 64": "max_new_tokens: 6",
}

runner = CliRunner()


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's working directory: README's recipe and reward, prompts, ratings and a model."""
    path_before, modules_before = list(sys.path), set(sys.modules)
    monkeypatch.chdir(tmp_path)
    Path("HuggingFaceTB").mkdir()
    for name in ("HuggingFaceTB/SmolLM2-135M-Instruct", "NAME"):
        Path(name).symlink_to(tiny_model)
    Path("recipes").symlink_to(REPOSITORY / "recipes")
    Path("ppokit-politeness").symlink_to(EXAMPLES / "ppokit-politeness")
    shutil.copy("recipes/data/ratings_sample.csv", "ratings.csv")
    shutil.copy("recipes/data/ratings_sample.csv", "held_out_ratings.csv")
    Path("wikipedia.txt").write_text("The cat is a small animal.\n")
    for name, end in (("prompts.jsonl", ""), ("held_out.jsonl", " then")):
        openers = ("Tom saw", "Lily had", "A boy", "Mom")
        rows = [{"prompt": text + end, "summary": "A story."} for text in openers]
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("responses.jsonl").write_text('{"prompt": "Tom saw", "response": "a cat, please"}\n')
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "?"}]
    Path("chats.jsonl").write_text(json.dumps({"prompt": [*chat, chat[0]]}) + "\n")
    Path("my_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ enable_thinking }}"
    )
    for block in (block for page in RUN for block in blocks_of(page, read(page)) if block.file):
        Path(str(block.file)).write_text(block.text)
    small = Path("my.yaml").read_text()
    for written, smaller in SMALL.items():
        assert small.count(written) == 1, f"README's recipe has no {written!r}: change SMALL"
        small = small.replace(written, smaller)
    Path("my.yaml").write_text(small)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.path[:] = path_before
    for name in set(sys.modules) - modules_before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def politeness(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The documentation's package, built and installed where this process finds it."""
    pytest.importorskip("hatchling")
    source = folder / "source"
    shutil.copytree(EXAMPLES / "ppokit-politeness", source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        "--target",
        str(folder / "site"),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    monkeypatch.syspath_prepend(str(folder / "site"))
    return folder / "site"


def ppokit(*arguments: str) -> None:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == 0, f"ppokit {shlex.join(arguments)}\n{result.output}\n{result.exception!r}"


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words name, and the words that are left."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands") and rest[:1] not in (["--help"], ["--version"]):
        assert rest, "names no command"
        assert rest[0] in command.commands, f"there is no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def check_parses(command: Command) -> None:
    """The program's command is there and knows the options."""
    program, *words = shlex.split(command.text)
    if program in ("accelerate", "torchrun"):
        if "-m" not in words:
            return
        program, *words = words[words.index("-m") + 1 :]
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
        named = {word for word in words if "=" not in word}
        assert named <= targets, f"the Makefile has no {named - targets}"
    elif program in ("cd", "pytest"):
        pass
    elif program == "pip":
        extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
        for extra in re.findall(r"ppokit\[(\w+)\]", command.text):
            assert extra in extras
    else:
        assert program == "ppokit"
        result, rest = leaf(words)
        known = {name for parameter in result.params for name in (*parameter.opts, *parameter.secondary_opts)}
        unknown = {word for word in rest if word.startswith("-")} - known - {"--help", "--version"}
        assert not unknown, f"there is no option {listed(unknown)}"


def run(command: Command) -> None:
    words = shlex.split(command.text)
    if words[0] != "ppokit":
        return  # make: this very Makefile's targets; pip: in the fixture `politeness`
    if command.text in NOT_RUN:
        if words[1] == "train":
            ppokit("validate", *words[2:])
        return
    ppokit(*words[1:])


@pytest.mark.parametrize("page", RUN)
def test_blocks_say_what_they_are(page: str) -> None:
    for block in blocks_of(page, read(page)):
        assert block.kind in KINDS, f"{block}\nexpected ```python, ```yaml, ```toml, ```sh or ```text"


@pytest.mark.parametrize("page", ALL)
def test_commands_parse(page: str) -> None:
    for command in commands_of(page, read(page)):
        try:
            check_parses(command)
        except Exception as error:
            raise AssertionError(f"{page}, line {command.line}: `{command.text}`: {error}") from error


def test_what_is_not_run_stands_on_a_page() -> None:
    shown = {command.text for page in RUN for command in commands_of(page, read(page)) if command.in_block}
    assert set(NOT_RUN) <= shown


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_commands_run(page: str, folder: Path, politeness: Path) -> None:
    """Those of the blocks, in order."""
    ppokit("train", "my.yaml", "run.out=runs/quickstart")
    for command in commands_of(page, read(page)):
        if command.in_block:
            run(command)


@pytest.mark.parametrize("page", RUN)
def test_recipes_are_valid(page: str, folder: Path, politeness: Path) -> None:
    """Whole ones, and keys that are added to README's."""
    whole = yaml.safe_load(
        next(b.text for b in blocks_of("README.md", read("README.md")) if b.file == "my.yaml")
    )
    Recipe.from_dict(whole)
    for block in blocks_of(page, read(page)):
        if block.kind == "yaml":
            try:
                Recipe.from_dict({**whole, **yaml.safe_load(block.text)})
            except Exception as error:
                raise AssertionError(f"{block}\n{error}") from error


@pytest.mark.parametrize("page", RUN)
def test_code_runs(page: str, folder: Path, politeness: Path) -> None:
    namespace: dict[str, Any] = {}
    exec("from collections.abc import Mapping\nfrom typing import Any\nimport torch\n", namespace)
    exec("from ppokit.plugin import *", namespace)
    for block in blocks_of(page, read(page)):
        if block.kind == "python":
            code = compile(block.text, f"{page}, line {block.line}", "exec", dont_inherit=True)
            if block.file is None:
                exec(code, namespace)


def example_of(block: Block) -> Path | None:
    files = [path for path in EXAMPLES.rglob(str(block.file)) if path.is_file()] if block.file else []
    return files[0] if len(files) == 1 else None


@pytest.mark.parametrize("page", RUN)
def test_files_are_those_of_the_examples(page: str) -> None:
    """A file that is shown, and lies in examples/, is the same there, where it is tested."""
    for block in blocks_of(page, read(page)):
        if block.file and block.file != "my.yaml" and block.file != "my_rewards.py":
            example = example_of(block)
            assert example is not None, f"{block}\nthere is no such file in examples/"
            assert example.read_text(encoding="utf-8") == block.text, f"{block}\ndiffers from {example}"


def test_what_is_wrong_is_noticed() -> None:
    text = "```sh\nppokit trian my.yaml  # a word\n.venv/bin/ppokit train --nothing\n```\n\n`make nothing`\n"
    commands = list(commands_of("p.md", text))
    assert [c.text for c in commands] == ["ppokit trian my.yaml", "ppokit train --nothing", "make nothing"]
    assert [c.line for c in commands] == [2, 3, 6]
    for command, message in zip(commands, ("command 'trian'", "option '?--nothing", "nothing"), strict=True):
        with pytest.raises(AssertionError, match=message):
            check_parses(command)
