# Shortcuts. No activated environment is needed: the first command makes .venv from the locked versions.

PYTHON ?= python3
TORCH_INDEX ?=
SNAKEMAKE = .venv/bin/python -m snakemake
READY = .venv/.ready
ifneq ($(shell [ -L .venv ] && echo linked),)
# Another folder's environment, which is used as it is: installed here, `steps` would be ours over there.
READY = .venv/bin/python
endif

# Dafny, by .NET's own means. Nothing else is installed for it, and without it verdicts are recorded ones.
SDK = dotnet --list-sdks 2>/dev/null | grep -Eq '^([89]|[1-9][0-9])\.'
INSTALL_DAFNY = dotnet tool install dafny --version 4.11.0 --tool-path .venv/dafny

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint fix report dafny record pull unlock

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile
	@echo
	@echo 'Variables of the first command, which makes the environment .venv (docs in README.md):'
	@echo '  PYTHON=python3.12    another Python, 3.11 or newer'
	@echo '  TORCH_INDEX=URL      where torch comes from, for another build of it (CPU, CUDA);'
	@echo '                       of no effect once .venv is there: rm -r .venv first'

demo: $(READY) ## run the whole workflow at laptop scale and say where the report is
	@$(SNAKEMAKE) --cores all
	@echo "The report: $$PWD/results/report/index.html"

test: $(READY) ## run the tests
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

bench: $(READY) ## measure speed, ours and a plain way in turn; writes results/benchmarks.json
	.venv/bin/python -m benchmarks

report: $(READY) ## bring the report page up to date and say where it is
	@$(SNAKEMAKE) --cores all -- report
	@echo "The report: $$PWD/results/report/index.html"

dafny: $(READY) ## install Dafny into .venv/dafny, where a .NET SDK of version 8 or newer is
	@if $(SDK); then $(INSTALL_DAFNY); else \
	  .venv/bin/python -c 'from steps.dafny.verifier.locate import missing; print("make:", missing())' >&2; false; fi
	@echo "Verdicts of Dafny itself: .venv/bin/python -m snakemake --cores all -R dafny_prove dafny_verify -- dafny"

record: $(READY) ## record what Dafny says of the embedded programs (for those who change the prover)
	@$(SNAKEMAKE) --cores all -- dafny_record
	cp results/dafny/default/recorded.jsonl steps/dafny/embedded/recorded.jsonl

pull: $(READY) ## fetch the published results with DVC; Snakemake then has nothing to do
	@.venv/bin/python -m steps.workflow.versions pull

unlock: $(READY) ## release a folder that a killed snakemake left locked
	@$(SNAKEMAKE) --unlock

# What snakemake --lint may say: one environment serves all rules.
ACCEPTED = Specify a conda environment or container for each rule
lint: $(READY) ## check style, types, spelling, rules, who imports whom and what is generated
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports --no-logo
	.venv/bin/python -m codespell_lib
	.venv/bin/python -m snakefmt --check Snakefile rules
	.venv/bin/python -m steps.workflow.generated --check
	@found=$$($(SNAKEMAKE) --lint 2>&1) || case "$$found" in *"Lints for"*) ;; *) echo "$$found"; exit 1;; esac; \
	if echo "$$found" | grep '^ *\* ' | grep -qv '$(ACCEPTED)'; then echo "$$found"; exit 1; fi

fix: $(READY) ## format code and rules, and write what is generated from them
	.venv/bin/python -m ruff check --fix-only --quiet .
	.venv/bin/python -m ruff format .
	.venv/bin/python -m snakefmt Snakefile rules
	.venv/bin/python -m steps.workflow.generated

.venv/bin/python:
	@echo "make: .venv is a link to $$(readlink .venv), which holds no environment; run make there," \
	  "or remove the link: rm .venv" >&2; false

.venv/.ready: pyproject.toml constraints.txt
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || { \
	  version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || { \
	    echo "make: $(PYTHON) does not run; install Python 3.11 or newer (apt-get install python3 python3-venv)" \
	      "or name one: make PYTHON=/path/to/python" >&2; exit 1; }; \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: $(PYTHON) is Python $$version, 3.11 or newer is needed;" \
	      "name one: make PYTHON=python3.12" >&2; exit 1; }; \
	  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: Python $$version lacks the package python$$version-venv" >&2; \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	      export DEBIAN_FRONTEND=noninteractive; \
	      apt-get update && apt-get install -y --no-install-recommends "python$$version-venv"; \
	    else \
	      echo "make: install it (sudo apt-get install python$$version-venv), then try again" >&2; false; \
	    fi || exit 1; }; \
	  echo "Making the environment .venv: this takes a few minutes, once"; \
	  "$(PYTHON)" -m venv --clear .venv; }
ifneq ($(TORCH_INDEX),)
	.venv/bin/python -m pip install --no-deps -c constraints.txt --index-url "$(TORCH_INDEX)" torch
endif
	.venv/bin/python -m pip install -c constraints.txt -e ".[dev]"
	@if [ -z "$$DAFNY" ] && ! command -v dafny >/dev/null && [ ! -e .venv/dafny ] && $(SDK); then \
	  $(INSTALL_DAFNY) || echo "make: Dafny could not be installed; verdicts are recorded ones until: make dafny" >&2; fi
	@touch $@
