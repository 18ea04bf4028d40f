# Every target sets up what it needs: nothing has to be run before it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_FLAGS ?=

.PHONY: help install demo test check bench docs clean

help:
	@echo "make demo     the main job in four to six minutes; ends with runs/demo/report.html"
	@echo "make test     the tests"
	@echo "make check    all that CI checks: format, lint, types, import order, tests, README commands, docs"
	@echo "make bench    the penalty's speed against its textbook form"
	@echo "make docs     the documentation, in site/"
	@echo "make install  the virtual environment alone, in $(VENV)"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

demo: install
	$(BIN)/hessian-penalty demo $(DEMO_FLAGS)

test: install
	$(BIN)/pytest -q

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test
	$(MAKE) docs

bench: install
	$(BIN)/python benchmarks/penalty.py

docs: install
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache
