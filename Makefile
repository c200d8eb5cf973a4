# Every target makes its own environment when there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODELS := sample_models $(wildcard ../shared/models)
SCORER := $(wildcard ../shared/tools/score.py)

.PHONY: demo test sweep fuzz lint bench modes clean

demo: $(VENV)/.core
	@mkdir -p demo
	$(BIN)/qtool quantize sample_models/cnn/model.onnx -o demo/cnn.int8.onnx --force \
		--calib sample_models/cnn/calib --data sample_models/cnn/eval --labels sample_models/cnn/labels.json
	$(BIN)/qtool compare sample_models/cnn/model.onnx demo/cnn.int8.onnx \
		--data sample_models/cnn/eval --labels sample_models/cnn/labels.json \
		--fail-if 'sqnr<25' --fail-if 'accuracy_drop>0.01'

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal

# All of onnx's backend suite in every mode, of which `make test` runs one case in sixteen: 20 minutes on 2 cores.
sweep: $(VENV)/.dev
	SWEEP=all $(BIN)/python -m pytest -n auto tests/sweep

# Damaged models and samples, for SECONDS; what ends badly is kept in fuzz-found/.
SECONDS ?= 600
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz $(SECONDS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The table in docs/benchmarks.md: every model here, beside onnxruntime.quantization.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/static.py $(MODELS) --rival $(if $(SCORER),--scorer $(SCORER))

# The other table there: every mode on every model of ../shared, or of sample_models.
modes: $(VENV)/.core
	$(BIN)/python benchmarks/modes.py $(or $(wildcard ../shared/models),sample_models) $(if $(SCORER),--scorer $(SCORER))

clean:
	rm -rf $(VENV) demo dist build

$(VENV)/.pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "qtool needs Python 3.11 or newer"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.core: $(VENV)/.pip pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@
