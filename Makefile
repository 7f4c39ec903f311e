# Each target is a command of the driver, crates/xtask, and does all of its own set-up. PG=17 chooses another major version
# of PostgreSQL, PG_CONFIG=/path/to/pg_config an installation anywhere.

XTASK := scripts/xtask.sh
.DEFAULT_GOAL := help
.PHONY: help demo psql test test-all test-clusters bench bench-in-process bench-pages profile setup build install fmt lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  PG=17                            another major version, and no other (make test PG=17)'
	@echo '  PG_CONFIG=/path/pg_config        an installation of PostgreSQL anywhere'
	@echo '  NEWER_PG_CONFIG=/path/pg_config  one of a newer version for the test of pg_upgrade (the newest that is there)'
	@echo '  SUITE=regress                    one suite of make test: crates, regress, isolation, servers, pgrx'
	@echo '  ONE=regress/wire                 one test of it, or isolation/page_walk, servers/stress, crates/cursor'

demo: ## two people, three devices, one shared space, played in SQL
	@$(XTASK) demo

psql: ## a prompt in the demo's database
	@$(XTASK) demo --prompt

test: ## the tests on every supported major version, before a change is taken
	@$(XTASK) test

test-all: ## every suite on every supported major version
	@$(XTASK) test --all

test-clusters: ## the suite that runs real clusters: crashes, failovers, restores, upgrades
	@$(XTASK) test --suite servers

bench: ## measure a release build beside the original and plain PostgreSQL
	@$(XTASK) bench

bench-in-process: ## measure the hot Rust code in a backend, beside the last time
	@$(XTASK) bench in-process

bench-pages: ## docs/benchmarks.md, from the results of the last make bench
	@$(XTASK) bench pages

profile: ## instructions of one call and where they go, by callgrind: CALL=record_change, …
	@$(XTASK) profile $(CALL)

setup: ## packages, cargo-pgrx, the private copy of PostgreSQL (the other targets do this too)
	@$(XTASK) setup

build: ## build, and install into the private copy of PostgreSQL
	@$(XTASK) build

install: ## build for release, and install into the PostgreSQL of PG_CONFIG (or of PATH)
	@$(XTASK) install

fmt: ## format the Rust sources
	cargo fmt --all

lint: ## rustfmt, clippy and cargo-deny, warnings are errors
	@$(XTASK) lint

clean: ## remove the build, the private copies and the logs
	@$(XTASK) clean
