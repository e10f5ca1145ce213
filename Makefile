# Commands for developers, such as `make run`, `make test` and `make help`. In a fresh clone they first
# install what is missing. Later they only check two files.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3
BIN := .venv/bin
PYTHON_READY := .venv/.ready-python
NODE_READY := node_modules/.ready-node
# write byte code, because the stack and the tests start many processes that share it
unexport PYTHONDONTWRITEBYTECODE
# node and the scripts of npm must be found through PATH
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help truth lock setup run reset test quick machine weekly mutants check format compatibility bench package dist docs
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(PYTHON_READY) $(NODE_READY) $(BIN)/minutehand ## Install missing tools and packages

$(PYTHON_READY): infra/bootstrap/bootstrap.sh infra/bootstrap/bootstrap.lock requirements-dev.lock
	@sh infra/bootstrap/bootstrap.sh "$(PYTHON)"
	@touch $@

$(NODE_READY): package.json package-lock.json .npmrc | $(PYTHON_READY)
	@echo "Minutehand: installing the Node packages"
	@NODE_OPTIONS=--use-system-ca $(BIN)/npm ci --ignore-scripts --loglevel=error
	@touch $@

$(BIN)/minutehand: infra/bootstrap/minutehand $(PYTHON_READY)
	@install -m 755 $< $@

run: setup ## Start the whole stack and its demo; ONCE=1 exits when the demo's jobs have ended, DEMO=0 omits the demo
	@exec $(BIN)/python -m minutehand.local --with-parent $(if $(ONCE),--once) $(if $(filter 0,$(DEMO)),--no-demo)

reset: setup ## Delete the stack's data and keys in .local
	@$(BIN)/python -m supabase_local --reset

APPS := beacon chat enrichment plans training
TESTS_supabase_local := tests/supabase_local
TESTS_minutehand_apps := $(wildcard $(APPS:%=tests/integration/%) $(APPS:%=tests/unit/%) tests/contract/test_guide_*.py)
TESTS_minutehand := tests $(addprefix --ignore=,$(TESTS_supabase_local) $(TESTS_minutehand_apps))
PACKAGE_TESTS = $(if $(PACKAGE),$(or $(TESTS_$(PACKAGE)),$(error no package $(PACKAGE))))
test: setup ## Run the tests in parallel; PACKAGE=supabase_local runs those of one package, ARGS="-k name" selects
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PACKAGE_TESTS) $(ARGS) || \
	  { status=$$?; [ $$status != 5 ] || echo "make test: NO TEST WAS RUN" >&2; exit $$status; }

quick: setup ## Run the unit tests, in ten seconds
	@$(BIN)/python -m pytest -q -n logical --dist worksteal -p no:hypothesispytest tests/unit $(ARGS)

machine: setup ## Test the engine's SQL with 500 random histories (EXAMPLES=N); SEED=n repeats a run
	@MACHINE_EXAMPLES=$(or $(EXAMPLES),500) MACHINE_SEED=$(SEED) \
	  $(BIN)/python -m pytest -q -s tests/contract/test_histories.py -k random_history $(ARGS)

weekly: setup ## Run all cases of the tests that `make test` runs in part
	@WEEKLY=1 $(BIN)/python -m pytest -n auto --dist loadfile -m weekly $(ARGS)

mutants: setup ## Break one rule of the SQL at a time, and check that a test fails. ARGS="07_lease.sql" selects
	@$(BIN)/python infra/mutants.py $(ARGS)

SCRIPTS := "{infra,shared,tests}/**/*.{js,mjs,cjs,ts,css}" "infra/console/**/*.json"
PRETTIER := $(BIN)/node node_modules/prettier/bin/prettier.cjs
ESLINT := $(BIN)/node node_modules/eslint/bin/eslint.js --config infra/eslint.config.js
CHECKS := ruff-check ruff-format mypy imports words unused sqlfluff eslint prettier
.PHONY: $(CHECKS:%=check-%)
check: setup ## Check lint, types, imports, words, unused code, and the format of SQL and JavaScript
	@failed=; for tool in $(CHECKS); do \
	  $(MAKE) check-$$tool || failed="$$failed $$tool"; \
	done; [ -z "$$failed" ] || { echo "make check: failed:$$failed" >&2; exit 1; }

check-ruff-check:
	$(BIN)/ruff check .
check-ruff-format:
	$(BIN)/ruff format --check .
check-mypy:
	$(BIN)/mypy
check-imports:
	$(BIN)/lint-imports
check-words:
	$(BIN)/python infra/words.py
check-unused:
	$(BIN)/python infra/unused.py
check-sqlfluff:
	$(BIN)/sqlfluff lint supabase/schemas $(wildcard supabase/steps) shared/minutehand/cli shared/minutehand/install shared/supabase_local $(wildcard shared/minutehand*/*/schemas shared/minutehand*/*/steps)
check-eslint:
	$(ESLINT) infra shared tests
check-prettier:
	$(PRETTIER) --check $(SCRIPTS)

format: setup ## Format code with ruff, eslint and prettier
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(ESLINT) --fix infra shared tests
	$(PRETTIER) --write --log-level warn $(SCRIPTS)

compatibility: setup ## Apply the migrations on Postgres 15 to 18 and by `supabase db push`, and compare the results
	@$(BIN)/python -m infra.release.compatibility $(ARGS)

truth: setup ## Compare the local servers with the real servers in Docker, or with a project (URL=…, keys in the environment)
	@$(BIN)/python -m infra.truth $(if $(URL),--url $(URL)) $(ARGS)

# use the machine's certificates if it has any, because a company's proxy may have its own
CERTIFICATES := $(if $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt),UV_SYSTEM_CERTS=1)
LOCK := $(CERTIFICATES) $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --override infra/release/own.txt
lock: setup ## Resolve the Python locks again; UPGRADE=1 selects newer versions
	@$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --extra apps -o requirements.lock
	@$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml shared/supabase_local/pyproject.toml --all-extras --group dev -o requirements-dev.lock
	@$(LOCK) $(if $(UPGRADE),--upgrade) --group docs -o infra/docs/requirements.lock

docs: setup ## Build the documentation's site into build/docs/site; fails on a dead link
	@$(CERTIFICATES) PYTHONPATH=shared $(BIN)/uv run -q --no-project --with-requirements infra/docs/requirements.lock \
	  python -m infra.docs

bench: setup ## Compare the worker with other libraries in one run; ARGS=instructions
	@$(BIN)/python -m infra.bench $(ARGS)

package: setup ## Build the zip for Lambda and compile the stack; STAGE=prod, no account needed
	@$(BIN)/minutehand package --stage $(or $(STAGE),dev) $(ARGS)

dist: setup ## Build both wheels and the npm archive into dist/
	@$(BIN)/python -m infra.release.wheels
