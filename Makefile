# All that is needed is make and Python 3.11, 3.12 or 3.13.  `make help` lists the targets.
# Paths are relative throughout, so the checkout may lie in a folder with spaces in its name.

PYTHON ?= python3
# Tests in their order go to a process, which compiles what those of a file share only once; one that
# is done early takes over from others.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist worksteal

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
PIP_INSTALL := $(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check

# Each stamp is touched once what it names is complete; a later call finds it and skips the step.
CREATED := $(VENV)/.stamp-created
INSTALLED := $(VENV)/.stamp-installed
INSTALLED_TEST := $(VENV)/.stamp-installed-test
INSTALLED_DEV := $(VENV)/.stamp-installed-dev
INSTALLED_DOCS := $(VENV)/.stamp-installed-docs
INSTALLED_BENCH := $(VENV)/.stamp-installed-bench
INSTALLED_NOTEBOOKS := $(VENV)/.stamp-installed-notebooks
BENCHMARKS := predict gradient tuning sweep proximal variance scaling simulation error_bars robustness

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help predict test test-slow bench figures notebooks lint docs format clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s  %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  PYTHON=python3.12     the interpreter that .venv is created with (default: python3)'
	@echo '  PYTEST_ARGS="-n 0"    arguments for pytest (default: up to four processes)'

predict: $(INSTALLED) ## install the package and print one prediction of the theory
	$(VENV)/bin/jaxlora predict --tokens 3 --activation softmax --kappa0 1 --kappa 1 --alpha 0.1 --delta 0.5 --lam 0.05 --alpha-ft 3 --lam-ft 0.2

test: $(INSTALLED_TEST) ## run the default test suite
	$(VENV_PYTHON) -m pytest $(PYTEST_ARGS)

test-slow: $(INSTALLED_TEST) ## run the tests marked slow
	$(VENV_PYTHON) -m pytest -m slow $(PYTEST_ARGS)

bench: $(INSTALLED_BENCH) ## run every benchmark (one to two hours); results go to benchmarks/results
	status=0; for name in $(BENCHMARKS); do \
	  echo "== $$name"; $(VENV_PYTHON) benchmarks/$$name.py || status=1; done; exit $$status

figures: $(INSTALLED) ## draw the paper's figures in theory, into figures/
	$(VENV)/bin/jaxlora figure 1 2 3 4 5 6 --theory-only

notebooks: $(INSTALLED_NOTEBOOKS) ## execute the notebooks (some ten minutes) and keep what they show
	$(VENV_PYTHON) notebooks/execute.py

lint: $(INSTALLED_DEV) ## check style, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright

docs: $(INSTALLED_DOCS) ## build the documentation, docs/_build/html/index.html
	$(VENV_PYTHON) -m sphinx -W --keep-going --quiet -d docs/_build/doctrees docs docs/_build/html

format: $(INSTALLED_DEV) ## apply the formatter and the safe fixes
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove caches and build output, keep .venv
	rm -rf build dist docs/_build .pytest_cache .ruff_cache *.egg-info
	find . -path ./$(VENV) -prune -o -path ./.git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## as clean, and remove .venv
	rm -rf $(VENV)

$(CREATED):
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "jaxlora needs Python 3.11, 3.12 or 3.13, but there is no $(PYTHON); name one with make PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit("jaxlora needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is Python %d.%d; name another with make PYTHON=..." % v)'
	@"$(PYTHON)" -c 'import ensurepip, venv' >/dev/null 2>&1 || { \
	  echo "jaxlora needs the venv module, which $(PYTHON) lacks; on Debian or Ubuntu, install the package python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(INSTALLED): $(CREATED) pyproject.toml
	@echo 'Installing jaxlora into $(VENV); the first time, this downloads its dependencies.'
	$(PIP_INSTALL) --editable .
	@touch $@

$(INSTALLED_TEST): $(CREATED) pyproject.toml
	@echo 'Installing jaxlora with its test tools into $(VENV); the first time, this downloads them.'
	$(PIP_INSTALL) --editable '.[test]'
	@touch $(INSTALLED) $(INSTALLED_NOTEBOOKS) $@

$(INSTALLED_DEV): $(CREATED) pyproject.toml
	@echo 'Installing jaxlora with its development tools into $(VENV); the first time, this downloads them.'
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $(INSTALLED) $(INSTALLED_NOTEBOOKS) $(INSTALLED_TEST) $@

$(INSTALLED_BENCH): $(CREATED) pyproject.toml
	@echo 'Installing jaxlora with what its benchmarks need into $(VENV); the first time, this downloads it.'
	$(PIP_INSTALL) --editable '.[bench]'
	@touch $(INSTALLED) $@

$(INSTALLED_DOCS): $(CREATED) pyproject.toml
	@echo 'Installing jaxlora with what builds its documentation into $(VENV); the first time, this downloads it.'
	$(PIP_INSTALL) --editable '.[docs]'
	@touch $(INSTALLED) $@

$(INSTALLED_NOTEBOOKS): $(CREATED) pyproject.toml
	@echo 'Installing jaxlora with what its notebooks need into $(VENV); the first time, this downloads it.'
	$(PIP_INSTALL) --editable '.[notebooks]'
	@touch $(INSTALLED) $@
