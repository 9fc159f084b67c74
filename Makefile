# Each target sets up what it needs: a virtual environment, the pinned PyTorch, the package built from this tree.
# A bare machine needs python3 (3.10 or newer, with venv), a C++17 compiler and make; the rest comes from the package index.
#
#   FASTSAM_NATIVE=0 make test    the same tests on the PyTorch siblings alone
#   FASTSAM_CUDA=ON make setup    CUDA kernels too (OFF unless told otherwise; AUTO builds them where there is nvcc)
#   VENV=.venv-312 PYTHON=python3.12 make test

PYTHON ?= python3
VENV ?= .venv
# Two processes of one thread each: the tests' own threads would only get in each other's way.
PYTEST_FLAGS ?= -n 2 --dist loadfile
# Here single tests are long, so that whole files would leave a process waiting at the end.
SANITIZE_FLAGS ?= -n 2 --dist worksteal
export FASTSAM_CUDA ?= OFF
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
NATIVE_SOURCES := CMakeLists.txt $(shell find cmake csrc -type f)

.DEFAULT_GOAL := help
.PHONY: help setup demo test sanitize sanitize-cuda cuda lint bench bench-compare bench-table reference wheel clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: requirements/torch.txt $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet -r requirements/torch.txt
	@touch $@

# One stamp per FASTSAM_CUDA setting, so that changing it rebuilds.
BUILD := $(STAMPS)/build-$(FASTSAM_CUDA)
$(BUILD): pyproject.toml $(NATIVE_SOURCES) $(STAMPS)/torch
	$(BIN)/python -m pip install --quiet -c requirements/torch.txt --editable '.[dev,demo]'
	@rm -f $(STAMPS)/build-* && touch $@

setup: $(BUILD)  ## create .venv with everything and build the package in place

demo: setup  ## segment three real photos and print where the result is
	@$(BIN)/python -m fastsam_core.demo

test: setup  ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

sanitize: setup  ## the native tests under the address, undefined-behaviour and thread sanitizers
	$(BIN)/python tests/native/sanitize.py $(SANITIZE_FLAGS)

sanitize-cuda: setup  ## every kernel on a GPU under CUDA's compute-sanitizer, of a build with FASTSAM_CUDA=ON
	$(BIN)/python tests/native/sanitize_cuda.py

cuda: setup  ## build the CUDA kernels beside the package in use and check the binary; needs nvcc, no GPU
	$(BIN)/python tests/native/check_cuda.py

# The stubs of NumPy 2.5 and later are of no use to a check for Python 3.10.
MYPY_FLAGS = $(shell $(BIN)/python -c 'import numpy; print("--python-version=3.12" * (numpy.lib.NumpyVersion(numpy.__version__) >= "2.5.0"))')
lint: setup  ## ruff, mypy and clang-format, checking only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(MYPY_FLAGS)
	find csrc tests/native -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' | xargs $(BIN)/clang-format --dry-run --Werror

# The peers of the benchmarks; nothing else needs them.
$(STAMPS)/peers: pyproject.toml $(BUILD)
	$(BIN)/python -m pip install --quiet -c requirements/torch.txt --editable '.[dev,bench]'
	@touch $@

bench: $(STAMPS)/peers  ## run the benchmarks beside their peers; BENCH="bench_encoder --quick" runs one file
	$(BIN)/python -m bench $(or $(BENCH),--save)

bench-compare: setup  ## print what changed since the last committed results of this machine
	$(BIN)/python -m bench.compare

bench-table: setup  ## put the newest results into README.md and docs/benchmarks.md
	$(BIN)/python -m bench.table --write

reference: setup  ## write docs/reference.md from the options and docstrings
	$(BIN)/python docs/reference.py --write

wheel: setup  ## build a wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -t dist/*.whl | head -n 1

clean:  ## remove build output; the environment stays (rm -r .venv removes it too)
	rm -rf build dist demo runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks bench/.cache $(STAMPS)/build-*
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf
