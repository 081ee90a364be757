# Every target does its own set-up (scripts/bootstrap.py); only Python 3.11+ and a package index are needed, and Node.js
# with npm for test and lint.
PYTHON ?= python3
MODEL ?= shapes
GALLERY_MODEL := $(if $(filter dit,$(MODEL)),dit,xl)
IN = $(PYTHON) scripts/bootstrap.py run --
IN_BROWSER = $(PYTHON) scripts/bootstrap.py run --browser --
CHECKED = $(PYTHON) scripts/bootstrap.py run --typescript

.PHONY: help demo test test-unit test-comfy test-device test-large test-e2e test-browser lint bench bench-doors bench-trace bench-statistics bench-sweeps study study-edits study-doors study-gallery train-reader train clean

help: ## show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: ## paint before and after an edit, in a real ComfyUI, into demo-output/
	@$(IN) python -m diff_quickfix.demo_model.studies.demo --out demo-output

test: ## all checks and tests, against the newest and the oldest supported ComfyUI
	@$(CHECKED) --browser -- python scripts/run_tests.py

test-unit: ## the kernels, without ComfyUI
	@$(IN) python -m pytest tests/unit

test-comfy: ## inside a real ComfyUI, in process
	@$(IN) python -m pytest tests/comfyui

test-device: ## on a pretended accelerator
	@$(IN) python -m pytest tests/device

test-large: ## SDXL at its real size, in a real ComfyUI: no part of make test; 9 GB of memory, minutes to an hour
	@$(IN) python -m pytest tests/large

test-e2e: ## the stock server over HTTP
	@$(IN) python -m pytest tests/e2e

test-browser: ## what people see, in Chromium; screenshots in build/screenshots
	@$(IN_BROWSER) python -m pytest tests/browser

lint: ## style and types, of Python and of the page's scripts
	@$(CHECKED) -- python scripts/run_tests.py lint

bench: ## time an edit on a real-size text encoder, stage by stage
	@$(IN) python -m diff_quickfix.benchmarks.edit

bench-doors: ## time an edit of SDXL's cross-attentions at real size, beside UCE's way, and of wide doors
	@$(IN) python -m diff_quickfix.benchmarks.doors

bench-trace: ## pictures per second of tracing, beside plain sampling and the published scheme
	@$(IN) python -m diff_quickfix.benchmarks.trace

bench-statistics: ## simulate what the statistics of a trace promise: false alarms, effects found, coverage
	@$(IN) python -m diff_quickfix.benchmarks.statistics

bench-sweeps: ## what a sweep costs beside its tracing, and how it grows
	@$(IN) python -m diff_quickfix.benchmarks.sweeps

study: ## trace every attribute of the demo model over many prompts into build/study (two hours on two cores)
	@$(IN) python -m diff_quickfix.demo_model.studies.study trace --out build/study

study-edits: ## edit the demo model in many ways and judge the verdicts by its pictures, into build/edits (an hour on two cores)
	@$(IN) python -m diff_quickfix.demo_model.studies.edits paint --out build/edits
	@$(IN) python -m diff_quickfix.demo_model.studies.edits judge --out build/edits

study-doors: ## edit the demo model at its doors and read its pictures, after study-edits (half an hour on two cores)
	@$(IN) python -m diff_quickfix.demo_model.studies.doors --out build/edits

study-gallery: ## edit Shapes XL in many ways and read what became of neighbours that nobody named (hours); MODEL=dit: Shapes DiT
	@$(IN) python -m diff_quickfix.demo_model.studies.gallery paint --model $(GALLERY_MODEL) --out build/gallery-$(GALLERY_MODEL)
	@$(IN) python -m diff_quickfix.demo_model.studies.gallery judge --model $(GALLERY_MODEL) --out build/gallery-$(GALLERY_MODEL)

train-reader: ## train the reader that judges the demo model's pictures (ten minutes) into build/reader; MODEL=xl for Shapes XL and Shapes DiT
	@$(IN) python -m diff_quickfix.demo_model.training.reader --model $(MODEL) --out build/reader-$(MODEL)

train: ## train the demo model from nothing (hours on two cores) into build/shapes; MODEL=xl trains Shapes XL, MODEL=dit after it Shapes DiT
	@$(IN) python -m diff_quickfix.demo_model.training.train all --model $(MODEL) --out build/$(MODEL)

clean: ## remove what the targets above wrote into the clone
	rm -rf build demo-output .hypothesis tests/.hypothesis .ruff_cache .mypy_cache
