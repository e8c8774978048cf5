# Every target sets up what it needs in .venv; PYTHON may name another interpreter.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# One exact release, so that all machines compare with the same reference.
TORCH ?= torch==2.13.0
BIN := .venv/bin
# A file of tests shares what it sets up, so that it stays with one worker.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile
# glibc then asks for huge pages, which makes a step on CPU a tenth faster.
HUGE_PAGES := GLIBC_TUNABLES=glibc.malloc.hugetlb=1

SMALL_LICENCE := Apache 2.0, as the package: any use is allowed, commercial too.
NC_LICENCE := CC BY-NC-SA 4.0: no commercial use; weights trained from it carry the same licence.

.PHONY: demo test test-all test-chips small small-nc lint docs reference clean

demo: .venv/.installed
	rm -rf demo
	$(HUGE_PAGES) $(BIN)/wsicl demo --output demo

test: .venv/.installed-dev
	$(PYTEST)

test-all: .venv/.installed-dev
	$(PYTEST) -m "slow or not slow"

# With the compilers of GPUs and TPUs, 6 GB, in their own environment; they need no device.
test-chips: .venv-chips/.installed
	.venv-chips/bin/pytest -rs tests/tools/check/test_chip_compiler.py

# The weights that ship, from data to file (docs/model-small.md); goes on where it was cut off.
small: .venv/.installed
	for stage in configs/small/*.yaml configs/small.yaml; do \
		$(HUGE_PAGES) $(BIN)/wsicl train $$stage --resume || exit 1; \
	done
	mkdir -p exported
	$(BIN)/wsicl export runs/small --format safetensors --dtype float16 --overwrite \
		--licence "$(SMALL_LICENCE)" --output exported/small.safetensors

small-nc: .venv/.installed
	$(HUGE_PAGES) $(BIN)/wsicl train configs/small_nc.yaml --resume
	mkdir -p exported
	$(BIN)/wsicl export runs/small_nc --format safetensors --dtype float16 --overwrite \
		--licence "$(NC_LICENCE)" --output exported/small-nc.safetensors

lint: .venv/.installed-dev
	$(BIN)/ruff check wsicl_jax tests
	$(BIN)/ruff format --check wsicl_jax tests
	$(BIN)/lint-imports --config setup.cfg

# The pages that are made from the code: settings, commands, the Python API.
reference: .venv/.installed
	$(BIN)/python docs/make_reference.py

docs: .venv/.installed-docs reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv .venv-chips build demo dist site *.egg-info

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wsicl_jax needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv

.venv-chips/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv-chips
	.venv-chips/bin/pip install -q -e '.[dev,cuda,tpu]'
	touch $@

.venv/.installed: setup.cfg pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e .
	touch $@

.venv/.installed-docs: .venv/.installed
	$(BIN)/pip install -q -e '.[docs]'
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/pip install -q -e '.[dev,torch]' '$(TORCH)'
	touch $@
