# What a developer runs. `make` lists the targets.
#
# In:      ARCH=arm64 makes the demo's machine one of arm64, KEEP=1 keeps it and gives its console; ZSTRAP_CACHE moves
#          the cache folder; N, SEED and FIRST say which boots `make soak` makes; what `make zos` takes is in
#          docs/bundles.md.
# Out:     everything that is built lies below out/ (and cargo's target folder).
# Failure: the first step that fails ends the run; its own message stands last.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# rustup and `cargo install` put programs there, also where the login shell does not know it yet.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
MUSL_amd64 := x86_64-unknown-linux-musl
MUSL_arm64 := aarch64-unknown-linux-musl
ARCH ?= amd64
KEEP ?=
N ?= 40
KILLS ?=
SEED ?=
FIRST ?= 0
SITE ?=
KEY ?=
BUNDLE ?= zos
MYCELIUM ?=
MYCELIUM_SHA256 ?=
MODULES ?=
# Not empty: also the tests in whole machines that are not of the core set.
ALL ?=

##@ Use
.PHONY: demo
demo: setup-demo ## A real boot in QEMU, from keys to services under zinit (ARCH=arm64, KEEP=1: leaves a console)
	@$(MAKE) -j3 zstrap init-$(ARCH) kernel-$(ARCH) demo-tree-$(ARCH)
	@ARCH='$(ARCH)' KEEP='$(KEEP)' scripts/demo

.PHONY: zos
zos: setup-demo ## The bundle zos (ARCH=arm64), published where SITE and KEY are given
	@$(MAKE) -j2 zstrap zos-tree-$(ARCH)
ifneq ($(SITE)$(KEY),)
	out/bin/zstrap publish out/zos-tree/$(ARCH) --site '$(SITE)' --bundle '$(BUNDLE)' --arch $(ARCH) --key '$(KEY)'
endif

# The tests boot the bundle zos of amd64, and with ALL that of arm64, too. With it come the packages of scripts/ttyd, which
# other tests lay out: no test waits for a download.
.PHONY: build
build: ## All programs, the kernels and the trees of bundles, into out/
	@$(MAKE) -j3 programs kernel demo-tree zinit2-tree-amd64 zos-tree-amd64 $(if $(ALL),zinit2-tree-arm64 zos-tree-arm64)

##@ Check
# The steps run one after the other whatever -j says: they share cargo's lock and the processor.
TEST_STEPS := fmt shell clippy deny doc build unit fuzz-smoke qemu

.PHONY: test
test: setup-test ## Everything a change has to pass: each step below, in this order
	@for step in $(TEST_STEPS); do \
	  printf '\n== %s\n' "$$step"; SECONDS=0; $(MAKE) -j1 "$$step"; printf '== %s took %s s\n' "$$step" "$$SECONDS" >&2; \
	done

.PHONY: test-all
test-all: setup-test ## All of that and every test in a whole machine, with a dated log in out/
	@scripts/test-all $(TEST_STEPS)

.PHONY: fmt
fmt: ## Formatting
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check

.PHONY: shell
shell: ## Shell scripts: shellcheck, and syntax of what runs in the demo's machine
	shellcheck -x $(shell grep -rlE '^#!/usr/bin/env bash' .ci bundles fuzz/make-seeds kernel-config scripts)
	shellcheck -s sh $(shell grep -rlE '^#!/bin/sh' bundles)

.PHONY: clippy
clippy: ## Lints, warnings are errors
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: deny
deny: ## Licences, duplicates and sources of dependencies
	cargo deny --workspace --all-features check bans licenses sources

.PHONY: doc
doc: ## Documentation, warnings are errors
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

.PHONY: unit
unit: kernel ## Unit tests, and our formats against mtree, bsdtar, minisign and cpio
	cargo test --workspace --exclude zstrap-qemu-tests

.PHONY: fuzz-smoke
fuzz-smoke: ## Each fuzz target for 10 seconds (FUZZ_SECONDS)
	scripts/fuzz-smoke

.PHONY: qemu
qemu: build ## Whole machines: boots, refuses, recovers; what may differ on arm64, there as well
	cargo test -p zstrap-qemu-tests --no-run
	@$(MAKE) -j2 qemu-busy qemu-waiting

# Machines that wait for minutes cost hardly any processor: they run beside the others.
.PHONY: qemu-busy qemu-waiting qemu-amd64 qemu-arm64
qemu-amd64 qemu-waiting: NOT_CORE := $(if $(ALL),--include-ignored)
qemu-busy:
	@$(MAKE) -j1 qemu-amd64 qemu-arm64
qemu-waiting:
	cargo test -p zstrap-qemu-tests --test waiting -- --test-threads=6 $(NOT_CORE)
qemu-amd64:
	cargo test -p zstrap-qemu-tests --lib --bins --test machines -- --test-threads=3 $(NOT_CORE)

# What of the tests runs on arm64 too: these groups of the core set, or all but what the machine there does not have: the
# text memory of VGA, a second serial port, a boot without console (the device tree names one), the registers of amd64.
NOT_ON_ARM64 := --skip screens:: --skip boots_without_any_console --skip panic_of_the_init
ARM64_TESTS := $(if $(ALL),--include-ignored $(NOT_ON_ARM64),boots:: refuses:: network:: recovers:: cache::a_warm cache::the_running)
qemu-arm64:
	ZSTRAP_TEST_ARCH=arm64 cargo test -p zstrap-qemu-tests --test machines -- --test-threads=3 $(ARM64_TESTS)

.PHONY: soak
soak: build ## N=40 boots with randomly drawn faults, or KILLS=50 nodes killed at random points; SEED and FIRST repeat some
	cargo run -p zstrap-qemu-tests --bin soak -- $(if $(KILLS),--kills $(KILLS),--boots $(N)) --first $(FIRST) $(if $(SEED),--seed $(SEED))

.PHONY: bench
bench: build ## Figures: boot against a busybox script, from a disk, sizes, publish against sha256sum and md5sum
	cargo run -p zstrap-qemu-tests --release --bin bench

.PHONY: screenshots
screenshots: build ## docs/screens: pictures of a good boot and of three failures
	cargo run -p zstrap-qemu-tests --bin screens -- docs/screens

##@ Parts
.PHONY: programs zstrap
programs: zstrap init-amd64 init-arm64 payload-amd64 payload-arm64 ## out/bin: zstrap, the init, the programs of the tests
zstrap:
	cargo build --release -p zstrap
	@install -d out/bin
	@install -C $(TARGET_DIR)/release/zstrap out/bin/zstrap

# One by one: together they would share features, and the init would grow by the payload's.
.PHONY: init-amd64 init-arm64 payload-amd64 payload-arm64
init-amd64 init-arm64: init-%:
	cargo build --profile init --target $(MUSL_$*) -p zstrap-init
	@install -d out/bin
	@install -C $(TARGET_DIR)/$(MUSL_$*)/init/zstrap-init out/bin/zstrap-init-$*
payload-amd64 payload-arm64: payload-%:
	cargo build --profile init --target $(MUSL_$*) -p zstrap-test-payload
	@install -d out/bin
	@install -C $(TARGET_DIR)/$(MUSL_$*)/init/zstrap-test-payload out/bin/zstrap-test-payload-$*
	@install -C $(TARGET_DIR)/$(MUSL_$*)/init/zstrap-test-before out/bin/zstrap-test-before-$*
	@install -C $(TARGET_DIR)/$(MUSL_$*)/init/zstrap-test-overlay out/bin/zstrap-test-overlay-$*

.PHONY: kernel kernel-amd64 kernel-arm64 kernel-amd64-generic
kernel: kernel-amd64 kernel-arm64 kernel-amd64-generic ## out/kernel: Debian's packaged kernels and their modules, unpacked
kernel-amd64 kernel-arm64: kernel-%:
	kernel-config/debian $*
kernel-amd64-generic:
	kernel-config/debian amd64 generic

.PHONY: demo-tree demo-tree-amd64 demo-tree-arm64
demo-tree: demo-tree-amd64 demo-tree-arm64 ## out/demo-tree: the files of the bundle demo, for each architecture
demo-tree-amd64 demo-tree-arm64: demo-tree-%:
	bundles/demo/build $* out/demo-tree/$*

# The older zinit with YAML services, for tests.
.PHONY: zinit2-tree-amd64 zinit2-tree-arm64
zinit2-tree-amd64 zinit2-tree-arm64: zinit2-tree-%:
	bundles/zinit2/build $* out/zinit2-tree/$*

.PHONY: zos-tree-amd64 zos-tree-arm64
zos-tree-amd64 zos-tree-arm64: zos-tree-%:
	bundles/zos/build $* out/zos-tree/$* $(if $(MYCELIUM),--mycelium '$(MYCELIUM)') \
	  $(if $(MYCELIUM_SHA256),--mycelium-sha256 '$(MYCELIUM_SHA256)') $(if $(MODULES),--modules '$(MODULES)')

.PHONY: setup-demo setup-test
setup-demo: ## Installs what `make demo` needs
	@scripts/setup demo $(ARCH)
setup-test: ## Installs what `make test` needs
	@scripts/setup test

.PHONY: clean
clean: ## Removes out/ and cargo's output, keeps the cache folder
	rm -rf out
	cargo clean --quiet
	rm -rf fuzz/target

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+( [a-z-]+)*:.*## / { split($$1, name, ":"); printf "  %-12s %s\n", name[1], $$2 }' Makefile
