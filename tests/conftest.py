"""What every test may use. Tests never reach a network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Scripts of metrics are copied there and imported from there, once per process.
os.environ.setdefault("HF_MODULES_CACHE", str(Path(tempfile.gettempdir()) / "ppokit-tests-modules"))
# The test models are tiny: a second thread waits for the first more than it helps.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every CI run, so that a failure there comes from the change; new ones elsewhere.
settings.register_profile("ppokit", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("ppokit")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
NEEDS_SHARED = "needs ../shared"


PLUGINS = ("advantage", "loss", "rollout", "evaluator", "observer")
PRESETS = ("rloo", "reinforce_plus_plus", "gspo", "cispo", "dr_grpo")
OF_PRESETS = (
    "test_loop.py::test_readmes_own_loop_is_what_train_runs",
    "test_presets.py::test_it_is_a_recipe_of_ordinary_keys",
)
"""Tests of every preset, plugin kind and so on, of which some stand for all in `make test`."""

THOROUGH = (
    "test_resume.py::test_resumed_equals_straight[4 bits]",
    "test_resume.py::test_resumed_equals_straight[all weights]",
    "test_two_processes.py::test_two_equal_one[2-policy_trunk]",
    "test_two_processes.py::test_two_go_on_where_one_stopped",
    "test_two_processes.py::test_accelerate_launch_is_the_same_program",
    "test_two_processes.py::test_a_reward_that_fails_on_one_process_stops_both",
    "test_learning.py::test_reward_rises",
    "test_hostile_page.py::test_a_hundred_steps_fit_and_what_was_left_out_is_said",
    "test_hostile_page.py::test_six_thousand_steps_of_eighty_metrics_fit",
    "test_presets.py::test_it_learns[dapo]",
    "test_presets.py::test_without_learning_nothing_rises",
    "test_resume.py::test_resumed_equals_straight[fp32]",
    "test_interrupts.py::test_between_and_within_steps[SIGTERM]",
    "test_agreement.py::test_the_interval_holds_the_truth",
    "test_two_processes.py::test_two_evaluate_as_one",
    "test_resume.py::test_more_steps_by_override",
    "test_overlap.py::test_a_run_that_goes_on_trains_on_what_was_answered",
    "test_overlap.py::test_responses_that_are_left_out_keep_their_old_logprobs",
    "test_two_processes.py::test_two_overlap_as_one",
    "test_overlap.py::test_with_greedy_answers_and_dynamic_sampling",
    "test_resume.py::test_a_step_that_came_after_the_checkpoint_is_written_once",
    "test_cli_train.py::TestOut::test_an_awkward_place",
    "test_interrupts.py::test_a_reader_that_leaves",
    "test_server_engine.py::test_a_run_goes_on_as_if_it_had_not_stopped",
    "test_mutants.py::test_each_is_noticed",
    "test_cli_ratings.py::test_real_files",
    "test_invariance.py::test_in_two_processes",
    "test_runs.py::test_the_same_run_twice_and_resumed[bfloat16]",
    "test_numbers.py::test_roles_and_gradients[lora-padded-",
    "test_numbers.py::test_roles_and_gradients[lora-packed-bf16]",
    "test_numbers.py::test_roles_and_gradients[full-packed-",
    "test_numbers.py::test_roles_and_gradients[full-padded-bf16]",
    "test_numbers.py::test_roles_and_gradients[4 bits-packed-",
    "test_numbers.py::test_roles_and_gradients[4 bits-padded-fp32]",
    "test_interrupts.py::test_while_a_reward_takes_its_time",
    "test_loading.py::TestSmolLM2",
    "test_quantization.py::test_nothing_advises_to_install_another_package",
    "test_reward_role.py::test_a_resumed_run_keeps_both",
    "test_uses.py::TestEach::test_two_steps_of_the_model_itself",
    "test_cli_gain.py",
    "test_stats.py::test_plots[ratings]",
    "test_stats.py::test_plots[many raters]",
    "test_on_a_card.py",
    "test_cli_reward.py::test_real_ratings_rise_above_chance",
    "test_cli_reward.py::test_a_recipe_trains_with_what_was_fitted",
    "test_two_processes.py::test_what_fails_on_one_process_ends_both",
    "test_page_soak.py",
    "test_presets.py::test_it_is_a_recipe_of_ordinary_keys[dapo]",
    "test_presets.py::test_it_is_a_recipe_of_ordinary_keys[remax]",
    "test_run_in_four_bits.py::test_a_run_and_its_policy[bfloat16]",
    "test_reward_role.py::test_the_value_function_begins_as_the_reward_model",
    "test_resume.py::TestWhatCannotBeResumed::test_damaged[state is a list]",
    "test_resume.py::TestWhatCannotBeResumed::test_damaged[short weights]",
    "test_evaluated_runs.py::test_training_is_the_same_without_it",
    "test_evaluated_runs.py::test_the_best_policy_is_that_of_its_evaluation_and_metrics_are_those_of_the_libraries",
    "test_cli_evaluate.py::test_four_side_by_side_as_plain_transformers_answers",
    "test_cli_reward.py::test_pairs_become_an_adapter",
    "test_cli_reward.py::test_halves_of_the_raters",
    "test_cli_reward.py::test_an_adapter_whose_base_has_gone",
    "test_cli_reward.py::test_a_recipe_fits_what_the_command_fits[save_pairs]",
    "test_runs.py::test_it_learns_and_the_sampler_is_the_trainer[ppo]",
    "test_page_raters.py",
    "test_page_pairs.py",
    "test_page_hostile.py",
    *(
        f"test_invariance.py::test_in_one_process[{preset}]"
        for preset in ("dapo", "dr_grpo", "rloo", "cispo", "remax", "reinforce_plus_plus")
    ),
    "test_examples.py::test_one_file_experiment",
    "test_examples.py::test_politeness",
    "test_pages.py::test_commands_run[docs/plugins.md]",
    "test_signals.py::test_a_second_signal_ends_a_process_in_which_python_does_not_run",
    "test_timed_worker.py::test_state_outlives_the_process",
    "test_timed_worker.py::test_it_hears_of_events",
    "test_timed_worker.py::test_state_is_that_of_one_process",
    "test_timed_worker.py::test_a_coroutine_is_cancelled_though_nothing_showed_it",
    "test_timed_worker.py::test_it_does_not_outlive_a_trainer_that_is_killed",
    *(f"test_new_plugin.py::test_it_conforms_and_is_tidy[{kind}]" for kind in PLUGINS),
    *(f"{test}[{preset}]" for test in OF_PRESETS for preset in PRESETS),
)
"""Tests of half a minute each whose like is among the others; `make thorough` runs them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, then those that train: else one process ends with them alone."""
    for item in items:
        if any(name in item.nodeid for name in THOROUGH):
            item.add_marker(pytest.mark.thorough)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent.name != "recipes"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """The summary's last line counts the tests on real data that were not run."""
    yield
    skipped = terminalreporter.getreports("skipped")
    if count := sum(NEEDS_SHARED in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(f"{count} tests need ../shared: not run", yellow=True)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Folder of a trained causal LM of 260,000 parameters that tells short stories."""
    from tiny_model import tiny_model_folder

    return tiny_model_folder()


@pytest.fixture(scope="session")
def shared_ratings() -> Path:
    """Folder of real ratings beside the clone; a test on them skips where there are none."""
    folder = SHARED / "data" / "ratings"
    if not folder.is_dir():
        pytest.skip(f"{NEEDS_SHARED}/data/ratings")
    return folder
