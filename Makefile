# Needs git, make and a Python >= 3.10 with venv. All the rest is installed into $(VENV).
#
#   make test                          with the python3 on PATH (or the first python3.X >= 3.10)
#   make test PYTHON=python3.12        with this one

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# Hundreds of tests start a Python. Where a variable keeps it from writing bytecode, as in many
# containers, each of them would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

VENV ?= .venv
BIN := $(VENV)/bin

# "Usable" is: new enough, and able to make a virtual environment.
usable := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.15 python3.14 python3.13 python3.12 python3.11 python3.10 python; do \
	"$$python" -c '$(usable)' 2>/dev/null && echo "$$python" && break; done)
endif
python_version := $(shell "$(PYTHON)" -c 'import platform; print(platform.python_version())' 2>/dev/null)

# One stamp a step. The first carries the version, so another PYTHON makes the environment anew.
venv_made := $(VENV)/.python-$(python_version)
testing_installed := $(VENV)/.testing-installed
cluster_installed := $(VENV)/.cluster-installed
dev_installed := $(VENV)/.dev-installed
# The other SDKs are installed where they are measured, and nowhere else.
BENCH ?= .venv-bench
bench_installed := $(BENCH)/.bench-installed
# So are the bundlers.
BUNDLES ?= .venv-bundles
bundlers_installed := $(BUNDLES)/.bundlers-installed
# A Python for Windows, and the files of wine.
WINDOWS ?= .venv-windows
windows_installed := $(WINDOWS)/.python-$(python_version)

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

.PHONY: test
test: $(dev_installed) ## Run all the tests
	$(BIN)/python -m pytest -n auto

# Not part of `.ci/run`, only of the nightly run: coverage takes a lock at each traced call, and a
# signal that arrives meanwhile (the tests send many) can leave it locked and hang the test.
.PHONY: coverage
coverage: $(dev_installed) ## Run all the tests, and fail if they take too few of the branches
	$(BIN)/python -m pytest -n auto --cov

.PHONY: demo
demo: $(testing_installed) ## Play a short battle against a collector, show it live, and compare their counts
	$(BIN)/python -m redvsblue_telemetry demo

.PHONY: cluster
cluster: $(cluster_installed) ## Run all parts of a cluster, kill one after the other under load, and compare counts
	$(BIN)/python -m redvsblue_telemetry cluster --kill

.PHONY: lint
lint: $(dev_installed) ## Check the style, the formatting and the English
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python scripts/check_prose.py

.PHONY: format
format: $(dev_installed) ## Format the code and mend what can be mended
	$(BIN)/python -m ruff check --fix-only .
	$(BIN)/python -m ruff format .

.PHONY: types
types: $(dev_installed) ## Check the types
	$(BIN)/python -m mypy

.PHONY: test-all
test-all: ## Run the tests on each Python from 3.10 to 3.15 that this machine has
	+@MAKE="$(MAKE)" sh scripts/test_all.sh

# Not part of `.ci/run`: it needs wine, which is not Windows.
.PHONY: test-windows
test-windows: $(windows_installed) ## Run the tests with a Python for Windows, under wine; installs both
	"$(PYTHON)" scripts/test_windows.py $(WINDOWS)

# Makes "package[extra] >=1.2, <3" to package==1.2.
lowest := s/^ *\([a-z-]*\)\(\[[a-z]*\]\)* *>=\([0-9.]*\).*/\1==\3/p

.PHONY: test-lowest
test-lowest: ## Run the tests with the oldest dependencies that setup.cfg allows
	$(MAKE) VENV=.venv-lowest .venv-lowest/.dev-installed
	.venv-lowest/bin/python -m pip install --quiet $$(sed -n -e '/^install_requires/,/^$$/$(lowest)' \
		-e '/^cluster =/,/^[a-z]* =$$/$(lowest)' setup.cfg)
	.venv-lowest/bin/python -m pytest -n auto

.PHONY: bench
bench: $(bench_installed) ## Measure it beside other SDKs, and by itself; takes more than an hour
	$(BENCH)/bin/python -m benchmarks.side_by_side --json benchmarks/results/side-by-side.json --plots docs/images
	$(BENCH)/bin/python -m benchmarks.frame_cost --json benchmarks/results/frame-cost.json
	$(BENCH)/bin/python -m benchmarks.frame_pairs --json benchmarks/results/frame-pairs.json
	$(BENCH)/bin/python -m benchmarks.frame_pairs --journal --json benchmarks/results/journal-pairs.json
	$(BENCH)/bin/python -m benchmarks.long_emits --busy-disk --json benchmarks/results/long-emits.json
	$(BENCH)/bin/python -m benchmarks.take_over --json benchmarks/results/take-over.json
	$(BENCH)/bin/python -m benchmarks.throughput --json benchmarks/results/throughput.json
	$(BENCH)/bin/python -m benchmarks.throughput --round-trips --json benchmarks/results/round-trips.json
	$(BENCH)/bin/python -m benchmarks.stalls --json benchmarks/results/stalls.json
	$(BENCH)/bin/python -m benchmarks.backlog --json benchmarks/results/backlog.json
	$(BENCH)/bin/python -m benchmarks.collector --json benchmarks/results/collector.json
	$(BENCH)/bin/python -m benchmarks.collector --compression --rounds 9 --json benchmarks/results/collector-compression.json
	$(BENCH)/bin/python -m benchmarks.wire_bytes --json benchmarks/results/wire-bytes.json
	$(BENCH)/bin/python -m benchmarks.peer_bytes --json benchmarks/results/peer-bytes.json
	$(BENCH)/bin/python -m benchmarks.instructions --json benchmarks/results/instructions.json
	$(BENCH)/bin/python -m benchmarks.truth_table --json benchmarks/results/truth-table.json --plots docs/images
	$(BENCH)/bin/python -m benchmarks.page

.PHONY: bench-check
bench-check: $(dev_installed) ## Count the instructions of an emit, where valgrind is installed
	$(BIN)/python -m benchmarks.instructions --check

.PHONY: bundles
bundles: $(bundlers_installed) ## Bundle a game with PyInstaller, cx_Freeze and Nuitka, and check that each delivers
	$(BUNDLES)/bin/python -m bundles

.PHONY: docs
docs: $(dev_installed) ## Write the parts of the docs that are generated
	$(BIN)/python scripts/api_docs.py
	$(BIN)/python -m benchmarks.page

.PHONY: build
build: $(dev_installed) ## Build the wheel and the source distribution into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist

.PHONY: clean
clean: ## Remove all that these commands made
	rm -rf .venv .venv-bench .venv-bundles .venv-lowest .venv-windows .venv-3.* build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(venv_made):
	@"$(PYTHON)" -c '$(usable)' 2>/dev/null || { \
		echo "This needs a Python >= 3.10 with its venv and ensurepip modules." >&2; \
		echo "Tried: $(or $(PYTHON),python3 python3.15 python3.14 python3.13 python3.12 python3.11 python3.10 python)" \
			"$(if $(python_version),(which is $(python_version)))" >&2; \
		echo "Name another one: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	@# Python 3.10.0 to 3.10.2 bring a pip that cannot install a setup.cfg project editable.
	@$(BIN)/python -m pip install --quiet 'pip>=21.3'
	@touch $@

$(testing_installed): $(venv_made) setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[testing,collector]'
	@touch $@

$(cluster_installed): $(venv_made) setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[cluster]'
	@touch $@

$(dev_installed): $(venv_made) setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(testing_installed) $(cluster_installed) $@

$(bench_installed): $(venv_made) setup.cfg pyproject.toml benchmarks/requirements.txt
	"$(PYTHON)" -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --editable '.[dev]' --requirement benchmarks/requirements.txt
	@touch $@

$(windows_installed): setup.cfg scripts/windows_python.sh scripts/windows_requirements.txt
	sh scripts/windows_python.sh "$(or $(PYTHON),python3)" $(WINDOWS)
	@touch $@

# Not editable: PyInstaller and cx_Freeze don't find the modules of an editable package.
$(bundlers_installed): $(venv_made) setup.cfg pyproject.toml bundles/requirements.txt \
		$(shell find redvsblue_telemetry -name '*.py')
	rm -rf build  # modules that are no longer there would be installed from it
	"$(PYTHON)" -m venv $(BUNDLES)
	$(BUNDLES)/bin/python -m pip install --quiet '.[testing]' --requirement bundles/requirements.txt
	@touch $@
