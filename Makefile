# Everything installs into a virtual environment of its own; a second call does not set up again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test faults plan-check check setup clean

demo: $(READY)  ## the main job: generated video -> trained methods -> sweep -> front and report
	$(BIN)/vodbench demo --out runs/demo

# Many tests wait (for Ray, MLflow, a server to start): two at a time fill two cores.
JOBS ?= 2
test: $(READY)  ## all tests, the slow end-to-end ones included
	$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadscope --no-loadscope-reorder

TIMES ?= 20
faults: $(READY)  ## each fault of the suite TIMES times, and the table of what came of it; 1.5 hours: see docs/faults.md
	VODBENCH_FAULTS=$(TIMES) $(BIN)/python -m pytest tests/faults/test_faults.py

# A quarter of demo's trainings and a third of its settings.
SMALLER := --set settings.iterations=300 --set settings.basic_iterations=80 --set settings.advanced_iterations=60 \
	--set 'methods.rdn.knobs={T: [1, 6], K: [12], r: [20, 50]}'
PLANNED := runs/plan-check

plan-check: $(READY)  ## how far off is a plan? a small sweep's times, and a larger sweep that is then run
	$(BIN)/vodbench sweep demo --out $(PLANNED)/small --quiet $(SMALLER)
	$(BIN)/vodbench sweep demo --out $(PLANNED)/large --quiet --data $(PLANNED)/small/data/shards
	$(BIN)/vodbench plan demo --data $(PLANNED)/small/data/shards --from $(PLANNED)/small --against $(PLANNED)/large

check: $(READY)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(READY)

# The constraints file pins exact versions; uv resolves against it in seconds where pip back-tracks for minutes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) runs
