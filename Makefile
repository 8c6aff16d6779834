# make serve   installs mtlsd in .venv, makes the server's pair unless it is there, and runs it on port 9443
# make test    the whole suite with trial, and the floors of coverage
# make check   ruff, the formatter, mypy
# make fuzz    a minute of dice against the front door in memory, and some thousand short connections
# make mutate  would the tests notice if a line of mtlsd/policy.py were wrong?
# make bench   mtlsd beside other servers, and by the number of clients: tables, and the plots in docs/
# make scenes  plays the scenes of enrolment, and writes docs/scenes.md
# make clean   removes what these made, and never anything under certs/

PYTHON ?= python3
PORT ?= 9443
# Processes that share the tests among them: much of the time is spent waiting for servers.
JOBS ?= $(shell nproc 2>/dev/null || echo 1)

venv := .venv
bin := $(venv)/bin
apt := apt-get install git make python3-venv curl openssl
# What the suite's other servers want beside that: program and package.
peers := node:nodejs npm:npm nginx:nginx-light caddy:caddy

# A Python that has gone (an upgrade of the system, a folder that was moved) means: install again.
$(shell $(bin)/python -c '' 2>/dev/null || rm -f $(venv)/.installed-*)

.PHONY: help serve test check fuzz dice-1 dice-2 soak format mutate bench scenes clean tools peers
.DELETE_ON_ERROR:

help: tools
	@sed -n 's/^# make /make /p' Makefile

serve: $(venv)/.installed-serve
	$(bin)/mtlsd init
	exec $(bin)/twistd -n mtlsd --port $(PORT) --access-log - --enrol on --renew on

# Servers that the tests start are measured too (pyproject.toml), hence `combine`.
test: $(venv)/.installed-check $(venv)/node/.installed
	$(bin)/coverage erase
	$(bin)/coverage run -m twisted.trial --jobs $(JOBS) --temp-directory $(venv)/trial tests
	$(bin)/coverage combine --quiet
	$(bin)/coverage json --quiet -o $(venv)/coverage.json
	$(bin)/python .ci/floors.py $(venv)/coverage.json

check: $(venv)/.installed-check
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

fuzz: dice-1 dice-2 soak

# A minute in all; with `make --jobs=2` two processors share it.
dice-1 dice-2: $(venv)/.installed-check
	$(bin)/python -m tests.fuzz --seconds 30

soak: $(venv)/.installed-check
	$(bin)/python benchmarks/soak.py --connections 5000

# Servers that are not there (nginx: apt-get install nginx) are left out; the load client wants gcc and libssl-dev.
bench: $(venv)/.installed-serve $(venv)/peers/.installed
	$(bin)/python benchmarks/side_by_side.py --out $(venv)/servers.json
	$(bin)/python benchmarks/pauses.py
	$(bin)/python benchmarks/scale.py --out $(venv)/clients.json
	$(venv)/peers/bin/python benchmarks/plot.py --servers $(venv)/servers.json --clients $(venv)/clients.json --into docs

# By way of a file of its own: a performance that fails leaves the page as it was.
scenes: $(venv)/.installed-serve
	$(bin)/python docs/scenes.py > $(venv)/scenes.md
	mv $(venv)/scenes.md docs/scenes.md

format: $(venv)/.installed-check
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

# In a copy, for a mutant that outlives an interrupted run would be a policy that is wrong.
mutate: $(venv)/.installed-mutate
	rm -rf $(venv)/mutants && mkdir $(venv)/mutants && cp -R mtlsd tests .ci/cosmic-ray.toml $(venv)/mutants
	cd $(venv)/mutants && PATH="$(CURDIR)/$(bin):$$PATH" && export PATH && cosmic-ray init cosmic-ray.toml session.sqlite \
		&& cr-filter-operators session.sqlite cosmic-ray.toml && cosmic-ray baseline cosmic-ray.toml \
		&& cosmic-ray exec cosmic-ray.toml session.sqlite && cr-report session.sqlite --surviving-only && cr-rate --fail-over 10 session.sqlite

clean:
	rm -rf $(venv) build dist *.egg-info _trial_temp* .coverage .coverage.* .mypy_cache .ruff_cache .hypothesis
	rm -f twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the above need ---

# The stamp is made last, so an install that was interrupted is done again.
$(venv)/.installed-%: setup.cfg pyproject.toml | tools
	$(PYTHON) -m venv $(venv)
	$(bin)/pip install --quiet --disable-pip-version-check --editable '.$(if $(filter-out serve,$*),[$*])'
	@touch $@

$(venv)/peers/.installed: benchmarks/requirements.txt | tools
	$(PYTHON) -m venv $(venv)/peers
	$(venv)/peers/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	@touch $@

$(venv)/node/.installed: tests/package.json | peers
	mkdir -p $(@D)
	cp tests/package.json $(@D)
	npm install --prefix $(@D) --silent --ignore-scripts --no-audit --no-fund --no-package-lock
	@touch $@

.PRECIOUS: $(venv)/.installed-%

tools:
	@missing=; \
	for tool in git curl openssl; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then echo "missing:$$missing; to put it right: $(apt)" >&2; exit 1; fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is too old: 3.11 is wanted; to put it right: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }

peers:
	@missing=; \
	for peer in $(peers); do PATH="$$PATH:/usr/sbin" command -v $${peer%:*} >/dev/null || missing="$$missing $${peer#*:}"; done; \
	if [ -n "$$missing" ]; then echo "missing, for the tests; to put it right: apt-get install$$missing" >&2; exit 1; fi
