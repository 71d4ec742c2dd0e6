# make demo   installs into .venv and makes out/demo.mp4 from the shipped portrait and speech
# make test   installs the test extra, then lints, checks types and runs the tests in WORKERS processes of up to 4 GB
# make browser   installs Chromium for the tests of the web page, as root on Debian; without one they are skipped
# make lint   ruff and mypy alone
# make sharding-aot   compiles every plan for eight H200s on a machine without a GPU, a minute or a minute and a half each, and fails
#                     where something moves that should not; AOT_FLAGS='--plans u8r1-g4x2' compiles one
# make small-model   trains the shipped model in out/small, from nothing: some 75 minutes on a GPU, days without; needs espeak-ng
# make memory   compiles both 14B training stages for 8, 16 and 32 H200s on a machine without a GPU: what each GPU must hold; 15 programs,
#               six to twenty minutes for each stage and number of GPUs

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test pytest browser lint sharding-aot small-model memory clean

demo: $(VENV)/installed
	@mkdir -p out
	$(BIN)/livetalk generate --config tiny --image livetalk_jax/samples/portrait.png --audio livetalk_jax/samples/speech.flac --out out/demo.mp4

test: $(VENV)/installed-test
	$(MAKE) --jobs 2 lint pytest

pytest: $(VENV)/installed-test
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

browser:
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; \
	else echo "make browser: install Chromium; here it can be done only as root on Debian"; fi

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sharding-aot: build/aot/ready
	@mkdir -p out
	PYTHONPATH=build/aot/plugin JAX_PLATFORMS=cpu $(BIN)/python -m livetalk_jax.benchmarks.aot --config soulx_14b --out out $(AOT_FLAGS)

small-model: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	PYTHON=$(BIN)/python sh tools/train_small.sh out/small

memory: build/aot/ready
	@mkdir -p out
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	for stage in stage1_14b stage2_14b; do \
		PYTHONPATH=build/aot/plugin JAX_PLATFORMS=cpu $(BIN)/livetalk bench memory --config $$stage --out out || exit 1; \
	done

# XLA's GPU compiler, unpacked and not installed: an installed plugin makes JAX look for a GPU.
build/aot/ready: $(VENV)/installed
	rm -rf build/aot && mkdir -p build/aot
	version=$$($(BIN)/python -c 'import jax; print(jax.__version__)') && \
	$(BIN)/python -m pip download --quiet --no-deps -d build/aot jax-cuda13-pjrt==$$version jax-cuda13-plugin==$$version
	for wheel in build/aot/*.whl; do $(BIN)/python -m zipfile -e $$wheel build/aot/plugin; done
	rm build/aot/*.whl
	@touch $@

clean:
	rm -rf $(VENV) out build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "LiveTalk-JAX needs Python 3.11 to 3.13; this is %d.%d (set PYTHON=…)" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/installed
