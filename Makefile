# `make demo` shows the main job; `make test` passes the tests and installs what they need beyond Rust, Go and the registries.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CACHE := $(CURDIR)/.cache
# A tool that is missing fails a test instead of skipping it.
WITH_TOOLS := PATH="$(CACHE)/bin:$$PATH" MESHCERT_REQUIRE_TOOLS=1

.PHONY: help demo test lint fmt bench tools golden

help: ## Say what can be made.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: ## Show meshcert at work on hosted meshes in an embedded cluster; needs nothing but Rust.
	cargo run --quiet -- demo

tools: ## Build and install the real Prometheus, Alertmanager, kubectl, Kubernetes API and checkers, once, into .cache.
	tools/build.sh

lint: ## Formatting, clippy, licences, shell scripts, YAML.
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	tools/lint.sh

test: tools lint ## Everything that is checked, quick checks first.
	$(WITH_TOOLS) cargo test --quiet --test architecture
	$(WITH_TOOLS) cargo test

golden: ## Write the golden files anew; look at the difference before committing it.
	$(WITH_TOOLS) UPDATE_GOLDEN=1 cargo test

bench: ## Measure, each beside its yardstick in the same run.
	cargo bench

fmt: ## Format.
	cargo fmt
