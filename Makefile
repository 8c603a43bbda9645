# For a newcomer: `make demo`, `make fast` and `make test`. Each makes the environment first if it is not there.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
TORCH := torch==2.13.0
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Two OpenMP threads that compete with another process spin: tests run in processes of one thread each.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Compiled modules are kept: without them every process that a test starts compiles all that it imports, 0.3 s and more.
unexport PYTHONDONTWRITEBYTECODE
INTEROP := .venv-interop
DOCS := .venv-docs
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
# What must be covered, by the tests of its own folder; tracing anything else would only take time.
COVERED := geometry losses attacks certify models
SHARED_OUT := -n 2 --dist loadfile --no-loadscope-reorder
GATED := src/corral/geometry/**,src/corral/losses/**,src/corral/attacks/**,src/corral/certify/**,src/corral/models/heads/**

.PHONY: demo fast test lint types unit thorough docs docs-serve docs-version bench agreement soundness interop fuzz faults arena tables env lock release notebooks clean
.DEFAULT_GOAL := test

env: $(READY)

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "corral needs Python 3.11 or newer: install it, or run make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "corral needs Python 3.11 or newer, found $$("$(PYTHON)" --version) at $(PYTHON): run make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "making .venv (a few minutes the first time)"
	@"$(PYTHON)" -m venv .venv
	@$(PIP) install $(TORCH)
	@$(PIP) install --no-deps -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The main job on embedded data: train, attack, report.
demo: $(READY)
	@$(BIN)/corral demo --out runs/demo

# Types and the site beside the tests: both are mostly one core's work.
test: $(READY)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j 2 unit types docs

# Lint, types and the tests that a change touches, in under a minute on two idle cores.
fast: $(READY)
	@$(BIN)/python tests/fast.py

notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/notebooks.py notebooks/*.ipynb

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks experiments examples scripts
	$(BIN)/ruff format --check src tests benchmarks experiments examples scripts

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -m "not thorough" $(SHARED_OUT) --durations 10 $(COVERED:%=tests/%) $(COVERED:%=--cov=src/corral/%) --cov-report=
	$(TEST_ENV) $(BIN)/python -m pytest -m "not thorough" $(SHARED_OUT) --durations 25 $(COVERED:%=--ignore=tests/%)
	$(BIN)/python -m coverage report --fail-under=95 --include='$(GATED)'

# What `make test` leaves out: AutoAttack on the reference checkpoints, the longest tables at smoke scale. Minutes.
thorough: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -m thorough $(SHARED_OUT)

# Ratios to other libraries and to bare passes, with their spread; each is compared with the last in history.jsonl. 14
# minutes of an idle machine.
bench: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/attack_speed.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/certificates.py --n 2000
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kmeans.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/layout.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/overhead.py

# Ours and the public AutoAttack image by image: an hour, with training what it attacks.
agreement: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/autoattack.py --data mnist --n 100 --out runs/mnist

# With the libraries of others, and the table of docs/interop.md: an environment of their own beside .venv, then minutes.
# The original AutoAttack is on no index; from a clone: .venv-interop/bin/pip install --no-deps /path/to/auto-attack.
interop: $(INTEROP)/.ready
	CORRAL_INTEROP=docs/interop.md $(TEST_ENV) $(INTEROP)/bin/python -m pytest --timeout 1800 tests/interop

# The site of docs/ in site/, with every link checked. It is read as files, or `make docs-serve` shows it as it is written.
docs: $(DOCS)/.ready
	@$(MKDOCS) build

docs-serve: $(DOCS)/.ready
	@$(MKDOCS) serve

# The site of a release beside those of earlier ones, as a commit of the branch gh-pages: make docs-version RELEASE=0.1
docs-version: $(DOCS)/.ready
	@PATH="$(CURDIR)/$(DOCS)/bin:$$PATH" CORRAL_DOCS_VERSIONS=mike NO_MKDOCS_2_WARNING=1 mike deploy --update-aliases $(RELEASE) latest

MKDOCS := NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs

# An environment that sees the packages of .venv, and has more.
$(INTEROP)/.ready: interop.lock
$(DOCS)/.ready: docs.lock
$(INTEROP)/.ready $(DOCS)/.ready: $(READY)
	@$(BIN)/python -m venv $(@D)
	@echo "import site; site.addsitedir('$$($(BIN)/python -c '$(PURELIB)')')" \
		> "$$($(@D)/bin/python -c '$(PURELIB)')/beside.pth"
	@$(@D)/bin/python -m pip --disable-pip-version-check -q install --no-deps -r $(filter %.lock,$^)
	@touch $@

# 10,000 damaged files of every kind that is read; a JSON line a kind, and kinds in the file are not done again.
fuzz: $(READY)
	$(TEST_ENV) $(BIN)/python -m tests.fuzz.driver --n 10000 --forked --results fuzz.jsonl --keep fuzz-faults

# No attack from inside breaks a radius: 105,000 random configurations (three tests of 35,000) of 40 features each.
soundness: $(READY)
	CORRAL_CONFIGURATIONS=35000 $(TEST_ENV) $(BIN)/python -m pytest -n 2 --timeout 3600 tests/certify/test_radii.py -k no_point_within

# Files cut and flipped (a minute), then every verb killed and disturbed at random moments, 50 tries each: hours. A part:
# make faults FAULTS="--verb train".
faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.damage
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.driver $(FAULTS)

# Methods at equal cost on one task: the screening's runs, the selection, the final's runs, the table. It can be stopped
# and started again; a run whose row is in results/ is not made again. make arena TASK=cifar10 JOBS=2
TASK ?= digits
JOBS ?= 2
ARENA := PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m experiments.arena
AT_ONCE := tr '\n' '\0' | PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 xargs -0 -n 1 -P $(JOBS) sh -c
arena: $(READY)
	$(ARENA) plan --task $(TASK) --stage screen | $(AT_ONCE)
	$(ARENA) select --task $(TASK)
	$(ARENA) plan --task $(TASK) --stage final | $(AT_ONCE)
	$(ARENA) table --task $(TASK)

# Every table of results/ again from its CSV files, and the tables that documents show; tests fail where one is behind.
tables: $(READY)
	$(BIN)/python experiments/tables.py

# Rewrite the lock file from the versions now installed.
lock: $(READY)
	@{ sed -n '/^#/p' requirements.lock; $(BIN)/python -m pip freeze --exclude-editable | grep -v '^torch=='; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

# Checks tree, changelog and version, and builds and checks dist/; with RELEASE=--tag it tags after `make test thorough`.
release: $(READY)
	@$(BIN)/python scripts/release.py $(RELEASE)

clean:
	rm -rf .venv .venv-interop .venv-docs site .mypy_cache .ruff_cache .pytest_cache .coverage
