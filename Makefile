# everreel: `make film PROMPT="..."` makes a film, `make test` checks everything; both set up .venv when it is not there.
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
.DEFAULT_GOAL := help

BIN := .venv/bin
JOBS ?= 2
ARGS ?=
# The prompt goes to the shell as it was typed: make and the shell both leave its $, ' and " alone.
export EVERREEL_PROMPT := $(value PROMPT)
PROMPT ?=

.PHONY: help film test lint browser model-card benchmark long-video recipe install clean

help:
	@echo 'make film PROMPT="a red fox runs right through a snowy forest at dusk" [ARGS="--seconds 10"]'
	@echo 'make test       lint, types and tests      make install    make .venv with all that the tests need'
	@echo 'make lint       linters and types only     make model-card docs/model-card.md from 64 films (goes on if stopped)'
	@echo 'make benchmark  docs/benchmarks.md, in minutes that the machine is idle; make long-video docs/long-video.md'
	@echo 'make recipe     the whole of training at its smallest, from nothing, in hours (goes on if stopped)'

film: .venv/.installed
	@$(BIN)/everreel generate "$$EVERREEL_PROMPT" -o film.mp4 $(ARGS)

# pytest comes last, so that its closing line is the last thing said.
test: lint browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# For the tests of pages, where Debian's packages may be installed; without a browser they say why they are skipped.
browser:
	@command -v chromium > /dev/null || test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null || \
	    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium; \
	    } > /dev/null 2>&1 || echo 'no Chromium could be installed: the tests of pages will be skipped'

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

model-card: .venv/.installed
	@$(BIN)/everreel evaluate --model-card docs/model-card.md $(ARGS)

# What it writes is for the machine that it ran on, idle if the figures are to mean anything.
benchmark: .venv/.installed
	@$(BIN)/python -m benchmarks $(ARGS)

# docs/long-video.md: every way of a long film; well over an hour, less with ARGS="--num-films 2 --long-films 0 --kills 5".
long-video: .venv/.installed
	@$(BIN)/python -m benchmarks.long_video $(ARGS)

# Every stage of recipes/smallest.py, into runs/smallest.
recipe: .venv/.installed
	@$(BIN)/everreel train recipes/smallest.py $(ARGS)

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@for python in python3.11 python3 python3.12 python3.13; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec $$python -m venv .venv; \
	    fi; \
	done; echo 'everreel needs Python 3.11 or newer, and none was found' >&2; exit 2
	$(BIN)/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist src/*.egg-info
