# make quickstart | test | style | slow | tiny | tiny-eval | wheel-test | clean
# Needs Python 3.11 or newer and a network connection to the package index; everything is installed into .venv.
#   make quickstart PYTHON=python3.12
#   make quickstart QUESTION="How many circles are there?" IMAGE=photo.jpg

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help quickstart test slow style tiny tiny-eval wheel-test clean

PYTHON ?= python3
VENV ?= .venv
IMAGE ?= examples/scene.png
QUESTION ?= What colour is the square?
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt

help:
	@echo "quickstart   install into $(VENV) and answer a question about a picture"
	@echo "test         install into $(VENV) and run the tests (PYTEST_ARGS for more options)"
	@echo "slow         the tests that take minutes"
	@echo "style        check format and lint"
	@echo "tiny         train the shipped checkpoints again, from nothing (about 2 hours on 2 cores)"
	@echo "tiny-eval    print the accuracy of the shipped checkpoints on held-out questions"
	@echo "wheel-test   build the wheel and try it in an empty environment"
	@echo "clean        remove everything that these targets made, except trained models (build/tiny)"

# The stamp files say when each set of requirements was last installed; a change of the lists installs them again.
$(VENV)/.installed: $(REQUIREMENTS)
	@tests/check_python.sh "$(PYTHON)"
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@

quickstart: $(VENV)/.installed
	@echo
	@echo "Picture:  $(IMAGE)"
	@echo "Question: $(QUESTION)"
	@$(BIN)/flashsloth ask --image "$(IMAGE)" "$(QUESTION)" 2>&1

test: $(VENV)/.installed-dev
	$(BIN)/pytest $(PYTEST_ARGS)

slow: $(VENV)/.installed-dev
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

style: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

tiny: $(VENV)/.installed-dev
	$(BIN)/python -m flashsloth.tiny

tiny-eval: $(VENV)/.installed-dev
	$(BIN)/python -m flashsloth.tiny.evaluate

wheel-test: $(VENV)/.installed-dev
	tests/ci_wheel.sh "$(BIN)/python"

clean:
	rm -rf $(VENV) build/lib build/bdist.* dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
