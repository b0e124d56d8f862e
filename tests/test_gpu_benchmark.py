"""benchmarks/gpu as a dry run, in tiny sizes on the CPU; and its pack's check of what is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ppokit.errors import PluginError

REPOSITORY = Path(__file__).resolve().parent.parent
GPU = REPOSITORY / "benchmarks" / "gpu"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(GPU)


def dry_run(part: int, out: Path) -> dict[str, dict[str, object]]:
    """A part's figures by section."""
    from sections import PARTS

    command = [sys.executable, GPU / "prove.py", "--dry-run", "--part", str(part), "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    file = out / f"part{part}.json"
    assert file.exists(), done.stderr
    result = json.loads(file.read_text(), parse_constant=pytest.fail)  # no NaN, which is no JSON
    sections: dict[str, dict[str, object]] = result["sections"]
    assert list(sections) == ["card", *(name for name, _, _ in PARTS[part])]
    assert "CPU" in str(sections["card"]["card"])
    assert f"ppokit on {sections['card']['card']}" in file.with_suffix(".md").read_text()
    failed = {name: figures["error"] for name, figures in sections.items() if "error" in figures}
    if find_spec("trl") is None:
        del failed["trl_grpo"]
    log = out / "gpu_tests.log"
    assert not failed, log.read_text()[-9000:] if "gpu_tests" in failed else done.stderr[-5000:]
    return sections


@pytest.mark.slow
def test_part_1(tmp_path: Path) -> None:
    """The tests marked `gpu` among it, which `make test` runs here alone."""
    sections = dry_run(1, tmp_path)
    tests = sections["gpu_tests"]
    assert re.fullmatch(r"\d+ passed, \d+ deselected.*", str(tests["summary"]))
    assert tests["same run again is bit for bit the same, float32"] is True
    assert {"audit_gb", "peak_gb", "peak_of_audit"} <= set(sections["memory"])


@pytest.mark.slow
def test_part_2(tmp_path: Path) -> None:
    sections = dry_run(2, tmp_path)
    phases = {f"time/{name}_s" for name in ("sampling", "reference", "reward", "update")}
    for step in (sections[f"step {size}"] for size in ("0.5B", "1.5B", "7B")):
        assert {*phases, "memory/peak_gb", "tokens_per_s"} <= set(step)
        assert 0 < float(str(step["update_share_of_matrix_rate"])) < 1
        assert 0 < float(str(step["sampling_share_of_bandwidth_floor"])) < 1
    assert {name: sections["largest_batch"][name] for name in ("update_texts", "responses")} == {
        "update_texts": 4,
        "responses": 4,
    }
    if find_spec("trl") is not None:
        assert float(str(sections["trl_grpo"]["ppokit_time_of_trl"])) > 0


def test_a_section_that_fails_or_runs_over_is_recorded_with_what_it_had(tmp_path: Path) -> None:
    import os
    import time

    import prove

    bench = prove.Bench(True, tmp_path)

    def then(what: Callable[[], object]) -> Callable[[object], dict[str, object]]:
        def measure(bench: object) -> dict[str, object]:
            prove.Bench.keep(bench, first=1)
            what()
            return {"second": 2}

        return measure

    for what, limit, error in (
        (lambda: 1 / 0, 9.0, "ZeroDivisionError: division by zero"),
        (lambda: time.sleep(60), 0.4, "stopped after 0 s"),
        (lambda: os.kill(os.getpid(), 9), 9.0, "ended by signal 9"),
    ):
        figures = bench.run(then(what), limit)
        assert figures.pop("seconds") < 5
        assert figures == {"first": 1, "error": error}
    good = bench.run(then(lambda: None), 9.0)
    assert {name: good[name] for name in ("first", "second")} == {"first": 1, "second": 2}
    assert list(tmp_path.iterdir()) == []


def test_a_section_does_not_outlive_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    import prove

    pids: list[int] = []
    fork = os.fork

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fork", lambda: pids.append(fork()) or pids[0])
    monkeypatch.setattr(prove.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prove.Bench(True, tmp_path).run(lambda bench: {"": signal.pause()}, 60.0)
    with pytest.raises(ChildProcessError):
        os.waitpid(pids[0], os.WNOHANG)


def test_figures_of_another_card_are_not_mixed_in(tmp_path: Path) -> None:
    file = tmp_path / "part1.json"
    file.write_text(json.dumps({"sections": {"card": {"card": "H100"}, "memory": {"peak_gb": 5.0}}}))
    before = file.read_text()
    command = [sys.executable, GPU / "prove.py", "--dry-run", "--part", "1", "--only", "ceilings"]
    done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True, check=False)
    assert "part1.json has figures of H100; expected none: a dry run on the CPU" in done.stderr
    assert file.read_text() == before


def test_what_ppokit_warns_of_stands_with_the_figures(tmp_path: Path) -> None:
    import warnings

    import prove

    from ppokit.errors import PpokitWarning

    def measure(bench: prove.Bench) -> dict[str, object]:
        warnings.warn("it samples without torch.compile", PpokitWarning, stacklevel=1)
        warnings.warn("of a library", FutureWarning, stacklevel=1)
        return {"figure": 1}

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        figures = prove.Bench(True, tmp_path).run(measure, 9.0)
    assert figures["warnings"] == ["it samples without torch.compile"]
    assert figures["figure"] == 1


def test_the_card_says_what_torch_compile_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import prove

    monkeypatch.setenv("CXX", "no-such-compiler")
    figures = prove.card(prove.Bench(True, tmp_path))
    assert figures["torch.compile"].startswith(
        "not here: this machine lacks a C++ compiler (no-such-compiler;"
    )


def test_operations_of_an_update() -> None:
    """By hand: a layer of 34 weights, 2 tokens of which one is trained on, a head of 2 x 5."""
    from speed import update_flops
    from work import Shape, Work

    shape = Shape(2, 3, 1, 1, 1, True, vocabulary=5)
    work = Work(prompts=1, prompt_tokens=1, new_tokens=1)
    # A token's 2 x 34 forward and as many backward; half of 2 tokens attended to, at 2 x 2 per product, in
    # two products forward and four backward.
    layers, head = 2 * (2 * 68 + 8 + 16), 2 * 2 * 2 * 5
    assert update_flops(shape, work, 1, value=False) == layers + head
    assert update_flops(shape, work, 2, value=True) == pytest.approx(2 * (layers * 4 / 3 + head))


@pytest.mark.parametrize(("fits", "first"), [(44, 1), (64, 1), (5, 32), (0, 4), (63, 64), (47, 32)])
def test_the_largest_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int, first: int
) -> None:
    """What fails is one more than what fits. An engine raises it as the cause of its own error."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # a second each among the tests' objects
    import prove
    from speed import largest

    bench = prove.Bench(True, tmp_path)

    def run(count: int) -> dict[str, object]:
        if count > fits:
            raise PluginError("rollout 'transformers': generate failed") from torch.OutOfMemoryError()
        return {"count": count}

    largest(bench, "count", first, 64, run, 60.0)
    largest_that_fits = {"count": fits} if fits else {}
    too_many = {"count_too_many": fits + 1} if fits < 64 else {}
    assert bench.kept == {**largest_that_fits, **too_many}


def test_what_else_fails_in_the_search_is_an_error_and_its_seconds_end_it(tmp_path: Path) -> None:
    import prove
    from speed import largest

    bench = prove.Bench(True, tmp_path)
    with pytest.raises(ZeroDivisionError):
        largest(bench, "count", 1, 4, lambda count: {"count": 1 // (count - 2)}, 60.0)
    largest(bench, "count", 3, 64, lambda count: {"count": count}, -1.0)
    assert bench.kept == {"count": -1}  # no run was begun


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in needs)]
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines))


def test_what_the_pack_lacks(tmp_path: Path) -> None:
    import pack

    wheel(
        tmp_path, "one", "1.0", "torch>=2.0", "two>=1", 'winonly; sys_platform == "win32"', 'x; extra == "y"'
    )
    wheel(tmp_path, "two", "1.5", "transformers>=6", "nowhere", "jsonschema")
    assert pack.missing(tmp_path) == [
        "two needs transformers>=6, and 5.17.0 is there",
        "two needs nowhere, which is neither carried nor in machine.txt",
    ]


def test_a_trimmed_wheel_keeps_its_record(tmp_path: Path) -> None:
    import pack

    path = tmp_path / "bitsandbytes-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("cpu", "cuda130", "cuda124", "rocm70"):
            archive.writestr(f"bitsandbytes/libbitsandbytes_{name}.so", name * 9)
        archive.writestr("bitsandbytes-1.0.dist-info/RECORD", "")
    pack.trim(path)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        record = archive.read("bitsandbytes-1.0.dist-info/RECORD").decode().splitlines()
    assert {name for name in names if name.endswith(".so")} == {
        f"bitsandbytes/libbitsandbytes_{name}.so" for name in ("cpu", "cuda130")
    }
    assert {line.split(",")[0] for line in record} == names


def test_every_dependency_is_carried_on_the_machine_or_left_out(tmp_path: Path) -> None:
    """Of ppokit; `make gpu-pack` asks the same of what each wheel needs."""
    import tomllib

    import pack

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for text in pack.WHEELS:
        wheel(tmp_path, *text.split("=="))
    wheel(tmp_path, "ppokit", "0.1", *project["dependencies"])
    assert pack.missing(tmp_path) == []
