# Every routine command is one target; each makes .venv and what is in it by itself.
#   PYTHON       the interpreter to build .venv from (3.10 or newer)
#   TORCH_INDEX  package index with another build of torch, see README.md
#   ARGS         passed on: make demo ARGS="--mode diffusion", make test ARGS="-k cache"
#   CORPUS       folder that `blockdiff train corpus` wrote, for make gpu-train

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	"$$p" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& command -v "$$p" && break; done)
TORCH_INDEX ?=
ARGS ?=
CORPUS ?= build/corpus
SHIPPED := models/qwen2.5-coder-1.5b-blockdiff

BIN := .venv/bin
# Run as modules: an old .venv of another path keeps working.
RUN := $(BIN)/python -m
# A checkout takes the plugins from its own folders: no Node only to make .venv.
PIP := BLOCKDIFF_WITHOUT_VSIX=1 $(RUN) pip --disable-pip-version-check install --progress-bar off -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Tiny models gain nothing from threads: a file of tests on each core. (Status 5: none was selected.)
PYTEST := OMP_NUM_THREADS=1 $(RUN) pytest -n logical --maxprocesses 4 --dist loadfile

# What pip says, reduced to what takes time; all of it when it fails.
SHORTEN := 2>&1 | tee .venv/setup.log | awk '/(Downloading|Using cached) .* \([0-9.]+ [MG]B\)/ \
	{print "  " $$0; fflush()} /^Installing collected/ {print "  unpacking"; fflush()}' \
	|| { tail -n 40 .venv/setup.log >&2; exit 1; }

.PHONY: help setup demo test test-fast plugins bench bench-overhead bench-shared gpu-check gpu-train \
	cluster-check lint docs clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

setup: .venv/.stamp-dev  ## make .venv with everything for development

demo: .venv/.stamp-engine  ## fetch the model if it is missing and fill a hole of an example
	@$(RUN) blockdiff infill examples/intervals.py --lines 32 $(ARGS)

test: .venv/.stamp-dev  ## run all tests, those with the real model included
	@$(RUN) blockdiff models pull
	@$(PYTEST) -m "not model" $(ARGS) || test $$? = 5
	@BLOCKDIFF_REQUIRE_MODEL=1 $(RUN) pytest -m model $(ARGS) || test $$? = 5

test-fast: .venv/.stamp-dev  ## run the tests that need no model and no patience
	@$(PYTEST) -m "not slow and not model" $(ARGS)

plugins: .venv/.stamp-engine  ## put the plugins into the editors on PATH: Neovim, VS Code and its kin
	@$(RUN) blockdiff editors install $(ARGS)

bench: .venv/.stamp-rivals  ## time the engine beside llama.cpp, OpenVINO and transformers, half an hour
	@$(RUN) blockdiff models pull
	@$(RUN) blockdiff bench peers $(ARGS)

bench-overhead: .venv/.stamp-dev  ## what service and language server add to the bare engine
	@$(RUN) tests.bench.overhead $(ARGS)

bench-shared: .venv/.stamp-dev  ## what one request costs the others: drafts, parsing
	@$(RUN) tests.bench.shared $(ARGS)

bench-denoise: .venv/.stamp-dev  ## a denoising step of a 0.5B shape beside transformers
	@$(RUN) tests.bench.denoise $(ARGS)

gpu-check: .venv/.stamp-dev  ## on a GPU: right, fast and within memory? six minutes, no weights
	@$(RUN) tests.bench.gpu_check $(ARGS)

gpu-train: .venv/.stamp-dev  ## on a GPU: train the adapter for nine minutes, drafts measured every minute
	@test -d $(CORPUS) || $(RUN) blockdiff train corpus --out $(CORPUS)
	@$(RUN) blockdiff train run build/gpu-train --corpus $(CORPUS) --minutes 9 --measure-minutes 1 \
		--length 1024 --noisy-positions 1024 --workers 12 --ngrams $(SHIPPED)/ngrams.safetensors \
		--initial $(SHIPPED)/adapter.safetensors --export build/gpu-train/adapter $(ARGS)

cluster-check: .venv/.stamp-cluster  ## a team's engine on Ray: replicas that die, come and go, one beside two
	@OMP_NUM_THREADS=1 $(RUN) pytest tests/unit/test_cluster.py $(ARGS)
	@$(RUN) tests.bench.cluster

bench-syntax: .venv/.stamp-dev  ## verdicts on filled holes beside those of the compilers here
	@$(RUN) tests.bench.syntax_verdicts $(ARGS)

bench-cancel: .venv/.stamp-editors  ## from the cancel key to the vanished draft, in Neovim
	@$(RUN) tests.bench.cancel $(ARGS)

test-nvim: .venv/.stamp-editors  ## test the Neovim plugin in a real Neovim
	@$(RUN) blockdiff models pull
	@OMP_NUM_THREADS=1 BLOCKDIFF_REQUIRE_MODEL=1 $(RUN) pytest tests/editors/nvim --reruns 1 $(ARGS)

test-vscode: .venv/.stamp-editors  ## test the VS Code extension in a real VS Code in a browser
	@$(RUN) tests.editors.vscode.install
	@$(RUN) blockdiff models pull
	@OMP_NUM_THREADS=1 BLOCKDIFF_REQUIRE_MODEL=1 $(RUN) pytest tests/editors/vscode --reruns 1 $(ARGS)

docs-media: .venv/.stamp-editors  ## take the pictures and animations of the guides anew
	@$(RUN) tests.editors.vscode.install
	@$(RUN) blockdiff models pull
	@$(RUN) tests.editors.nvim.media
	@$(RUN) tests.editors.vscode.media

lint: .venv/.stamp-dev  ## ruff and mypy
	@$(RUN) ruff check
	@$(RUN) mypy

docs: .venv/.stamp-dev  ## write the generated parts of the documents anew
	@$(RUN) docs.readme_parts
	@$(RUN) docs.road_parts
	@$(RUN) docs.lsp_parts
	@$(RUN) docs.clients_parts
	@$(RUN) docs.eval_parts
	@$(RUN) docs.lab_parts
	@$(RUN) docs.checkpoints_parts

clean:  ## remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 or newer with venv was found" >&2; \
		echo "hint: install python3 and python3-venv, or set PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

.venv/.stamp-engine: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing blockdiff with its engine (torch is the large part)"
	@$(PIP) -e '.[engine]' $(SHORTEN)
	@touch $@

.venv/.stamp-dev: .venv/.stamp-engine
	@echo "installing the tools for development"
	@$(PIP) -e '.[engine,train,bench,dev]' $(SHORTEN)
	@touch $@

.venv/.stamp-rivals: .venv/.stamp-dev
	@echo "installing OpenVINO, and what llama.cpp is built with"
	@$(PIP) -e '.[engine,train,bench,rivals,dev]' $(SHORTEN)
	@touch $@

.venv/.stamp-cluster: .venv/.stamp-dev
	@echo "installing Ray, 300 MB"
	@$(PIP) -e '.[engine,train,bench,dev,cluster]' $(SHORTEN)
	@touch $@

.venv/.stamp-editors: .venv/.stamp-dev
	@echo "installing Neovim, Node and playwright"
	@$(PIP) -e '.[engine,train,bench,dev,editors]' $(SHORTEN)
	@touch $@
