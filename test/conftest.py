# SPDX-License-Identifier: Apache-2.0
"""Lets the system tests import what they share (ros_support), whatever the import mode."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
