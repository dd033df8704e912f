#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# First step of `make demo` and `make test`: Python, system packages, then scripts/bootstrap.py.
# Variables: VENV (default .venv), PYTHON, EXTRAS (words: train gpu), SPINENAV_NO_ROOT=1 (act as
# if there were no root), SPINENAV_NO_APT=1 (touch no system package at all), SPINENAV_BROWSER=1
# (Debian's chromium too, for the tests of the surgeon's page).
set -eu
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}

say() { echo "setup: $*"; }
die() { echo "setup: error: $*" >&2; exit 2; }
supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "this is $(uname -s) on $(uname -m); the wheels" \
  "of ROS 2 exist for Linux on x86-64 only. On a Jetson see docker/README.md."

# 1. Python: the one of an existing environment, else $PYTHON, else the first supported one.
if [ -n "${PYTHON:-}" ]; then
  supported "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.10, 3.11 or 3.12."
elif [ -x "$VENV/bin/python" ] && supported "$VENV/bin/python"; then
  PYTHON=$VENV/bin/python
else
  for candidate in python3 python3.12 python3.11 python3.10; do
    if supported "$candidate"; then PYTHON=$candidate; break; fi
  done
  [ -n "${PYTHON:-}" ] || die "found $(python3 --version 2>&1 || echo 'no python3');" \
    "SpineNav needs Python 3.10, 3.11 or 3.12 with venv. Install one (Debian 12, Ubuntu 22.04 and" \
    "24.04 have it: apt-get install python3 python3-venv) or name one: make setup PYTHON=/path/to/python3.12"
fi

# 2. What the system must give, asked by what is really missing and not by package lists.
has_module() { "$PYTHON" -c "import $1" 2>/dev/null; }
has_library() { "$PYTHON" -c "import ctypes; ctypes.CDLL('$1')" 2>/dev/null; }
has_headers() { "$PYTHON" -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))'; }
missing_packages() {
  has_module venv && has_module ensurepip || echo python3-venv
  has_library libEGL.so.1 || echo libegl1            # Open3D
  has_library libGL.so.1 || echo libgl1              # Open3D
  has_library libusb-1.0.so.0 || echo libusb-1.0-0   # Open3D, pyrealsense2
  if ! has_module tf2_msgs; then                     # built from source once, see rosidl_wheel.py
    command -v g++ >/dev/null || echo g++
    has_headers || echo python3-dev
  fi
  # Ubuntu's package of that name is a snap, which needs a running system.
  if [ -n "${SPINENAV_BROWSER:-}" ] && grep -qs '^ID=debian' /etc/os-release; then
    command -v chromium >/dev/null || echo chromium
  fi
}
as_root() {
  if [ -n "${SPINENAV_NO_ROOT:-}" ]; then return 1
  elif [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then sudo "$@"
  else return 1
  fi
}
missing=$(missing_packages | tr '\n' ' ')
if [ -n "$missing" ] && [ -z "${SPINENAV_NO_APT:-}" ]; then
  if command -v apt-get >/dev/null && as_root true; then
    say "installing system packages: $missing"
    as_root apt-get update -qq || say "apt-get update failed; trying with the lists at hand"
    # shellcheck disable=SC2086  # words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
      say "apt-get could not install: $missing"
    missing=$(missing_packages | tr '\n' ' ')
  fi
fi
case " $missing " in *" python3-venv "*)
  die "$PYTHON has no venv. Remedy: sudo apt-get install python3-venv (or python3.X-venv for another Python)";;
esac
[ -z "$missing" ] || say "no root or no apt-get; still missing: $missing"

exec env -u PYTHONPATH -u PYTHONHOME "$PYTHON" scripts/bootstrap.py --venv "$VENV" --extras "${EXTRAS:-}"
