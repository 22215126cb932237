# Everything works from a fresh clone with Python ≥ 3.11 alone: each target makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check docs clean

demo: $(VENV)/.demo
	rm -rf demo-run
	$(BIN)/joulemeter run --output demo-run examples/train_digits.py
	$(BIN)/joulemeter report demo-run --format html --output demo-run/report.html
	@echo "The same as a page: demo-run/report.html"

# Side by side in as many workers as there are processors; then, one by one, what wants the machine for itself.
test: $(VENV)/.test check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not alone" -n auto --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -m "alone and not slow"

check: $(VENV)/.test
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt setup.py $(wildcard src/joulemeter/*.c) | $(BIN)/python
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt setup.py $(wildcard src/joulemeter/*.c) | $(BIN)/python
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.demo

docs: $(VENV)/.docs
	$(BIN)/python docs/make_cli_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "The site: site/index.html"

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build site demo-run src/joulemeter/*.so src/*.egg-info
