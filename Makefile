# `make demo` shows the main job; `make test` passes the tests and installs what they need beyond Rust, Go and the registries.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CACHE := $(CURDIR)/.cache
# A tool that is missing fails a test instead of skipping it.
WITH_TOOLS := PATH="$(CACHE)/bin:$$PATH" MESHCERT_REQUIRE_TOOLS=1

.PHONY: help demo test quick lint fmt bench bench-tools tools golden manifests image reproducible arm64 e2e e2e-fleet e2e-tools e2e-up e2e-down

help: ## Say what can be made.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## Show meshcert at work on hosted meshes in an embedded cluster; needs nothing but Rust.
	cargo run --quiet -- demo

tools: ## Build and install the real Prometheus, Alertmanager, kubectl, Kubernetes API and checkers, once, into .cache.
	tools/build.sh

quick: ## Formatting, clippy and the shape of the house: what needs no tools.
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo test --quiet --test architecture

lint: quick tools ## The same, and licences, shell scripts, YAML.
	tools/lint.sh

test: lint image ## Everything that is checked, quick checks first.
	$(WITH_TOOLS) cargo test

e2e: e2e-tools image ## Renew real hosted meshes on a real Kubernetes; needs root on a Debian.
	e2e/run.sh --skip fleet::

e2e-fleet: e2e-tools image ## Renew 60 of 200 hosted meshes in one storm there, with fake pods; E2E_MESHES says how many.
	E2E_PROFILE=release e2e/run.sh fleet::

e2e-tools: tools
	tools/build.sh e2e

e2e-up: e2e-tools image ## Bring up that Kubernetes with a hosted mesh that expires in two days, for a person.
	e2e/up.sh
	e2e/inside.sh e2e/mesh.sh istio-system hosted-demo

e2e-down: ## Take it down; nothing is left of it.
	e2e/down.sh

# What the chart brings along is made from the rules and dashboards.
golden: ## Write the golden files anew; look at the difference before committing it.
	$(WITH_TOOLS) UPDATE_GOLDEN=1 cargo test --test alerts --test dashboards
	$(WITH_TOOLS) UPDATE_GOLDEN=1 cargo test

manifests: ## Write what is made from the chart anew: plain manifests, its schema, the table of values.
	$(WITH_TOOLS) UPDATE_GOLDEN=1 cargo test --test chart --test chart_rendering

image: ## Build the container image and its SBOM into target/image, with buildah; ARCH=arm64 for that; a static release build takes minutes.
	nice tools/image.sh

reproducible: ## Build the image's program twice, in two places, and compare every byte; takes two builds from nothing.
	nice tools/reproducible.sh

arm64: ## Build the program for arm64, unoptimised, and have it read a cluster under an emulator.
	nice tools/arm64.sh

bench: bench-tools ## Measure, each beside its yardstick in the same run: other exporters too, which are built once.
	$(WITH_TOOLS) cargo bench

bench-tools: tools
	tools/build.sh bench

fmt: ## Format.
	cargo fmt
