# Each target does all of its own set-up; the scripts say what they do. PG=17 chooses another
# installed major version of PostgreSQL, PG_CONFIG=/path/to/pg_config an installation anywhere.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo psql test test-clusters bench bench-in-process bench-pages profile setup build install fmt lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  PG=17                            another installed major version (make test PG=17)'
	@echo '  PG_CONFIG=/path/pg_config        an installation of PostgreSQL anywhere'
	@echo '  NEWER_PG_CONFIG=/path/pg_config  one of a newer version for the test of pg_upgrade (the newest installed)'
	@echo '  SUITE=regress                    one suite of make test: crates, regress, isolation, servers, pgrx'

demo: ## two people, three devices, one shared space, played in SQL
	@scripts/demo.sh

psql: ## a prompt in the demo's database
	@scripts/demo.sh --prompt

test: ## every test
	@scripts/test.sh

test-clusters: ## the part of it that runs real clusters: crashes, failovers, restores, upgrades
	@SUITE=servers scripts/test.sh

bench: ## measure a release build beside the original and plain PostgreSQL
	@scripts/bench.sh

bench-in-process: ## measure the hot Rust code in a backend, beside the last time
	@scripts/bench.sh in-process

bench-pages: ## the README's table and docs/benchmarks.md, from the results of the last make bench
	@scripts/bench.sh pages

profile: ## instructions of one call and where they go, by callgrind: CALL=record_change, ... (see scripts/profile.sh)
	@scripts/profile.sh $(CALL)

setup: ## packages, cargo-pgrx, the private copy of PostgreSQL (the other targets do this too)
	@scripts/setup.sh

build: ## build, and install into the private copy of PostgreSQL
	@scripts/install.sh

install: ## build for release, and install into the PostgreSQL of PG_CONFIG (or of PATH)
	@scripts/install-system.sh

fmt: ## format the Rust sources
	cargo fmt --all

lint: ## rustfmt and clippy, warnings are errors
	@scripts/lint.sh

clean: ## remove the build, the private copies and the logs
	@scripts/clean.sh
