"""`ppokit rescore`: a run's samples and texts by other rewards, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import types
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from typer.testing import CliRunner

from ppokit.cli import app
from ppokit.plugin import Advantages
from ppokit.plugin.scoring import RewardContext
from ppokit.rescoring.comparison import compare, correlation, ranks
from ppokit.rescoring.samples import of_texts
from ppokit.run.run_dir import RunDir
from ppokit.testing import rewards_of, rollout_of
from ppokit.testing.samples import PROMPT
from rollouts import make_rollout

LENGTH = "rewards: [{use: length, target: 4, unit: words}]\n"
runner = CliRunner()


def run(*args: object) -> tuple[int, str, str]:
    result = runner.invoke(app, ["rescore", *map(str, args)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.yaml"
    path.write_text(LENGTH)
    return path


def save_run(
    folder: Path,
    steps: Iterable[int],
    texts: list[str],
    group: int = 2,
    *,
    recipe: str = "recipe",
    row: Mapping[str, Any] = types.MappingProxyType({"answer": "4"}),
) -> None:
    run_dir = RunDir(folder)
    run_dir.begin(recipe, {})
    run_dir.open()
    for step in steps:
        rollout = rollout_of(texts, group=group, row=row)
        run_dir.add_rollout(
            step, rollout, rewards_of(rollout), Advantages(torch.zeros(rollout.loss_mask.shape))
        )


def test_ranks_and_correlation_by_hand() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0])
    assert correlation(first, second) == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 sum d^2 / (n (n^2 - 1))
    assert correlation(first, -first) == pytest.approx(-1)
    assert math.isnan(correlation(first, np.ones(4)))


def test_winners_and_what_moved_by_hand() -> None:
    """Group 0 keeps its winner, group 1 gets another; of group 2 one side is unknown."""
    nan = math.nan
    result = compare(
        list("abcde"), ["A", "B", "C", "D", "E"], [0, 0, 1, 1, 2], [4, 3, 2, 1, nan], [4, 3, 0, 2, 5], most=1
    )
    assert (result.samples, result.lost, result.gained) == (4, 0, 1)
    assert (result.groups, result.changed) == (2, 1)
    assert (result.mean_before, result.mean_after) == (2.5, 2.25)
    (moved,) = result.moved
    assert (moved.id, moved.rank_before, moved.rank_after) == ("c", 3, 4)


def test_a_tie_that_still_wins_is_no_change() -> None:
    result = compare(list("ab"), ["", ""], [0, 0], [1, 1], [0, 2])
    assert (result.groups, result.changed) == (1, 0)


def test_a_run(tmp_path: Path, rewards: Path) -> None:
    save_run(tmp_path / "run", (1, 2), ["one two three four", "one", "one two three", "a b c d e f g h"])
    code, out, err = run(tmp_path / "run", "--rewards", rewards, "--plot", tmp_path / "plot.png")
    assert (code, err) == (0, "")
    shown = " ".join(out.split())
    assert "length 8 of 8 0.500 0.000 1.000" in shown
    assert "samples with both scores 8" in shown
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    data = json.loads(run(tmp_path / "run", "--rewards", rewards, "--json")[1])
    assert [sample["after"] for sample in data["samples"][:4]] == [1.0, 0.25, 0.75, 0.0]
    assert data["comparison"]["groups"] == 4


def test_texts_without_scores_show_the_best_and_the_worst(tmp_path: Path, rewards: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"response": text}) + "\n" for text in ("a b c d", "a", "a b", "")))
    code, out, _ = run("--text", path, "--rewards", rewards, "--most", 1)
    assert code == 0
    assert out.endswith(
        "Best and worst\n  sample  response  score\n  row-1   a b c d   1.000\n  row-4             0.000\n"
    )


def test_texts_with_scores_are_compared(tmp_path: Path, rewards: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [{"prompt": "p", "response": "a b c d", "score": 0}, {"prompt": "p", "response": "a", "score": 1}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = " ".join(run("--text", path, "--rewards", rewards)[1].split())
    assert "correlation of ranks -1.000" in shown
    assert "groups with another winner 1 of 1 (100.0 %)" in shown


def test_texts_of_every_kind_are_read_as_for_training(tmp_path: Path, rewards: Path) -> None:
    """Numbers, chats, and whole numbers that no float holds; why a response failed stands under the table."""
    path, answers = tmp_path / "texts.jsonl", tmp_path / "answers.yaml"
    chat = [{"role": "user", "content": "Two and two?"}]
    rows = [
        {"prompt": chat, "response": 0, "answer": "0", "score": 10**400},
        {"prompt": "Two and two?", "response": "4", "answer": None, "score": 1},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers.write_text("rewards: [{use: exact_answer}]\n")
    code, out, err = run("--text", path, "--rewards", answers)
    assert code == 0
    assert "row-1   0         1.000" in out
    assert (
        err == "exact_answer failed for 1 of 2 responses: ValueError: its row has no number in 'answer': ''\n"
    )
    (batch,) = [of_texts(path)]
    assert batch.rollout.prompts == ["Two and two?"] * 2
    assert batch.rollout.group_ids.tolist() == [0, 0]
    assert batch.before.isnan().tolist() == [True, False]
    path.write_text(json.dumps({"prompt": [{"role": "nobody"}], "response": "x"}))
    assert "row 1: the prompt is no chat" in run("--text", path, "--rewards", rewards)[2]


def test_what_a_plot_cannot_be_is_said_before_anything_is_scored(tmp_path: Path, rewards: Path) -> None:
    path = tmp_path / "$frac$ \\frac$.txt.jsonl"
    path.write_text(json.dumps({"response": "a", "score": 1}))
    for plot in (tmp_path / "plot.pdf", tmp_path / "none" / "plot.png"):
        code, _, err = run("--text", path, "--rewards", rewards, "--plot", plot)
        assert code == 2
        assert f"--plot {plot}" in " ".join(err.split())
    assert run("--text", path, "--rewards", rewards, "--plot", tmp_path / "plot.png")[0] == 0


def test_a_file_that_no_run_has_written_is_named(tmp_path: Path, rewards: Path) -> None:
    folder = tmp_path / "run" / "rollouts"
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.table({"prompt": ["a"]}), folder / "step-000001.parquet")
    code, _, err = run(tmp_path / "run", "--rewards", rewards)
    assert code == 2
    assert "step-000001.parquet has no column 'outcome'" in err


def test_what_samples_do_not_hold_is_left_out(tmp_path: Path) -> None:
    save_run(tmp_path / "run", (1,), ["one", "two"])
    path = tmp_path / "rewards.yaml"
    path.write_text(LENGTH[:-2] + ", {use: kl_penalty}]\n")
    assert (
        "left out: kl_penalty (needs old_logprobs and ref_logprobs)"
        in run(tmp_path / "run", "--rewards", path)[2]
    )
    path.write_text("rewards: [{use: kl_penalty}]\n")
    code, _, err = run(tmp_path / "run", "--rewards", path)
    assert code == 2
    assert "nothing to score by: kl_penalty" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected either the folder of a run or --text FILE"),
        (("nowhere",), "nowhere has no samples in rollouts/"),
        (("--text", "texts.csv"), "has no column 'response'"),
    ],
)
def test_what_cannot_be_scored(
    arguments: tuple[str, ...], message: str, rewards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.csv").write_text("prompt,text\na,b\n")
    code, _, err = run(*arguments, "--rewards", rewards)
    assert code == 2
    assert message in err


def test_a_mistake_in_the_rewards_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rewards.yaml"
    path.write_text("rewards:\n  - {use: overlong, limt: 4}\n")
    code, _, err = run("--text", path, "--rewards", path)
    assert code == 2
    assert "line 2, rewards[0].limt: unknown key 'limt'; did you mean 'limit'?" in err


@pytest.mark.parametrize(
    ("recipe", "problems"),
    [
        (
            "rewards: [{use: length, target: 1, gate: {reward: nobody}}]",
            ["line 1, rewards[0].gate.reward: got 'nobody'"],
        ),
        (
            "rewards: [{use: length, target: 1}, {use: length, target: 2}]",
            ["rewards[1]: rewards[0] is named 'length' as well; give one of them a name:"],
        ),
        (
            "rewards: [{use: length, target: 1, gate: {reward: far}}, {use: kl_penalty, name: far}]",
            ["rewards[0].gate.reward: got far (needs old_logprobs and ref_logprobs), which saved samples"],
        ),
        (
            "rewards: [{use: exact_answer, column: solution}, {use: length, target: 1, text: answer}]",
            [
                "rewards[0]: column 'solution' is no column of the data set (prompt, answer)",
                "rewards[1].text: got answer, which needs the policy's tokenizer",
            ],
        ),
    ],
)
def test_what_rewards_lack_is_said_before_any_is_built(
    tmp_path: Path, recipe: str, problems: list[str]
) -> None:
    (tmp_path / "rewards.yaml").write_text(recipe)
    (tmp_path / "texts.jsonl").write_text(json.dumps({"prompt": "p", "answer": "1", "response": "1"}))
    code, _, err = run("--text", tmp_path / "texts.jsonl", "--rewards", tmp_path / "rewards.yaml")
    assert code == 2
    for problem in problems:
        assert problem in " ".join(err.split())


SLOW = """
import os, time

class Sleeps:
    def score(self, rollout):
        with open("pid", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
"""


@pytest.mark.parametrize("more", ["", ", isolate: process"])
def test_a_time_out_ends_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sleeping_rewards.py").write_text(SLOW)
    uses = "{use: 'sleeping_rewards:Sleeps', timeout: 3" + more + "}"
    (tmp_path / "rewards.yaml").write_text(f"rewards: [{uses}]")
    (tmp_path / "texts.jsonl").write_text(json.dumps({"response": "a"}))
    code, _, err = run("--text", "texts.jsonl", "--rewards", "rewards.yaml")
    assert code == 2
    assert "failed for 1 of 1 responses" in " ".join(err.split())
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()
    sys.modules.pop("sleeping_rewards", None)


TOKENIZED = """
class Tokenized:
    def __init__(self, options, context):
        self.built = context.tokenizer

    def score(self, rollout, context):
        from ppokit.plugin import RewardOutput

        assert self.built is context.tokenizer
        return RewardOutput.from_values([len(context.tokenizer)] * len(rollout))
"""


def test_rewards_have_the_tokenizer_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tokenized_rewards.py").write_text(TOKENIZED)
    (tmp_path / "rewards.yaml").write_text("rewards: [{use: 'tokenized_rewards:Tokenized'}]")
    save_run(tmp_path / "run", (1,), ["a", "b"])
    tokenizer.save_pretrained(tmp_path / "run" / "policy")
    data = json.loads(run(tmp_path / "run", "--rewards", tmp_path / "rewards.yaml", "--json")[1])
    assert [sample["after"] for sample in data["samples"]] == [len(tokenizer)] * 2
    sys.modules.pop("tokenized_rewards")


TOKENS = """
import torch
from ppokit.plugin import RewardOutput

class Tokens:
    def score(self, rollout):
        return RewardOutput.of_tokens(0.5 * rollout.loss_mask)
"""


def test_scores_of_tokens_count_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: 1 and 2 on the response, and 0.25 on each token; an empty response has its score alone."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "token_rewards.py").write_text(TOKENS)
    rollout = make_rollout([[1]] * 3, [[2, 3], [4], []])
    rollout = replace(rollout, responses=["ab", "abc", ""], group_ids=torch.tensor([0, 0, 1]))
    tokens = torch.tensor([[0.25, 1.25], [2.25, 0.0], [3.0, 0.0]])
    known = rewards_of(rollout_of(["a", "b", "c"]))
    rewards = replace(known, scores=torch.tensor([1.0, 2.0, 3.0]), token_rewards=tokens)
    run_dir = RunDir(tmp_path / "run")
    run_dir.begin("recipe", {})
    run_dir.open()
    run_dir.add_rollout(1, rollout, rewards, Advantages(torch.zeros(tokens.shape)))
    (tmp_path / "rewards.yaml").write_text("rewards: [{use: 'token_rewards:Tokens'}]")
    data = json.loads(run(tmp_path / "run", "--rewards", tmp_path / "rewards.yaml", "--json")[1])
    scores = [(sample["before"], sample["after"]) for sample in data["samples"]]
    assert scores == [(1.5, 1.0), (2.25, 0.5), (3.0, 0.0)]
    assert data["comparison"]["mean_after"] == 0.5
    assert data["comparison"]["correlation"] == -1.0
    sys.modules.pop("token_rewards")


@pytest.mark.thorough
def test_ten_thousand_samples_take_seconds_and_no_model(tmp_path: Path, rewards: Path) -> None:
    save_run(tmp_path / "run", range(1, 11), [f"word {'and ' * (i % 37)}" for i in range(1000)], group=4)
    code = (
        "import sys\nfrom ppokit.cli import app\n"
        f"app(['rescore', {str(tmp_path / 'run')!r}, '--rewards', {str(rewards)!r}], standalone_mode=False)\n"
        "assert 'transformers.models.auto.modeling_auto' not in sys.modules\n"
    )
    began = time.monotonic()
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert "10000" in completed.stdout
    assert time.monotonic() - began < 30


SEES = """
import json
from pathlib import Path
from ppokit.plugin import ChatPrompt, RewardOutput

class Sees:
    def __init__(self, options, context):
        self.built = [context.chat, context.seed, context.steps]

    def score(self, rollout, context):
        prompts = [p.messages if isinstance(p, ChatPrompt) else p for p in rollout.prompts]
        with open("seen.jsonl", "a") as file:
            file.write(json.dumps([*self.built, context.seed, context.steps, context.step, prompts]) + "\\n")
        draw = context.generator(rollout.ids[0]).random()
        return RewardOutput.from_values([draw] * len(rollout))
"""
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("chat", [True, False])
def test_rewards_are_told_what_the_run_told_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat: bool
) -> None:
    """Chats, seed, steps, and the step by the file's name: not every step need be kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sees_rewards.py").write_text(SEES)
    (tmp_path / "rewards.yaml").write_text("rewards: [{use: 'sees_rewards:Sees'}]")
    prompts = {"path": "p.jsonl", "column": "talk", "chat": chat}
    recipe = json.dumps({"prompts": prompts, "run": {"steps": 9, "seed": 7, "out": "run"}})
    save_run(tmp_path / "run", (3, 8), ["a", "b"], recipe=recipe, row={"talk": CHAT})
    code, out, err = run(tmp_path / "run", "--rewards", tmp_path / "rewards.yaml", "--json")
    assert (code, err) == (0, "")
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    asked = [CHAT if chat else PROMPT] * 2
    assert seen == [[chat, 7, 9, 7, 9, step, asked] for step in (3, 8)]
    expected = RewardContext(seed=7, reward="Sees").generator("sample-0").random()
    assert [sample["after"] for sample in json.loads(out)["samples"]] == pytest.approx([expected] * 4)
    sys.modules.pop("sees_rewards")


@pytest.mark.parametrize("second", ["fails", "is scored"])
def test_what_was_built_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str) -> None:
    """A coroutine too, also where another reward cannot be built."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "closing_rewards.py").write_text(CLOSES)
    uses = "{use: 'closing_rewards:Closes'}, {use: 'closing_rewards:" + second.replace(" scored", "_") + "'}"
    (tmp_path / "rewards.yaml").write_text(f"rewards: [{uses}]")
    (tmp_path / "texts.jsonl").write_text(json.dumps({"response": "a"}) + "\n")
    code, _, err = run("--text", "texts.jsonl", "--rewards", "rewards.yaml")
    assert (code, "ValueError: no file" in err) == ((2, True) if second == "fails" else (0, False)), err
    assert (tmp_path / "closed").read_text() == "once "
    sys.modules.pop("closing_rewards")


CLOSES = """
from ppokit.plugin import RewardOutput, reward

class Closes:
    async def score(self, rollout):
        return RewardOutput.from_values([1.0] * len(rollout))

    async def close(self):
        with open("closed", "a") as file:
            file.write("once ")

def is_(responses):
    return [1.0] * len(responses)

class fails(Closes):
    def __init__(self):
        raise ValueError("no file")
"""
