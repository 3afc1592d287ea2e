# Driftwheel: `make demo` runs the wheel, `make test` the tests. Both set everything up first.
# Needs Python 3.11 or newer, make and a Python package registry; nothing else. Tests on a real Kafka broker need Java 17
# and Maven besides (`make system`, `make kafka`) and are skipped without; so are those of the console in a browser.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODELS := $(VENV)/.models
DEMO_ARGS ?=
TEST_ARGS ?=
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench docs schemas kafka system clean

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Driftwheel needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Point PYTHON= at one.")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,dev]'
	@touch $@

$(MODELS): $(STAMP)
	$(BIN)/driftwheel models fetch
	@touch $@

setup: $(STAMP) $(MODELS) ## the environment in .venv and the models

demo: setup ## the whole loop on this machine; options by DEMO_ARGS="--seed 2"
	$(BIN)/driftwheel demo $(DEMO_ARGS)

test: setup lint ## lint, types and tests, in TEST_PROCESSES=2 processes; 0 is in this one
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(TEST_ARGS)

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: setup ## every benchmark; prints ratios
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

docs: $(STAMP) ## write what is generated: the pipeline diagram and the command reference
	$(BIN)/python -m driftwheel.reference

schemas: $(STAMP) ## write schemas/avro from the records
	$(BIN)/python -m schemas.avro_schema

kafka: $(STAMP) ## Apache Kafka's jars into the user's cache, for tests on a real broker; needs Java 17 and Maven
	@$(BIN)/python -m tests.brokers

system: ## Java, Maven and Chromium by apt-get (Debian, Ubuntu; asks sudo unless root); what is there already stays
	@.ci/system java mvn chromium

clean: ## remove the environment
	rm -rf $(VENV)
