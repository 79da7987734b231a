# make run    the page on http://127.0.0.1:7860
# make test   every test but those for an idle machine (make test-nightly)
# Both make .venv when it is not there, and start at once when it is.

PYTHON ?= python3
PORT ?= 7860
CHECKPOINT ?= assets/model
DTYPE ?= auto
TP ?= 1
SECONDS ?= 60
SHORT ?=
ONLY ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test test-fast test-nightly test-3b lint fuzz load audit sbom screenshots browser bench
.DELETE_ON_ERROR:

run: .venv/run.stamp
	$(BIN)/python app.py --port $(PORT) --checkpoint "$(CHECKPOINT)" --dtype $(DTYPE) --tensor-parallel $(TP)

test: .venv/test.stamp browser
	$(BIN)/python -m pytest

test-fast: .venv/test.stamp
	$(BIN)/python -m pytest -m "not slow and not browser and not nightly"

test-nightly: .venv/test.stamp browser
	$(BIN)/python -m pytest -m nightly

# Every reader of foreign files and prompts, a minute each: make fuzz SECONDS=3600
fuzz: .venv/test.stamp .venv/fuzz.stamp
	$(BIN)/python -m fuzz $(SECONDS)

# Classes of 50 and 200, 2,100 sessions, 1,000 fills: minutes, on a machine that does nothing else.
load: .venv/test.stamp
	$(BIN)/python -m tests.load

# Known vulnerabilities of what is installed; asks the package registry, and says what that does not know.
audit: .venv/audit.stamp .venv/test.stamp
	PIPAPI_PYTHON_LOCATION=$(BIN)/python .venv/audit/bin/python -m pip_audit --progress-spinner off

# All that the requirements install, with licences, as a bill of materials (CycloneDX).
sbom: .venv/audit.stamp .venv/sbom.stamp
	.venv/audit/bin/python -m cyclonedx_py environment --output-reproducible -o sbom.cdx.json .venv/sbom/bin/python

# An archive of random weights as large as the published one: 6.5 GB of disk and of memory.
test-3b: .venv/test.stamp nemo_3b_random.nemo
	$(BIN)/python -m pytest -s tests/test_nemo_3b.py

nemo_3b_random.nemo: | .venv/test.stamp
	$(BIN)/python -m training.make_random --like nemo-3b $@

lint: .venv/test.stamp
	$(BIN)/ruff check .

screenshots: .venv/test.stamp browser
	$(BIN)/python -m tests.screenshots

# Tests drive Debian's Chromium; the fonts are those of the 24 languages.
browser:
	@command -v chromium >/dev/null || { \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    echo "Installing Chromium …" && apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq chromium fonts-noto-core fonts-noto-cjk; \
	  else \
	    echo "The browser tests need Chromium. Install it and try again:" >&2; \
	    echo "  sudo apt-get install chromium fonts-noto-core fonts-noto-cjk" >&2; \
	    echo "or run the others: make test-fast" >&2; exit 1; \
	  fi; }

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/run.stamp: requirements.txt | .venv/bin/python
	@echo "Installing what the page needs …"
	$(PIP) -r requirements.txt
	@touch $@

.venv/test.stamp: requirements-dev.txt .venv/run.stamp
	@echo "Installing what the tests need …"
	$(PIP) -r requirements-dev.txt
	@touch $@

.venv/fuzz.stamp: requirements-fuzz.txt .venv/run.stamp
	$(PIP) -r requirements-fuzz.txt
	@touch $@

# In an environment of their own, because a package that these bring makes gradio start two seconds later.
.venv/audit.stamp: requirements-audit.txt | .venv/bin/python
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-audit.txt
	@touch $@

# A virtual environment of what the page needs and nothing else.
.venv/sbom.stamp: requirements.txt | .venv/bin/python
	$(PYTHON) -m venv --clear --without-pip .venv/sbom
	$(BIN)/python -m pip --python .venv/sbom/bin/python install --quiet -r requirements.txt
	@touch $@

# Speed, memory and error beside the peers, which get a virtual environment of their own.
bench: .bench/venv.stamp
	.bench/venv/bin/python -m benchmarks $(if $(SHORT),--short) $(if $(ONLY),--only $(ONLY))

.bench/venv.stamp: requirements.txt benchmarks/requirements.txt
	$(PYTHON) -m venv .bench/venv
	@echo "Installing the peers …"
	.bench/venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r benchmarks/requirements.txt
	@touch $@
