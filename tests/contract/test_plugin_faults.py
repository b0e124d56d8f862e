"""Plugins that are wrong in one way each: the run ends with exit code 2 and a sentence that names them.

Every sixtieth case runs in `make test`; `make faults` runs all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "plugin_faults.json"
RUNNER = Path(__file__).with_name("fault_runner.py")

NOT_RUN = {
    "loop_forever": "without a timeout a reward may take as long as it likes",
    "obs_hang": "an observer may take as long as it likes",
    "import_slow": "it takes 20 s and works",
    "thread_outlives": "it takes 40 s and works",
    "kind_typo": "not installed under a kind: the recipe cannot name it",
    "no_dot": "not installed under a kind: the recipe cannot name it",
}

HARMLESS = """
    good string_values int_scores float64 bool_scores outcome_list requires_grad token_int huge fork_pool
    spawn_pool alarm spans Upper_Name metric_count metrics_varying nondeterministic est_grad eng_lp_nan
    lie_scored_zero est_good est_float64 est_int est_padding est_state loss_good loss_half
    loss_metric_grad obs_good obs_no_end generator_slow prints_100mb
    warn_each state_in_score state_nan stateful_b1 chdir chdir_score torch_seed num_threads
    many_files observe_learns patch_torch sigint_handler state_tensor state_none
"""
CHANGE_THEIR_OWN_COPY = """
    mutate_texts mutate_row mutate_ids mutate_mask mutate_sampler nested sees_after obs_mutates
"""
WRONG_ON_A_SECOND_PROCESS = "rank_raise rank_exit_ctor rank_raise_ctor rank_observe"
WARNED_OF = "obs_raises obs_end_raises obs_rank_raises"
WORKS = {*f"{HARMLESS} {CHANGE_THEIR_OWN_COPY} {WRONG_ON_A_SECOND_PROCESS} {WARNED_OF}".split()}

INTERRUPTED = {"kbd_step2"}  # as by Ctrl-C

OTHER_WORDS = {
    # What is wrong is a number, or shows only in what follows: the message says where to look.
    "loss_nan": "loss 'loss_nan' is nan, by the samples",
    "loss_detached": "do the recipe's losses use new_logprobs",
}


def cases() -> dict[str, dict[str, Any]]:
    return json.loads(CASES.read_text()) if CASES.is_file() else {}


def chosen() -> list[str]:
    names = [name for name in cases() if name not in NOT_RUN]
    return names if os.environ.get("PPOKIT_ALL_FAULTS") else names[::60]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("faults")
    command = [sys.executable, RUNNER, folder, tiny_model, CASES, *chosen()]
    completed = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    lines = map(json.loads, completed.stdout.splitlines())
    return {line["name"]: line for line in lines}


@pytest.mark.skipif(not CASES.is_file(), reason="needs ../shared/cases")
def test_every_name_is_known() -> None:
    assert {*WORKS, *NOT_RUN, *OTHER_WORDS} <= {*cases()}


@pytest.mark.skipif(not CASES.is_file(), reason="needs ../shared/cases")
@pytest.mark.parametrize("name", chosen())
def test_it_is_named_or_works(results: dict[str, dict[str, Any]], name: str) -> None:
    code, output = results[name]["code"], results[name]["output"]
    assert "a bug in ppokit" not in output
    if name in WORKS:
        assert code == 0, output
        return
    if name in INTERRUPTED:
        assert code == 130, output
        return
    message = " ".join(output[output.find("ppokit: error") :].split())
    assert code == 2, output
    assert OTHER_WORDS.get(name, name) in message
    kind = cases()[name]["kind"]
    assert name in OTHER_WORDS or kind in message, "the recipe's key"
