# demo and test do all the set-up that is missing: Debian's packages, and Python's in .venv.

PYTHON ?= python3
NEEDS = it takes Python 3.11 or newer, say make PYTHON=...

.PHONY: help demo test soak clean python parts more-parts

help:
	@echo 'make demo   main dies, the zones move to the backup, main returns: live, on this machine'
	@echo 'make test   format, lint, types, tests'
	@echo 'make soak   the tests that take minutes each'
	@echo 'make clean  away with .venv'

demo: .venv/.stamp
	@.venv/bin/zonerw demo

# The tests wait most of their time: two cores carry four at once.
test: more-parts .venv/.stamp
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/pytest -n 4 --dist worksteal

soak: more-parts .venv/.stamp
	.venv/bin/pytest -m soak

clean:
	rm -rf .venv

python:
	@command -v $(PYTHON) >/dev/null || { echo 'zonerw: no $(PYTHON) here: $(NEEDS)' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		"zonerw: $(PYTHON) is Python %d.%d: $(NEEDS)" % sys.version_info[:2])'

parts: python
	@sh demo/install-parts demo $(PYTHON)

# What the tests need, and the demo does not: the other kinds of name server too. First, where they
# are asked for: then apt-get has nothing left to do for the parts; two at once, with make -j, would
# be one too many.
more-parts: python
	@sh demo/install-parts test $(PYTHON)

ifneq (,$(filter test soak,$(MAKECMDGOALS)))
parts: | more-parts
endif

# Debian's Python has no ensurepip; then pip comes from the wheel that install-parts has seen to.
# pip does not constrain what it builds with, so hatchling, and what it makes editable
# installations with, are there first.
.venv/.stamp: pyproject.toml constraints.txt | parts
	@echo 'zonerw: installing Python packages into .venv …'
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
		$(PYTHON) -m venv .venv; \
	else \
		wheel=$$(ls /usr/share/python-wheels/pip-*.whl) && \
		$(PYTHON) -m venv --without-pip .venv && \
		PYTHONPATH=$$wheel .venv/bin/python -m pip install --quiet --no-index $$wheel; \
	fi
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt hatchling editables
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		-c constraints.txt -e '.[dev]'
	@touch $@
