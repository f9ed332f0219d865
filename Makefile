# SPDX-License-Identifier: BSD-3-Clause
# Everything below works on a machine that has Python 3.10+, gcc and make: see `make help`.

PYTHON ?= python3
# A minute for each of the three fuzz targets.
SECONDS ?= 180
# Of random playbooks.
SEEDS ?= 1-100
BENCH ?=
TESTS ?= tests
MATRIX ?=
CHECKOUT ?=
CONFORMANCE ?=
# Where the plugins of collections are with which tests run; fetched there if it is this directory.
FATLINE_TEST_COLLECTIONS ?= $(CURDIR)/.venv/collections
export PYTHON
export CI
export FATLINE_TEST_COLLECTIONS

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
# With the virtual environment's Python and ninja.
MESON := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/meson
SECTION := .ci/section

# What a change of calls for a new installation.
SOURCES := $(shell find csrc fatline bootstrap ansible_plugins -type f \
	-not -name '*.pyc' -not -path '*/__pycache__/*') setup.py pyproject.toml VERSION

C_FILES := $(shell find csrc tests -name '*.[ch]')
CORE_C := $(shell find csrc/core -name '*.c')

.PHONY: help install demo test lint ruff mypy clang-format clang-tidy cppcheck c-test poll-test sanitize tsan fuzz py-test containers fidelity random lab matrix conformance bench yaml-matrix micro-bench clean

help: ## this list
	@echo "Usage: make TARGET [VARIABLE=value]"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '%-14s %s\n' "$$name" "$$text"; done
	@echo
	@echo "Variables: PYTHON=$(PYTHON) for the virtual environment; SECONDS=$(SECONDS) for fuzz;"
	@echo "ANSIBLE=path/to/venv for fidelity and random; SEEDS=$(SEEDS) for random;"
	@echo "MATRIX='--target sid-3.14' for matrix; CHECKOUT and CONFORMANCE for conformance;"
	@echo "TESTS=tests/unit/test_x.py for py-test; BENCH='--scenario all --runs 3' for bench."

demo: $(STAMPS)/installed ## run a playbook under stock Ansible and under Fatline, print both times
	@$(BIN)/fatline demo

install: $(STAMPS)/installed ## make .venv with ansible-core and Fatline in it
	@echo "Fatline is installed in $(VENV); look around with: $(BIN)/fatline --help"

# pytest comes last, so that its closing line is the closing line.
ifeq ($(CI),true)
test: lint c-test poll-test sanitize tsan fuzz py-test
else
test: c-test py-test ## C and Python tests; with CI=true lint, sanitizers, poll(2) build and fuzzing too
endif
.NOTPARALLEL:

lint: ruff mypy clang-format clang-tidy cppcheck ## ruff, mypy, clang-format, clang-tidy, cppcheck

ruff: $(STAMPS)/tools
	@$(SECTION) "ruff check" $(BIN)/ruff check --quiet .
	@$(SECTION) "ruff format" $(BIN)/ruff format --check --quiet .

# On what is installed: only there is bootstrap/ a part of the package.
mypy: $(STAMPS)/tools
	@cd $(VENV) && ../$(SECTION) "mypy" bin/mypy --config-file ../pyproject.toml

clang-format: $(STAMPS)/tools
	@$(SECTION) "clang-format" .ci/checker clang-format --dry-run --Werror $(C_FILES)

clang-tidy: build/c/build.ninja
	@$(SECTION) "clang-tidy" .ci/checker clang-tidy --quiet -p build/c $(CORE_C)

cppcheck: $(STAMPS)/tools
	@$(SECTION) "cppcheck" .ci/checker cppcheck --quiet --error-exitcode=1 --std=c11 --inline-suppr \
		--enable=warning,performance,portability -I csrc/core $(CORE_C)

c-test: build/c/build.ninja ## C unit tests
	@$(SECTION) "C tests (epoll)" env $(MESON) test -C build/c --print-errorlogs

poll-test: build/poll/build.ninja ## C unit tests of the poll(2) build
	@$(SECTION) "C tests (poll)" env $(MESON) test -C build/poll --print-errorlogs

sanitize: build/sanitize/build.ninja ## C unit tests under ASan and UBSan
	@$(SECTION) "C tests (ASan, UBSan)" env $(MESON) test -C build/sanitize --print-errorlogs

# Those that have threads; the mux has one.
tsan: build/tsan/build.ninja ## C unit tests with threads under TSan
	@$(SECTION) "C tests (TSan)" env $(MESON) test -C build/tsan --print-errorlogs client spawn

fuzz: build/fuzz/build.ninja ## fuzz targets, SECONDS in all; needs clang
	@$(MESON) compile -C build/fuzz >build/fuzz.log || { cat build/fuzz.log; exit 1; }
	@$(SECTION) "fuzz" .ci/fuzz build/fuzz $(SECONDS)

# Not from the checkout: there, a test's "python -c 'import fatline'" would find a package without extension.
py-test: $(STAMPS)/tools $(STAMPS)/collections ## Python unit, agent and end-to-end tests
	@cd $(VENV) && ../$(SECTION) "Python tests" bin/pytest -q -c ../pyproject.toml --rootdir .. $(abspath $(TESTS))

# The tools bring daemons that a machine for tests may not want: `make test` uses what is there, and installs none.
containers: $(STAMPS)/tools $(STAMPS)/collections ## install container tools by apt, test connections with them; needs root
	@.ci/system-packages containers
	@cd $(VENV) && ../$(SECTION) "containers" bin/pytest -q -c ../pyproject.toml --rootdir .. \
		$(abspath tests/e2e/test_containers.py tests/e2e/test_transports.py)

# ANSIBLE=path names another virtual environment, whose ansible-core runs the cases; Fatline is installed into it.
fidelity: $(STAMPS)/tools $(STAMPS)/collections ## every playbook of the differential suite, under stock and through Fatline's doors; needs root
	@$(if $(ANSIBLE),$(ANSIBLE)/bin/pip install --quiet --disable-pip-version-check .)
	@cd $(VENV) && ../$(SECTION) "fidelity" env ANSIBLE=$(if $(ANSIBLE),$(abspath $(ANSIBLE))) \
		bin/pytest -q -c ../pyproject.toml --rootdir .. -m fidelity $(abspath tests/fidelity)

random: $(STAMPS)/tools ## playbooks drawn by chance, as SEEDS say, in the same way; needs root
	@$(if $(ANSIBLE),$(ANSIBLE)/bin/pip install --quiet --disable-pip-version-check .)
	@cd $(VENV) && ../$(SECTION) "random" env SEEDS=$(SEEDS) ANSIBLE=$(if $(ANSIBLE),$(abspath $(ANSIBLE))) \
		bin/pytest -q -c ../pyproject.toml --rootdir .. -m fidelity $(abspath tests/fidelity/test_random.py)

yaml-matrix: ## compare YAML loading with ansible-core 2.14, 2.18, 2.19 and 2.22, as far as there are Pythons
	@.ci/system-packages build
	@.ci/yaml-matrix build/yaml-matrix

# Debian releases as targets and controllers, kept in $FATLINE_LAB or ~/.cache/fatline-lab: docs/lab.md.
lab: $(STAMPS)/lab ## build the lab's roots and controllers; needs root
	@$(BIN)/python tests/lab/lab.py build

matrix: $(STAMPS)/lab ## every controller with every target, with the options in MATRIX; needs root
	@$(BIN)/python tests/lab/matrix.py $(MATRIX)

conformance: $(STAMPS)/lab ## ansible-core's own integration targets, from CHECKOUT; needs root
	@$(BIN)/python tests/conformance/run $(or $(CHECKOUT),$(error CHECKOUT is not set: a source tree of ansible-core, or a version such as 2.18.6)) $(CONFORMANCE)

bench: $(STAMPS)/bench ## fatline bench with the options in BENCH
	@$(BIN)/fatline bench $(BENCH)

micro-bench: build/release/build.ninja ## the mux against a bare relay
	@$(MESON) test -C build/release --benchmark --verbose

clean: ## remove everything that was built, .venv included
	rm -rf build $(VENV) *.egg-info

$(STAMPS)/venv:
	@.ci/system-packages build
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# Not editable: ansible-core finds the collection only where it is really installed. The folder in which
# setuptools builds is emptied first, or files that were removed would be installed for ever.
$(STAMPS)/installed: $(STAMPS)/venv $(SOURCES)
	@echo "Building and installing Fatline"
	@rm -rf build/lib* build/temp* build/bdist* fatline.egg-info
	@$(BIN)/pip install --quiet --disable-pip-version-check .
	@touch $@

$(STAMPS)/tools: $(STAMPS)/installed
	@.ci/system-packages check
	@echo "Installing test tools"
	@$(BIN)/pip install --quiet --disable-pip-version-check 'fatline[test,dev]'
	@touch $@

# Where they cannot be had the tests with them are skipped, and the next time it is tried again.
$(STAMPS)/collections: tests/e2e/pypi_collections.py | $(STAMPS)/tools
	@$(BIN)/python tests/e2e/pypi_collections.py $(VENV)/collections && touch $@ || true

$(STAMPS)/bench: $(STAMPS)/installed
	@echo "Installing what is compared with"
	@$(BIN)/pip install --quiet --disable-pip-version-check 'fatline[bench]'
	@touch $@

$(STAMPS)/lab: $(STAMPS)/tools
	@.ci/system-packages lab
	@touch $@

build/%/build.ninja: | $(STAMPS)/tools
	@mkdir -p build
	@$(ENV_$*) $(MESON) setup build/$* $(MESON_$*) >build/$*.log || \
		{ cat build/$*.log; exit 1; }

MESON_c :=
MESON_poll := -Dloop=poll
MESON_sanitize := --buildtype=debug -Db_sanitize=address,undefined -Dextension=disabled
MESON_tsan := --buildtype=debug -Db_sanitize=thread -Dextension=disabled
MESON_release := --buildtype=release
# libFuzzer steers by coverage, so the core is instrumented too, not only the targets.
ENV_fuzz := CC=clang
MESON_fuzz := --buildtype=debugoptimized -Dfuzz=true -Dextension=disabled -Db_lundef=false \
	-Db_sanitize=address,undefined -Dc_args=-fsanitize=fuzzer-no-link
