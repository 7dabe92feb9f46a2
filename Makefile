# One verb per line; `make` alone lists them. Everything happens in .venv and target.
BIN := .venv/bin
PYTHON ?= python3
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
# Most tests wait, for the kernel or for a clock, so there is one process more than processors.
JOBS ?= $(shell expr $$(nproc) + 1)
# These fetch packages, which a process with a network of its own cannot.
INDEX := tests/install tests/deploy/test_image.py
export PIP_QUIET := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: versions help demo test check build conformance bench bench-cluster bench-engine bench-compare bench-replay bench-page bench-agreement bench-restart bench-datapath bench-encodings notebooks figures soak chaos mutants fuzz wheel deb release docs clean

help:          ## list the verbs
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' Makefile | expand -t 16

demo: build    ## build, then let a Service answer in network namespaces
	kbe-nat demo

test: build    ## run all tests, those on real packets too where privileges allow, by JOBS processes side by side
	@tools/system-packages.sh chromium chromium-driver ethtool haproxy lintian man-db fish zsh || true
	cargo test --quiet --workspace
	pytest --quiet $(INDEX)
	pytest --quiet $(addprefix --ignore ,$(INDEX)) $(if $(filter-out 1,$(JOBS)),--dist loadfile --tx '$(JOBS)*popen//python=tests/isolated-python')
	pytest --quiet --doctest-modules --doctest-glob="*.md" python docs

# Where neither SSE2 nor x86-64-v3 is. The binding needs a Python for that processor.
ARM := aarch64-unknown-linux-gnu
check: build   ## formatting, lints, types, licences, layering, names and sizes, the table of faults
	@tools/system-packages.sh clang || true
	cargo fmt --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	if [ -d "$$(rustc --print target-libdir --target $(ARM))" ]; then \
	    cargo clippy --quiet --workspace --exclude kbe-nat-python --exclude kbe-nat-fuzz --target $(ARM) -- -D warnings; \
	else echo "not checked for $(ARM): rustup target add $(ARM)"; fi
	ruff format --quiet --check
	ruff check --quiet
	mypy
	python tools/native_stub.py --check
	stubtest kbe_nat._native
	if command -v cargo-deny >/dev/null; then cargo deny --log-level error check; fi
	pytest --quiet tests/test_layering.py
	python tools/fault_table.py --check
	python tools/flow_cache_program.py --check
	python tools/json_page.py --check
	python tools/json_schemas.py --check
	python tools/cli_words.py --check
	python tools/config_schema.py --check
	python tools/lab_schema.py --check
	python tools/lab_page.py --check
	python tools/metrics_page.py --check
	python tools/fields_page.py --check
	python tools/options_page.py --check
	python tools/annotations_page.py --check
	python tools/example_capture.py --check
	python tools/datapath_figures.py --check
	python tools/house.py --check

build: .venv/ready    ## leave an optimised build in .venv/bin/kbe-nat
	maturin develop --quiet --release

conformance: build    ## show case by case what is decided and written as by kube-proxy
	cd tests && python -m harness.conformance_table

bench: bench-engine bench-replay bench-datapath    ## run all benchmarks

bench-engine: build    ## measure the engine: benches/RESULTS.md and benches/results/engine.json; QUICK=1
	@tools/system-packages.sh valgrind || true
	python -m benches.engine $(if $(QUICK),--quick)

bench-compare: .venv/ready    ## tell whether this tree is slower than another revision: BASE=REV, ROUNDS, INSTRUCTIONS=1
	@tools/system-packages.sh $(if $(INSTRUCTIONS),valgrind)
	python -m benches.compare $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(INSTRUCTIONS),--instructions) $(or $(BASE),$(error say which: make bench-compare BASE=REV))

bench-replay: build    ## measure replay of a gigabyte of TCP: benches/RESULTS.md and benches/results/replay.json; QUICK=1
	python -m benches.replay $(if $(QUICK),--quick)

bench-agreement: build    ## ask 100 nodes about 100,000 connections, whatever order events come in: docs/scale.md
	python -m benches.agreement

bench-restart: build    ## let 5,000 simulated clients meet API servers that restart at once: docs/scale.md
	PYTHONPATH=tests python -m benches.restart

bench-datapath: build    ## measure ways through a node on real packets, as root: benches/RESULTS.md, README.md, docs/datapaths.md; ROUNDS=5
	@tools/system-packages.sh haproxy || true
	python -m benches.datapath.established $(if $(ROUNDS),--rounds $$((40 * $(ROUNDS))))
	python -m benches.datapath.connects $(if $(ROUNDS),--rounds $$((20 * $(ROUNDS))))
	python -m benches.datapath.run $(if $(ROUNDS),--rounds $(ROUNDS))
	python -m benches.datapath.scale $(if $(ROUNDS),--rounds $(ROUNDS))
	python tools/datapath_figures.py

bench-metrics: build   ## measure a scrape at 10,000 Services: benches/RESULTS.md and benches/results/metrics.json
	python -m benches.scrape

bench-page: build    ## measure an open live page at 10,000 Services: benches/RESULTS.md and benches/results/page.json
	python -m benches.live_page

bench-cluster: build    ## measure the daemon at an API server with 10,000 Services, as root: benches/RESULTS.md and cluster.json
	PYTHONPATH=tests python -m benches.cluster.run

bench-encodings: build    ## measure answers of an API server in JSON and in protobuf: benches/RESULTS.md and encodings.json; QUICK=1
	PYTHONPATH=tests python -m benches.encodings $(if $(QUICK),--quick)

notebooks: build    ## execute the lab's notebooks, and write them with what they print and draw
	python tools/notebooks.py

figures: build    ## write figures into pages: of three scenarios of the lab's gallery, which it runs, and of the last bench-datapath
	python tools/lab_figures.py
	python tools/datapath_figures.py

soak: build    ## a minute at four fifths of the capacity without loss, and ten gigabytes byte for byte
	python -m benches.datapath.steady
	KBE_NAT_BULK=10737418240 pytest --quiet tests/netns/test_native.py -k gigabyte

chaos: build   ## everything at random while clients watch their flows, as root: MINUTES=10 SEED=...
	cd tests && python -m chaos.run --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

mutants: build ## damage the code line by line, and see that a test notices each: ONLY=pattern
	cd tests && python -m mutants.mutate $(ONLY)

fuzz: build    ## run every fuzz target ten million times, guided by coverage; FUZZ_RUNS, FUZZ_SECONDS
	tools/fuzz.sh
	KBE_NAT_FUZZ_EXAMPLES=3000 pytest --quiet tests/test_objects_fuzz.py tests/test_protobuf.py tests/test_requests_fuzz.py tests/test_yaml_fuzz.py

wheel: .venv/release    ## build what is published, into dist: the wheel for x86_64 with glibc 2.17 or newer, and the sdist
	rm -rf dist
	maturin build --quiet --release --strip --zig --compatibility manylinux2014 --compression-level 9 --out dist
	maturin sdist --out dist

deb: wheel .venv/ready    ## build the Debian package of that wheel into dist, on Debian 12
	python tools/debian_package.py dist/*.whl dist

release: .venv/release versions wheel .venv/ready    ## build and check what is published, and try it in clean environments; upload nothing: docs/releasing.md
	twine check --strict dist/*
	python tools/release.py dist
	KBE_NAT_WHEEL="$$(echo $(CURDIR)/dist/*.whl)" pytest --quiet tests/install
	@echo "Ready in dist; docs/releasing.md says what comes next."

versions:
	python tools/release.py

docs: .venv/ready    ## build the pages as one site, into target/site, and the documentation of the crates, into target/doc
	mkdocs build --quiet
	cargo doc --quiet --workspace --no-deps

clean:         ## take away what was built
	rm -rf .venv target dist

# What builds and checks a wheel, without the project itself.
.venv/release: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	pip install --upgrade 'pip>=25.1'
	pip install --group release
	touch $@

.venv/ready: pyproject.toml tools/system-packages.sh
	@tools/system-packages.sh
	@echo "Making .venv and building; this takes a minute or two."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	pip install --upgrade 'pip>=25.1' 'maturin>=1.15,<2'
	maturin develop --quiet --release --extras lab,lab-cluster,netfilterqueue,proxy --group development
	touch $@
