# make demo   six real nodes on this machine, explained as they go; ends with PASS or FAIL
# make test   every test
# make check  lint, format, types, tests
# make bench  beside the other tunnels that this machine has, in one table; ARGS="--quick --loss 1", see sims/lab/bench.py
# make sim, make figures, make footprint: more seeds, and the figures that release notes quote
# make compiled: the simulator half as fast again, from C in build/compiled (optional; takes minutes)
# Each does all of its own set-up, see scripts/setup.sh.
SHELL := /bin/bash
PYTHON := .venv/bin/python
DEMO_TOOLS := ip bridge nsenter unshare setpriv ping curl
TEST_TOOLS := $(DEMO_TOOLS) ss ssh sshd ssh-keygen tcpdump nft socat miniupnpd \
	avahi-daemon avahi-browse avahi-publish dbus-daemon
# Tests with real nodes measure seconds, but mostly wait: tests in simulated time, which care for no clock, fill the
# processors meanwhile. Tests that read a real clock, or start programs, run before both.
CLOCKED := $(patsubst %,tests/test_%.py,aio authority_files cli control device disk_trouble ecn fastpath fastpath_faults \
	fastpath_nodes files host_contract layering lean offload_paths packet_loop scenario_run sim_command sim_embed sim_examples sizes speed stun_query udp udp_batch wire)
# What a script starts in its background ignores SIGINT; the tests mean signals to do what they usually do.
PYTEST := env --default-signal=INT,HUP,TERM $(PYTHON) -m pytest
JOBS ?= 2

.PHONY: demo test unit clocked simulated e2e soak fuzz bench check lint footprint figures sim compiled setup clean

demo:
	@scripts/setup.sh $(DEMO_TOOLS)
	@scripts/as-root.sh $(PYTHON) -m sims.lab.demo

test: clocked
	@scripts/beside.sh '$(MAKE) --no-print-directory simulated' '$(MAKE) --no-print-directory e2e'

unit: clocked simulated

clocked: setup
	$(PYTEST) $(CLOCKED) -n $(JOBS) --dist worksteal -q

simulated: setup
	$(PYTEST) tests --ignore=tests/e2e $(CLOCKED:%=--ignore=%) -n $(JOBS) --dist worksteal -q

e2e: setup
	scripts/as-root.sh $(PYTEST) tests/e2e -q

# The data path's tests with nothing shortened: 2 GB over a wire that loses, reorders and repeats packets.
soak: setup
	scripts/as-root.sh env P2PVPN_LONG=1 $(PYTEST) tests/e2e/test_data_path.py -q

check: lint test

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# The data path in C, built with sanitizers, beside Python's: two minutes of good and hostile packets. SECONDS=600 SEED=7
fuzz: setup
	scripts/fuzz.sh $(or $(SECONDS),120) $(SEED)

# Full: three rounds, about 25 minutes; ARGS=--quick: one, about 3.
bench:
	@scripts/setup.sh $(DEMO_TOOLS) iperf3
	@scripts/as-root.sh $(PYTHON) -m sims.lab.bench $(ARGS)

# What an idle node takes: memory, CPU, traffic, with 2 to 100 peers. About 7 minutes.
footprint:
	@scripts/setup.sh ip bridge nsenter unshare setpriv
	@scripts/as-root.sh $(PYTHON) -m sims.lab.footprint

# What rings of simulated nodes do. MATRIX=FILE names measured round trips.
figures:
	@scripts/setup.sh
	$(PYTHON) -m sims.figures lookups --nodes 1000 $(if $(MATRIX),--matrix $(MATRIX))
	$(PYTHON) -m sims.figures idle --nodes 100 $(if $(MATRIX),--matrix $(MATRIX))
	$(PYTHON) -m sims.figures cold --nodes 100 $(if $(MATRIX),--matrix $(MATRIX))
	$(PYTHON) -m sims.figures routability --nodes 200 $(if $(MATRIX),--matrix $(MATRIX))
	$(PYTHON) -m sims.figures broadcast --nodes 1000
	$(PYTHON) -m sims.figures crawl --nodes 1000
	$(PYTHON) -m sims.figures subring --nodes 500 --groups 20
	$(if $(MATRIX),$(PYTHON) -m sims.figures vivaldi --nodes 490 --matrix $(MATRIX))

# The simulated worlds with many more seeds than `make test` takes, then every shipped scenario with ten. The scenarios
# take some 25 minutes on two free cores, reckoned from single runs. ARGS=--full: the published sizes instead, some three
# hours with COMPILED=1 (CPU seconds a seed then: 1-latency-by-size 110, 2-broken-links 35, 3-failures 135, 3-churn 330,
# 4-churn 85, 4-phones 75, 5-coordinates 35, 6-join-all 17, 6-join-one 14; 7-hostile is reckoned: 1,200), a quarter to
# half as much again without; `--engine dask://...` spreads them.
sim: setup $(if $(COMPILED),compiled)
	P2PVPN_SEEDS=$(or $(SEEDS),20) $(PYTEST) tests/test_ring_world.py tests/test_handshakes.py tests/test_groups.py -n $(JOBS) -q
	P2PVPN_LONG=1 $(PYTEST) tests/test_constructed.py -q
	@for scenario in sims/scenarios/*.toml; do \
		if [[ $$scenario == *4-phones* && -z $$P2PVPN_DATA ]]; then \
			echo "$$scenario: left out, P2PVPN_DATA names no folder with its trace"; continue; fi; \
		$(if $(COMPILED),env PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled) $(PYTHON) -m sims.cli run $$scenario --jobs $(JOBS) $(ARGS) || exit 1; \
	done

# For long simulations: the code in which they spend their time, compiled to C in build/compiled. Minutes.
compiled:
	@scripts/setup.sh gcc
	$(PYTHON) scripts/compiled.py

setup:
	@scripts/setup.sh $(TEST_TOOLS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
