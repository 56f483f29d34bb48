# Every target sets up what it needs: a virtual environment, the pinned dependencies, then the job.
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-demo lint types bench picture clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(VENV)/.demo ## A model learns, is asked to forget, is audited, and ships: runs/demo/report.html
	$(BIN)/expunge demo

test: lint types $(VENV)/.browser ## Lint, types, import floors and the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

test-slow: $(VENV)/.test $(VENV)/.browser ## The slower tests: ten minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not demo"

test-demo: $(VENV)/.test $(VENV)/.browser ## The demo, killed in every stage: twenty minutes
	$(BIN)/python -m pytest -m demo

lint: $(VENV)/.test ## Style and import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.test ## Strict types
	$(BIN)/mypy

bench: $(VENV)/.test ## Measurements, each beside a peer in the same run
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

picture: $(VENV)/.test $(VENV)/.browser ## Take the picture of the demo's report that the README shows
	$(BIN)/python tests/chromium.py runs/demo/report.html docs/report.png

clean: ## Remove the virtual environment and caches; runs are kept
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build src/*.egg-info

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "expunge needs Python 3.11 or newer"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.venv pyproject.toml constraints.txt embedded.txt
	@echo "Installing (2 GB, once) …"
	$(INSTALL) -e '.[ship]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r embedded.txt
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(INSTALL) -e '.[ship,postgres,tinker,bits,dev]'
	@touch $@

# The report is looked at in a real browser. Without one, and without the right to install one, those tests say so and skip.
$(VENV)/.browser: $(VENV)/.test
	@command -v chromium chromium-browser google-chrome >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	|| $(BIN)/playwright install chromium \
	|| echo "No Chromium: the report's browser tests will skip"
	@touch $@
