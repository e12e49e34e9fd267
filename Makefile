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
PROCESS_TESTS := tests/e2e tests/faults tests/fuzz
SOAK_MINUTES ?= 60
SOAK_FAULTS ?= 10
# The first of these that is 3.11 to 3.13 and can make virtual environments.
PYTHON ?= $(firstword $(foreach python,python3.11 python3.12 python3.13 python3,$(shell $(python) -c \
	'import ensurepip, sys, venv; print("$(python)" * ((3, 11) <= sys.version_info[:2] <= (3, 13)))' 2>/dev/null)))

INSTALLED := $(VENV)/.installed
BUF_INSTALLED := protos/node_modules/.installed
FRESH_PROTOS := $(VENV)/fresh-protos
AUDIT := $(VENV)/audit
PIP_AUDIT := pip-audit==2.10.1
COMPOSE := docker/compose.yaml
export PATH := $(abspath $(VENV))/bin:$(PATH)

generate = python -m grpc_tools.protoc -Iprotos --python_out=$(1) --mypy_out=quiet:$(1) \
	--grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) protos/headwater/v1/*.proto

.PHONY: help demo up test soak check lint protos protos-check compose-check audit image-check clean

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

# Half of the time goes to tests that wait for processes: they run beside the others, and are told of after them.
test: $(INSTALLED) ## Run every test, on two cores; PYTEST_ARGS='tests/unit -x' chooses, on one.
ifeq ($(strip $(PYTEST_ARGS)),)
	@told=$$(mktemp); trap 'rm -f $$told' EXIT; \
	python -m pytest $(PROCESS_TESTS) >$$told 2>&1 & beside=$$!; \
	python -m pytest tests $(PROCESS_TESTS:%=--ignore=%); status=$$?; \
	wait $$beside; beside=$$?; cat $$told; exit $$((status | beside))
else
	python -m pytest $(PYTEST_ARGS)
endif

soak: $(INSTALLED) ## Break it for hours: every fault many times, many inputs, an hour of traffic; SOAK_MINUTES, SOAK_FAULTS.
	HEADWATER_TEST_FAULTS=200 python -m pytest tests/faults -k 'killed_server and sqlite'
	HEADWATER_TEST_FAULTS=$(SOAK_FAULTS) python -m pytest tests/faults
	HEADWATER_TEST_EXAMPLES=200 python -m pytest tests/fuzz -rP
	HEADWATER_TEST_REQUESTS=100000 python -m pytest tests/integration/server/test_never_shown.py
	python benchmarks/soak.py --minutes $(SOAK_MINUTES) --bounds --out .soak.json

check: lint protos-check compose-check audit test ## Everything that CI runs.

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

# In an environment of its own, so that what it needs does not mix with what is audited. Indexes other than PyPI's own know
# nothing of single versions' advisories: pip-audit would pass over everything and find nothing, hence the question and --strict.
audit: $(INSTALLED) ## Ask PyPI for known vulnerabilities of what constraints.txt pins, where it can be asked.
	@if python -c 'import urllib.request as r; r.urlopen("https://pypi.org/pypi/pip/24.0/json", timeout=10)' 2>/dev/null; then \
		[ -x $(AUDIT)/bin/pip-audit ] || { python -m venv $(AUDIT) \
			&& $(AUDIT)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) $(PIP_AUDIT); } \
		&& $(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt; \
	else echo 'PyPI cannot be asked for advisories: the audit of constraints.txt is left out.'; fi

image-check: ## Build both images with buildah and run their commands; as root, on Debian.
	docker/image_check.sh

clean: ## Remove what these targets made: environments, caches, the demo's data.
	rm -rf $(VENV) protos/node_modules dist .demo .up .soak.json
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
