# Two commands matter: `make demo` and `make test`. Both make .venv when it is missing and never
# touch the system Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench clean
demo: $(READY)
	$(BIN)/zoo demo

test: $(READY)
	$(BIN)/pytest -q -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/typetree.py
	$(BIN)/mypy
	cd .typing && ../$(BIN)/lint-imports --config ../pyproject.toml --no-cache
	$(BIN)/pytest -q tests/test_house.py

bench: $(READY)
	$(BIN)/python -m zoo.benchmarks.speed
	$(BIN)/python -m zoo.benchmarks.readme
	$(BIN)/python -m zoo.benchmarks.speed.regression

# uv resolves and links in seconds; where it cannot reach the index, pip does the same slowly. Both
# compile to bytecode: where PYTHONDONTWRITEBYTECODE is set, every import would do it again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "zoo needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) (about a minute, 5 GB)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@install="install --quiet --constraint constraints.txt --editable .[audio,bench,code,contrastive,cuda,dev,hub,parquet,ray,remote,tabular,vision,volume]"; \
		UV_COMPILE_BYTECODE=1 $(BIN)/uv pip $$install --python $(BIN)/python || $(BIN)/python -m pip $$install
	@touch $(READY)

clean:
	rm -rf $(VENV) .typing build *.egg-info .mypy_cache .ruff_cache
