# make quickstart | test | test-oldest | lmms-eval | executorch | slow | style | tiny | tiny-eval | wheel-test | clean
# Needs Python 3.11 or newer and a network connection to the package index; everything is installed into .venv.
#   make quickstart PYTHON=python3.12
#   make quickstart QUESTION="How many circles are there?" IMAGE=my_image.jpg
#   make test PYTEST_ARGS="--numprocesses 0 -x tests/test_modeling.py"

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help quickstart test test-oldest lmms-eval executorch slow style tiny tiny-eval wheel-test clean

PYTHON ?= python3
VENV ?= .venv
IMAGE ?= examples/scene.png
QUESTION ?= What colour is the square?
PYTEST_ARGS ?=

BIN := $(VENV)/bin
OLDEST := $(VENV)-oldest
OLDEST_BIN := $(OLDEST)/bin
LMMS := $(VENV)-lmms
LMMS_BIN := $(LMMS)/bin
EXECUTORCH := $(VENV)-executorch
EXECUTORCH_BIN := $(EXECUTORCH)/bin
INSTALL := -m pip --disable-pip-version-check install --constraint
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt constraints-oldest.txt constraints-lmms.txt

# A worker that has run out of tests takes over half of what the other one has left, so that tests of one module, which
# share their fixtures, mostly stay together.
PARALLEL := --numprocesses 2 --dist worksteal

# What depends on the versions of libraries most: the files that travel with a model, one training run, and one push.
OLDEST_TESTS := tests/test_package.py tests/test_configuration.py tests/test_modeling.py tests/test_generation.py \
	tests/test_image_processing.py tests/test_processing.py tests/test_remote_code.py \
	tests/train/test_sft.py::test_exactly_the_parameters_of_the_stage_change \
	tests/publish/test_hub.py::test_new_repository \
	tests/publish/test_hub.py::test_command_and_the_examples_of_its_card

help:
	@echo "quickstart   install into $(VENV) and answer a question about an image"
	@echo "test         install into $(VENV) and run the tests (PYTEST_ARGS for more options)"
	@echo "test-oldest  install the oldest supported versions into $(OLDEST) and run a part of the tests"
	@echo "lmms-eval    install lmms-eval into $(LMMS) and run the tests that need it"
	@echo "executorch   install ExecuTorch into $(EXECUTORCH) and run the tests that need it"
	@echo "slow         the tests that take minutes"
	@echo "style        check format and lint"
	@echo "tiny         train the shipped checkpoints again, from scratch (about 2 hours on 2 cores)"
	@echo "tiny-eval    print the accuracy of the shipped checkpoints on held-out questions"
	@echo "wheel-test   build the wheel and try it in an empty environment"
	@echo "clean        remove everything that these targets made, except trained models (build/tiny)"

# The stamp files record when each set of requirements was last installed; a change of the lists installs them again.
$(VENV)/.installed: $(REQUIREMENTS)
	@tests/check_python.sh "$(PYTHON)"
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python $(INSTALL) constraints.txt torch
	$(BIN)/python $(INSTALL) constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python $(INSTALL) constraints.txt --editable '.[dev]'
	touch $@

$(OLDEST)/.installed: $(REQUIREMENTS)
	@tests/check_python.sh "$(PYTHON)"
	"$(PYTHON)" -m venv $(OLDEST)
	$(OLDEST_BIN)/python $(INSTALL) constraints-oldest.txt torch
	$(OLDEST_BIN)/python $(INSTALL) constraints-oldest.txt --editable '.[train,quantize]' openpyxl pytest pytest-xdist
	touch $@

# lmms-eval without its dependencies, which would bring another torch; the extra `eval` has those that it needs.
$(LMMS)/.installed: $(REQUIREMENTS)
	@tests/check_python.sh "$(PYTHON)"
	"$(PYTHON)" -m venv $(LMMS)
	$(LMMS_BIN)/python $(INSTALL) constraints.txt torch
	$(LMMS_BIN)/python $(INSTALL) constraints.txt --constraint constraints-lmms.txt --editable '.[eval,train,serve]' openai pytest
	$(LMMS_BIN)/python $(INSTALL) constraints-lmms.txt --no-deps lmms-eval
	touch $@

# ExecuTorch in an environment of its own: its wheel decides which torch fits.
$(EXECUTORCH)/.installed: $(REQUIREMENTS)
	@tests/check_python.sh "$(PYTHON)"
	"$(PYTHON)" -m venv $(EXECUTORCH)
	$(EXECUTORCH_BIN)/python $(INSTALL) constraints.txt torch
	$(EXECUTORCH_BIN)/python $(INSTALL) constraints.txt --editable '.[executorch,train]' pytest
	touch $@

quickstart: $(VENV)/.installed
	@echo
	@echo "Image:    $(IMAGE)"
	@echo "Question: $(QUESTION)"
	@$(BIN)/flashsloth ask --image "$(IMAGE)" "$(QUESTION)" 2>&1

test: $(VENV)/.installed-dev
	$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS)

test-oldest: $(OLDEST)/.installed
	$(OLDEST_BIN)/pytest $(PARALLEL) $(PYTEST_ARGS) $(OLDEST_TESTS)

lmms-eval: $(LMMS)/.installed
	$(LMMS_BIN)/pytest $(PYTEST_ARGS) tests/eval/test_lmms.py

executorch: $(EXECUTORCH)/.installed
	$(EXECUTORCH_BIN)/pytest $(PYTEST_ARGS) tests/export/test_executorch.py

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
	rm -rf $(VENV) $(OLDEST) $(LMMS) $(EXECUTORCH) build/lib build/bdist.* dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
