# The developer's whole interface; `make help` lists it. Needs Python 3.11 to 3.13 and, for `make check` alone, npm.
# Every target first makes .venv when there is none, and installs again when pyproject.toml or constraints.txt changed.
# PyTorch for the CPU alone is a much smaller download; where PyPI's build carries CUDA, hand in its index:
#   make demo PIP_ARGS='--extra-index-url URL' with the URL that the PyTorch site names for pip and CPU

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
# The first of these that is 3.11 to 3.13 and can make virtual environments.
PYTHON ?= $(firstword $(foreach python,python3.11 python3.12 python3.13 python3,$(shell $(python) -c \
	'import ensurepip, sys, venv; print("$(python)" * ((3, 11) <= sys.version_info[:2] <= (3, 13)))' 2>/dev/null)))

INSTALLED := $(VENV)/.installed
BUF_INSTALLED := protos/node_modules/.installed
FRESH_PROTOS := $(VENV)/fresh-protos
COMPOSE := docker/compose.yaml
export PATH := $(abspath $(VENV))/bin:$(PATH)

generate = python -m grpc_tools.protoc -Iprotos --python_out=$(1) --mypy_out=quiet:$(1) \
	--grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) protos/headwater/v1/*.proto

.PHONY: help demo up test check lint protos protos-check compose-check image-check clean

help: ## Say what each target does.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@if [ ! -x $(VENV)/bin/python ]; then \
		[ -n "$(PYTHON)" ] || { echo 'Headwater needs Python 3.11, 3.12 or 3.13 with its venv module (Debian: apt-get install python3-venv).' >&2; exit 1; }; \
		echo 'Making $(VENV) with $(PYTHON).'; $(PYTHON) -m venv $(VENV); \
	fi
	@echo 'Installing into $(VENV); the first time takes some minutes, most of them for PyTorch.'
	@python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

$(BUF_INSTALLED): protos/package.json
	@command -v npm >/dev/null || { echo 'make check needs npm: it brings buf, which lints the protos (Debian: apt-get install npm).' >&2; exit 1; }
	@npm install --prefix protos --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

demo: $(INSTALLED) ## Watch a click change the next answer, a new film arrive and a model go live; under 5 minutes.
	python examples/demo.py

up: $(INSTALLED) ## Start what the demo starts, on the demo's data, and stay.
	python examples/demo.py --stay

test: $(INSTALLED) ## Run every test; PYTEST_ARGS='tests/unit -x' chooses.
	python -m pytest $(PYTEST_ARGS)

check: lint protos-check compose-check test ## Everything that CI runs.

lint: $(INSTALLED) ## Check style, types and who may import whom.
	ruff check
	ruff format --check
	mypy
	lint-imports

protos: $(INSTALLED) ## Generate the Python code of protos/ again.
	rm -f protos/headwater/v1/*_pb2*.py protos/headwater/v1/*_pb2*.pyi
	$(call generate,protos)

protos-check: $(INSTALLED) $(BUF_INSTALLED) ## Fail when the generated code is stale or the protos break buf's STANDARD rules.
	@rm -rf $(FRESH_PROTOS) && mkdir $(FRESH_PROTOS)
	@$(call generate,$(FRESH_PROTOS))
	@diff --recursive --brief --exclude='*.proto' --exclude=__init__.py --exclude=__pycache__ \
		protos/headwater/v1 $(FRESH_PROTOS)/headwater/v1 \
		|| { echo 'The generated code is stale: run make protos and commit what changes.' >&2; exit 1; }
	cd protos && node_modules/.bin/buf lint

compose-check: $(INSTALLED) ## Check the compose file: its structure, and by docker compose where that is installed.
	python -m pytest --quiet tests/unit/test_compose.py
	@if docker compose version >/dev/null 2>&1; then docker compose --file $(COMPOSE) config --quiet; \
	else echo 'docker compose is not installed: its own check of $(COMPOSE) is left out.'; fi

image-check: ## Build both images with buildah and run their commands; as root, on Debian.
	docker/image_check.sh

clean: ## Remove what these targets made: environments, caches, the demo's data.
	rm -rf $(VENV) protos/node_modules dist .demo .up
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
