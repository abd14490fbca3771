# Two commands matter: `make quickstart` (the whole workflow, in minutes, on a CPU) and `make test`.

PYTHON ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Touched last, so an interrupted installation is taken up again by the next command.
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-gpu torture lint clean

help: ## list these commands
	@echo "falconer: usage is  make COMMAND  with COMMAND one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile
	@echo "The first command that needs them installs Python packages into $(VENV) (about 3 GB, minutes)."

quickstart: $(STAMP) ## train, evaluate and report on the embedded model and dialogues (ARGS=full: two epochs)
	@$(BIN)/falconer quickstart $(ARGS)

test: lint ## check style and types, then run the tests (ARGS="-k config": only those)
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS)

test-gpu: $(STAMP) ## run the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu $(ARGS)

torture: $(STAMP) ## kills, power loss, failing disks, damaged and hostile files (ARGS="--jobs 16 --seconds 3600")
	@$(BIN)/python tests/torture/campaign.py $(ARGS)

lint: $(STAMP) ## check style (ruff) and types (mypy)
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean: ## remove .venv, caches and build products; runs/ stays
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): requirements.txt pyproject.toml
	@python=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "falconer needs Python 3.11 or later, and $(if $(PYTHON),'$(PYTHON)' is not that,there is none on the PATH)." \
	        "Install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "'$$python' has no venv module. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 2; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    echo "Making $(VENV) with $$($$python --version)"; "$$python" -m venv $(VENV) || exit 2; \
	fi
	@echo "Installing requirements.txt into $(VENV); this takes minutes the first time"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input -r requirements.txt
	@touch $@
