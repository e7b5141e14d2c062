# kura's entry points. `make serve` and `make test` need rustup, gcc and make on a Debian machine, and nothing else:
# they install the rest. RocksDB is compiled once per machine (see scripts/rocksdb-archive.sh).

CARGO := scripts/cargo.sh

.PHONY: serve build test drill sim soak fuzz demo bench lint fmt generate completions tools clean

serve: build ## Build, and run a node on embedded defaults.
	bin/kura serve $(ARGS)

build: tools ## Build the optimised binary into bin/kura.
	$(CARGO) build --release
	@mkdir -p bin
	@cp -f "$${CARGO_TARGET_DIR:-target}/release/kura" bin/kura.partial && mv -f bin/kura.partial bin/kura

test: tools ## Install the tools the tests run against, and pass the whole suite.
	scripts/install-test-tools.sh || echo "not all tools could be installed: their tests will fail" >&2
	$(CARGO) test --no-fail-fast $(ARGS)

sim: tools ## Meshes under faults, from SEEDS seeds on from FIRST; SIM_SEED=n in the environment runs one again.
	SIM_SEEDS=$${SEEDS:-1000} SIM_FIRST=$${FIRST:-1} $(CARGO) test --test sim -- --nocapture

drill: tools ## Ten faults on a live mesh, one after another, each found by the doctor and cured by the command it prints.
	scripts/install-test-tools.sh || echo "not all tools could be installed" >&2
	$(CARGO) test --test drill -- --nocapture

soak: tools ## A loaded mesh killed with -9 again and again, for MINUTES=10 or ROUNDS=n; SOAK_SEED=n in the environment takes one again.
	SOAK_MINUTES=$${MINUTES:-10} SOAK_ROUNDS=$${ROUNDS:-} $(CARGO) test --release --test soak -- --nocapture

fuzz: tools ## Every parser of what comes from outside under libFuzzer, SECONDS=60 each; TARGETS="record range" picks some.
	scripts/fuzz.sh $${SECONDS:-60} $(TARGETS)

demo: build ## Three nodes, real traffic, leaked staging, kill -9 of all, restart, doctor.
	scripts/demo.sh

bench: build ## All of docs/performance.md: catch-up beside rsync, bursts, a million artifacts, HTTP beside nginx, reclaim beside rm, thresholds; FOLDER is on the volume to measure.
	$(CARGO) build --quiet --release --example fill_store
	scripts/bench.sh
	$(CARGO) run --quiet --release --example inline_threshold -- $${FOLDER:-target} 1500 5

lint: tools ## What a change has to pass besides the tests.
	cargo fmt --all --check
	$(CARGO) clippy --all-targets

fmt:
	cargo fmt --all

generate: tools ## Write the generated parts again: completions and the README's tables.
	KURA_GENERATE=1 INSTA_UPDATE=always $(CARGO) test --test cli

completions: generate

tools:
	@scripts/install-build-tools.sh

clean:
	cargo clean
	rm -rf bin
