# The entry points of the project. `make` lists them.

# How many times in a row `make attack` attacks the same farm.
ROUNDS ?= 1
export ROUNDS

# How many workers `make run` starts, and on which Redis of its own: one server, or a cluster.
WORKERS ?= 1
REDIS ?= one
export WORKERS REDIS

CARGO ?= cargo
DOC_FLAGS = -D warnings -A rustdoc::private_intra_doc_links
# The benchmarks measure what is shipped, beside servers that are compiled alike.
BENCH_CARGO = $(CARGO) bench --locked --profile dist --workspace --features tests/bench
ARM64 = aarch64-unknown-linux-gnu
ARM64_PROGRAMS = $(CURDIR)/target/arm64/$(ARM64)/release
DENY = $(CARGO) deny --workspace --all-features --frozen
# Advisories are checked where the RustSec database was downloaded: `cargo deny fetch db`.
ADVISORIES = $(if $(wildcard $(or $(CARGO_HOME),$(HOME)/.cargo)/advisory-dbs/advisory-db-*),advisories)

.DEFAULT_GOAL := help
.PHONY: help run test test-redis test-tools attack test-compose test-kubernetes test-alerts test-production test-openapi \
	test-arm64 faults model soak upgrade bench bench-scale bench-frames bench-guard profile lint lint-bench \
	lint-dependencies fmt clean release setup build dist build-arm64 build-tests contract-server

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: build ## Start a farm on this machine until Ctrl-C (WORKERS=n for n workers, REDIS=cluster for three primaries)
	@scripts/farm

test: build-tests test-kubernetes ## Run all tests (starts a Docker daemon when none runs; 12 minutes on 2 cores)
	ATTACKS=quick $(CARGO) test --locked --release --workspace -- \
		--skip arm64:: --skip bundles:: --skip dashboard:: --skip docker::archives:: --skip failover:: \
		--skip faults:: --skip production:: --skip schemathesis:: --skip upgrade::

# The failovers name the kind of Redis that they need, so they run only once.
test-redis: build-tests ## Run the tests of the queue on Redis with TLS, Sentinel and Cluster, and failovers (3 minutes)
	for kind in tls sentinel cluster; do \
		QUEUE_REDIS=$$kind $(CARGO) test --locked --release --workspace --test queue -- --skip failover:: || exit 1; \
	done
	$(CARGO) test --locked --release --workspace --test queue -- failover::

test-tools: build-tests ## Load what npm's bundlers and podman, buildah and skopeo make, which this installs
	@scripts/setup --tools
	$(CARGO) test --locked --release --workspace --test e2e -- bundles:: docker::archives::

test-kubernetes: target/python-kubernetes ## Render the Kubernetes manifests and check every object
	kubectl=$$($</bin/python scripts/kubectl) && $</bin/python tests/kubernetes/check.py "$$kubectl"

test-alerts: build-tests ## Test the alerts and the dashboard with Prometheus (installs Debian's)
	@scripts/setup --alerts
	promtool check rules deploy/prometheus/alerts.yml
	promtool test rules tests/prometheus/alerts.yml
	$(CARGO) test --locked --release --workspace --test e2e -- dashboard::

test-production: build-tests ## Run the recipes of docs/production.md: HAProxy with TLS, Redis with users, systemd units
	@scripts/setup --production
	$(CARGO) test --locked --release --workspace --test e2e -- production::

test-compose: build-tests ## Build the images, start the Compose project, inject failures (10 minutes)
	@scripts/setup --compose
	scripts/base-images >target/base-images.env
	COMPOSE_TEST_ENV_FILE=$(CURDIR)/target/base-images.env $(CARGO) test --locked --release --workspace \
		--test compose -- --nocapture --test-threads 1

test-arm64: build-tests build-arm64 ## Cross-compile the programs for arm64, and run them in an emulator
	ARM64_PROGRAMS=$(ARM64_PROGRAMS) $(CARGO) test --locked --release --workspace --test e2e -- arm64::

attack: build-tests ## Attack farms as a hostile contract or caller; write attacks-report.md (ROUNDS=n repeats)
	ATTACKS_REPORT=$(CURDIR)/attacks-report.md $(CARGO) test --locked --release --workspace --test attacks

faults: build-tests ## Kill, freeze and disconnect the processes of real farms (5 minutes)
	$(CARGO) test --locked --release --workspace --test e2e -- faults::

model: ## Check the ownership protocol with more faults at once (ten minutes)
	MODEL=large $(CARGO) test --locked --release -p shared --test ownership -- --nocapture --test-threads 1

soak: build-tests ## Inject faults under load (SOAK_SECONDS=600, SOAK_SEED=n), or attack: SOAK_ATTACKERS=4
	$(CARGO) test --locked --release --workspace --test soak

upgrade: build-tests ## Replace a farm of an earlier version (FROM=revision) by this one, under load
	UPGRADE_FROM=$$(scripts/earlier-programs '$(FROM)') && export UPGRADE_FROM && \
		$(CARGO) test --locked --release --workspace --test e2e -- upgrade::

test-openapi: build-tests ## Test the documented HTTP interface with schemathesis, and /docs in a browser
	@scripts/schemathesis
	$(CARGO) test --locked --release --workspace --test e2e -- schemathesis:: docs::

bench: build-tests dist target/peers/node_modules ## Benchmark the farm beside its limits and its peers; write bench/report.md (QUICK=1: 3 minutes)
	@scripts/setup --bench
	BENCH=$(if $(QUICK),quick,full) $(BENCH_CARGO) --bench farm

bench-scale: setup ## Measure the queue alone on 1 to 3 primaries of Redis; write bench/scale.md (QUICK=1: 2 minutes)
	BENCH=$(if $(QUICK),scale-quick,scale) $(BENCH_CARGO) --bench farm

# What the benchmarks compare the farm with. The scripts of the packages are not run.
target/peers/node_modules: $(wildcard tests/bench/peers/*)
	@scripts/setup --bench
	mkdir -p target/peers && cp tests/bench/peers/* target/peers/
	cd target/peers && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

bench-guard: build-tests dist ## Compare with an earlier version (FROM=revision), in turns; a regression of 5 % fails (10 minutes)
	@scripts/setup --bench
	BENCH_FROM=$$(scripts/earlier-programs '$(FROM)') && export BENCH_FROM && BENCH=guard $(BENCH_CARGO) --bench farm

bench-frames: setup ## Benchmark encoding and decoding of frames
	$(BENCH_CARGO) --bench frames

profile: build-tests dist ## Profile the programs under load; write the flame graphs bench/api.svg and bench/worker.svg
	@scripts/setup --bench
	BENCH=profile $(BENCH_CARGO) --bench farm

# Warnings of rustdoc are errors: most of them are links to items that were renamed. Links to private
# items are allowed, because the documentation includes them.
lint: lint-dependencies ## Check formatting, clippy, rustdoc and dependencies; any warning fails
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --release -- -D warnings
	$(CARGO) clippy --locked --workspace --test attacks --test compose --test soak --release -- -D warnings
	RUSTDOCFLAGS='$(DOC_FLAGS)' $(CARGO) doc --locked --workspace --no-deps --document-private-items --release
	cd tests/contract-server && $(CARGO) fmt --check
	cd tests/contract-server && $(CARGO) clippy --locked --release --target-dir target -- -D warnings

lint-bench: ## Run clippy on the benchmarks, which need more crates
	$(CARGO) clippy --locked --workspace --features tests/bench --bench farm --bench frames --release -- -D warnings

# cargo-deny is optional: `cargo install cargo-deny --locked` installs it.
lint-dependencies: ## Check licences, sources, bans and advisories of dependencies, where cargo-deny is installed
	@if $(DENY) --version >/dev/null 2>&1; then \
		$(DENY) check bans licenses sources $(ADVISORIES); \
	else \
		echo 'lint: cargo-deny is not installed; the check of dependencies is skipped'; \
	fi

fmt: ## Format the code
	$(CARGO) fmt --all
	cd tests/contract-server && $(CARGO) fmt

clean: ## Remove build output, and the data and logs of the local farm
	$(CARGO) clean
	rm -rf .farm tests/contract-server/target

release: ## Release VERSION=x.y.z from main: changelog, tag, programs, images (DRY_RUN=1 only prints)
	@scripts/release '$(VERSION)'

setup:
	@scripts/setup

build: setup
	$(CARGO) build --locked --release --workspace --bins

dist: setup ## Build the programs as they are shipped, in target/dist: optimized across crates (8 minutes)
	$(CARGO) build --locked --profile dist --package execution-api --package execution-worker

# The tests run the programs that this target builds.
build-tests: setup contract-server
	@scripts/setup --docker
	$(CARGO) build --locked --release --workspace --all-targets

# The program in the tests' container images. It is static, and built for the target of this machine.
contract-server:
	cd tests/contract-server && RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --locked \
		--release --target-dir target --target $$(rustc -vV | sed -n 's/^host: //p')

# In a folder of its own, so that it does not wait for other builds, nor they for it.
build-arm64:
	@scripts/setup --arm64
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc $(CARGO) build --locked --release \
		--package execution-api --package execution-worker --target $(ARM64) --target-dir target/arm64

target/python-kubernetes: tests/kubernetes/requirements.txt
	@scripts/setup --python
	python3 -m venv $@
	$@/bin/pip install --quiet --requirement $<
	@touch $@
