# Everything that people and CI do here. `make` alone prints this list. Needs GNU make, a POSIX shell and Python 3.11 or later.
.DEFAULT_GOAL := help
SHELL := /bin/sh

# The programs of an environment name its path in their first lines, and search paths are parted by colons.
UNFIT := $(strip $(foreach sign,: " $$ ` \,$(findstring $(sign),$(CURDIR))))
ifneq ($(UNFIT),)
$(error the path of this checkout holds $(UNFIT) and no environment can be made below it: move or rename $(CURDIR))
endif
# A text as one word of the shell, whatever is in it.
quoted = '$(subst ','\'',$(1))'

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?=
CORES ?= all
PROFILE ?=
WORKERS ?= 2

# Rules of the workflow, and the stages of DVC, call plain `python` and `snakemake`: those of the environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Two jobs on one thread each beat one job on two threads.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive

READY := $(VENV)/.installed
STUDY_FILE := $(call quoted,$(or $(CONFIG),params.yaml))
SNAKEMAKE_STUDY := $(if $(CONFIG),--configfile $(STUDY_FILE))
SNAKEMAKE_PLACE := $(if $(PROFILE),--profile workflow/profiles/$(PROFILE),--cores $(CORES))
STUDY = $(shell sed -n "s/^study:[ \"']*\([A-Za-z0-9_]*\).*/\1/p" $(STUDY_FILE))
REPORT = results/$(STUDY)/report.html
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadscope
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# The first Python that is new enough and can make environments; 3.11 is the one that the lock is resolved for.
FIND_PYTHON = for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
	  if "$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "error: no Python 3.11 or later with the venv module found; install one, or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; \
	fi

##@ Results

.PHONY: reproduce
reproduce: setup  ## every figure, table and the report of a study (CONFIG=grids/NAME.yaml for another than params.yaml; PROFILE=slurm on a cluster)
	@$(BIN)/python -m tools.unlock $(SNAKEMAKE_STUDY)
	@$(BIN)/d4s run --study $(STUDY_FILE) -- $(SNAKEMAKE_PLACE)

.PHONY: real-model
real-model: setup  ## fetch SmolLM2-135M, a real language model, and run a study of it (needs D4S_DATA)
	@$(BIN)/d4s fetch smollm2-135m
	@$(MAKE) --no-print-directory reproduce CONFIG=grids/smollm2_core.yaml

.PHONY: plan
plan: setup  ## what a study needs and what of it is there already
	@$(BIN)/d4s plan --study $(STUDY_FILE)

.PHONY: report
report:  ## open the report of a study, or print where it is
	@if [ ! -f "$(REPORT)" ]; then echo "$(REPORT) is not there yet: make reproduce" >&2; exit 1; fi
	@echo "$(CURDIR)/$(REPORT)"
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] && command -v xdg-open >/dev/null; then xdg-open "$(REPORT)"; \
	elif [ "$$(uname)" = Darwin ]; then open "$(REPORT)"; fi

.PHONY: docs
docs: setup  ## the documentation site, in build/site (search needs a server: python -m http.server -d build/site)
	$(MKDOCS) --quiet
	@echo "$(CURDIR)/build/site/index.html"

.PHONY: sync
sync: setup  ## after `dvc pull` or `dvc checkout`: tell Snakemake that what lies there is up to date
	$(BIN)/snakemake --cores 1 --touch --forceall $(SNAKEMAKE_STUDY)

.PHONY: record
record: setup  ## after a run by Snakemake alone: hand its results to DVC, so that `dvc status` is clean and `dvc push` can send them
	$(BIN)/dvc commit -f

.PHONY: prune
prune: setup  ## list what no finished study uses in results/store (YES=1 removes it; CONFIG=FILE keeps what that one needs too)
	@$(BIN)/d4s prune $(if $(CONFIG),--study params.yaml --study $(STUDY_FILE)) $(if $(YES),--yes)

##@ Checks

.PHONY: check
check: check-style check-types check-imports check-workflow check-spelling check-pages check-docs  ## everything below that starts with check-

.PHONY: check-style
check-style: setup  ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: check-types
check-types: setup  ## basedpyright
	$(BIN)/basedpyright src

.PHONY: check-imports
check-imports: setup  ## import-linter: packages import only from their left
	$(BIN)/lint-imports

.PHONY: check-workflow
check-workflow: setup  ## snakefmt and Snakemake's own lint
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

.PHONY: check-spelling
check-spelling: setup  ## codespell
	$(BIN)/codespell

.PHONY: check-pages
check-pages: setup  ## generated files are what their sources say
	$(BIN)/python -m tools.environment --check
	$(BIN)/python -m tools.settings_page --check
	$(BIN)/python -m tools.methods_page --check
	$(BIN)/python -m tools.easyedit_page --check
	$(BIN)/python -m tools.results_page --check

.PHONY: check-docs
check-docs: setup  ## the documentation site builds without a warning: no broken link or anchor, nothing fetched
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(MKDOCS) --quiet --site-dir "$$folder"

.PHONY: test
test: setup  ## all tests but those for a GPU; D4S_DATA=FOLDER adds those on real records
	$(PYTEST)

.PHONY: test-unit
test-unit: setup  ## unit, property, conformance and oracle tests: minutes
	$(PYTEST) tests/unit tests/conformance tests/oracle

.PHONY: test-workflow
test-workflow: setup  ## the workflow from end to end on a tiny study: kill and resume, DVC both ways, another grid
	$(PYTEST) tests/workflow

.PHONY: test-records
test-records: setup  ## real records in the folder named by D4S_DATA
	$(PYTEST) tests/records

.PHONY: test-real
test-real: setup  ## a real language model from its Python package: every editor, undo, exports (about 25 minutes)
	$(BIN)/pytest tests/records/test_real_model.py -m "real or not real"

.PHONY: test-slurm
test-slurm: setup  ## a small study on a real Slurm of two nodes, unpacked from Debian's packages without installing them
	$(BIN)/pytest tests/cluster

.PHONY: test-gpu
test-gpu: setup  ## tests that need a CUDA device
	$(BIN)/pytest tests/gpu

.PHONY: bench
bench: setup  ## speed of our parts against their plain versions, on one thread (about ten minutes); writes docs/performance.md
	@mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/pytest benchmarks --benchmark-json=build/benchmarks.json
	$(BIN)/python -m tools.performance_page build/benchmarks.json

##@ Upkeep

.PHONY: setup
setup: $(READY)  ## the environment in .venv, from requirements.lock (about three minutes the first time)

$(READY): requirements.lock pyproject.toml
	@$(FIND_PYTHON); [ -x $(VENV)/bin/python ] || "$$python" -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV) (about three minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check
	@touch $@

.PHONY: format
format: setup  ## fix what ruff and snakefmt can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

.PHONY: pages
pages: setup  ## write what is generated: environment.yml, docs/settings.*, docs/methods.md, docs/from_easyedit.md, tables of results (TAKE=STUDY takes a study over first)
	$(BIN)/python -m tools.environment
	$(BIN)/python -m tools.settings_page
	$(BIN)/python -m tools.methods_page
	$(BIN)/python -m tools.easyedit_page
	$(BIN)/python -m tools.results_page $(if $(TAKE),--take $(TAKE))

.PHONY: rulegraph
rulegraph: setup  ## draw the rules of the workflow and what feeds what: docs/images/rulegraph.svg
	$(BIN)/snakemake --rulegraph 2>/dev/null | $(BIN)/python -m tools.rulegraph docs/images/rulegraph.svg

.PHONY: lock
lock:  ## resolve pyproject.toml into requirements.lock (UPGRADE=--upgrade, or UPGRADE="--upgrade-package NAME")
	@$(FIND_PYTHON); "$$python" -m tools.lock $(UPGRADE)

.PHONY: clean
clean:  ## remove caches of the tools; .venv and results stay
	rm -rf build .pytest_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:  ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
