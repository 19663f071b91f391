# Everything runs in .venv, made from the pins in requirements/. Nothing is installed outside it.
PYTHON ?= python3.11
PROFILE ?= tiny
BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check
ARTEFACTS := model_repository/lisa_engine/1/tiny/manifest.json

.PHONY: demo test test-web test-sizes serve bench load lint venv artefacts train clean
.DELETE_ON_ERROR:

demo: artefacts
	$(BIN)/python benchmarks/demo.py

# Two at a time (in their order, the long ones first), then those that judge times by themselves. `make test ARGS=tests/unit` for some of them.
APART := not sizes and not browser
test: artefacts
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone and $(APART)" $(ARGS)
	$(BIN)/python -m pytest -m "alone and $(APART)" $(ARGS) || test $$? -eq 5

# The page in a real Chromium: the machine's or $$CHROMIUM, else Debian's, fetched here and by no test.
test-web: artefacts
	$(BIN)/python tests/web/chromium.py
	$(BIN)/python -m pytest -m browser

# What takes minutes: checkpoints of a released size exported and built, a profile trained and exported, the client installed anew.
test-sizes: artefacts
	$(BIN)/python -m pytest -m sizes

serve: artefacts
	exec $(BIN)/sightline-serve --profile $(PROFILE)

bench: artefacts
	$(BIN)/python benchmarks/run.py

# The long load tests: ten times overload, a soak of 5,000 requests, a plain script beside the ensemble, perf_analyzer's sweeps.
load: artefacts
	$(BIN)/python benchmarks/load.py

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

venv: .venv/stamp
artefacts: $(ARTEFACTS)

# torch first and by its exact version, with its own requirements held to the lock; then the rest, nothing beside the lock.
.venv/stamp: requirements/lock.txt requirements/files.txt pyproject.toml client/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -c requirements/lock.txt $$(grep '^torch==' requirements/lock.txt)
	$(PIP) --no-deps -r requirements/lock.txt -r requirements/files.txt
	$(PIP) --no-deps --no-build-isolation -e . -e ./client
	touch $@

# Made again when the trained weights or the exporter change.
$(ARTEFACTS): .venv/stamp $(wildcard export/*.py training/weights/*)
	$(BIN)/sightline-export tiny

clean:
	rm -rf build .venv model_repository/*/1/tiny

# With DATA, a profile NAME for your own products, from normal pictures only (docs/training.md).
# Without, the tiny weights again, from installed packages only: about 2 hours on 2 cores.
NAME = own
train: venv
	$(BIN)/python -m sightline_training$(if $(DATA),.products --data "$(DATA)" --name "$(NAME)")
