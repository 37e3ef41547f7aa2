# make up    install on the first run, then start the whole stack; Ctrl-C stops it
# make test  install what the tests need, check the code, run every test
# make chaos break workers, clients, Redis and the network in mid-answer, 50 times each (hours)
# make check format, lint and types only

PYTHON ?= python3
VENV ?= .venv
# Test files at a time: most of what they do is to wait, those of faults most of all.
JOBS ?= 3
CHAOS_JOBS ?= 6
# These have the machine to themselves: they compile a model, have a browser show a megabyte, and
# measure how evenly streams come.
ALONE = tests/chaos/test_compiled.py tests/chaos/test_many.py tests/frontend/test_ui_output.py \
  tests/frontend/test_ui_cost.py tests/frontend/test_ui_crowd.py \
  tests/chaos/test_slow_readers.py::test_fifty_slow_readers_beside_fifty_others
# Faults that take longest are begun first: otherwise one processor would end with them alone.
LONG = $(addprefix tests/chaos/test_,network.py redis.py readers.py clocks.py bodies.py slow_readers.py)
OTHERS = $(filter-out $(LONG),$(wildcard tests/chaos/test_*.py))
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest $(PYTEST_FLAGS)
BESIDE = $(ALONE:%=--deselect %) --dist loadfile --no-loadscope-reorder -n
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: up test chaos check install install-dev

up: install
	@exec $(BIN)/python -m broker up

# All parts run, whatever becomes of the first; those of faults end with their lines of figures.
test: check
	@status=0; \
	$(PYTEST) $(BESIDE) $(JOBS) --ignore tests/chaos || status=$$?; \
	$(PYTEST) $(BESIDE) $(CHAOS_JOBS) $(LONG) $(OTHERS) || status=$$?; \
	$(PYTEST) $(ALONE) || status=$$?; \
	exit $$status

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
