# The set-up of a fresh machine: `make run` and `make test` build .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install run test prove check bench bench-search bench-ingest bench-reports dashboards dashboards-check docs lock clean

install: $(STAMP)  ## the environment in .venv, with .venv/bin/sluice

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "Sluice needs Python 3.11 to 3.13; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: install  ## the demo: PostgreSQL, tenants with data, keys and examples, the server
	$(BIN)/sluice demo

check: install dashboards-check  ## style, types and walls
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m docs.build --check

test: check  ## everything, in under ten minutes
	$(BIN)/pytest -n 2 --dist loadfile -m "not prove"

prove: check  ## the long forms of the same tests
	SLUICE_PROVE=1 $(BIN)/pytest

bench: install  ## bare, shell, plain asyncpg, direct and channel, paired in one run
	$(BIN)/python -m tests.benchmarks.paths

bench-search: install  ## searches among a million encounters, by channel and direct, paired in one run
	$(BIN)/python -m tests.benchmarks.searches

bench-ingest: install  ## claims a minute, SOAP to committed FHIR resources, and what the API sees of it
	$(BIN)/python -m tests.benchmarks.ingest

bench-reports: install  ## reports over a million claims: kept up to date and read while 50 users ask the API
	$(BIN)/python -m tests.benchmarks.reports

dashboards: install  ## grafana/dashboards/*.json from their code
	$(BIN)/python -m grafana.build

dashboards-check: install  ## whether the committed JSON is what the code makes
	$(BIN)/python -m grafana.build --check

docs: install  ## docs/fhir.md from the tables of FHIR
	$(BIN)/python -m docs.build

lock:  ## pins every dependency with its hashes anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-emit-find-links pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-emit-find-links --extra dev --extra tracing pyproject.toml -o requirements-dev.lock

clean:
	rm -rf .venv
