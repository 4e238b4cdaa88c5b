# Two commands do everything: `make demo` and `make test`. Each target installs what it needs first.

SEED ?= 0
NAME := $(if $(filter 0,$(SEED)),demo,demo-$(SEED))
WORLD := out/$(NAME)/world
MACHINE := $(if $(shell nvidia-smi -L 2>/dev/null),cuda,cpu)
LOCK := requirements/$(MACHINE).txt
READY := .venv/.ready-$(MACHINE)
BIN := .venv/bin
PYTHON ?= python3
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no --quiet train/lora.py
# Where a CPU build of torch is found when the default index offers none.
TORCH_CPU := https://download.pytorch.org/whl/cpu

# Nothing here looks for a model hub; scripts/fetch.py is the only program that downloads.
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup ray demo banking77 xquad spider test check format readme pocket lock clean

setup: $(READY)

$(READY): $(LOCK) pyproject.toml
	@echo "setup: $(if $(filter cuda,$(MACHINE)),NVIDIA GPU found,no NVIDIA GPU here): installing $$(grep -c '==' $(LOCK)) packages from $(LOCK) into .venv (a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --no-deps -r $(LOCK) || $(BIN)/pip install -qq --no-deps -r $(LOCK) --extra-index-url $(TORCH_CPU)
	@$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@
	@echo "setup: done; next: make demo"

# More than one machine: Ray, on top of the environment. Nothing else needs it.
ray: setup
	@$(BIN)/pip install -qq --no-deps -r requirements/ray.txt

demo: setup
	@echo "1/5 a world: documents, questions, gold answers (seed $(SEED))"
	@$(BIN)/python -m scripts.pocket.files --seed $(SEED) --out $(WORLD)
	@echo "2/5 an index of its documents"
	@$(BIN)/python -m retrieval build $(WORLD)/corpus.jsonl out/index/$(NAME)
	@echo "3/5 training chats from its train split"
	@$(BIN)/python -m scripts.make_sft $(WORLD)/shots.yaml
	@$(BIN)/python -m scripts.make_sft $(WORLD)/sft.yaml
	@echo "4/5 a LoRA adapter"
	@$(LAUNCH) name=$(NAME) data=$(CURDIR)/$(WORLD)/sft.jsonl
	@echo "5/5 every combination on the same questions"
	@$(BIN)/python -m eval run $(WORLD)/grid.yaml --out out/$(NAME)

# Made ready by: python -m scripts.banking77 FOLDER
banking77: setup
	@$(BIN)/python -m retrieval build out/banking77/data/corpus.jsonl out/index/banking77
	@$(BIN)/python -m scripts.make_sft eval/grids/banking77/sft.yaml
	@$(LAUNCH) --config train/recipes/banking77.yaml
	@$(BIN)/python -m eval run eval/grids/banking77.yaml

# Made ready by: python -m scripts.xquad FILE
xquad: setup
	@$(BIN)/python -m retrieval build out/xquad/data/corpus.jsonl out/index/xquad
	@$(BIN)/python -m scripts.make_sft eval/grids/xquad/sft.yaml
	@$(LAUNCH) --config train/recipes/xquad.yaml
	@$(BIN)/python -m eval run eval/grids/xquad.yaml

# Made ready by: python -m scripts.spider FOLDER
spider: setup
	@$(BIN)/python -m retrieval build out/spider/data/names.jsonl out/index/spider-names --size 100000 --overlap 0
	@$(BIN)/python -m retrieval build out/spider/data/train.jsonl out/index/spider-shots
	@$(BIN)/python -m retrieval build out/spider/data/train.jsonl out/index/spider-shots-masked --view masked
	@$(BIN)/python -m retrieval build out/spider/data/train.jsonl out/index/spider-shots-sql --view answer
	@$(BIN)/python -m scripts.make_sft eval/grids/spider/sft.yaml
	@$(LAUNCH) --config train/recipes/spider.yaml
	@$(BIN)/python -m eval run eval/grids/spider.yaml

test: setup
	@$(BIN)/python -m pytest

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Puts the figures of the last demo into README.md.
readme: setup
	@$(BIN)/python -m scripts.readme out/demo

pocket: setup
	@$(BIN)/python -m scripts.pocket.build

# Rewrites both locks; uv is needed for this alone.
lock: setup
	@$(BIN)/pip install -qq uv
	@$(BIN)/uv pip compile requirements/cpu.in --override requirements/no-media.txt --python-version 3.11 --no-header --no-annotate --no-emit-find-links -q --extra-index-url $(TORCH_CPU) --index-strategy unsafe-best-match -o requirements/cpu.txt
	@$(BIN)/uv pip compile requirements/cuda.in --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --no-emit-find-links -q -o requirements/cuda.txt
	@$(BIN)/uv pip compile requirements/ray.in --python-version 3.11 --no-header --no-annotate --no-emit-find-links -q -o requirements/ray.txt

clean:
	@rm -rf out .venv
