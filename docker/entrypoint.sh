#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
set -eo pipefail
# shellcheck disable=SC1091
source /opt/ros/jazzy/setup.bash
# shellcheck disable=SC1091
source /opt/spinenav/setup.bash
# `spinenav` as a command, and the CUDA libraries of the GPU image's wheels (none in the CPU image).
export PATH=/opt/spinenav/lib/spine_nav_bringup:$PATH
for folder in /opt/venv/lib/python3.12/site-packages/nvidia/*/lib; do
  [ -d "$folder" ] && export LD_LIBRARY_PATH=$folder:${LD_LIBRARY_PATH:-}
done
exec "$@"
