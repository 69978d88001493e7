# Every command sets up what is missing first; a second setup does nothing.
# Extra flags for the Swift compiler's driver: make build SWIFT_FLAGS="-j 4".
SWIFT_FLAGS ?=
RELEASE = -c release $(SWIFT_FLAGS)
SOURCES = Sources Tests Package.swift
CPP = $(wildcard Sources/CTorch/*.cpp Sources/CTorch/*.h Sources/CTorch/include/*.h)

.PHONY: setup nvrtc build test demo encoders bench gpu-bundle lint format clean

setup: ; @Scripts/setup

# The GPU's run-time compiler: with it, the tests compile the kernels on a machine without a GPU.
nvrtc: setup
	.venv/bin/pip install --quiet nvidia-cuda-nvrtc==13.0.88

build: setup
	swift build $(RELEASE)

# libtorch's threads sleep while they wait instead of spinning: on a machine that is busy, as with
# tests side by side, spinning takes the cores from those that work.
test demo encoders: export OMP_WAIT_POLICY = passive

test: export TENSATTN_NVRTC ?= $(wildcard $(CURDIR)/.venv/lib/python*/site-packages/nvidia/cu13/lib/libnvrtc.so.13)

test: setup
	swift build $(RELEASE) --build-tests
	swift test $(RELEASE) --skip-build

demo: build
	.build/release/tensattn demo

# Five encoders on one task, about 25 minutes: see Documentation/Encoders.md.
encoders: build
	.build/release/tensattn compare-encoders

bench: build
	.build/release/tensattn bench --device cpu

# A folder for a bare machine with a GPU: see Documentation/CUDAKernels.md.
gpu-bundle: setup ; @Scripts/gpu-bundle

lint: setup
	swift format lint --strict --recursive $(SOURCES)
	.venv/bin/clang-format --dry-run -Werror $(CPP)

format: setup
	swift format --in-place --recursive $(SOURCES)
	.venv/bin/clang-format -i $(CPP)

clean:
	rm -rf .build
