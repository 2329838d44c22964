# Everything a newcomer needs: `make demo` and `make test` install into .venv first, and only when something changed.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: install demo test test-quick lint clean

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

# A process a core, but no more than memory suffices for; the tests of a file share what was made for them.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: .venv/installed
	$(PYTEST)

test-quick: .venv/installed
	$(PYTEST) -m "not slow"

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info
