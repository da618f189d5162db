# Everything runs in .venv, which `make venv` fills once and again only when pyproject.toml changes.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-$(shell cksum pyproject.toml | cut -d' ' -f1)

# Most of a test is waiting for processes to start; more at a time would make each too slow.
APART  := -n 2 --dist loadgroup
# The cluster's tests wait even more: they are one process of pytest's, beside two for the others.
ALL    := -n 3 --dist loadgroup

.PHONY: help venv run test unit cluster cluster-down e2e soak bench proto crd docs clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 22

$(STAMP):
	@echo "==> setting up $(VENV) (once; a few minutes when packages have to be fetched)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; assert sys.version_info >= (3, 11), "FedKube needs Python 3.11 or newer, this is " + sys.version'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

venv: $(STAMP) ## .venv with all that development needs

run: $(STAMP) ## train the digits example: ten clients, a small CNN
	@echo "==> fedkube run examples/digits"
	$(BIN)/fedkube run examples/digits --clients 10

test: $(STAMP) ## everything that has to hold: style, types, layers, generated code, tests, a cluster
	@echo "==> ruff, mypy, import-linter, generated code"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m fedkube.proto.generate --check
	$(BIN)/python -m fedkube.api.crd --check
	$(BIN)/python docs/generate.py --check
	@echo "==> the cluster of the tests: nothing to do when it is built"
	$(BIN)/python -m tests.cluster prepare
	@echo "==> pytest: the cluster, and all else beside it"
	$(BIN)/pytest $(ALL)

unit: $(STAMP) ## the fast tests alone
	$(BIN)/pytest $(APART) tests/unit tests/property tests/integration

cluster: $(STAMP) ## a real Kubernetes on this machine (Debian, root), with the images in it
	$(BIN)/python -m tests.cluster cluster

cluster-down: $(STAMP) ## take it away; what was built is kept in ~/.cache/fedkube/cluster
	$(BIN)/python -m tests.cluster down

e2e: $(STAMP) ## whole runs on the cluster that KUBECONFIG names (with the images), or else on our own
	FEDKUBE_E2E=$(if $(KUBECONFIG),1) $(BIN)/pytest tests/e2e/on_cluster

soak: $(STAMP) ## hours of faults: 100,000 simulated runs, 2,800 servers killed, a run with 50 workers
	FEDKUBE_DEATHS=100 $(BIN)/pytest $(APART) tests/simulation -k again_and_again
	$(BIN)/python -m tests.simulation --seeds 100000
	$(BIN)/python -m tests.soak.kills
	$(BIN)/python -m tests.soak --minutes 60 --agents 50

bench: $(STAMP) ## the benchmarks, as JSON lines
	$(BIN)/python -m benchmarks

proto: $(STAMP) ## regenerate the protobuf code
	$(BIN)/python -m fedkube.proto.generate

crd: $(STAMP) ## regenerate the chart's copy of the CustomResourceDefinition
	$(BIN)/python -m fedkube.api.crd

docs: $(STAMP) ## regenerate docs/reference.md
	$(BIN)/python docs/generate.py

clean: ## remove .venv and what the tools cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
