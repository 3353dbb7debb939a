# `make run` shows the main job, `make test` proves it, `make check` is what a change has to pass.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := common csi_driver operator webhook sidecars

# Everything that mounts runs in a mount namespace of its own, so that nothing of it can stay behind:
# as root a plain one, otherwise one below a user namespace.
ifeq ($(shell id -u),0)
UNSHARE := unshare --mount --propagation private
else
UNSHARE := unshare --user --map-root-user --mount --propagation private
endif

# Most of every ring is waiting. Of the node ring every worker has a mount namespace of its own, where what another one
# mounts keeps nothing from being collected; of the cluster ring, a cluster.
WORKERS  ?= $(shell echo $$((2 * $$(nproc))))
CLUSTERS ?= 1

# Some containers set it. Then each of the thousands of processes that the rings start compiles all that it imports.
export PYTHONDONTWRITEBYTECODE :=

LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate
COMPILE := $(LOCK) --python-version 3.11

ENGINE ?= docker
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= oneagent-csi:$(VERSION)
SOURCE ?= unknown
LABELS = --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) \
	--build-arg CREATED=$(shell git show -s --format=%cI HEAD) \
	--build-arg SOURCE=$(SOURCE)

.PHONY: help setup run test unit node check mypy pyright format fuzz docs bench bench-cluster bench-fleet bench-incumbent lock clean tools plugin preload agent-package \
	agent-image agent-lock helm cert-manager incumbent e2e e2e-packages \
	cluster tenant chart image image-push image-arm64-check

help:  ## list of targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(VENV)/.installed: requirements.lock pyproject.toml $(wildcard proto/*/*/*.proto) proto/generate.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11")'
	@$(PYTHON) tests/tools/set_up.py $(VENV) requirements.lock
	@touch $@

setup: $(VENV)/.installed  ## virtual environment with all dependencies

# The package of agents that a demonstration needs; made once.
AGENT_PACKAGE = $(if $(filter otel,$(AGENT)),build/agent-package/opentelemetry.zip)

run: setup $(AGENT_PACKAGE)  ## demo with built-in defaults; KEEP=1 leaves it running; AGENT=otel: with OpenTelemetry's agents
	@$(UNSHARE) $(BIN)/python -m tests.demo $(if $(KEEP),--keep) $(if $(AGENT),--agent=$(AGENT))

build/agent-package/opentelemetry.zip:
	@$(MAKE) --no-print-directory agent-package SKIP_MISSING=1

test: setup unit node  ## unit and node rings

unit: setup  ## unit ring: pure logic
	$(BIN)/pytest tests/unit -n $(WORKERS) --dist worksteal

node: setup tools  ## node ring: the real driver with real mounts
	$(BIN)/pytest tests/node --dist worksteal --tx '$(WORKERS)*popen//python=$(UNSHARE) $(BIN)/python'

tools:  ## upstream programs for the node ring (skipped without Go)
	@sh tests/tools/build.sh

build/compiler/ziglang/zig: requirements-preload.lock | setup
	@echo 'fetching a C compiler, 100 MB, once'
	@rm -rf build/compiler
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --target build/compiler \
		-r requirements-preload.lock
	@touch $@

preload: build/compiler/ziglang/zig  ## the preload library of OpenTelemetry's package, in build/preload, for its tests
	@ZIG_GLOBAL_CACHE_DIR=$(CURDIR)/build/compiler/cache $(BIN)/python preload/build.py --compiler $< build/preload

agent-package: preload  ## package of OpenTelemetry's agents, a zip in build/agent-package, with byte code for PYTHONS
	@mkdir -p build/agent-package
	$(BIN)/python deploy/agents/opentelemetry/build.py --library build/preload/$(shell uname -m)/libotelinject.so \
		$(PYTHONS:%=--python %) $(if $(SKIP_MISSING),--skip-missing) --zip build/agent-package/opentelemetry.zip build/agent-package/tree

agent-image:  ## the same as an image, by ENGINE
	$(ENGINE) build -f deploy/agents/opentelemetry/Dockerfile -t $(or $(AGENT_IMAGE),opentelemetry-agents:$(VERSION)) .

agent-lock: setup  ## resolve what OpenTelemetry's package is made of again
	$(LOCK) --upgrade --python-version 3.10 deploy/agents/opentelemetry/python/requirements.in \
		-o deploy/agents/opentelemetry/python/requirements.lock
	cd deploy/agents/opentelemetry/node && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund

helm:  ## Helm and a linter, for the chart's tests and for deploy/generate.py
	@sh tests/tools/build.sh tests/helm
	@sh tests/tools/build.sh tests/linter

cert-manager:  ## cert-manager's controllers, for the one test of the cluster ring that needs them
	@sh tests/tools/build.sh tests/certmanager

incumbent:  ## a release of the Dynatrace Operator, for bench-incumbent
	@CGO=1 sh tests/tools/build.sh tests/incumbent

plugin: setup  ## kubectl oneagent as one file, which needs Python and kubectl, and its manifest for krew, in build/
	$(BIN)/python deploy/plugin.py $(if $(URI),--uri $(URI))

e2e: setup  ## cluster ring: a real kubelet and API server; REQUIRED=1 fails where that is not available
	$(BIN)/python -m tests.cluster $(if $(REQUIRED),--required) $(if $(filter-out 1,$(CLUSTERS)),--workers=$(CLUSTERS)) $(BIN)/pytest tests/e2e

e2e-packages: setup  ## Debian packages that the cluster ring needs, besides Go
	@$(BIN)/python -m tests.cluster --packages

cluster: setup  ## a real cluster of one node with everything installed, until Ctrl-C
	@$(BIN)/python -m tests.cluster --required $(BIN)/python -m tests.e2e.playground

tenant: setup  ## a stand-in for a tenant, for a cluster on this machine: HOST=an address that its nodes and pods reach
	@$(BIN)/python -m tests.demo.tenant --host $(or $(HOST),$(error name an address of this machine: HOST=172.18.0.1))

chart: helm  ## the chart as one file, in build/
	tests/helm/bin/helm package deploy/helm/oneagent-csi --destination build

image:  ## container image, by ENGINE=docker, podman or buildah, and its SBOM in build/
	$(ENGINE) build -f Dockerfile.csi -t $(IMAGE) $(LABELS) .
	$(ENGINE) build -f Dockerfile.csi --target sbom --output type=local,dest=build $(LABELS) .

BUILDX = docker buildx build --platform $(or $(PLATFORMS),linux/amd64$(comma)linux/arm64) -f Dockerfile.csi $(LABELS)
comma := ,

image-push:  ## image for PLATFORMS, amd64 and arm64, pushed as IMAGE by docker; its digest, and an SBOM of each, in build/
	mkdir -p build
	$(BUILDX) --push --metadata-file build/image.json -t $(IMAGE) .
	$(BUILDX) --target sbom --output type=local,dest=build/sbom .

image-arm64-check: setup  ## check that every package of the image exists for arm64 and the base image's glibc
	$(BIN)/uv pip install --quiet --dry-run --target build/none --python-platform aarch64-manylinux_2_36 \
		--python-version 3.11 --only-binary :all: --require-hashes --no-deps -r requirements-runtime.lock

check: setup  ## formatting, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory --jobs=2 --output-sync mypy pyright
	$(BIN)/lint-imports

mypy: setup
	$(BIN)/mypy $(SOURCES:%=%/oneagent) tests benchmarks

pyright: setup
	$(BIN)/pyright

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: setup  ## try CASES malformed packages and requests generated from SEED; TARGET=csi-requests for one kind
	$(BIN)/python -m tests.fuzz $(if $(TARGET),--target $(TARGET)) $(if $(CASES),--cases $(CASES)) --seed $(or $(SEED),1)

docs: setup  ## the documentation as a site, in build/site; a broken link is an error
	rm -rf build/site
	$(BIN)/zensical build --clean --strict
	@echo 'build/site/index.html; with its search: $(PYTHON) -m http.server --directory build/site'

bench: setup preload  ## benchmarks; prints a table and writes build/bench.json
	@mkdir -p build
	$(UNSHARE) $(BIN)/python -m benchmarks

bench-cluster: setup  ## benchmarks on a real cluster: the operator (also in build/bench-cluster.json), and how injection delays pods
	$(BIN)/python -m tests.cluster --required $(BIN)/python -m benchmarks.operating
	$(BIN)/python -m tests.cluster --required $(BIN)/pytest -q tests/e2e/webhook/measure_pod_start.py

bench-fleet: setup  ## measures what a cluster of many nodes (NODES=1000) asks of its API server and its tenant, in ten minutes
	$(BIN)/python -m tests.cluster --required $(BIN)/python -m benchmarks.fleet --nodes=$(or $(NODES),1000)

bench-incumbent: setup incumbent  ## measures the driver beside that of the Dynatrace Operator, in five minutes
	$(BIN)/python -m tests.cluster --required $(BIN)/python -m benchmarks.incumbent

lock: setup  ## resolve the dependencies again, for development and for the image
	$(COMPILE) --upgrade --all-extras --group dev pyproject.toml -o requirements.lock
	$(COMPILE) --constraint requirements.lock --all-extras pyproject.toml -o requirements-runtime.lock
	$(COMPILE) --upgrade --group preload -o requirements-preload.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(COMPILE) --constraint requirements.lock - -o requirements-build.lock

clean:
	rm -rf $(VENV) .cache build dist common/oneagent/common/proto $(wildcard tests/*/bin)
