# Each target sets up what it needs. On a Debian machine that has only Rust, what is missing comes by apt.
#
#   ARGS="…"   further arguments for `make demo` and `make bench`
#   CI=true    a test that would be skipped (no such client here, no corpus) is a failure

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-clients lint bench bench-tracker bench-mirror bench-flood fuzz build

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
XTASK := $(CARGO) run --quiet --locked --package longshore-xtask --

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

demo: ## a tracker, a registry and twelve nodes on this machine, and who gave what to whom
	@scripts/setup.sh build demo
	$(CARGO) build --release --locked --package longshore
	$(TARGET)/release/longshore lab $(ARGS)

build: ## the program, in target/release/longshore
	@scripts/setup.sh build
	$(CARGO) build --release --locked --package longshore

test: ## all tests, those against other clients as well
	@scripts/setup.sh build peers
	LONGSHORE_BIN=$(abspath $(TARGET))/debug/longshore $(CARGO) test --workspace --locked

test-clients: ## every fault with every client, here and of Debian 13: the table of docs/faults.md, in TABLE
	@scripts/setup.sh build peers clients
	$(CARGO) build --locked --package longshore
	scripts/test-clients.sh $(abspath $(TARGET)) $(TABLE)

lint: ## format, clippy, documentation, and the checks of crates/xtask
	@scripts/setup.sh build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --locked --quiet
	$(XTASK) imports deps words

bench: ## Longshore beside whatever other clients are here; the figures of BENCHMARKS.md
	@scripts/setup.sh build peers
	$(CARGO) build --release --locked --package longshore
	$(CARGO) build --release --locked --package longshore-engine --example ceiling
	$(CARGO) build --release --locked --package longshore-node --example fill
	python3 benches/transfer.py --longshore $(TARGET)/release/longshore \
		--ceiling $(TARGET)/release/examples/ceiling $(ARGS)
	@if [[ $$(id -u) -eq 0 ]]; then python3 benches/shaped.py --binary $(TARGET)/release/longshore; \
		else echo "skipped: shaped links want root"; fi
	python3 benches/idle.py --binary $(TARGET)/release/longshore --fill $(TARGET)/release/examples/fill
	$(CARGO) run --release --locked --package longshore-sim --example crowds

bench-tracker: ## trackers under load, against answerers that keep nothing and whatever other trackers are here
	@scripts/setup.sh build peers
	$(CARGO) build --release --locked --package longshore
	$(CARGO) build --release --locked --package longshore-tracker --example load
	python3 benches/tracker.py --longshore $(TARGET)/release/longshore --load $(TARGET)/release/examples/load $(ARGS)
	python3 benches/forwarders.py --longshore $(TARGET)/release/longshore

bench-mirror: ## pulls through a node beside the registry itself and beside docker-registry as a cache; ten nodes at once
	@scripts/setup.sh build peers
	$(CARGO) build --release --locked --package longshore
	python3 benches/mirror.py --longshore $(TARGET)/release/longshore $(ARGS)

bench-flood: ## what a client of the tracker notices while another address floods it
	$(CARGO) build --release --locked --package longshore
	$(CARGO) build --release --locked --package longshore-tracker --example load
	python3 benches/flood.py --longshore $(TARGET)/release/longshore --load $(TARGET)/release/examples/load $(ARGS)

fuzz: ## every fuzz target for FUZZ_SECONDS seconds (default 30)
	@scripts/setup.sh build fuzz
	scripts/fuzz.sh
