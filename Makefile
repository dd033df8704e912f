# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` do their own set-up; `make help` lists the rest.
VENV ?= .venv
export VENV
PY := $(VENV)/bin/python
# Shared cores: one thread per numerical library keeps runs repeatable.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test operation browser lint results school lock clean

help:        ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

setup:       ## prepare .venv: system packages, locked wheels, ROS 2, this project
	@sh scripts/setup.sh

demo: setup  ## the virtual operation through the ROS 2 nodes, with table and pictures
	$(VENV)/bin/spinenav demo

test: setup browser  ## the whole test suite, by two workers (see conftest.py)
	$(PY) -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

browser: setup
	@SPINENAV_BROWSER=1 sh scripts/setup.sh

lint: setup  ## ruff, and mypy (strict) on the numerical core
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy src/*/*/core

results: setup  ## measure everything again and rewrite docs/results.md (long; BENCH_ARGS adds real data)
	$(VENV)/bin/spinenav bench $(BENCH_ARGS)

school:      ## train the networks beside other work, until ctrl-C (training/README.md; SCHOOL_ARGS)
	EXTRAS=train sh scripts/setup.sh
	nice -n 19 $(PY) -m training.school teach $(SCHOOL_ARGS)

lock:        ## rewrite requirements/lock-py3*.txt (needs uv)
	sh scripts/lock.sh

operation: setup  ## a surgeon follows a whole operation on the page; on a machine with nothing else to do
	SPINENAV_QUIET=1 $(PY) -m pytest -q test/test_ros_operation_page.py

clean:       ## remove what builds and runs leave behind (not .venv)
	rm -rf build install log out demo_out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src test training -name __pycache__ -prune -exec rm -rf {} +
