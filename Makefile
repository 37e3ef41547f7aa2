# make up    install on the first run, then start the whole stack; Ctrl-C stops it
# make test  install what the tests need, check the code, run every test
# make chaos break workers, clients, Redis and the network in mid-answer, 50 times each (hours)
# make check format, lint and types only

PYTHON ?= python3
VENV ?= .venv
# Test files at a time: most of what they do is to wait.
JOBS ?= 2
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: up test chaos check install install-dev

up: install
	@exec $(BIN)/python -m broker up

test: check
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

chaos: install-dev
	$(BIN)/python -m pytest tests/chaos --chaos-runs $(or $(RUNS),50)

check: install-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV); this happens once and takes a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	@touch $@
