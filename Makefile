# Two commands, from nothing but Python >= 3.10, make and a C++ compiler:
#   make quickstart   set up, then teacher -> student -> files -> bundle -> report on built-in data
#   make test         set up, then lint, types and tests
# What was done once isn't done again; `make clean` forgets all of it.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for v in 3 3.14 3.13 3.12 3.11 3.10; do \
	python$$v -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& { echo python$$v; exit; }; done; echo python3)
OUT ?= quickstart-out
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check

# llama-cpp-python has no wheels on the package index: its engine is compiled here, without what
# edgestill never loads (docs/install.md). The wheel is kept, so a new environment doesn't compile. (pip's own cache may
# hold one that was compiled otherwise, or for another processor.)
LLAMA_VERSION := 0.3.36
WHEELS := build/wheels
LLAMA_LOG := build/llama-cpp-python.log
LLAMA_CMAKE_ARGS := -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
	-DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF \
	-DCMAKE_PROJECT_llama.cpp_INCLUDE=$(CURDIR)/.ci/llama-core.cmake

# llama.cpp's source and the objects of the native runtime, for the tests.
export EDGESTILL_CACHE ?= $(CURDIR)/build/cache

.PHONY: help quickstart install test lint clean

help:
	@sed -n '2,4s/^# *//p' Makefile

quickstart: install
	$(BIN)/edgestill quickstart --out $(OUT)

test: $(STAMPS)/test
	$(BIN)/edgestill runner build --installed-llama --out build/native
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/house/test_floors.py
	$(BIN)/python -m pytest -q -n $(JOBS)

install: $(STAMPS)/install

clean:
	rm -rf $(VENV) build runtime/_token_loop.*

# The engine compiles while the other packages download; pip then installs the finished wheel.
$(STAMPS)/install: pyproject.toml constraints.txt runtime/token_loop.c | $(STAMPS)/venv
	@start=$$(date +%s); \
	$(MAKE) -j2 $(STAMPS)/packages $(STAMPS)/llama-wheel && \
	$(PIP) install --quiet -c constraints.txt $(WHEELS)/llama_cpp_python-$(LLAMA_VERSION)-*.whl && \
	echo "installed in $$(( $$(date +%s) - start )) seconds"
	@touch $@

$(STAMPS)/test: $(STAMPS)/install
	$(PIP) install --quiet -c constraints.txt -e '.[test]'
	@touch $@

$(STAMPS)/packages: pyproject.toml constraints.txt runtime/token_loop.c | $(STAMPS)/venv
	@echo "installing the Python packages"
	@$(PIP) install --progress-bar off -c constraints.txt -e '.[onnx,export,distill,report]' \
		| awk '/^ *Downloading /{ print "  downloading", $$2, $$3, $$4; fflush() } /^Installing collected/{ print "  unpacking"; fflush() }'
	@touch $@

$(STAMPS)/llama-wheel: .ci/llama-core.cmake | $(STAMPS)/venv
	@mkdir -p $(WHEELS)
	@if ls $(WHEELS)/llama_cpp_python-$(LLAMA_VERSION)-*.whl >/dev/null 2>&1; then \
		echo "llama.cpp: using the wheel in $(WHEELS)"; \
	else \
		echo "compiling llama.cpp's core (2 to 4 minutes on 2 cores; log: $(LLAMA_LOG))"; \
		CMAKE_ARGS="$(LLAMA_CMAKE_ARGS)" CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) \
		$(PIP) wheel -v --no-cache-dir --no-deps -w $(WHEELS) llama-cpp-python==$(LLAMA_VERSION) >$(LLAMA_LOG) 2>&1 \
		|| { tail -n 30 $(LLAMA_LOG); echo "llama.cpp did not compile; a C++ compiler is needed (see $(LLAMA_LOG))"; exit 1; }; \
		echo "llama.cpp's core is compiled"; \
	fi
	@touch $@

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$(PYTHON) is older than Python 3.10; name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) has no venv module (Debian: apt-get install python3-venv)"; exit 1; }
	@mkdir -p $(STAMPS) && touch $@
