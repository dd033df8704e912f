# SPDX-License-Identifier: Apache-2.0
"""Install each package the way colcon would, so that `ros2 launch` and `ros2 run` find it.

setup.cfg, package.xml and resource/ of each src/<pkg> are the only source of this: the hook turns
their console scripts into lib/<pkg>/<exe> and adds the ament index, launch, config and models.
"""

from __future__ import annotations

import configparser
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# pip rewrites no shebang below lib/, so the launcher finds the Python of its own prefix.
# A signal while the node still imports ends it as quietly as one afterwards.
LAUNCHER = """#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/../../bin/python" -c \\
  'import os, signal as s, sys
for n in (s.SIGINT, s.SIGTERM): s.signal(n, lambda *_: os._exit(0))
from {module} import {function}; sys.exit({function}())' "$@"
"""
SHARED_FOLDERS = {
    "launch": "spine_nav_bringup",
    "config": "spine_nav_bringup",
    "models": "spine_perception",
}


def console_scripts(setup_cfg: Path) -> dict[str, tuple[str, str]]:
    """{executable: (module, function)} of one package's setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(setup_cfg, encoding="utf-8")
    lines = parser.get("options.entry_points", "console_scripts", fallback="").split("\n")
    pairs = (line.split("=", 1) for line in lines if line.strip())
    return {name.strip(): tuple(target.strip().split(":", 1)) for name, target in pairs}  # type: ignore[misc]


class CustomBuildHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        shared = build_data["shared_data"]
        self.scratch = Path(tempfile.mkdtemp(prefix="spinenav-launchers-"))
        for package_xml in sorted(root.glob("src/*/package.xml")):
            folder = package_xml.parent
            package = folder.name
            shared[str(package_xml)] = f"share/{package}/package.xml"
            marker = folder / "resource" / package
            shared[str(marker)] = f"share/ament_index/resource_index/packages/{package}"
            for name, (module, function) in console_scripts(folder / "setup.cfg").items():
                launcher = self.scratch / package / name
                launcher.parent.mkdir(exist_ok=True)
                launcher.write_text(LAUNCHER.format(module=module, function=function))
                launcher.chmod(0o755)
                shared[str(launcher)] = f"lib/{package}/{name}"
        for folder_name, package in SHARED_FOLDERS.items():
            for path in sorted((root / folder_name).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    relative = path.relative_to(root / folder_name)
                    shared[str(path)] = f"share/{package}/{folder_name}/{relative}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
