# `make demo` and `make test` first install the package into .venv, if that has not been done.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: install demo test test-quick test-kernels lint clean

install: .venv/installed

.venv/installed: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[imagenet,dev]"
	touch $@

demo: .venv/installed
	rm -rf $(DEMO)/train $(DEMO)/predict
	$(BIN)/effdet synthetic $(DEMO)/data
	$(BIN)/python tools/train.py configs/demo.yaml output_dir=$(DEMO)/train
	$(BIN)/python tools/eval.py configs/demo.yaml --weights $(DEMO)/train/best.pt
	$(BIN)/python tools/predict.py $(DEMO)/data/val2017 $(DEMO)/data/clip.mp4 --weights $(DEMO)/train/best.pt --out $(DEMO)/predict
	@echo
	@echo "annotated pictures and video  $(DEMO)/predict"
	@echo "metrics                       $(DEMO)/train/metrics.json"
	@echo "log                           $(DEMO)/train/log.csv"
	@echo "weights to use                $(DEMO)/train/best.pt"

# One process per core, at most 4 because each needs memory; the tests of a file share their fixtures.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: .venv/installed
	$(PYTEST)

test-quick: .venv/installed
	$(PYTEST) -m "not slow"

# The tests that compare numbers, computed as on a processor without AVX-512: rounding differs from that of this one.
NUMERIC_TESTS := tests/losses tests/models tests/weights tests/training tests/evaluation \
	$(filter-out tests/test_docs.py,$(wildcard tests/test_*.py))

test-kernels: .venv/installed
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -m "not slow" $(NUMERIC_TESTS)

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info
