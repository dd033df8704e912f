# SPDX-License-Identifier: Apache-2.0
"""The numerical core imports no ROS: not itself, not through another module of this project."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
CORE = sorted(SRC.glob("*/*/core/**/*.py"))
ROS = re.compile(r"^(rclpy|cv_bridge|tf2_ros|message_filters|launch|launch_ros|ament_\w+|\w+_(msgs|srvs|interfaces))$")  # fmt: skip


def module_name(path: Path) -> str:
    """src/pkg/pkg/core/a.py -> pkg.core.a"""
    parts = list(path.relative_to(SRC).with_suffix("").parts[1:])
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p): p for p in SRC.glob("*/*/**/*.py") if "test" not in p.parts}


def imported(tree: ast.AST, module: str, is_package: bool) -> set[str]:
    """Dotted names of everything that the module imports, lazily imported names included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")
                keep = len(above) - node.level + is_package
                base = ".".join([*above[:keep], *([base] if base else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def ros_imports(module: str, seen: set[str] | None = None) -> list[str]:
    """Chains 'a -> b -> rclpy' by which the module reaches ROS."""
    seen = set() if seen is None else seen
    seen.add(module)
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    chains: list[str] = []
    for name in sorted(imported(tree, module, path.name == "__init__.py")):
        if ROS.match(name.split(".")[0]):
            chains.append(f"{module} -> {name}")
        elif name in MODULES and name not in seen:
            chains += [f"{module} -> {chain}" for chain in ros_imports(name, seen)]
    return chains


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_core_module_reaches_no_ros(path: Path) -> None:
    assert ros_imports(module_name(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import rclpy",
        "from sensor_msgs.msg import Image",
        "def f():\n    import cv_bridge",
        "from std_srvs.srv import SetBool",
    ],
)
def test_a_ros_import_is_found(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(source)
    good = tmp_path / "good.py"
    good.write_text("from . import bad")
    monkeypatch.setitem(MODULES, "pkg.core.bad", bad)
    monkeypatch.setitem(MODULES, "pkg.core.good", good)
    assert ros_imports("pkg.core.bad")
    assert ros_imports("pkg.core.good")[0].startswith("pkg.core.good -> pkg.core.bad -> ")


def test_every_core_module_imports_where_ros_is_absent() -> None:
    blocker = """
import importlib, re, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if re.match(sys.argv[1], name.split('.')[0]):
            raise ImportError(f'{name} is ROS')
sys.meta_path.insert(0, Blocker())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""
    modules = [module_name(p) for p in CORE]
    done = subprocess.run(
        [sys.executable, "-c", blocker, ROS.pattern, *modules],
        check=False,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
