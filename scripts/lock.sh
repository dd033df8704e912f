#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Rewrites requirements/lock-py3*.txt from pyproject.toml and requirements/build.in. Needs uv.
# Wheels only (empy has none), for the oldest glibc that we support (Ubuntu 22.04: 2.35).
set -eu
cd "$(dirname "$0")/.."
UV=${UV:-uv}
for v in ${*:-3.10 3.11 3.12}; do
  lock=requirements/lock-py$(echo "$v" | tr -d .).txt
  "$UV" pip compile --quiet --no-config --python-version "$v" \
    --python-platform x86_64-manylinux_2_35 --only-binary :all: --no-binary empy \
    --generate-hashes --no-annotate --no-header \
    --extra ros --extra realsense --extra dev pyproject.toml requirements/build.in --output-file "$lock"
  echo "$lock: $(grep -c '==' "$lock") packages"
done
