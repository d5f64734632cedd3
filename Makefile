# Each target makes the environment it needs, once: .venv, with Python 3.11 or newer. `make clean` removes it.
PYTHON ?= python3
BIN := .venv/bin
IMAGE_REQUIREMENTS := examples/image_classification/requirements.txt

.PHONY: demo test chaos fuzz lint bench bench-micro clean

demo: .venv/.ready
	$(BIN)/python -m examples.guide.demo

test: .venv/.ready-images
	$(BIN)/python -m pytest $(ARGS)

chaos: .venv/.ready
	$(BIN)/python -m tests.chaos $(ARGS)

fuzz: .venv/.ready-fuzz
	$(BIN)/python -m tests.fuzz.run $(ARGS)

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases benchmarks examples

bench: .venv/.ready
	$(BIN)/python -m benchmarks.compare $(ARGS)

bench-micro: .venv/.ready
	$(BIN)/python -m pytest benchmarks/micro --benchmark-columns=min,median,ops $(ARGS)

clean:
	rm -rf .venv build benchmarks/build benchmarks/results examples/*/build

# pip reads dependency groups from 25.1 on; a new environment has an older one.
.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

.venv/.ready-fuzz: .venv/.ready
	$(BIN)/python -m pip install --quiet --group fuzz
	touch $@

# torch and the image example's network: only the tests need them.
.venv/.ready-images: .venv/.ready $(IMAGE_REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --requirement $(IMAGE_REQUIREMENTS)
	touch $@
