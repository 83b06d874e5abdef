# make study    run the study's notebooks at SCALE (smoke, laptop or paper) and write figures/index.html
# make test     run the checks of each change: the notebooks, then the tests
# make long     run the longest tests, which make test leaves out: half an hour or less
# make check    run the quick tests, in some minutes on two cores
# make docs     build the documentation in _docs/
# make benchmark  measure this machine against a textbook implementation: figures/benchmark.csv
# make export   format code, write unnas/ and README.md from the notebooks in nbs/, clean these,
#               and name what has not the style of the project
# make readme   write README.md alone
# make clean    remove what the others made: the environment, the site, smoke figures
# Each first makes an environment in .venv where there is none.

SCALE  ?= smoke
PYTHON ?= python3
bin    := .venv/bin
ready  := .venv/.ready

.PHONY: study test check long docs benchmark export readme clean

study: $(ready)
	@$(bin)/python -m tools.study $(SCALE)

# Two workers of one thread each: on two cores more threads only get in each other's way.
test check long: export OMP_NUM_THREADS = 1
# Without a GPU, its kernels run in Triton's interpreter, which has to be known before any import.
ifeq (,$(shell command -v nvidia-smi))
test check long: export TRITON_INTERPRET = 1
endif
test: $(ready)
	$(bin)/nbdev_test --n_workers 2 --timing --file_re '^([0-9]|index|protocol|deviations|tutorial)'
	$(bin)/pytest tests/ -n 2 --dist worksteal -m "not long"

check: $(ready)
	$(bin)/pytest tests/ -n 2 --dist worksteal -m "not slow and not clock and not long"

long: $(ready)
	$(bin)/pytest tests/ -n 2 --dist worksteal -m long

docs: $(ready)
	$(bin)/sphinx-build -q -W --keep-going -c docs -d _docs/doctrees nbs _docs/html
	@echo "Open _docs/html/index.html in a browser."

# Run it on a machine that does nothing else.
benchmark: $(ready)
	$(bin)/papermill nbs/benchmark.ipynb figures/benchmark.ipynb

export: $(ready)
	$(bin)/ruff check --quiet --fix --exit-zero
	$(bin)/ruff format --quiet
	$(bin)/nbdev_export
	$(bin)/jupyter nbconvert --log-level WARN --coalesce-streams --inplace nbs/*.ipynb
	$(bin)/nbdev_clean
	$(bin)/python -m tools.readme
	$(bin)/ruff check

readme: $(ready)
	$(bin)/python -m tools.readme

# pip takes a half-copied package for an installed one. So where a set-up was cut short, and
# .ready is missing, the environment is made afresh.
$(ready): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "unnas needs Python 3.11 or later; name one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv: some minutes and about 6 GB, most of it PyTorch."
	@test -e $@ || $(PYTHON) -m venv --clear .venv
	@rm -f $@
	@$(bin)/pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv _docs *.egg-info figures/smoke figures/index.html
