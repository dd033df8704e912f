#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Rewrites requirements/lock-*.txt from pyproject.toml. Needs uv (UV=/path/to/uv).
# Wheels only (empy and crcmod have none), for the oldest glibc that we support (Ubuntu 22.04: 2.35).
set -eu
cd "$(dirname "$0")/.."
UV=${UV:-uv}

lock() { # NAME PYTHON PLATFORM ARGUMENTS...
  out=requirements/lock-$1.txt; python=$2; platform=$3; shift 3
  "$UV" pip compile --quiet --no-config --python-version "$python" --python-platform "$platform" \
    --only-binary :all: --no-binary empy --no-binary crcmod --generate-hashes --no-annotate --no-header \
    --output-file "$out" pyproject.toml "$@"
  echo "$out: $(grep -c '==' "$out") packages"
}

for python in 3.10 3.11 3.12; do
  lock "py$(echo $python | tr -d .)" $python x86_64-manylinux_2_35 \
    --extra ros --extra realsense --extra dev requirements/build.in
done
# For docker/: ROS and colcon come from the base image (Ubuntu 24.04).
colcon="--constraint requirements/colcon-constraints.txt --extra dev"
# shellcheck disable=SC2086  # words
lock colcon-py312 3.12 x86_64-manylinux_2_39 $colcon --extra realsense
# shellcheck disable=SC2086
lock colcon-gpu-py312 3.12 x86_64-manylinux_2_39 $colcon --extra realsense --extra gpu \
  --override requirements/gpu-override.txt
# shellcheck disable=SC2086
lock colcon-jetson-py312 3.12 aarch64-manylinux_2_39 $colcon requirements/jetson.in \
  --override requirements/jetson-override.txt
