# Everything runs in one virtual environment, made on first use and again only when what it installs has changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help venv demo lint format test golden slow site wheel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/dev.stamp ## the virtual environment with the tools of a developer

# torch has a command of its own: the largest wheel, and the one whose build (CPU, CUDA) the machine's index decides.
$(VENV)/runtime.stamp: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) setuptools
	$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp
	$(PIP) --no-build-isolation -e '.[all,dev]'
	@$(PIP) pesq || echo "pesq could not be built (it needs a C compiler); its tests are skipped"
	@touch $@

demo: $(VENV)/runtime.stamp ## distils the shipped teacher and writes runs/demo/report.html
	$(BIN)/omnidistill demo out=runs/demo

# mypy and import-linter read folders, not import hooks: they get a copy in which the folders lie as they are imported.
lint: $(VENV)/dev.stamp ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build/lint && mkdir -p build/lint && cp -Rp omnidistill build/lint/
	@cp -Rp modalities configs build/lint/omnidistill/
	cd build/lint && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p omnidistill
	cd build/lint && $(abspath $(BIN))/lint-imports --config $(CURDIR)/pyproject.toml --no-cache --no-logo

format: $(VENV)/dev.stamp ## rewrites the sources in the one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A worker for each core, each with one thread: two workers of two threads on two cores would stall each other.
test: lint ## lint and the tests that take minutes together
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow"

golden: $(VENV)/dev.stamp ## losses and gradient norms of every recipe, written anew for the tests to compare with
	$(BIN)/python tests/golden.py

slow: $(VENV)/dev.stamp ## the tests that are left out of `make test`
	$(BIN)/python -m pytest -q -m slow

site: $(VENV)/dev.stamp ## the documentation, in site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: $(VENV)/dev.stamp ## the sdist, and the wheel made from it, in dist/
	$(BIN)/python -m build --no-isolation

clean: ## removes what the targets above made, but for runs/
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
