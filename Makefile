# Needs Python >= 3.10, make and pip; everything else is installed into a virtual environment.
#   PYTHON=python3.12      which Python makes the environment
#   SPRIG_VENV=/some/path  where it goes (default .venv); it may be shared by several checkouts
PYTHON ?= python3
SPRIG_VENV ?= .venv
export PYTHON SPRIG_VENV
BIN = $(SPRIG_VENV)/bin

.PHONY: help demo test check-fast reproduce clean

help:
	@echo 'make demo        install, then train a small network on digits, prune it and check the result'
	@echo 'make test        install, then lint, types, import rules and all tests but the slow ones'
	@echo 'make check-fast  the same without the end-to-end tests'
	@echo 'make reproduce   the slow tests: published and promised numbers'
	@echo 'make clean       remove the environment, caches and the run folder of the demo'

demo:
	@bash scripts/venv demo
	$(BIN)/sprig demo

test:
	@bash scripts/venv dev
	bash scripts/check

check-fast:
	@bash scripts/venv dev
	bash scripts/check fast

reproduce:
	@bash scripts/venv dev,bench
	bash scripts/check slow

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf sprig-demo sprig-demo-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
