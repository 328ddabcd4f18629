# Everything a contributor or CI runs. Needs make, git and Python 3.11 or newer with venv; the rest is installed
# under .tools and .venv, from requirements.lock, hash-checked. `make setup` is part of every target that needs it.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/sh

UV := .config/uv.sh
BIN := .venv/bin
PACKAGES := $(sort $(wildcard libs/*/pyproject.toml services/*/pyproject.toml))
COMPILE := $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
           --no-emit-index-url --no-annotate --custom-compile-command 'make lock'

# An environment whose interpreter is gone is built anew.
STALE_UV := $(shell .tools/uv/bin/python -c '' 2>/dev/null || echo force)
STALE_VENV := $(shell .venv/bin/python -c '' 2>/dev/null || echo force)

.PHONY: help setup lock generate golden demo freeze test acceptance cluster-test mutation fuzz lint breaking bench chart clean force

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: .venv/.packages ## install the tools, the locked dependencies and every package of this repository
	@:

.tools/.uv: .config/uv.txt $(STALE_UV)
	@python=$$(.config/find-python.sh) && echo "setup: uv, with $$python" && rm -rf .tools/uv && \
	  "$$python" -m venv .tools/uv && \
	  .tools/uv/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary :all: \
	    --requirement .config/uv.txt
	@touch $@

.venv/.created: .tools/.uv $(STALE_VENV)
	@$(UV) venv --quiet --clear --python "$$(.config/find-python.sh)" .venv
	@touch $@

.venv/.locked: requirements.lock .venv/.created
	@echo 'setup: dependencies, from requirements.lock'
	@$(UV) pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	@touch $@

.venv/.packages: .venv/.locked $(PACKAGES)
	@$(if $(PACKAGES),echo 'setup: $(words $(PACKAGES)) packages of this repository' && $(UV) pip install --quiet --no-deps --python $(BIN)/python $(patsubst %/pyproject.toml,--editable ./%,$(PACKAGES)))
	@touch $@

lock: .tools/.uv ## renew requirements.lock from the ranges in pyproject.toml, and the pin of uv
	@$(COMPILE) --output-file .config/uv.txt .config/uv.in
	@$(COMPILE) --output-file requirements.lock --group dev

# Before the packages: libs/contracts cannot be installed before it is generated.
generate: .venv/.locked ## generate libs/contracts from proto
	@$(BIN)/python libs/contracts/generate.py

golden: setup ## add golden bytes of new events, or new versions of events; never touches those that are there
	@PYTHONPATH=tests $(BIN)/python -m contract.golden

chart: setup ## write what is made of the chart: its README's table, and the snapshots of its tests
	@PYTHONPATH=tests $(BIN)/python -m chart.documenting

freeze: setup ## keep this version's chart and data, for the next version's tests to be put over; once a version is out
	@PYTHONPATH=tests $(BIN)/python -m upgrade.freezing

demo: setup ## start the whole suite on this machine and walk through it
	@$(BIN)/python -m throughline_demo $(ARGS)

test: setup ## run the tests; choose some with ARGS='-k name'
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

acceptance: setup ## import all four real data sets of ../shared/data and check every published figure
	@$(BIN)/python -m pytest -m e2e tests/acceptance $(ARGS)

cluster-test: setup ## install on the cluster that KUBECONFIG names, shake it under load, and look for anything lost
	@$(BIN)/python -m pytest -m cluster tests/cluster --timeout 3600 $(ARGS)

mutation: setup ## flip every byte of an evidence pack and count what goes unseen; takes minutes
	@THROUGHLINE_TEST_EVERY_BYTE=1 $(BIN)/python -m pytest tests/e2e/test_evidence.py -k flipped --timeout 3600 $(ARGS)

fuzz: setup ## send every method a thousand made-up requests; takes minutes
	@THROUGHLINE_TEST_REQUESTS=1000 $(BIN)/python -m pytest tests/e2e/test_security.py -k whatever --timeout 3600 $(ARGS)

lint: setup ## check style, types, layers and contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --warnings
	$(BIN)/lint-imports
	$(BIN)/python libs/contracts/generate.py --check
	$(BIN)/buf lint proto
	@$(MAKE) --no-print-directory breaking

# The branch people build on, and the last release, where either has contracts.
breaking: setup
	@mkdir -p .tools && for ref in main origin/main $$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null); do \
	  git cat-file -e "$$ref:proto/buf.yaml" 2>/dev/null || continue; \
	  echo "buf breaking proto, against $$ref"; \
	  git archive --format=tar --output=.tools/against.tar "$$ref" proto && \
	    $(BIN)/buf breaking proto --against '.tools/against.tar#subdir=proto' || exit 1; \
	done

bench: setup ## measure, into .throughline/bench.json too; more with ARGS='--bench-size full --interactions 1000000'
	@$(BIN)/python -m pytest -m bench --timeout=0 -s tests/bench $(ARGS)

clean: ## remove the environments, the caches and what runs left behind
	rm -rf .venv .tools .throughline .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find libs services tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
