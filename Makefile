# make demo   installs into .venv and makes out/demo.mp4 from the shipped portrait and speech
# make test   installs the test extra, then lints, checks types and runs the tests
# make lint   ruff and mypy alone

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/installed
	@mkdir -p out
	$(BIN)/livetalk generate --config tiny --image livetalk_jax/samples/portrait.png --audio livetalk_jax/samples/speech.flac --out out/demo.mp4

test: lint
	$(BIN)/pytest

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
