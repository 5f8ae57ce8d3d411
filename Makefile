# Everything a checkout needs is installed into .venv by the first command that needs it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.DEFAULT_GOAL := help
.PHONY: help demo chat test check format lint types bench chaos evals record wheel clean

help:  ## What can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /: /'

.venv/run: .ci/requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -r .ci/requirements.txt
	$(PIP) install --no-deps -e .
	@touch $@

.venv/dev: .venv/run .ci/requirements-dev.txt
	$(PIP) install -r .ci/requirements-dev.txt
	@touch $@

demo: .venv/run  ## A scripted conversation on a fresh sandbox: a card, a denial, an approval, the outbox
	$(BIN)/campaign-agent demo

chat: .venv/run  ## Talk to it: the sandbox and the built-in model, unless keys are set
	$(BIN)/campaign-agent chat

# The eval report is tested in a real browser.
.venv/browser: .venv/dev
	@command -v chromium chromium-browser google-chrome >/dev/null || \
		{ apt-get update -q && apt-get install -y -q chromium; } || \
		echo "No Chromium and no way to install it here: tests/test_evals_report.py will fail"
	@touch $@

test: .venv/browser  ## The test suite
	$(BIN)/python -m pytest -n auto

check: format lint types test  ## Format, lint, types, tests

format: .venv/dev
	$(BIN)/ruff format --check .

lint: .venv/dev
	$(BIN)/ruff check .

types: .venv/dev
	$(BIN)/mypy

bench: .venv/dev  ## The figures of the README: speed against a plain SDK loop
	$(BIN)/python -m evals.bench.turn

chaos: .venv/dev  ## 450 trials with kill -9 on each database engine, and what was left; a quarter of an hour
	$(BIN)/python -m evals.chaos

evals: .venv/dev  ## The eval suites from their recordings, offline; results.json and report.html
	$(BIN)/python -m evals run $(SUITE); code=$$?; $(BIN)/python -m evals report; exit $$code

record: .venv/dev  ## Record the eval suites anew with your own model (OPENAI_API_KEY or OPENAI_BASE_URL)
	$(BIN)/python -m evals run $(SUITE) --record

wheel: .venv/dev  ## A wheel in dist/
	$(BIN)/python -m hatchling build -t wheel

clean:  ## Removes what was installed and built
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
