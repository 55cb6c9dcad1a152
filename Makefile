# make demo    a first run: 4 ranks on this machine
# make test    all tests of muster; installs what they need
# make lab-test  the tests of the practice cluster itself, and of other people's programs on it
# make check   lint, types, layers, Python 3.9, whether docs/reference is up to date
# make fast    the tests that start no rank
# make security  the tests against strangers on the network, other users, and hostile hosts and files; CI runs them, too
# make fuzz    random input for all parsers and protocols: an hour; a failure prints how to replay it
# make chaos   COUNT=500 runs that faults strike at random moments, hours; SEED=N replays one
# make bench   muster beside other launchers, all rows: about an hour; writes docs/benchmarks.md
# make gpu-check  muster on a machine with a GPU: one table, 6 minutes, no network
# make sbom    the software bill of materials of the wheel, into build
# make audit   known vulnerabilities of the packages in tools/constraints.txt; asks the package index, so it is not in CI
# make lock    write tools/constraints.txt from what is installed in .venv
# make docs    the reference out of the code, and the site, into build/site

PYTHON ?= python3
PY := .venv/bin/python
# one more than the cores of the machine that this is tuned for: the tests of ssh and Slurm wait for a part of their time
WORKERS ?= 3

.PHONY: demo test lab-test check fast security fuzz chaos bench gpu-check sbom audit lock docs clean

demo: .venv/demo
	.venv/bin/muster run -g 4 examples/distributed_sum.py

test: check
	$(PY) -m pytest -q -n $(WORKERS) --dist loadgroup --durations=25 -m "not lab" tests

lab-test: .venv/dev
	[ "$$(id -u)" != 0 ] || .venv/bin/muster lab install --scheduler sge
	$(PY) -m pytest -q -n $(WORKERS) --dist loadgroup -m lab tests

check: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy --config-file tests/mypy.ini tests bench
	.venv/bin/vermin --quiet --no-tips --target=3.9- --violations --exclude tomllib src/muster
	$(PY) tools/words.py
	$(PY) -m pytest -q tests/unit/test_layers.py tests/docs/test_reference.py

fast: .venv/dev
	$(PY) -m pytest -q tests/unit

security: .venv/dev
	$(PY) -m pytest -q -n 2 --dist loadgroup -m "not lab" tests/security

fuzz: .venv/dev
	$(PY) tools/fuzz.py

chaos: .venv/dev
	$(PY) tests/chaos/chaos_run.py --count $(or $(COUNT),$(if $(SEED),1,500)) $(if $(SEED),--seed $(SEED))

bench: .venv/dev
	$(PY) bench/run.py --all --write

# by the Python that has torch with CUDA: nothing is installed
gpu-check:
	PYTHONPATH=src $(PYTHON) bench/gpu_check.py

sbom: .venv/dev
	tools/sbom

# a package that could not be looked up is a failure, too
audit: .venv/dev
	tools/release-tools
	build/release/bin/pip-audit --strict --no-deps --disable-pip --requirement tools/constraints.txt

lock: .venv/dev
	tools/release-tools
	tools/lock

docs: .venv/dev
	$(PY) tools/reference.py
	$(PY) tools/layers.py
	$(PY) tools/site/render.py
	@echo "the site is in build/site: $(PY) -m http.server -d build/site; read as files it has no search"

clean:
	rm -rf .venv

# the interpreter and the packages; made once, and again when what is needed changes
.venv/demo: pyproject.toml tools/venv tools/constraints.txt
	PYTHON=$(PYTHON) tools/venv demo
	touch $@

.venv/dev: .venv/demo tools/system
	tools/system
	tools/venv dev
	touch $@
