# Needs Python >= 3.11, make and a package index; everything else goes into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_FLAGS := --disable-pip-version-check --quiet

.PHONY: help demo test check format bench docs study-pruned clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    fine-tune, score and merge the small demo model"
	@echo "make test    run the tests"
	@echo "make check   lint, formatting, types, freshness of generated pages"
	@echo "make format  apply the formatter and the safe lint fixes"
	@echo "make bench   run the benchmarks"
	@echo "make docs    write docs/config.md from the code and check the links of all pages"
	@echo "make study-pruned  prune, recover and measure the small demo model; writes examples/pruned/README.md"
	@echo "make clean   remove .venv and caches"

# One installation for all targets. torch comes first and alone, under its pin, so that no later resolution can choose
# another build of it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; found " + sys.version.split()[0] + \
		". Use: make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	@echo "setting up $(VENV) (once; downloads torch and transformers)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt torch
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev,demo]'
	@touch $@

demo: $(READY)
	$(BIN)/loratory demo

# Two processes with one thread each. "worksteal" hands each one stretch of the tests, so that the fixtures of a module
# are made once, and moves tests over only when one has run out. Compiled beforehand, the sources are not compiled again
# by every process that a test starts.
TEST_PROCESSES ?= 2
test: $(READY)
	@$(BIN)/python -m compileall -q src
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m docs --check

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m benchmarks

docs: $(READY)
	$(BIN)/python -m docs

study-pruned: $(READY)
	$(BIN)/python examples/pruned/run.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
