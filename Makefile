# `make demo` and `make test` set up what they need (scripts/setup_env.py) and skip what is done.
#
#   make demo                                   the X2 walks to a box in simulation
#   make demo ARGS='"walk to the blue box" --seed 7'
#   make test ARGS='-k safety'
#   make PYTHON=python3.12 TORCH_INDEX_URL=<index of CPU wheels> setup

SHELL := /bin/bash
PYTHON ?= python3
ARGS ?=
IN_ENV := . scripts/env.sh &&

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow train-tiny lint format colcon doctor clean distclean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: ## virtual environment, ROS 2, messages, package (skips what is done)
	@$(PYTHON) -E scripts/setup_env.py

demo: setup ## the X2 carries out a sentence in simulation: video, MCAP bag, report
	@$(IN_ENV) wbvla demo $(ARGS)

test: setup ## all tests but the slow ones
	@$(IN_ENV) python -m pytest $(ARGS)

test-slow: setup ## the tests that take minutes
	@$(IN_ENV) python -m pytest -m slow --timeout=3600 $(ARGS)

train-tiny: setup ## the whole chain from nothing: video, LAMs, demonstrations, VLA, decoder, LMO
	@$(IN_ENV) python scripts/train_tiny.py $(ARGS)

lint: setup ## ruff: style and mistakes
	@$(IN_ENV) ruff check . && ruff format --check .

format: setup ## ruff: rewrite
	@$(IN_ENV) ruff check --fix . && ruff format .

colcon: setup ## build both packages in ros_ws with colcon, and test them
	@$(IN_ENV) cd ros_ws && colcon build && colcon test && colcon test-result --verbose

doctor: setup ## what is installed, which ROS, which GL, which checkpoints
	@$(IN_ENV) wbvla doctor

clean: ## remove build products and caches
	rm -rf build ros_ws/build ros_ws/install ros_ws/log .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## the same, and the virtual environment
	rm -rf .venv .setup.lock
