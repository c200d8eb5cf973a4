# Every target makes its own environment when there is none, from the versions in requirements.lock.
PYTHON ?= python3
VENV := .venv
LOCK_VENV := .venv-lock
BIN := $(VENV)/bin
MODELS := sample_models $(wildcard ../shared/models)
SCORER := $(wildcard ../shared/tools/score.py)
# Tests start Python often: it reads modules that it has compiled before, whatever the caller's environment says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-all test-extras test-torch test-latest fuzz lint docs bench lock clean

demo: $(VENV)/.core
	@mkdir -p demo
	$(BIN)/qtool quantize sample_models/cnn/model.onnx -o demo/cnn.int8.onnx --force \
		--calib sample_models/cnn/calib --data sample_models/cnn/eval --labels sample_models/cnn/labels.json
	$(BIN)/qtool compare sample_models/cnn/model.onnx demo/cnn.int8.onnx \
		--data sample_models/cnn/eval --labels sample_models/cnn/labels.json \
		--fail-if 'sqnr<25' --fail-if 'accuracy_drop>0.01'

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal

# The same tests with the newest release of everything, in an environment of its own.
test-latest:
	rm -f .venv-latest/.pip .venv-latest/.core .venv-latest/.dev
	$(MAKE) test VENV=.venv-latest LATEST=1

# Everything, at night: all of onnx's backend suite and the zoo in every mode, every kill, the commands in the docs.
test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal --nightly

# Tests with heavy libraries, each in an environment of its own, with a lock of its own; a missing library fails.
test-extras:
	$(MAKE) .venv-extras/.extras VENV=.venv-extras LOCK=requirements-extras.lock
	HEAVY_TESTS=1 .venv-extras/bin/python -m pytest tests/extras

test-torch:
	$(MAKE) .venv-torch/.torch VENV=.venv-torch LOCK=requirements-torch.lock
	HEAVY_TESTS=1 .venv-torch/bin/python -m pytest tests/torch

# Damaged models and samples, for SECONDS; what ends badly is kept in fuzz-found/.
SECONDS ?= 600
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz $(SECONDS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/words.py

# The site, in build/site; a broken link fails.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The table in docs/benchmarks.md: every model here in every mode, beside onnxruntime.quantization.
TARGET ?= cpu
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/table.py $(MODELS) --rival --target $(TARGET) $(if $(SCORER),--scorer $(SCORER))

clean:
	rm -rf $(VENV) .venv-latest .venv-extras .venv-torch $(LOCK_VENV) demo dist build

# The versions in requirements.lock, of everything; none where LATEST is set.
LOCK := $(if $(LATEST),,requirements.lock)
PIP := $(BIN)/python -m pip install --quiet $(if $(LATEST),--upgrade --upgrade-strategy eager,--constraint $(LOCK))

$(VENV)/.pip: $(LOCK)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "qtool needs Python 3.11 or newer"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade $(if $(LATEST),pip,--constraint $(LOCK) pip)
	$(PIP) --group install
	@touch $@

# Without isolation hatchling, too, is the one of the lock.
$(VENV)/.core: $(VENV)/.pip pyproject.toml
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) --no-build-isolation --editable '.[all]' --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.core
	$(PIP) --group bench
	@touch $@

$(VENV)/.extras: $(VENV)/.core
	$(PIP) --group test --group extras
	@touch $@

$(VENV)/.torch: $(VENV)/.core
	$(PIP) --group test --group torch
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) --group docs
	@touch $@

# The locks: what pyproject.toml newly names is added; UPGRADE=1 takes the newest release of everything.
COMPILE = $(LOCK_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) pyproject.toml --group install

lock: $(LOCK_VENV)/.uv
	$(COMPILE) --extra all --group dev --group bench --group docs -o requirements.lock
	$(COMPILE) --group test --group extras -o requirements-extras.lock --constraint requirements.lock
	grep -vE '^(tokenizers|huggingface-hub)==' requirements.lock > $(LOCK_VENV)/for-torch.lock
	$(COMPILE) --group test --group torch -o requirements-torch.lock --constraint $(LOCK_VENV)/for-torch.lock

$(LOCK_VENV)/.uv:
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.3'
	$(LOCK_VENV)/bin/python -m pip install --quiet --group lock
	@touch $@
