# Short names for the course's commands; `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
ARGS ?=

# A hundred processes import the library: what Python compiles, it keeps.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install book published test lint lab notebooks clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: $(INSTALLED)  ## install everything into .venv, once

# The packages that need TensorRT's library are tried only where there is a driver, and nothing depends on them.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (several GB the first time) ..."
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); sys.exit(0 if ok else "needs Python 3.11 or 3.12, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv does not work; on Debian, install the package python3-venv"; exit 1; }
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[onnx,openvino,tvm,rtx,quantization,serve,book,test]'
	@# Type stubs for the tests; what they say they need is TensorRT itself.
	@$(PIP) install --quiet --constraint constraints.txt --no-deps tensorrt-stubs
	@if ! nvidia-smi >/dev/null 2>&1; then \
	  echo "no NVIDIA driver here: TensorRT is left out"; \
	elif ! $(PIP) install --quiet --constraint constraints.txt --editable '.[gpu]' >$(VENV)/tensorrt.log 2>&1; then \
	  echo "TensorRT cannot be fetched from NVIDIA's index (see $(VENV)/tensorrt.log): its rows will read 'unavailable'"; \
	fi
	@touch $@

book: $(INSTALLED)  ## measure and run every chapter on this machine, render the local edition
	@echo "measuring, running the chapters, rendering; Ctrl-C is safe, the same command goes on ..."
	@$(BIN)/python -m inference_lib book $(ARGS)

published: $(INSTALLED)  ## render the published edition, executing nothing
	@$(BIN)/python -m inference_lib book --edition published

test: $(INSTALLED)  ## run the tests
	@echo "running the tests; every chapter is executed once, on the CPU ..."
	@# Two at a time, a core each, though more would fit: measuring is repeated where it waited for a core. Then what needs a
	@# GPU, one after the other. 5 says that none was chosen by ARGS.
	@$(BIN)/python -m pytest -q -n 2 -rs --durations=10 -m 'not gpu' $(ARGS) || [ $$? -eq 5 ]
	@! nvidia-smi >/dev/null 2>&1 || $(BIN)/python -m pytest -q -rs -m gpu $(ARGS) || [ $$? -eq 5 ]

lint: $(INSTALLED)  ## check style and types
	@echo "ruff and mypy ..."
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lab: notebooks  ## open the chapters in JupyterLab
	@echo "installing JupyterLab, then opening _build/notebooks ..."
	@$(PIP) install --quiet --constraint constraints.txt jupyterlab
	@$(BIN)/jupyter lab _build/notebooks $(ARGS)

# One is written where it is missing or older than its source; where a reader changed it, hers steps aside.
notebooks: $(INSTALLED)  ## write the chapters as .ipynb to _build/notebooks
	@echo "writing _build/notebooks (changes made there stay there) ..."
	@mkdir -p _build/notebooks/.written
	@stale=; for source in notebooks/*.py; do \
	  name=$$(basename $$source .py); there=_build/notebooks/$$name; \
	  [ $$there.ipynb -nt $$source ] && continue; \
	  if [ -e $$there.ipynb ] && ! cmp -s $$there.ipynb _build/notebooks/.written/$$name.ipynb; then \
	    mv --backup=numbered $$there.ipynb $$there.yours.ipynb || exit 1; \
	    echo "$$source is newer than your notebook, which is $$there.yours.ipynb now"; \
	  fi; \
	  stale="$$stale $$source"; \
	done; [ -z "$$stale" ] || $(BIN)/jupytext --quiet --to ../_build/notebooks/.written//ipynb $$stale && \
	for source in $$stale; do cp _build/notebooks/.written/$$(basename $$source .py).ipynb _build/notebooks/ || exit 1; done

clean:  ## remove executed chapters, rendered books, and _build/notebooks with your changes; records, exported models and .venv stay
	@echo "removing executed chapters, rendered books and the notebooks of make lab ..."
	@rm -rf _build/executed _build/stage _build/render _build/html _build/published _build/notebooks
