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

# Most of the node ring and of the cluster ring is waiting. Of the node ring every worker has a mount namespace of its
# own, where what another one mounts keeps nothing from being collected; of the cluster ring, a cluster.
WORKERS  ?= $(shell nproc)
CLUSTERS ?= 1

COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	--python-version 3.11

ENGINE ?= docker
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= oneagent-csi:$(VERSION)
SOURCE ?= unknown
LABELS = --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) \
	--build-arg CREATED=$(shell git show -s --format=%cI HEAD) \
	--build-arg SOURCE=$(SOURCE)

.PHONY: help setup run test unit node check mypy pyright format fuzz docs bench bench-cluster lock clean tools helm e2e e2e-packages \
	cluster image image-arm64-check

help:  ## list of targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(VENV)/.installed: requirements.lock pyproject.toml $(wildcard proto/*/*/*.proto) proto/generate.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

setup: $(VENV)/.installed  ## virtual environment with all dependencies

run: setup  ## demo with built-in defaults; KEEP=1 leaves it running
	@$(UNSHARE) $(BIN)/python -m tests.demo $(if $(KEEP),--keep)

test: setup unit node  ## unit and node rings

unit: setup  ## unit ring: pure logic
	$(BIN)/pytest tests/unit -n auto --dist worksteal

node: setup tools  ## node ring: the real driver with real mounts
	$(BIN)/pytest tests/node --dist worksteal --tx '$(WORKERS)*popen//python=$(UNSHARE) $(BIN)/python'

tools:  ## upstream programs for the node ring (skipped without Go)
	@sh tests/tools/build.sh

helm:  ## Helm and a linter, for the chart's tests and for deploy/generate.py
	@sh tests/tools/build.sh tests/helm
	@sh tests/tools/build.sh tests/linter

e2e: setup  ## cluster ring: a real kubelet and API server; REQUIRED=1 fails where that is not available
	$(BIN)/python -m tests.cluster $(if $(REQUIRED),--required) $(if $(filter-out 1,$(CLUSTERS)),--workers=$(CLUSTERS)) $(BIN)/pytest tests/e2e

e2e-packages: setup  ## Debian packages that the cluster ring needs, besides Go
	@$(BIN)/python -m tests.cluster --packages

cluster: setup  ## a real cluster of one node with everything installed, until Ctrl-C
	@$(BIN)/python -m tests.cluster --required $(BIN)/python -m tests.e2e.playground

image:  ## container image, by ENGINE=docker, podman or buildah, and its SBOM in build/
	$(ENGINE) build -f Dockerfile.csi -t $(IMAGE) $(LABELS) .
	$(ENGINE) build -f Dockerfile.csi --target sbom --output type=local,dest=build $(LABELS) .

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
	$(BIN)/properdocs build --quiet --strict --config-file docs/site/properdocs.yml --site-dir $(CURDIR)/build/site

bench: setup  ## benchmarks; prints a table and writes build/bench.json
	@mkdir -p build
	$(UNSHARE) $(BIN)/python -m benchmarks

bench-cluster: setup  ## benchmarks on a real cluster: the operator (also in build/bench-cluster.json), and how injection delays pods
	$(BIN)/python -m tests.cluster --required $(BIN)/python -m benchmarks.operating
	$(BIN)/python -m tests.cluster --required $(BIN)/pytest -q tests/e2e/webhook/measure_pod_start.py

lock: setup  ## resolve the dependencies again, for development and for the image
	$(COMPILE) --upgrade --all-extras --group dev pyproject.toml -o requirements.lock
	$(COMPILE) --constraint requirements.lock --all-extras pyproject.toml -o requirements-runtime.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(COMPILE) --constraint requirements.lock - -o requirements-build.lock

clean:
	rm -rf $(VENV) build dist common/oneagent/common/proto $(wildcard tests/*/bin)
