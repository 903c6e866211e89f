# One command set, the same for people and CI. Every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n + 1 : 4)))

.PHONY: demo test check bench contract sbom clean setup

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## three agents on one document: make demo, make demo ARGS="--file my.md"
	$(BIN)/orchestrator-free demo $(ARGS)

# The tests wait more than they compute, so one worker more than there are processors. They start real processes on a
# busy machine: a lost race is repeated once, and listed.
test: setup  ## everything that must hold
	.ci/tools
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --reruns 1 --rerun-show-tracebacks -rR $(ARGS)

check: setup  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## the feed beside raw NATS and a Redis baseline
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks.feed $(or $(ARGS),all)

sbom: setup  ## what is installed, as CycloneDX: make sbom ARGS="--output-file sbom.json"
	@$(BIN)/cyclonedx-py environment --output-reproducible $(BIN)/python $(or $(ARGS),--output-file sbom.cdx.json)

contract: setup  ## write broker/ anew
	$(BIN)/python -m orchestrator_free.contract_files broker

clean:
	rm -rf $(VENV) .orchestrator-free .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
