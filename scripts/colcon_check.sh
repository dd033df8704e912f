#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the packages with colcon from PyPI in a throw-away environment: ament_python needs no ROS.
# Rehearses the build stage of docker/Dockerfile where there is no Docker. Needs the network.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet setuptools==68.1.2 colcon-core colcon-ros
PATH=$work/venv/bin:$PATH "$work/venv/bin/python" "$work/venv/bin/colcon" --log-base "$work/log" build \
  --base-paths src --event-handlers console_cohesion- --merge-install --build-base "$work/build" --install-base "$work/install"
echo "installed:"
(cd "$work/install" && find lib share -type f | grep -E '^lib/(spine|stereo|rod)|ament_index|/(launch|config|models)/' | sort)
