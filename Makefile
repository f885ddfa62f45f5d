# make run    the main job on an embedded data set, from nothing
# make test   the quick tests
# Both make their own virtual environment first. A GPU machine gets the newest libraries that pyproject.toml allows, any
# other the versions of constraints-cpu.txt and a CPU build of torch.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
comma := ,
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)
CONSTRAINTS := $(if $(GPU),,-c constraints-cpu.txt)
EXTRAS := $(if $(GPU),dev$(comma)gpu,dev)
DEMO ?= demo
# two at a time, by file: most of a test here is waiting for Ray's processes
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile

.PHONY: run test test-slow test-all check format clean

run: $(VENV)/.ready
	$(BIN)/s2l demo $(DEMO)
	$(BIN)/s2l run jobs/demo.yaml --set root=$(DEMO)/artifacts --set data.root=$(DEMO)

test: $(VENV)/.ready
	$(PYTEST) -m "not slow and not long"

test-slow: $(VENV)/.ready
	$(PYTEST) -m slow --durations 10

test-all: $(VENV)/.ready
	$(PYTEST)

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO)

# torch first and alone: a resolver that sees its range and no torch takes the newest build, with gigabytes of CUDA
$(VENV)/.ready: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(GPU),torch,torch==2.13.0)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	touch $@
