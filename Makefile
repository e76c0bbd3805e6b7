# Needs python3 >= 3.11, make and a package index; everything else goes into .venv, made when there is none.
#
#   make demo        the whole chain on this machine, then seven attacks on it
#   make test        the tests, in TEST_JOBS (2) processes; minutes
#   make test-e2e    whole chains of commands: the demo, this README's tour, offline, post-quantum
#   make test-slow   the tests that take longest
#   make check       format, lint, types, import rules, documents
#   make bench       all benchmarks; results in benchmarks/results/ (`make bench-trust` runs one)
#   make fuzz        fuzzes every parser for FUZZ_SECONDS (600) each; FUZZ_TARGETS chooses
#   make faults      power cuts, disk errors, kills and random faults on a device, all of them (needs fiu-utils)
#   make mutation    changes trust and policy one line at a time and sees whether the tests notice
#   make lock        writes the lock files again from pyproject.toml (needs uv)
#   make clean       removes .venv and what the tools left
#
# TORCH_ARGS goes to the pip calls that install torch, to choose its build; see README.md, "Install".

PYTHON ?= python3
TORCH_ARGS ?=
PYTEST_ARGS ?=
TEST_JOBS ?= 2
DEMO_ARGS ?=
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= manifest contract custom channel walker offline attestation role codebook
FUZZ_JOBS ?= 2
FAULT_PARTS ?= random power errors kills
FAULT_JOBS ?= 2
UV ?= uv

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROOFS := $(VENV)/.proofs
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCKS := requirements/torch.txt requirements/dev.lock
COMPILE := $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--override requirements/without-torch.txt --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-e2e test-slow check format bench bench-chain bench-trust bench-device bench-compression bench-audits fuzz faults mutation lock clean

help:
	@sed -n 's/^#   //p' Makefile

install: $(STAMP)

# torch first and alone, then the lock by hash, then torch once more: that adds what a CUDA build of it wants, and nothing
# to a CPU build, whose dependencies the lock holds. Nothing but the lock's own versions is taken for those.
$(STAMP): $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Sealift needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo absent)" >&2; \
	  echo "hint: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install -q --no-deps $(TORCH_ARGS) -r requirements/torch.txt
	$(PIP) install -q --require-hashes --no-deps -r requirements/dev.lock
	$(PIP) install -q $(TORCH_ARGS) -r requirements/torch.txt
	$(PIP) install -q --no-deps --no-build-isolation -e .
	$(PIP) check
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/sealift demo $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

test-e2e: $(STAMP)
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile -m e2e $(PYTEST_ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/architecture

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: bench-chain bench-trust bench-device bench-compression bench-audits

bench-chain: $(STAMP)
	$(BIN)/python -m benchmarks.chain

bench-trust: $(STAMP)
	$(BIN)/python -m benchmarks.trust

# D8 and D9 count only after `make faults`; D11 reads the models under SEALIFT_DATA (docs/data.md).
bench-device: $(STAMP)
	$(BIN)/python -m benchmarks.device

# Reads models and data under SEALIFT_DATA; peers and emulators that it can use: docs/case-studies.md.
bench-compression: $(STAMP)
	$(BIN)/python -m benchmarks.compression

# Reads models and data under SEALIFT_DATA; an hour.
bench-audits: $(STAMP)
	$(BIN)/python -m benchmarks.audits

$(PROOFS): $(STAMP) requirements/proofs.lock
	$(PIP) install -q --require-hashes --no-deps -r requirements/proofs.lock
	@touch $(PROOFS)

fuzz: $(PROOFS)
	printf "%s\n" $(FUZZ_TARGETS) | xargs -P $(FUZZ_JOBS) -I @ $(BIN)/python -m tests.fuzz.run @ --seconds $(FUZZ_SECONDS)

faults: $(STAMP)
	@test -f /usr/lib/fiu/fiu_posix_preload.so || { \
	  echo "error: make faults needs libfiu" >&2; echo "hint: apt-get install fiu-utils" >&2; exit 1; }
	printf "%s\n" $(FAULT_PARTS) | xargs -P $(FAULT_JOBS) -I @ $(BIN)/python -m tests.faults.run @

mutation: $(PROOFS)
	$(BIN)/python -m tests.mutation.run

lock:
	@command -v $(UV) >/dev/null || { echo "error: make lock needs uv" >&2; echo "hint: pip install uv" >&2; exit 1; }
	$(COMPILE) pyproject.toml requirements/dev.in --extra dev -o requirements/dev.lock
	$(COMPILE) pyproject.toml --extra device --constraint requirements/dev.lock -o requirements/device.lock
	$(COMPILE) pyproject.toml --extra proofs --constraint requirements/dev.lock -o requirements/proofs.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
