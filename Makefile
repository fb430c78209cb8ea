# make test    ruff, pyright and pytest; installs PyTorch to test against (TORCH=no: without)
# make demo    poison a small CLIP on photographs, find the poisons, clean it (5 minutes)
# make test-slow   the tests that take longest: more of what make test tests (12 minutes)
# make test-faults the tests that kill a run many times, take four processes, or many damaged files
# make test-slurm  launch/slurm.sbatch on a throw-away Slurm of this machine (8 minutes)
# make test-beam   the tests of prepare on Apache Beam, which needs packages older than the pins
# make test-benchmark the small suite of cleanclip benchmark, to its end (15 minutes)
# make test-buckets workdirs at local servers of gs:// and s3:// (10 minutes)
# make test-wheel  the wheel in a fresh environment outside the checkout, and its demo (10 minutes)
# make clean   remove what set-up and the checks made; runs/ stays
# Each does the set-up it needs. A Python of your own: make test PYTHON=/path/to/python3.12

VENV ?= .venv
BIN := $(VENV)/bin

# The stamp's name holds a sum of all that the set-up depends on: nothing is installed again until
# one of them changes, whatever the files' dates say (a fresh clone gives every file today's).
KEY := $(shell (echo "$(CURDIR) $(PYTHON)"; cat Makefile pyproject.toml constraints/*.txt) | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/installed-$(KEY)
TORCH_STAMP := $(if $(filter no,$(TORCH)),,$(VENV)/torch-installed-$(KEY))
COMMA := ,
# One call of pip for a fresh environment that wants both.
EXTRAS := $(if $(and $(filter test test-slow,$(or $(MAKECMDGOALS),test)),$(TORCH_STAMP)),dev$(COMMA)torch,dev)
# Python compiles what is imported, which is a small part of what is installed.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
# Unpacking is most of set-up, and pip does it on one core: two install half of the pins each, and a
# third sees to what is missing, and says what is wrong. Without PyTorch, not what it alone brings.
LEAVE_OUT := $(if $(filter dev,$(EXTRAS)),^(torch|sympy|mpmath|networkx)==,^$$)

# Versions with pins come first. A pyenv shim exists for Pythons that do not run: each is tried.
CANDIDATES := $(or $(PYTHON),python3.12 python3.11 python3.14 python3.13 python3)
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
VERSION := import sys; print("%d.%d" % sys.version_info[:2])

.PHONY: test test-slow test-faults test-slurm test-beam test-buckets test-benchmark test-wheel demo setup clean constraints

# Each of the tests' many programs would compile Python's packages anew, where the user's
# environment says to keep no bytecode; kept here, and not beside the sources.
test test-slow test-faults: export PYTHONPYCACHEPREFIX := $(CURDIR)/build/bytecode
test test-slow test-faults: export PYTHONDONTWRITEBYTECODE :=

# What pytest's two workers would both compile to bytecode at once: packages, and the tests with all
# that they load.
define WARM
import io
from contextlib import redirect_stdout, suppress
import pytest
with redirect_stdout(io.StringIO()):
    pytest.main(["--collect-only", "-qq"])
for name in ("torch", "transformers", "orbax.checkpoint", "sklearn.manifold"):
    with suppress(ImportError):
        __import__(name)
endef
export WARM

test: setup $(TORCH_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@mkdir -p build
	@$(BIN)/pyright --pythonpath $(BIN)/python > build/pyright.log 2>&1 & types=$$!; \
	$(BIN)/python -c "$$WARM"; \
	$(BIN)/pytest -n 2 --dist worksteal; tests=$$?; \
	wait $$types; types=$$?; cat build/pyright.log; \
	exit $$((tests ? tests : types))

test-slow: setup $(TORCH_STAMP)
	$(BIN)/pytest -m slow -n 2 --dist worksteal

test-faults: setup
	$(BIN)/pytest -m faults

test-slurm: setup
	CLEANCLIP=$(abspath $(BIN))/cleanclip launch/test_slurm.sh

test-beam:
	$(or $(PYTHON),python3) -m venv --clear build/beam
	build/beam/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,beam]'
	build/beam/bin/pytest tests/data/shards/test_beam.py

test-benchmark: setup
	@folder=$$(mktemp -d) && $(BIN)/cleanclip benchmark small --workdir=$$folder/small && \
	rm -r $$folder && echo "The small suite is whole."

# Built from the source distribution, so that this is tested too.
WHEEL := build/wheel
test-wheel: setup
	@set -e; rm -rf $(WHEEL); mkdir -p $(WHEEL); \
	pins=$(CURDIR)/constraints/py$$($(BIN)/python -c '$(VERSION)' | tr -d .).txt; \
	if [ -f $$pins ]; then use="-c $$pins"; else use=""; fi; \
	$(BIN)/python -W ignore -c 'from setuptools import build_meta as b; b.build_sdist("$(WHEEL)")' > $(WHEEL)/log; \
	cd $(WHEEL); \
	$(abspath $(BIN))/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w . cleanclip_jax-*.tar.gz; \
	$(abspath $(BIN))/python -m venv venv; \
	venv/bin/python -m pip install --quiet --disable-pip-version-check $$use cleanclip_jax-*.whl; \
	dir=$$(mktemp -d); home=$$PWD; cd $$dir; \
	$$home/venv/bin/cleanclip demo --workdir=$$dir/demo; \
	test -s $$dir/demo/report.html; rm -rf $$dir; echo "The wheel stands alone."

# Pinned where there are pins, as the other environments are; pip takes minutes to choose the rest.
test-buckets: setup
	$(BIN)/python -m venv --clear build/buckets
	@pins=constraints/py$$($(BIN)/python -c '$(VERSION)' | tr -d .).txt; \
	if [ -f $$pins ]; then use="-c $$pins"; else use=""; fi; \
	build/buckets/bin/python $(INSTALL) $$use -e '.[dev,buckets]'
	build/buckets/bin/pytest -m faults tests/faults/test_buckets.py

demo: setup
	$(BIN)/cleanclip demo

setup: $(STAMP)

# A virtual environment of another Python, or one that was moved (its scripts hold its old path),
# is made anew.
$(STAMP):
	@set -e; \
	for python in $(CANDIDATES) none; do \
	  if $$python -c '$(USABLE)' 2>/dev/null; then break; fi; \
	done; \
	if [ $$python = none ]; then \
	  echo "make: no Python 3.11 or newer with venv among: $(CANDIDATES) (python3 is $$(python3 -V 2>&1 | head -n 1)). Install one (Debian: apt install python3-venv) or name it: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	version=$$($$python -c '$(VERSION)'); \
	pins=constraints/py$$(echo $$version | tr -d .).txt; \
	if [ -f $$pins ]; then use="-c $$pins"; with="pinned by $$pins"; else \
	  use=""; with="newest packages"; \
	  echo "make: warning: no pins for Python $$version: installing the newest packages, untested together." >&2; \
	fi; \
	if ! head -n 1 $(BIN)/pip 2>/dev/null | grep -qF "$(abspath $(VENV))/" || \
	   [ "$$($(BIN)/python -c '$(VERSION)' 2>/dev/null)" != $$version ]; then \
	  $$python -m venv --clear $(VENV); \
	fi; \
	echo "Setting up $(VENV): Python $$version, $$with. The first time this takes a few minutes."; \
	if [ -f $$pins ]; then for half in 0 1; do \
	  grep == $$pins | grep -vE '$(LEAVE_OUT)' | awk "NR % 2 == $$half" > $(VENV)/half-$$half.txt; \
	  $(BIN)/python $(INSTALL) --no-deps -r $(VENV)/half-$$half.txt 2> /dev/null & \
	done; wait; fi; \
	$(BIN)/python $(INSTALL) $$use -e '.[$(EXTRAS)]'; \
	rm -f $(VENV)/*installed-*; \
	touch $@; \
	if [ $(EXTRAS) != dev ]; then touch $(TORCH_STAMP); fi

# The tests run against PyTorch, which nothing else needs. On Linux PyPI has it with CUDA alone.
$(VENV)/torch-installed-$(KEY): $(STAMP)
	@set -e; if [ -f $@ ]; then exit 0; fi; \
	pins=constraints/py$$($(BIN)/python -c '$(VERSION)' | tr -d .).txt; \
	if [ -f $$pins ]; then use="-c $$pins"; else use=""; fi; \
	echo "Installing PyTorch into $(VENV), for the tests."; \
	$(BIN)/python $(INSTALL) $$use -e '.[dev,torch]'; \
	touch $@

# Takes the newest packages for PYTHON and writes them down. No local labels such as +cpu, so that
# every index can serve them; what PyTorch brings along for CUDA depends on the index.
TORCH_PIN := torch==2.13.0
constraints:
	@set -e; test -n "$(PYTHON)" || { echo "make: name the Python: make constraints PYTHON=python3.12" >&2; exit 1; }; \
	rm -rf build/pins; $(PYTHON) -m venv build/pins; \
	build/pins/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' $(TORCH_PIN); \
	version=$$(build/pins/bin/python -c '$(VERSION)'); \
	pins=constraints/py$$(echo $$version | tr -d .).txt; \
	{ echo "# Python $$version: all that pip install -e .[dev,torch] gives, but for CUDA. Written by: make constraints PYTHON=python$$version"; \
	  build/pins/bin/python -m pip freeze --exclude-editable | sed 's/+.*//' | grep -vE '^(nvidia|cuda|triton)'; } > $$pins; \
	rm -rf build/pins; echo "Wrote $$pins."

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +
