# CBN Lab. `make help` lists the targets. Each can be run again at any time and does only what is still missing.
# Needs python3 (3.11 or newer) with venv, and make. All paths are relative, so the folder's name may contain spaces.

PYTHON ?= python3
WORKERS ?= 2
NOTEBOOKS ?=
LAB_OPTIONS ?=

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)
WITH_EXTRAS := .[lab,test,dev]
FIRST := notebooks/00_start_here.ipynb
W7 := .venv-ipywidgets7
W7_INSTALLED := $(W7)/.installed
W7_PACKAGES := ipywidgets==7.7.1 ipython==7.34.0 ipykernel==6.17.1 jupyter_client==7.4.9 notebook==6.5.7 \
	widgetsnbextension==3.6.1
# All that import widgets, but the one about stored notebooks, which are the same here and there.
W7_TESTS = $(filter-out tests/test_static_html.py,$(shell grep -lE '^(from|import) .*widgets' tests/test_*.py))
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=120 --nbval-sanitize-with tests/nbval_sanitize.cfg

.DEFAULT_GOAL := help
.PHONY: help install lab test widgets7 course bench lint

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## make .venv and install the course and its tools into it
	@echo "Installed in $(VENV)."

# The notebook is named in default_url so that the printed address leads to it as well, where no browser opens.
lab: $(INSTALLED) ## open the course in JupyterLab (this machine only, with a token)
	@echo "Opening $(FIRST) in JupyterLab. Stop it with Ctrl-C."
	"$(PY)" -m jupyterlab --ip=127.0.0.1 --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/$(FIRST) \
		--LabApp.extension_manager=readonly $(ROOT_FLAG) $(LAB_OPTIONS)

# One session for unit tests and notebooks, so that its closing lines count everything; then the widgets' tests once
# more under ipywidgets 7.7.1. One thread per process: two workers with two threads each would fight over two cores.
test: $(INSTALLED) ## run the unit tests, every notebook with its outputs compared, and the browser tests
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null \
		|| echo "There is no Chromium here: the browser tests will be SKIPPED (Debian, Ubuntu: apt install chromium)."
	@[ -e $(W7_INSTALLED) ] || echo "There is no $(W7) here: the tests under ipywidgets 7.7.1 and in the classic notebook will be SKIPPED (make widgets7)."
	@echo "Running the unit tests and the notebooks with $(WORKERS) workers."
	OMP_NUM_THREADS=1 "$(PY)" -m pytest tests notebooks $(NBVAL) -n $(WORKERS) --dist loadfile -rs
	@if [ -e $(W7_INSTALLED) ]; then echo "Running the widgets' tests under ipywidgets 7.7.1."; \
		OMP_NUM_THREADS=1 PYDEVD_DISABLE_FILE_VALIDATION=1 "$(W7)/bin/python" -m pytest $(W7_TESTS) -n $(WORKERS) --dist loadfile -rs; fi

widgets7: $(W7_INSTALLED) ## make a second environment with ipywidgets 7.7.1 and the classic notebook, for make test
	@echo "Installed in $(W7)."

course: $(INSTALLED) ## rebuild and execute the notebooks from notebooks/source (NOTEBOOKS="name ..." for some)
	"$(PY)" notebooks/build.py $(NOTEBOOKS)

bench: $(INSTALLED) ## measure the speed ratios and write them to results/bench
	"$(VENV)/bin/cbn-lab" bench

lint: $(INSTALLED) ## check the style with ruff
	"$(PY)" -m ruff check .

# uv installs in a quarter of pip's time; without bytecode each kernel's first import of torch would take 19 s
# instead of 5. --python keeps uv out of any other environment that happens to be active. pip is there for networks
# that uv does not get through: it trusts the certificates of its configuration, uv only those it brings along.
# JupyterLab's announcements are switched off because they ask the network for news and updates. Matplotlib's
# font cache is made here because making it in a notebook prints a warning there.
$(INSTALLED): pyproject.toml
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
		echo "There is no $(PYTHON) here: install Python 3.11 or newer (Debian, Ubuntu: apt install python3 python3-venv), or name one with make PYTHON=/path/to/python3."; \
		exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$("$(PYTHON)" -V 2>&1), which is too old: install Python 3.11 or newer, or name one with make PYTHON=/path/to/python3.12."; \
		exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)."; \
		exit 1; }
	@if "$(PY)" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
		then echo "Using the virtual environment in $(VENV)."; \
		else echo "Making a virtual environment in $(VENV)."; "$(PYTHON)" -m venv --clear $(VENV); fi
	@echo "Installing the course and its tools: about 6 GB with PyTorch, one to four minutes the first time."
	@"$(PY)" -m pip install --quiet --disable-pip-version-check uv \
		&& { "$(VENV)/bin/uv" pip install --python "$(PY)" --compile-bytecode -e "$(WITH_EXTRAS)" \
			|| { echo "uv could not install the packages; pip tries now, which takes longer."; \
				"$(PY)" -m pip install --quiet --disable-pip-version-check -e "$(WITH_EXTRAS)"; }; } || { \
		echo "The packages could not be installed (the reason stands above): check the network connection and the free disk space, 8 GB, then run make again."; \
		exit 1; }
	@"$(PY)" -m jupyter labextension disable "@jupyterlab/apputils-extension:announcements" >/dev/null 2>&1
	@"$(PY)" -c 'import matplotlib.font_manager'
	@touch $(INSTALLED)

# Colab's widgets and the notebook that shows them, with all that they need, in front; what is missing there (torch,
# matplotlib, pytest, playwright, the course) is found in .venv. The two lists of packages never mix within the Jupyter
# stack: every package of it that ipywidgets 7 or notebook 6 asks for is installed here.
$(W7_INSTALLED): Makefile | $(INSTALLED)
	@echo "Installing ipywidgets 7.7.1 and the classic notebook 6.5.7 into $(W7): about 200 MB."
	@"$(PY)" -m venv --clear --without-pip $(W7)
	@"$(VENV)/bin/uv" pip install --python "$(W7)/bin/python" --quiet --compile-bytecode $(W7_PACKAGES) \
		|| "$(PY)" -m pip --python "$(W7)/bin/python" install --quiet --disable-pip-version-check $(W7_PACKAGES) || { \
		echo "The packages could not be installed (the reason stands above): check the network connection, then run make widgets7 again."; \
		exit 1; }
	@"$(PY)" -c 'import os, sysconfig; print(sysconfig.get_path("purelib"), os.getcwd(), sep="\n")' \
		> "$$("$(W7)/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_rest_from_venv.pth"
	@touch $(W7_INSTALLED)
