# Every target sets up .venv first, if it is not there or the requirements have changed.
PYTHON ?= python3
BIN := .venv/bin
DEMO_RUN := runs/synthetic

.PHONY: help demo test test-slow lint check clean

help:
	@echo "make demo       the whole pipeline on drawn scenes: prepare, generate, train, eval, infer"
	@echo "make test       the test suite, in two processes"
	@echo "make test-slow  the tests that take minutes each and are left out of it"
	@echo "make lint       formatting, lint and types"
	@echo "make check      lint and tests"
	@echo "make clean      remove the demo's data and run (not .venv)"

.venv/.installed: requirements.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "error: $(PYTHON) is missing or older than 3.10; try: make PYTHON=python3.11 ..." >&2; \
		exit 1; }
	@echo "installing requirements into .venv (several GB, a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt -r tests/requirements.txt
	@touch $@

demo: .venv/.installed
	$(BIN)/python prepare.py synthetic --output data/synthetic --images data/synthetic-images
	$(BIN)/python generate.py --config configs/synthetic.yaml
	$(BIN)/python train.py --config configs/synthetic.yaml
	$(BIN)/python infer.py --checkpoint $(DEMO_RUN)/best.pth --input data/synthetic-images \
		--output $(DEMO_RUN)/inference
	$(BIN)/python eval.py --checkpoint $(DEMO_RUN)/best.pth --split test
	@echo
	@echo "pictures: data/synthetic/modalities/superpixels/contact_sheet.png"
	@echo "          $(DEMO_RUN)/pictures/run.png"
	@echo "pages:    $(DEMO_RUN)/eval_test/report.html"
	@echo "          $(DEMO_RUN)/inference/index.html"

test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: .venv/.installed
	$(BIN)/python -m pytest -m slow

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

clean:
	rm -rf data/synthetic data/synthetic-images runs/synthetic
