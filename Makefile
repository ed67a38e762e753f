# Each target makes .venv by itself. Needs Python 3.11 or later and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: book pdf check test lab bench grade-demo lock clean
.DEFAULT_GOAL := book

book: .venv/ready
	$(BIN)/python book/build.py

# The whole course in one file, to be printed or read without a browser.
pdf: book
	$(BIN)/python book/pdf.py

# What a change to the library needs: style, types, its tests and examples. No notebook, no browser,
# and no answers to exercises.
check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -rs -m "not browser" \
		--ignore tests/book --ignore tests/notebooks --ignore tests/grading --doctest-modules tests course_lib

# The build has executed every notebook. Two run once more as in a class, in JupyterLab (tests/book/test_lab.py);
# nbval runs the shorter of them. Files start in the order of their names, pages and grader first: left to
# itself, xdist starts those of few tests last, which take minutes, and all cores but one wait for them.
test: book
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/python -m nbstripout --keep-id --verify notebooks/*.ipynb
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -rs \
		--doctest-modules --nbval-lax notebooks/motivation.ipynb tests course_lib

lab: .venv/ready
	$(BIN)/python book/lab.py

bench: .venv/ready
	$(BIN)/python tests/bench.py

# Twenty invented students, from nothing to feedback. Needs bubblewrap.
grade-demo: .venv/ready
	$(BIN)/python book/grade_demo.py

# requirements.txt from pyproject.toml: exact, for every platform, without addresses.
lock: .venv/ready
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra lessons --extra book --extra grading --extra dask --extra test --extra lab --universal --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.txt

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --progress-bar on --requirement requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv book/_build
