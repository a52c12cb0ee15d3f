# make demo    install, real text, tokenizer, shards, a training run on 4 local ranks, its export with a certificate, and what it says
# make test    every test, but for those of tests/slurm
# make test-slurm   the tests that start a real Slurm of two nodes; as root, and with apt-get it installs slurm-wlm, munge and shellcheck
# make torture kill real runs with SIGKILL more than a hundred times; appends to docs/torture.md
# make bench-data   encode, read and open data beside Megatron's tools; appends to bench/results/data.md
# make bench-checkpoint   save and load beside torch's checkpoints and the bare disk; appends to bench/results/checkpoint.md
# make bench-export   a 7B checkpoint of random weights, exported beside a raw copy (81 GB of disk; DTYPES=bf16 54)
# The rest:    install, data, check, gpu, clean

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
STAMP  := $(VENV)/.installed

CORPUS := demo/corpus/train/code.jsonl
TOKENS := demo/tokenizer/tokenizer.model
SPLITS := train held_out
SHARDS := $(foreach split,$(SPLITS),demo/shards/$(split)-code.json demo/shards/$(split)-prose.json)

.DEFAULT_GOAL := help
.PHONY: help install data demo test test-slurm check torture bench-data bench-checkpoint bench-export gpu clean

help:
	@sed -n 's/^# //p' Makefile | head -8

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

$(CORPUS): | $(STAMP)
	$(RUN) -m tokenizer sample-corpus --output demo/corpus

$(TOKENS): $(CORPUS)
	rm -rf demo/tokenizer
	$(RUN) -m tokenizer train tokenizer/specs/tiny-2k.yaml --input demo/corpus/train/code.jsonl demo/corpus/train/prose.jsonl --output demo/tokenizer

# demo/shards/SPLIT-DOMAIN.json is a shard's manifest, written last: it is there only when the shard is whole.
demo/shards/%.json: $(TOKENS)
	rm -f demo/shards/$*.bin demo/shards/$*.idx demo/shards/$*.json
	$(RUN) -m tokenizer encode --tokenizer demo/tokenizer --input demo/corpus/$(subst -,/,$*).jsonl --output demo/shards/$*

data: $(SHARDS)

demo: data
	$(RUN) -m pretrain train configs/tiny.yaml
	rm -rf demo/export
	$(RUN) -m pretrain export runs/tiny --to demo/export
	$(RUN) -m pretrain generate demo/export --prompt 'The function returns' --max-new-tokens 40
	@echo
	@echo 'What to try next:'
	@echo '  less demo/export/README.md                                   the card of what was exported, with its certificate'
	@echo '  make demo                                                    again: the run is complete, and says so'
	@echo '  $(RUN) -m pretrain train configs/tiny.yaml train.train_steps=300     go on from the last checkpoint'
	@echo '  $(RUN) -m pretrain show configs/lucie-7b/pretrain.yaml       a 7B run on 512 GPUs, and what follows from it'
	@echo '  $(VENV)/bin/tensorboard --logdir runs                        the curves'
	@echo '  $(RUN) -m pretrain train configs/smoke_gpu.yaml              123 M parameters, if there is a GPU'

# A test of tests/dist has several processes already; nearly all of the other folders have one, and run as many at a time as there
# are cores, eight at most. A file stays with one worker, and so does what its tests share.
SEVERAL_PROCESSES := tests/dist tests/torture
test: $(STAMP)
	$(RUN) -m pytest tests --ignore tests/slurm $(SEVERAL_PROCESSES:%=--ignore %) --numprocesses auto --maxprocesses 8 --dist loadfile
	$(RUN) -m pytest $(SEVERAL_PROCESSES)

# On a machine without these packages and without apt-get the tests fail, and say what is missing.
SLURM_PACKAGES := slurm-wlm munge shellcheck
test-slurm: $(STAMP)
	@PATH="$$PATH:/usr/sbin"; if ! which sbatch srun scontrol slurmctld slurmd munged shellcheck >/dev/null && which apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(SLURM_PACKAGES); \
	fi
	FANAL_REQUIRE_SLURM=1 $(RUN) -m pytest tests/slurm

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(MAKE) test

# Half an hour on two cores. KILLS=20 for a shorter one.
KILLS ?= 104
torture: $(STAMP)
	$(RUN) -m tests.torture --kills $(KILLS)

# The text is Debian's translated manual pages, fetched with apt-get download.
bench-data: $(STAMP)
	$(RUN) -m bench.data_encode --folder .cache/debian-text
	$(RUN) -m bench.data_reads

# BENCH_FOLDER lies on the disk to measure; 3 GB are there at a time, and removed.
BENCH_FOLDER ?= .cache/bench-checkpoint
bench-checkpoint: $(STAMP)
	mkdir -p $(BENCH_FOLDER)
	$(RUN) -m bench.checkpoint_big --folder $(BENCH_FOLDER)
	$(RUN) -m bench.checkpoint_small --folder $(BENCH_FOLDER)
	$(RUN) -m bench.checkpoint_beside --folder $(BENCH_FOLDER)

# The export layer by layer, so that it runs where the model does not fit.
LAYERS := 32
DTYPES := bf16 fp32
bench-export: $(STAMP)
	$(RUN) -W ignore -m bench.export_large --folder .cache/export --layers $(LAYERS) --dtypes $(DTYPES)

gpu: data
	$(RUN) -m pytest tests/gpu -rs
	$(RUN) -m pretrain train configs/smoke_gpu.yaml

clean:
	rm -rf demo runs .cache .venv *.egg-info .pytest_cache .ruff_cache .hypothesis
