# make demo    the whole path in a few minutes: text, tokenizer, shards, training on 4 local ranks, a certified export, sampled text, a report
# make test    every test, but for those of tests/slurm
# make test-quick   most tests of one process, one layout beside one rank and one resume, for the loop of work
# make test-user    of these, what may depend on the user or on the Python
# make test-slurm   the tests that start a real Slurm of two nodes; as root, and with apt-get it installs slurm-wlm, munge and shellcheck
# make interop   other programs read an export: transformers 4 and 5, tokenizers, SentencePiece, lm-eval, llama.cpp, mlx-lm; a shard, Megatron's reader; drafts, mlcroissant and cffconvert; a report, Chromium; wandb and mlflow keep a log
# make kernels our Triton kernels without a GPU: run by Triton's interpreter beside their definitions, compiled ahead for five GPUs
# make kernels-weekly   the same, and flash-attn 4 compiled ahead for a Hopper GPU through the call that trains (340 MB more)
# make recipes the small twin of every recipe of configs/models: trained, exported, certified; writes bench/results/recipes.md
# make contexts   every model family and every other kind of run in every layout whose ranks share sequences, each beside one rank
# make torture kill real runs with SIGKILL more than a hundred times; appends to docs/torture.md
# make fuzz    2,000 wrong configs and 500 wrong inputs, generated: each must end in words, in time and in bounded memory (docs/fuzz.md)
# make bench-data   encode, read and open data beside Megatron's tools; appends to bench/results/data.md
# make bench-search   index and search 10 GB of shards for text (GIGABYTES=1: fewer), removed afterwards; appends to bench/results/search.md
# make bench-overlap   held-out n-grams searched in training shards: speed and memory; appends to bench/results/overlap.md
# make bench-checkpoint   save and load beside torch's checkpoints and the bare disk; appends to bench/results/checkpoint.md
# make bench-export   a 7B checkpoint of random weights, exported beside a raw copy (81 GB of disk; DTYPES=bf16 54)
# make bench-recipe   the demo's recipe at several learning rates, on several corpora; appends to bench/results/recipe.md
# make bench-growth   sources, records, ranks, files and nodes, many of each; appends to bench/results/growth.md
# make soak    a run of 3,000 steps whose processes must not grow; appends to bench/results/soak.md
# make bench-step   one training step beside megatron-core, plain PyTorch, the same compiled and Hugging Face, and each optimizer; appends to bench/results/step.md
# make bench-optimizers   the update of every optimizer beside torch's fused AdamW, and bytes a parameter; appends to bench/results/optimizers.md
# make bench-plan     peaks and step times that fanal plan computes beside real ones on a CPU; appends to bench/results/plan_{memory,speed}.md
# make bench-ladder   what fanal plan --fit predicts of published ladders, and of a run on the demo's text by nine small ones; appends to bench/results/ladder.md
# make bench-memory   peak memory of a step by parameter and token, and of the loss; rehearsed peaks beside those of ranks that share sequences; appends to bench/results/memory.md
# make bench-layouts   local ranks in several layouts beside one process: CPU time, collectives, threads; appends to bench/results/layouts.md
# make bench-context   rows of 4,096 and 16,384 tokens on two ranks, by context and by tensor parallelism, beside one; appends to bench/results/context.md
# make bench-start   a rank's requests to the shared disk, by strace, and seconds to a run's first line, step and end (AGAINST=REV: beside a commit's); appends to bench/results/start.md
# make install   the packages of constraints.txt into .venv, and this one so that changes of the code count at once
# make lock    the packages that constraints.txt brings, each with the hashes of its files, into locks/
# make sbom    what is installed, as a bill of materials (CycloneDX, build/sbom.cdx.json), and docs/dependencies.md
# make data    the text, the tokenizer and the shards of the demo
# make check   lint, format and types, then every test
# make gpu     on a machine with a GPU: kernels, attention, a timed step, resume, layouts, memory, in six minutes and one report (docs/gpu.md)
# make report-pictures   the pictures of docs/report.md, taken by Chromium of the demo's report and of one of a chain of Slurm jobs
# make clean   remove all that the targets above have made here

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
FANAL  := $(VENV)/bin/fanal
STAMP  := $(VENV)/.installed

CORPUS := demo/corpus/validation/code.jsonl
TOKENS := demo/tokenizer/tokenizer.model
SPLITS := train validation
SHARDS := $(foreach split,$(SPLITS),demo/shards/$(split)-code.json demo/shards/$(split)-prose.json)

.DEFAULT_GOAL := help
.PHONY: help install data demo test test-quick test-user test-slurm interop kernels kernels-weekly check recipes contexts torture fuzz bench-data bench-checkpoint bench-export bench-recipe bench-growth bench-start bench-step bench-optimizers bench-memory bench-layouts bench-context bench-plan bench-ladder bench-search soak lock sbom gpu clean bench-overlap others transformers-4 report-pictures

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

install: $(STAMP)

# On Linux, with the locks: every package has the bytes that were tested, or nothing is installed. Elsewhere the versions of
# constraints.txt. torch has locks of its own, since an index has either the CPU's build or the one that brings NVIDIA's libraries.
PIP = PIP_ROOT_USER_ACTION=ignore $(RUN) -m pip install -qq --disable-pip-version-check
$(STAMP): pyproject.toml constraints.txt $(wildcard locks/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11, 3.12 or 3.13 is needed; set PYTHON=python3.11")'
	@echo 'Installing Fanal and its libraries into $(VENV) (some minutes, once)'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@case "$$(uname -sm)" in \
	    'Linux x86_64'|'Linux aarch64') \
	        $(PIP) --no-deps --require-hashes --requirement locks/requirements.txt && \
	        { $(PIP) --no-deps --require-hashes --requirement locks/torch-cpu.txt 2>/dev/null || \
	            $(PIP) --no-deps --require-hashes --requirement locks/torch-cuda.txt; } && \
	        $(PIP) --no-deps --no-build-isolation --editable . ;; \
	    *) $(PIP) --upgrade pip && $(PIP) --constraint constraints.txt --editable '.[dev]' ;; \
	esac
	@touch $(STAMP)

# After a change of pyproject.toml or constraints.txt: the packages that they bring, with the hashes of every file of each version.
# The hashes of the CPU's torch are PyTorch's own, and are added to locks/torch-cpu.txt by hand.
UV = .cache/lock/bin/uv pip compile pyproject.toml --extra dev --extra gpu --universal --python-version 3.11 --generate-hashes --no-config \
    --constraint constraints.txt --no-emit-index-url --no-annotate --custom-compile-command 'make lock'
lock:
	@$(PYTHON) -m venv .cache/lock && .cache/lock/bin/python -m pip install -qq --disable-pip-version-check uv
	@$(UV) --quiet --output-file .cache/lock/all.txt
	@$(PYTHON) locks/split.py .cache/lock/all.txt locks

# What is installed, as a bill of materials (CycloneDX), and the page of licences that follows from it.
SBOM := build/sbom.cdx.json
sbom: $(STAMP)
	@mkdir -p $(dir $(SBOM))
	@test -x .cache/sbom/bin/cyclonedx-py || { $(PYTHON) -m venv .cache/sbom && .cache/sbom/bin/python -m pip install -qq --disable-pip-version-check \
	    cyclonedx-bom==7.5.0; }
	@.cache/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate --output-file $(SBOM) $(VENV)
	@$(RUN) locks/licences.py $(SBOM) docs/dependencies.md

$(CORPUS): | $(STAMP)
	@$(RUN) -m tokenizer sample-corpus --output demo/corpus

$(TOKENS): $(CORPUS)
	@rm -rf demo/tokenizer
	@$(RUN) -m tokenizer train tokenizer/specs/tiny-2k.yaml --input demo/corpus/train/code.jsonl demo/corpus/train/prose.jsonl --output demo/tokenizer

# demo/shards/SPLIT-DOMAIN.json is a shard's manifest, written last: it is there only when the shard is complete.
demo/shards/%.json: $(TOKENS)
	@rm -f demo/shards/$*.bin demo/shards/$*.idx demo/shards/$*.documents.parquet demo/shards/$*.json
	@$(RUN) -m tokenizer encode --tokenizer demo/tokenizer --input demo/corpus/$(subst -,/,$*).jsonl --output demo/shards/$*

data: $(SHARDS)

# Each stage is named; one whose files are there already prints nothing below its name.
demo: export TRANSFORMERS_VERBOSITY := error
demo: $(STAMP)
	@echo '1/7  A small corpus from this Python'\''s own standard library: code and prose  (demo/corpus)'
	@$(MAKE) --no-print-directory --silent $(CORPUS)
	@echo; echo '2/7  A tokenizer of 2,000 pieces, trained on it  (demo/tokenizer)'
	@$(MAKE) --no-print-directory --silent $(TOKENS)
	@echo; echo '3/7  Token shards, each with a manifest of hashes  (demo/shards)'
	@$(MAKE) --no-print-directory --silent $(SHARDS)
	@echo; echo '4/7  Training: 2.3 M parameters, tensor 2 x pipeline 2 on 4 local ranks, 200 steps  (runs/tiny)'
	@$(RUN) -m pretrain train configs/tiny.yaml
	@echo; echo '5/7  Export to Hugging Face, compared with the trained model before it gets its name  (demo/export)'
	@rm -rf demo/export
	@$(RUN) -m pretrain export runs/tiny --to demo/export
	@echo; echo '6/7  Text sampled from the export (temperature 0.8, seed 1); 200 steps teach spelling, not sense'
	@$(RUN) -m pretrain generate demo/export --prompt 'The function returns' --max-new-tokens 60 \
	    --temperature 0.8 --top-p 0.95 --seed 1
	@echo; echo '7/7  A report of the run, one file that opens without a network  (runs/tiny/report.html)'
	@$(RUN) -m fanal report runs/tiny --export demo/export
	@echo
	@echo 'What to try next:'
	@printf '  %-66s  %s\n' \
	    'xdg-open runs/tiny/report.html' 'the report: losses, pace, data, costs; on any machine with a browser' \
	    'less demo/export/README.md' 'the model card, with its certificate' \
	    'make demo' 'again: the run is complete, and says so' \
	    '$(FANAL) train configs/tiny.yaml train.train_steps=300' 'go on from the last checkpoint' \
	    '$(FANAL) show configs/lucie-7b/pretrain.yaml' 'a 7B run on 512 GPUs, and what follows from it' \
	    '$(FANAL) train configs/smoke_gpu.yaml' '123 M parameters, if there is a GPU' \
	    '$(VENV)/bin/tensorboard --logdir runs' 'the curves' \
	    'less docs/first-run.md' 'what you have just seen, line by line'

# The picture of the README, drawn again from the demo's run.
docs/images/demo-loss.svg: runs/tiny/metrics.jsonl
	@$(RUN) -m docs.images.loss_curves runs/tiny/metrics.jsonl $@

# Chromium comes from apt-get where there is none.
CHROMIUM = which chromium chromium-browser google-chrome >/dev/null || ! which apt-get >/dev/null || \
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }

# The pictures of docs/report.md, taken again of the demo's report and of that of a chain of jobs whose first one loses a rank, on a
# Slurm that is started for it (as root).
CHAIN := a_rank_that_is_killed_is_requeued
report-pictures: runs/tiny/metrics.jsonl
	@$(CHROMIUM)
	@$(SLURM)
	@FANAL_REQUIRE_SLURM=1 FANAL_SLURM_REPORTS=runs/slurm $(RUN) -m pytest -q tests/slurm/test_chains.py -k $(CHAIN)
	@$(RUN) -m fanal report runs/tiny --export demo/export
	@$(RUN) -m docs.images.report_pictures runs/tiny/report.html runs/slurm/test_$(CHAIN).html docs/images

# A file stays with one worker, and so does what its tests share. Tests of tests/dist have up to eight ranks, which wait for each other
# most of the time: one more worker than there are cores keeps these at work.
SEVERAL_PROCESSES := tests/dist tests/torture
ELSEWHERE := tests/slurm tests/interop
WORKERS := $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 8 ? cores + 1 : 8)))
# Threads of OpenMP that wait for each other sleep. By default they spin, on cores that have another worker's work to do.
test test-quick test-user test-slurm interop: export OMP_WAIT_POLICY := passive
# Workers get files in the order of tests/order_of_files.py: the longest first.
BY_FILE := --dist loadfile --no-loadscope-reorder
test: $(STAMP)
	$(RUN) -m pytest tests $(ELSEWHERE:%=--ignore %) $(SEVERAL_PROCESSES:%=--ignore %) --numprocesses auto --maxprocesses 8 $(BY_FILE)
	$(RUN) -m pytest $(SEVERAL_PROCESSES) --numprocesses $(WORKERS) $(BY_FILE)

# Files of tests/unit that start programs, kill them or wait for them.
NOT_QUICK := tokenizer/test_kill_and_disk_full.py tokenizer/test_tokenizer_cli.py tokenizer/test_encode_memory.py \
    launch/test_node_check.py launch/test_preflight.py launch/test_render_encode.py convert/test_import_refusals.py \
    rehearse/test_rehearsed_optimizers.py rehearse/test_rehearsed_muon.py rehearse/test_rehearsed_stability.py \
    rehearse/test_golden_rehearsals.py rehearse/test_planted_waits.py rehearse/test_stand_ins.py rehearse/test_steps_to_rehearse.py \
    config/test_recipes.py \
    convert/test_import_models.py parallel/test_stop_signals.py train/test_watchdog_limits.py bench/test_gpu_report.py
QUICK_RUNS := \
    'tests/dist/test_layout_parity.py::test_a_layout_trains_what_one_rank_trains[tp2-pp2]' \
    'tests/dist/test_layout_parity.py::test_a_planted_fault_breaks_parity[tp2-pp2]' \
    'tests/dist/test_resume.py::test_a_resumed_run_equals_the_straight_one_bit_for_bit[tp2-pp2]'
QUICK := $(QUICK_RUNS) tests/test_architecture.py tests/unit $(NOT_QUICK:%=--ignore tests/unit/%)
test-quick: $(STAMP)
	$(RUN) -m pytest $(QUICK) --numprocesses auto --maxprocesses 8 $(BY_FILE)

# The quick tests whose outcome may be another for another user or under another Python: files, programs, texts, configs. Left out are
# sums of torch, numpy and SentencePiece, whose wheels are the same; what compiles them stays, and so does the command that rehearses.
NUMBERS := bench kernels model optim rehearse triton_kernels
OF_NUMBERS := $(filter-out %/test_operation_trial.py %/test_rehearse_command.py,$(wildcard $(NUMBERS:%=tests/unit/%/test_*.py))) \
    tests/unit/tokenizer/test_engine.py
test-user: $(STAMP)
	$(RUN) -m pytest $(QUICK) $(OF_NUMBERS:%=--ignore %) --numprocesses auto --maxprocesses 8 $(BY_FILE)

# Each worker has a cluster of its own, and its chains wait for Slurm about half of the time.
# On a machine without these packages and without apt-get the tests fail, and say what is missing.
SLURM_PACKAGES := slurm-wlm munge shellcheck
SLURM = PATH="$$PATH:/usr/sbin"; if ! which sbatch srun scontrol slurmctld slurmd munged shellcheck >/dev/null && which apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(SLURM_PACKAGES); \
	fi
test-slurm: $(STAMP)
	@$(SLURM)
	FANAL_REQUIRE_SLURM=1 $(RUN) -m pytest tests/slurm --numprocesses $(WORKERS) --dist worksteal

# Two environments on top of the trainer's, which stays as it is. A package without a wheel for this machine is left out, and the
# tests that need it say so.
INTEROP := .cache/interop
TRANSFORMERS_4 := transformers==4.57.6 tokenizers==0.22.2 huggingface-hub==0.36.2 kernels==0.11.7
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
interop: $(INTEROP)/others/.installed $(INTEROP)/transformers-4/.installed
	@$(CHROMIUM)
	$(RUN) -m pytest tests/interop -rs

$(INTEROP)/others/.installed $(INTEROP)/transformers-4/.installed: $(STAMP)
	@echo 'Installing what reads our exports into $(@D)'
	@$(RUN) -m venv --clear $(@D)
	@$(RUN) -c '$(PURELIB)' > "$$($(@D)/bin/python -c '$(PURELIB)')/trainer.pth"
	@$(MAKE) --no-print-directory --silent $(notdir $(@D)) && touch $@

others:
	@$(RUN) -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(*extras["evaluate"], *extras["interop"], sep="\n")' | \
	while read -r package; do \
	    PIP_ROOT_USER_ACTION=ignore $(INTEROP)/others/bin/python -m pip install -qq --disable-pip-version-check --prefer-binary \
	        --constraint constraints.txt "$$package" </dev/null || echo "not installed: $$package"; \
	done
transformers-4:
	@PIP_ROOT_USER_ACTION=ignore $(INTEROP)/transformers-4/bin/python -m pip install -qq --disable-pip-version-check $(TRANSFORMERS_4)

# Triton (690 MB) lies in a folder of its own, which only this target's commands see; so does what it compiled. Its interpreter must
# be on before it is imported; the tests that compile turn it off in processes of their own.
KERNELS := .cache/kernels
WITH_TRITON := PYTHONPATH=$(CURDIR)/$(KERNELS)$${PYTHONPATH:+:$$PYTHONPATH} TRITON_CACHE_DIR=$(CURDIR)/.cache/kernels-compiled
kernels: $(KERNELS)/.installed
	$(WITH_TRITON) TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(RUN) -m pytest tests/unit/triton_kernels --numprocesses auto --maxprocesses 8 --dist loadfile
	$(WITH_TRITON) $(RUN) -m bench.kernels

$(KERNELS)/.installed: $(STAMP) locks/kernels.txt
	@echo 'Installing Triton into $(KERNELS) (once)'
	@rm -rf $(KERNELS)
	@$(PIP) --no-deps --require-hashes --requirement locks/kernels.txt --target $(KERNELS)
	@touch $@

# flash-attn 4 and its compiler (340 MB) lie in an environment of their own on top of the trainer's. It compiles when it is first called,
# and here for a GPU that is not there. Weekly: its interface is not final, so pyproject.toml and its lock name one version.
FLASH4 := .cache/flash4
kernels-weekly: kernels $(FLASH4)/.installed
	PYTHONPATH=$(CURDIR):$(CURDIR)/$(KERNELS)$${PYTHONPATH:+:$$PYTHONPATH} OMP_NUM_THREADS=1 $(FLASH4)/bin/python -W ignore -m bench.kernels.flash4

$(FLASH4)/.installed: $(STAMP) locks/flash4.txt
	@echo 'Installing flash-attn 4 and its compiler into $(FLASH4) (once)'
	@$(RUN) -m venv --clear $(FLASH4)
	@$(RUN) -c '$(PURELIB)' > "$$($(FLASH4)/bin/python -c '$(PURELIB)')/trainer.pth"
	@PIP_ROOT_USER_ACTION=ignore $(FLASH4)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes \
	    --requirement locks/flash4.txt
	@touch $@

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(MAKE) test

# Some minutes on two cores.
recipes: $(STAMP)
	TRANSFORMERS_VERBOSITY=error $(RUN) -W ignore -m bench.twins

# Half an hour on two cores; `make test` trains a choice of it.
contexts: $(STAMP)
	FANAL_ALL_CONTEXTS=1 $(RUN) -m pytest tests/dist/test_context_parallel.py -k trains_what_one_rank_trains

# Half an hour on two cores. KILLS=20 for a shorter one.
KILLS ?= 104
torture: $(STAMP)
	$(RUN) -m tests.torture --kills $(KILLS)

# Twenty minutes on two busy cores, most of them for the configs, of which --seed N makes others.
fuzz: $(STAMP)
	$(RUN) -m tests.fuzz.inputs
	$(RUN) -m tests.fuzz.configs --cases 2000 --seed 1

# The text is Debian's translated manual pages, fetched with apt-get download.
bench-data: $(STAMP)
	$(RUN) -m bench.data_encode --folder .cache/debian-text
	$(RUN) -m bench.data_encode --folder .cache/debian-text --imported
	$(RUN) -m bench.data_reads
	$(RUN) -m bench.document_columns --folder .cache/debian-text

# 12 GB of disk for the time.
GIGABYTES ?= 10
bench-search: $(STAMP)
	$(RUN) -m bench.search --gigabytes $(GIGABYTES)

bench-overlap: $(STAMP)
	$(RUN) -m bench.overlap

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

# An hour on two cores. LIBRARIES are standard libraries of other Pythons, each a corpus of its own.
LIBRARIES ?= $(wildcard /usr/lib/python3.1[1-3])
bench-recipe: $(STAMP)
	$(RUN) -m bench.recipe_rates --libraries $(LIBRARIES)

# CASES='load merge' measures the cases with these words in their names.
bench-growth: $(STAMP)
	$(RUN) -m bench.growth $(CASES)

soak: $(STAMP)
	$(RUN) -m bench.soak

# strace comes from apt-get where there is none.
bench-start: data
	@which strace >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq strace; }
	mkdir -p .cache
	$(RUN) -m bench.start
	$(RUN) -m bench.start_times $(if $(AGAINST),--against $(AGAINST))

# Half an hour on two quiet cores; g++ is needed for torch.compile. STEP='--precision bf16 --threads 1 --only fanal,plain' takes a part.
bench-step: $(STAMP)
	$(RUN) -W ignore -m bench.step $(STEP)
	$(if $(STEP),,@$(MAKE) --no-print-directory bench-optimizers)

bench-optimizers: $(STAMP)
	$(RUN) -W ignore -m bench.optimizers

bench-memory: $(STAMP)
	$(RUN) -W ignore -m bench.memory
	$(RUN) -W ignore -m bench.rehearsed_ranks

# Ten minutes on two quiet cores.
bench-ladder: data
	$(RUN) -W ignore -m bench.ladder_laws
	$(RUN) -W ignore -m bench.ladder

bench-plan: $(STAMP)
	$(RUN) -W ignore -m bench.plan_memory
	$(RUN) -W ignore -m bench.plan_speed

bench-layouts: $(STAMP)
	$(RUN) -W ignore -m bench.layouts

bench-context: $(STAMP)
	$(RUN) -W ignore -m bench.context

# OUT=FOLDER for the report elsewhere, BUDGET_S=600 for more time, STAGES='step,trace' for a part.
BUDGET_S ?= 360
gpu: $(STAMP)
	$(RUN) -W ignore -m bench.gpu --budget-s $(BUDGET_S) --out $(if $(OUT),$(OUT),build) $(if $(STAGES),--only $(STAGES))

clean:
	rm -rf demo runs .cache .venv *.egg-info .pytest_cache .ruff_cache .hypothesis
