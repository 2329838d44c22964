# `make demo` and `make test` first install the package into .venv, if that has not been done.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: install demo test test-quick test-kernels test-minimum fuzz lint clean

install: .venv/installed

.venv/installed: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[imagenet,dev,onnx,openvino]"
	$(BIN)/python -m pip install --quiet --editable ".[litert]" # alone: pip does not find versions of all extras together
	$(BIN)/python -m pip install --quiet --no-deps --upgrade "typing_extensions>=4.14" # litert-torch works with it too
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
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
PYTEST := $(BIN)/python -m pytest $(PARALLEL)

test: .venv/installed
	$(PYTEST)

test-quick: .venv/installed
	$(PYTEST) -m "not slow"

# The tests that compare numbers, computed as on a processor without AVX-512: rounding differs from that of this one.
# Metrics are computed by NumPy, which these settings do not change.
NUMERIC_TESTS := tests/losses tests/models tests/weights tests/training $(wildcard tests/evaluation/test_evaluate*.py) \
	$(filter-out tests/test_docs.py,$(wildcard tests/test_*.py))

test-kernels: .venv/installed
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -m "not slow" $(NUMERIC_TESTS)

# The quick tests with the lowest versions that pyproject.toml allows, torch included: a second environment of 6 GB. Those
# versions have no wheels for Python 3.13 and newer.
MINIMUM_TESTS := tests/config tests/data tests/models tests/losses tests/weights tests/evaluation tests/report \
	tests/inference tests/cli/test_info.py tests/cli/test_parsing.py tests/cli/test_completion.py

test-minimum: .venv-minimum/installed
	.venv-minimum/bin/python -m pytest $(PARALLEL) -m "not slow" $(MINIMUM_TESTS)

.venv-minimum/installed: pyproject.toml tests/minimum.txt
	$(PYTHON) -m venv .venv-minimum
	.venv-minimum/bin/python -m pip install --quiet --no-cache-dir --constraint tests/minimum.txt \
		--editable ".[imagenet,timm,heic]" pytest pytest-xdist jsonschema tensorboard
	touch $@

# Thousands of damaged inputs for everything that reads files of others, then whole commands under faults, such as a full
# disk or SIGKILL; the same command goes on with a stopped run.
fuzz: .venv/installed
	$(BIN)/python tests/fuzz/run.py
	$(BIN)/python tests/fuzz/run_faults.py

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-minimum build dist *.egg-info
