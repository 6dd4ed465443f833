# The book, its tests, and what they need. `make` alone lists what there is.

VENV      ?= .venv
PYTHON    ?= python3
PIP_FLAGS ?=
NOTEBOOKS ?=
WORKERS   ?= 2
REPOSITORY ?=

# The variables a person may set, with what they mean: shown by `make help`.
define VARIABLES
  VENV=.venv      the environment: created where it is missing, used as it is where it has everything
  PYTHON=python3  the Python, 3.11 or newer, that creates it
  PIP_FLAGS=      more options for pip; README.md shows the one for PyTorch without CUDA
  NOTEBOOKS=      for make outputs: these notebooks only
  WORKERS=2       for make book and make test: how many notebooks or tests at once; 2 GB of memory for each
  REPOSITORY=     for make book and make html: the repository's address; with it, each chapter links to Binder
endef

export VENV PYTHON PIP_FLAGS REPOSITORY VARIABLES WORKERS
# The package of this checkout, also from an environment that another checkout shares.
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

# In an environment's name everything is allowed, so it stands in quotes, and in file names as a number. What runs long is
# called with exec: no shell stands between it and a signal to stop.
RUN   := "$(VENV)/bin/python"
READY := build/ready/$(firstword $(shell printf '%s' "$(VENV)" | cksum))

.PHONY: help book html test lab outputs checkpoints studies bench data clean FORCE
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:  ## this list
	@echo "make TARGET [VARIABLE=value]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "$$VARIABLES"

book: data  ## execute every chapter, and build the web pages from the runs, into build/book
	@exec $(RUN) site/build.py

html: $(READY)  ## build the web pages from the outputs that the notebooks hold, into build/html
	@exec $(RUN) site/pages.py

test: data  ## format, lint, types, unit tests, and every notebook against its stored outputs
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} exec $(RUN) -m pytest --nbval --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

lab: data  ## open chapter 1 in JupyterLab
	@JUPYTER_PATH="$$(cd "$(VENV)" && pwd)/share/jupyter" exec $(RUN) -m jupyterlab notebooks/01_train.ipynb

outputs: data  ## execute the notebooks and store their outputs in them
	@exec $(RUN) site/execute.py $(NOTEBOOKS)
	@$(RUN) site/readme_figure.py

checkpoints: data  ## train the committed checkpoints again, with the calls that the chapters show
	@exec $(RUN) -m benchmarks.recipe

studies: data  ## make the book's studies again: five networks, every way of choosing filters
	@exec $(RUN) -m benchmarks.studies

bench: data  ## measure what the book claims of its speed and accuracy
	@exec $(RUN) -m benchmarks

data: $(READY)-data  ## fetch Fashion-MNIST

clean:  ## remove build/ and the tools' caches; the environment and the data stay
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Each of these files says that something was done and need not be done again.
$(READY): pyproject.toml site/environment.sh site/missing.py $(if $(shell test -x "$(VENV)/bin/python" || echo no),FORCE)
	@sh site/environment.sh
	@mkdir -p $(@D) && touch $@

$(READY)-data: $(READY) $(wildcard cnnprune_utils/book/fashion_mnist.py cnnprune_utils/book/fetch.py cnnprune_utils/book/apt.py) $(if $(CNNPRUNE_DATA),FORCE,$(if $(wildcard data/FashionMNIST/raw),,FORCE))
	@$(RUN) -m cnnprune_utils.book.fashion_mnist
	@touch $@
