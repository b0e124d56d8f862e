"""A run's folder: where it may be, what it holds, and what a resumed run forgets."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from ppokit.errors import RunFolderError
from ppokit.plugin.types import Advantages, Rewards
from ppokit.run.provenance import provenance
from ppokit.run.run_dir import RunDir
from rollouts import make_rollout


def opened(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.begin("model: x\n", {"hashes": {}})
    run_dir.open()
    return run_dir


def reopened(tmp_path: Path, step: int) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.resume(step, "model: y\n")
    run_dir.open()
    return run_dir


class TestCheckNew:
    def test_new_and_empty_folders_will_do_and_nothing_is_made(self, tmp_path: Path) -> None:
        RunDir.check_new(tmp_path)
        RunDir.check_new(tmp_path / "a" / "b")
        assert list(tmp_path.iterdir()) == []

    def test_a_relative_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        RunDir.check_new(Path("runs/one"))

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        with pytest.raises(RunFolderError, match="f is a file"):
            RunDir.check_new(tmp_path / "f")
        with pytest.raises(RunFolderError, match=r"cannot be created: .*f is not a writable folder"):
            RunDir.check_new(tmp_path / "f" / "run")

    def test_a_folder_that_holds_something(self, tmp_path: Path) -> None:
        (tmp_path / "x").touch()
        with pytest.raises(RunFolderError, match=r"not empty. Choose another folder") as caught:
            RunDir.check_new(tmp_path)
        assert "--resume" not in str(caught.value)
        (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
        with pytest.raises(RunFolderError, match="ppokit train --resume"):
            RunDir.check_new(tmp_path)

    def test_a_folder_that_may_not_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
        with pytest.raises(RunFolderError, match=r"cannot be created: .* is not a writable folder"):
            RunDir.check_new(tmp_path / "a" / "b")


class TestMetrics:
    def test_what_is_not_finite_becomes_null(self, tmp_path: Path) -> None:
        run_dir = opened(tmp_path)
        run_dir.add_metrics(1, {"a": 0.1, "b": math.nan, "c": math.inf, "d": -math.inf})
        text = run_dir.metrics_file.read_text()
        strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert strict == {"step": 1, "a": 0.1, "b": None, "c": None, "d": None}

    def test_a_line_that_a_kill_cut_short_is_left_out(self, tmp_path: Path) -> None:
        run_dir = opened(tmp_path)
        for step in (1, 2):
            run_dir.add_metrics(step, {"a": step})
        text = run_dir.metrics_file.read_text()
        for cut in range(1, len('{"step": 2, "a": 2}')):
            run_dir.metrics_file.write_text(text[: len(text) - 1 - cut])
            assert [line["step"] for line in run_dir.read_metrics()] == [1]

    def test_reopening_forgets_what_came_after(self, tmp_path: Path) -> None:
        run_dir = opened(tmp_path)
        for step in range(1, 6):
            run_dir.add_metrics(step, {"a": step})
            (run_dir.folder / "rollouts" / f"step-{step:06d}.parquet").touch()
        with run_dir.metrics_file.open("a") as file:
            file.write('{"step": 6, "a"')
        run_dir = reopened(tmp_path, 3)
        assert [line["step"] for line in run_dir.read_metrics()] == [1, 2, 3]
        kept = sorted(path.name for path in (run_dir.folder / "rollouts").iterdir())
        assert kept == [f"step-{step:06d}.parquet" for step in (1, 2, 3)]
        assert (run_dir.folder / "recipe.yaml").read_text() == "model: y\n"
        run_dir.add_metrics(4, {"a": 40})
        assert [line["a"] for line in run_dir.read_metrics()] == [1, 2, 3, 40]

    def test_reopening_where_samples_and_numbers_were_removed(self, tmp_path: Path) -> None:
        run_dir = opened(tmp_path)
        run_dir.metrics_file.unlink()
        (run_dir.folder / "rollouts").rmdir()
        run_dir = reopened(tmp_path, 3)
        run_dir.add_metrics(4, {"a": 40})
        assert [line["step"] for line in run_dir.read_metrics()] == [4]
        assert (run_dir.folder / "rollouts").is_dir()

    def test_reopening_what_cannot_be_written(self, tmp_path: Path) -> None:
        run_dir = opened(tmp_path)
        (run_dir.folder / "rollouts").rmdir()
        (run_dir.folder / "rollouts").touch()
        with pytest.raises(RunFolderError, match=r"run\.out: .*cannot be written"):
            reopened(tmp_path, 3)


class TestWarnings:
    def test_reopening_forgets_those_that_came_after(self, tmp_path: Path) -> None:
        """The run warns again where it does the same again."""
        run_dir = opened(tmp_path)
        for step in (0, 1, 2):
            run_dir.add_warning(step, f"of step {step}\nü")
        with run_dir.warnings_file.open("a") as file:
            file.write('{"step": 2, "te')
        run_dir = reopened(tmp_path, 1)
        run_dir.add_warning(2, "again")
        lines = [json.loads(line) for line in run_dir.warnings_file.read_text().splitlines()]
        expected = {0: "of step 0\nü", 1: "of step 1\nü", 2: "again"}
        assert lines == [{"step": step, "text": text} for step, text in expected.items()]

    def test_there_is_no_file_without_any(self, tmp_path: Path) -> None:
        opened(tmp_path)
        assert not reopened(tmp_path, 1).warnings_file.exists()


class TestPlot:
    @pytest.mark.parametrize("with_kl", [True, False])
    def test_a_png(self, tmp_path: Path, with_kl: bool) -> None:
        run_dir = opened(tmp_path)
        for step in (1, 2, 3):
            kl = {"kl/k1": 0.1} if with_kl and step > 1 else {}
            run_dir.add_metrics(step, {"reward/mean": math.nan if step == 2 else 1.0, **kl})
        run_dir.plot()
        data = run_dir.plot_file.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert data.endswith(b"IEND\xaeB`\x82")


def test_a_rollouts_file_holds_every_sample_without_padding(tmp_path: Path) -> None:
    run_dir = opened(tmp_path)
    rollout = make_rollout(
        [[1, 2], [3]],
        [[4, 5], [6]],
        old_logprobs=torch.tensor([[-1.0, -2.0], [-3.0, 9.0]]),
        ref_logprobs=torch.tensor([[-1.5, -1.0], [-3.0, 7.0]]),
    )
    rewards = Rewards(
        token_rewards=torch.tensor([[0.0, 1.0], [2.0, 0.0]]),
        scores=torch.tensor([1.0, 2.0]),
        breakdown={"length": torch.tensor([1.0, math.nan])},
        outcomes={"length": ("scored", "abstained")},
        scored=torch.tensor([True, False]),
        trained=torch.tensor([True, False]),
        reasons={"length": ("", "OSError: down")},
        seconds={"length": torch.tensor([0.5, 30.0])},
        parts={"length/short": torch.tensor([0.5, math.nan])},
        notes={"length/why": ("so", "")},
    )
    run_dir.add_rollout(7, rollout, rewards, Advantages(torch.tensor([[0.5, 0.25], [-1.0, 9.0]])))
    table = pq.read_table(run_dir.folder / "rollouts" / "step-000007.parquet").to_pydict()
    assert table["response_ids"] == [[4, 5], [6]]
    assert table["prompt_ids"] == [[1, 2], [3]]
    assert table["kl/k1"] == [[0.5, -1.0], [0.0]]
    assert table["advantages"] == [[0.5, 0.25], [-1.0]]
    assert table["token_rewards"] == [[0.0, 1.0], [2.0]]
    assert table["outcome/length"] == ["scored", "abstained"]
    assert table["reason/length"] == ["", "OSError: down"]
    assert table["seconds/length"] == [0.5, 30.0]
    assert table["part/length/short"][0] == 0.5
    assert table["note/length/why"] == ["so", ""]
    assert table["scored"] == table["trained"] == [True, False]
    assert [json.loads(row) for row in table["row"]] == [{"row": 0}, {"row": 1}]
    assert [path.name for path in (run_dir.folder / "rollouts").iterdir()] == ["step-000007.parquet"]


def test_a_step_that_failed_is_kept_without_rewards(tmp_path: Path) -> None:
    run_dir = opened(tmp_path)
    run_dir.add_rollout(1, make_rollout([[1]], [[2]]), None, Advantages(torch.zeros(1, 1)))
    table = pq.read_table(run_dir.folder / "rollouts" / "step-000001.parquet")
    assert {"id", "advantages"} <= set(table.column_names)
    assert not {"score", "kl/k1"} & set(table.column_names)


def test_the_policy_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    run_dir = opened(tmp_path)

    def saving(*names: str, error: BaseException | None = None) -> Callable[[Path], None]:
        def save(folder: Path) -> None:
            for name in names:
                (folder / name).touch()
            if error is not None:
                raise error

        return save

    run_dir.replace_policy(saving("old"))
    with pytest.raises(KeyboardInterrupt):
        run_dir.replace_policy(saving("half", error=KeyboardInterrupt()))
    assert [path.name for path in run_dir.policy_folder.iterdir()] == ["old"]
    run_dir.replace_policy(saving("new"))
    assert [path.name for path in run_dir.policy_folder.iterdir()] == ["new"]
    assert not list(run_dir.folder.glob(".*"))


def test_provenance_names_versions_and_plugins() -> None:
    machine = {"cpu": "A CPU", "cores": 2}
    plugins = {"rewards[0]": "acme 1.0"}
    result = provenance(plugins, {}, {"recipe": "abc"}, machine=machine, longest_text=40)
    assert result["versions"]["torch"] == torch.__version__
    assert result["plugins"] == {"rewards[0]": "acme 1.0"}
    assert result["hashes"] == {"recipe": "abc"}
    assert result["machine"] == machine
    json.dumps(result)


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"longest_text": "40"}'])
def test_a_run_that_does_not_say_how_long_its_texts_are(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "provenance.json").write_text(content)
    assert RunDir(tmp_path).longest_text() is None


def test_how_long_a_runs_texts_are(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps(provenance({}, {}, {}, machine={}, longest_text=40)))
    assert RunDir(tmp_path).longest_text() == 40
