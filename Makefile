# Each target sets up what it needs. On a Debian machine that has only Rust, what is missing comes by apt.
#
#   ARGS="…"   further arguments for `make demo` and `make bench`
#   CI=true    a test that would be skipped (no such client here, no corpus) is a failure

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help page demo test test-page test-clients lint lint-page reference book bench bench-tracker bench-mirror bench-flood bench-page fuzz build

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
XTASK := $(CARGO) run --quiet --locked --package longshore-xtask --

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

# What the page is made of. It is built where Node.js is; without it the binary says how to get it.
PAGE_SOURCES := $(shell find web/src web/public web/index.html web/package-lock.json web/vite.config.ts -type f 2>/dev/null)
NPM := $(shell command -v npm)
NODE_MAJOR := $(shell node --version 2>/dev/null | sed -E 's/v([0-9]+).*/\1/')
HAS_NODE := $(and $(NPM),$(NODE_MAJOR),$(shell [ $(or $(NODE_MAJOR),0) -ge 18 ] && echo yes))

page: ## the web page, in web/dist, where Node.js 18 is
ifeq ($(HAS_NODE),yes)
page: web/dist/index.html
else
page:
	@[[ -z $$CI ]] || { echo "the page wants Node.js 18 or later with npm: there is $(or $(NODE_MAJOR),none)" >&2; exit 1; }
	@echo "no Node.js 18 or later with npm here: the binary goes without its page" >&2
endif

web/node_modules/.package-lock.json: web/package-lock.json
	cd web && $(NPM) ci --silent
	@touch $@

web/dist/index.html: web/node_modules/.package-lock.json $(PAGE_SOURCES)
	cd web && $(NPM) run --silent build -- --logLevel warn
	@touch $@

demo: ## a tracker, a registry and twelve nodes on this machine, at work, and a page that shows them
	@scripts/setup.sh build page demo
	@$(MAKE) --no-print-directory page
	$(CARGO) build --release --locked --package longshore
	@$(TARGET)/release/longshore lab up --name demo $(or $(ARGS),--rate 20mbit)
	@$(TARGET)/release/longshore lab pull --name demo
	@$(TARGET)/release/longshore lab churn --name demo --pulls 10
	@echo "It goes on pulling until: $(TARGET)/release/longshore lab down --name demo"

build: ## the program, in target/release/longshore
	@scripts/setup.sh build page
	@$(MAKE) --no-print-directory page
	$(CARGO) build --release --locked --package longshore

test: ## all tests, those against other clients as well
	@scripts/setup.sh build peers page browser
	@$(MAKE) --no-print-directory page
	$(CARGO) test --workspace --locked --no-run
	@$(MAKE) --no-print-directory test-page LONGSHORE_BIN=$(abspath $(TARGET))/debug/longshore
	LONGSHORE_BIN=$(abspath $(TARGET))/debug/longshore $(CARGO) test --workspace --locked

test-page: ## the page's logic, and every view in Chromium: at a play, and at a lab and a node of LONGSHORE_BIN
ifeq ($(HAS_NODE),yes)
test-page: web/dist/index.html
ifndef LONGSHORE_BIN
	$(CARGO) build --locked --package longshore
endif
	cd web && LONGSHORE_BIN=$(or $(LONGSHORE_BIN),$(abspath $(TARGET))/debug/longshore) $(NPM) test --silent
else
test-page:
	@[[ -z $$CI ]] || exit 1
	@echo "skipped: the page's tests want Node.js 18 or later with npm"
endif

test-clients: ## every fault with every client, here and of Debian 13: the table of docs/faults.md, in TABLE
	@scripts/setup.sh build peers clients
	$(CARGO) build --locked --package longshore
	scripts/test-clients.sh $(abspath $(TARGET)) $(TABLE)

lint: ## format, clippy, documentation, the page's types, and the checks of crates/xtask
	@scripts/setup.sh build page
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --locked --quiet
	@$(MAKE) --no-print-directory lint-page
	$(XTASK) imports deps words

lint-page:
ifeq ($(HAS_NODE),yes)
lint-page: web/node_modules/.package-lock.json
	cd web && $(NPM) run --silent check
else
	@[[ -z $$CI ]] || exit 1
	@echo "skipped: the page's types want Node.js 18 or later with npm"
endif

reference: ## docs/reference anew, from the program and its sources
	LONGSHORE_REWRITE_REFERENCE=1 $(CARGO) test --quiet --locked --package longshore --test reference

book: ## the documentation as a book, in target/book (wants mdbook: cargo install mdbook)
	mdbook build docs --dest-dir $(abspath $(TARGET))/book
	python3 scripts/book-links.py $(TARGET)/book

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

bench-page: ## frames per second of the page, with a replay of 200 nodes and 50 torrents in Chromium
	@scripts/setup.sh page browser
	@$(MAKE) --no-print-directory page
	cd web && $(NPM) run --silent bench

fuzz: ## every fuzz target for FUZZ_SECONDS seconds (default 30)
	@scripts/setup.sh build fuzz
	scripts/fuzz.sh
