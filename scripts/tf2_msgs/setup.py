# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from rosidl_wheel import setup

setup("tf2_msgs", "0.36.0", ["builtin_interfaces", "std_msgs", "geometry_msgs"], HERE)
