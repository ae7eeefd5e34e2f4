# The entry points that a person must know; `make` lists them.

# How often `make attack` attacks one farm in a row.
ROUNDS ?= 1
export ROUNDS

# How many workers `make run` starts.
WORKERS ?= 1
export WORKERS

CARGO ?= cargo
BENCH_CARGO = $(CARGO) bench --locked --workspace --features tests/bench

.DEFAULT_GOAL := help
.PHONY: help run test attack test-compose test-kubernetes test-openapi faults soak bench bench-frames profile lint lint-bench fmt clean setup build build-tests contract-server

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: build ## Start a farm on this machine until Ctrl-C (WORKERS=n for n workers)
	@scripts/farm

test: build-tests test-kubernetes ## Run all tests (those of Docker contracts need a daemon: it is started)
	ATTACKS=quick $(CARGO) test --locked --release --workspace -- --skip faults:: --skip schemathesis::

test-kubernetes: target/python-kubernetes ## Render the Kubernetes manifests and check every object
	kubectl=$$($</bin/python scripts/kubectl) && $</bin/python tests/kubernetes/check.py "$$kubectl"

test-compose: build-tests ## Build the images, bring the farm up with docker-compose, strike it (ten minutes)
	@scripts/setup --compose
	scripts/base-images >target/base-images.env
	COMPOSE_TEST_ENV_FILE=$(CURDIR)/target/base-images.env $(CARGO) test --locked --release --workspace \
		--test compose -- --nocapture --test-threads 1

attack: build-tests ## Attack farms as contracts and callers would; write attacks-report.md (ROUNDS=n in a row)
	ATTACKS_REPORT=$(CURDIR)/attacks-report.md $(CARGO) test --locked --release --workspace --test attacks

faults: build-tests ## Kill, freeze and cut off the processes of real farms (five minutes)
	$(CARGO) test --locked --release --workspace --test e2e -- faults::

soak: build-tests ## Strike a loaded farm with random faults (SOAK_SECONDS=600, SOAK_SEED=n)
	$(CARGO) test --locked --release --workspace --test soak

test-openapi: build-tests ## Try the documented interface: schemathesis, and a browser that opens /docs
	@scripts/schemathesis
	$(CARGO) test --locked --release --workspace --test e2e -- schemathesis:: docs::

bench: build-tests ## Measure the farm beside what bounds it; write bench/report.md (QUICK=1: three minutes)
	@scripts/setup --bench
	BENCH=$(if $(QUICK),quick,full) $(BENCH_CARGO) --bench farm

bench-frames: setup ## Measure how fast frames are packed and read
	$(BENCH_CARGO) --bench frames

profile: build-tests ## Look where the programs spend their time; write bench/api.svg and bench/worker.svg
	@scripts/setup --bench
	BENCH=profile $(BENCH_CARGO) --bench farm

lint: ## Check the formatting and run clippy; any warning fails
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --release -- -D warnings
	$(CARGO) clippy --locked --workspace --test attacks --test compose --test soak --release -- -D warnings
	cd tests/contract-server && $(CARGO) fmt --check
	cd tests/contract-server && $(CARGO) clippy --locked --release --target-dir target -- -D warnings

lint-bench: ## The same for the benchmarks, which need more crates
	$(CARGO) clippy --locked --workspace --features tests/bench --bench farm --bench frames --release -- -D warnings

fmt: ## Format the code
	$(CARGO) fmt --all
	cd tests/contract-server && $(CARGO) fmt

clean: ## Remove what was built, and the data and logs of the local farm
	$(CARGO) clean
	rm -rf .farm tests/contract-server/target

setup:
	@scripts/setup

build: setup
	$(CARGO) build --locked --release --workspace --bins

# The tests run the programs that are built here.
build-tests: setup contract-server
	@scripts/setup --docker
	$(CARGO) build --locked --release --workspace --all-targets

# What the tests' images are made of: one static program, for the machine's own target.
contract-server:
	cd tests/contract-server && RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --locked \
		--release --target-dir target --target $$(rustc -vV | sed -n 's/^host: //p')

target/python-kubernetes: tests/kubernetes/requirements.txt
	@scripts/setup --python
	python3 -m venv $@
	$@/bin/pip install --quiet --requirement $<
	@touch $@
