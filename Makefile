# `make demo`: set up and run the whole flow. `make test`: set up and run all checks and tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is not kept compiled is compiled anew by every process, and tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick lint format lock clean

demo: $(VENV)/installed
	$(BIN)/ampflow demo demo

# Files of tests go to two processes, in the order of their names: those that wait longest come first.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST)

# What to run while working: leaves out the tests that take minutes.
quick: lint
	$(PYTEST) -m "not slow and not cluster and not browser"

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Resolve the versions anew from pyproject.toml, in an environment of its own.
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet '.[dev]'
	build/lock/bin/python -m pip freeze --exclude ampflow | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) build demo
