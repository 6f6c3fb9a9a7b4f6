# The commands of this project. `make demo` and `make test` need Python 3.11, git and make; all else is fetched.
# A stamp per set of packages makes every later call free: .venv is touched only when its inputs changed.

PYTHON ?= python3
BIN := .venv/bin
INPUTS := pyproject.toml constraints.txt
# Debian packages that some tests run against: a broker, a registry and its client, a database, and emulated
# devices.
DEBIAN_PACKAGES := mosquitto mosquitto-clients skopeo qemu-system-x86 zstd docker-registry postgresql
DEBIAN_PROGRAMS := mosquitto mosquitto_pub skopeo qemu-system-x86_64 zstd docker-registry pg_ctlcluster
# Arguments handed through: `make demo ARGS="--rounds 5 --json"`, `make test ARGS="-k topics"`.
ARGS ?=
N ?= 2

export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help demo up test test-long check format bench clean debian

help:
	@echo "make demo        install, run a real federated experiment, stop        (ARGS=\"--json --plot out.png\")"
	@echo "make up          install, start the whole system and leave it running  (ARGS=\"--proplets 5\")"
	@echo "make test        install what the tests need and run them              (ARGS=\"-k name\", N=workers)"
	@echo "make test-long   the long tier only"
	@echo "make check       ruff, mypy --strict, import-linter"
	@echo "make format      let ruff format and repair what it can"
	@echo "make bench NAME=x  run bench/x/run.py"
	@echo "make clean       remove everything that make made"

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends python3-venv; } || \
	  { echo "make: venv is missing; run: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.stamp-demo: $(INPUTS) | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

# The test set contains the demo's, so it satisfies both stamps.
.venv/.stamp-test: $(INPUTS) | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch .venv/.stamp-demo $@

demo: .venv/.stamp-demo
	@$(BIN)/propeller demo $(ARGS)

up: .venv/.stamp-demo
	@$(BIN)/propeller up $(ARGS)

# Installs the missing ones as root; otherwise says what to do, and the tests that need them say so again.
debian:
	@for program in $(DEBIAN_PROGRAMS); do command -v $$program >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    install="apt-get install -y -qq --no-install-recommends $(DEBIAN_PACKAGES)"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    $$install >/dev/null 2>&1 || { apt-get update -qq && $$install; }; \
	  else \
	    echo "make: some tests need Debian packages; run as root: apt-get install $(DEBIAN_PACKAGES)" >&2; \
	  fi; \
	fi

test: .venv/.stamp-test debian
	@$(BIN)/pytest -n $(N) --dist loadgroup -m "not long" $(ARGS)

# Half a gigabyte of Rust is for the long tier alone.
test-long: DEBIAN_PACKAGES += rustc libstd-rust-dev-wasm32 lld
test-long: DEBIAN_PROGRAMS += rust-lld wasm-ld
test-long: .venv/.stamp-test debian
	@$(BIN)/pytest -m long $(ARGS)

check: .venv/.stamp-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/.stamp-test
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: .venv/.stamp-test
	@test -n "$(NAME)" -a -f "bench/$(NAME)/run.py" || \
	  { echo "make: say which: $$(cd bench && ls -d */ 2>/dev/null | tr -d / | sed 's/^/NAME=/' | tr '\n' ' ')" >&2; exit 1; }
	@$(BIN)/python bench/$(NAME)/run.py $(ARGS)

clean:
	rm -rf .venv .propeller .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	rm -rf src/*.egg-info
	find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +
