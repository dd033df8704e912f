# SPDX-License-Identifier: Apache-2.0
"""What every run over a recording shares: settings of a core, versions, how it ended."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from spine_nav_common.parameters import ParameterError, build, load_file, parse_assignment

from .graph import NODES

PACKAGES = (
    "spinenav",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "onnxruntime",
    "openvino",
    "rosbags",
)
Progress = Callable[[int, "int | None", str], None]
Config = TypeVar("Config")


def core_config(
    kind: type[Config], core: str, file: Path | None, assignments: Sequence[str], command: str
) -> Config:
    """Settings of a core from its node's section of a ROS 2 parameters file and `--set`.

    Parameters of the node itself (topics, time-outs) are left to `live`, which checks them.

    Args:
        kind: dataclass of the settings.
        core: `node.prefix`, as in `navigation.navigator`; --set says node.prefix.NAME=VALUE.
        command: for messages.

    Raises:
        ParameterError: unreadable file, unknown name, value out of range.
    """
    node, _, prefix = core.partition(".")
    values: dict[str, Any] = {}
    if file is not None:
        section = load_file(file, NODES)[node]
        values = {
            name.removeprefix(f"{prefix}."): value
            for name, value in section.items()
            if name.startswith(f"{prefix}.")
        }
    for text in assignments:
        name, value = parse_assignment(text)
        name = name.removeprefix(f"{node}.")
        if not name.startswith(f"{prefix}."):
            raise ParameterError(
                f"--set {text}: {command} takes {core}.NAME=VALUE; the rest belongs to live"
            )
        values[name.removeprefix(f"{prefix}.")] = value
    return build(kind, values, str(file or "--set"))


def versions() -> dict[str, str]:
    """Installed versions of what takes part in a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
