# make demo   environment + the main job on the embedded default, one table at the end
# make demo-full  the same with standard AutoAttack instead of APGD-CE+T
# make test   environment + all tests
# make test-without-extras  the tests of models and commands, as where advpt[openclip] and advpt[siglip] are not installed
# make check  zero-shot DemoCLIP on 200 digits, clean and under PGD-40, beside its numbers on record (half a minute)
# make bench  the speed table: every hot path beside what people run today (about ten minutes)
# make gpu    the same on a GPU, and proof that it computes what the CPU does (eight minutes, no download)
# make faults the fault-injection suite at full length (under 20 minutes), one table at the end and in output/faults.md
# make lint   ruff and mypy
# make docs   docs/settings.md, from the help texts of the settings
# VENV=  (empty) uses the environment that is active
VENV ?= .venv
ifeq ($(strip $(VENV)),)
PYTHON := python
STAMPS := .stamps/$(shell python -c 'import sys, zlib; print(zlib.crc32(sys.prefix.encode()))')
else
PYTHON := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
endif
SOURCES := setup.py dassl-lite/pyproject.toml scripts/setup.sh
export PYTHON

.PHONY: setup demo demo-full test test-without-extras check bench gpu faults lint docs format clean
setup: $(STAMPS)/base

demo: $(STAMPS)/base
	scripts/advpt/demo.sh

demo-full: $(STAMPS)/base
	OUTPUT=output/demo_full AA=aa@8 scripts/advpt/demo.sh

test: $(STAMPS)/dev
	$(PYTHON) -m pytest -n 2 tests dassl-lite/tests

test-without-extras: $(STAMPS)/dev
	ADVPT_WITHOUT_EXTRAS=1 $(PYTHON) -m pytest -n 2 tests/backbones tests/cli tests/trainers/test_coop.py

check: $(STAMPS)/base
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m advpt doctor --check digits democlip \
	  --root "$$folder/data" --output "$$folder/output" --banks "$$folder/banks"

bench: $(STAMPS)/base
	$(PYTHON) benchmarks/bench.py

gpu: $(STAMPS)/base
	$(PYTHON) benchmarks/gpu.py --minutes 8

faults: $(STAMPS)/dev
	ADVPT_FAULTS=1 ADVPT_FAULTS_TABLE=output/faults.md $(PYTHON) -m pytest -n 2 tests/faults

lint: $(STAMPS)/dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: $(STAMPS)/dev
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

$(STAMPS)/base: $(SOURCES) | $(VENV)
	@echo "installing into $(or $(VENV),the active environment) (PyTorch is several GB the first time)"
	scripts/setup.sh
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: $(SOURCES) | $(VENV)
	@echo "installing into $(or $(VENV),the active environment) (PyTorch is several GB the first time)"
	scripts/setup.sh dev
	@mkdir -p $(STAMPS) && touch $@ $(STAMPS)/base

ifneq ($(strip $(VENV)),)
$(VENV):
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || \
	  { echo "Python 3.11.4 or newer is needed; found $$(python3 --version)" >&2; exit 1; }
	python3 -m venv $(VENV)
endif

clean:
	rm -rf .stamps .pytest_cache .mypy_cache .ruff_cache build *.egg-info dassl-lite/*.egg-info

docs: $(STAMPS)/dev
	$(PYTHON) -c 'import trainers; from advpt.settings import table; print(table(), end="")' > docs/settings.md
