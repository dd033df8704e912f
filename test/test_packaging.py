# SPDX-License-Identifier: Apache-2.0
"""package.xml, setup.cfg, pyproject.toml, the lock files and the code say the same."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # Python 3.10 has none; pytest brings tomli there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(p.parent for p in ROOT.glob("src/*/package.xml"))
NAMES = {p.name for p in PACKAGES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# From the bottom up; a package imports from the layers below its own, and no other (docs/architecture.md).
LAYERS = (
    {"spine_nav_common"},
    {"spine_nav_sim", "rod_bending_ar"},
    {"spine_perception", "spine_fluoro"},
    {"spine_registration", "spine_planning", "stereo_screw_tracker"},
    {"spine_nav_display"},
    {"spine_nav_bench"},
    {"spine_nav_bringup"},
)

# import name -> rosdep key. Without a key the wheel comes from requirements/ (see docker/).
ROSDEP = {
    "PIL": "python3-pil",
    "SimpleITK": None,
    "aiohttp": "python3-aiohttp",
    "cv2": "python3-opencv",
    "foxglove": None,
    "matplotlib": "python3-matplotlib",
    "mcap": None,
    "numba": "python3-numba",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "open3d": "python3-open3d-pip",
    "pydicom": None,
    "pyrealsense2": None,
    "rosbags": None,
    "scipy": "python3-scipy",
    "skimage": "python3-skimage",
    "small_gicp": None,
    "tqdm": "python3-tqdm",
    "trimesh": "python3-trimesh-pip",
    "yaml": "python3-yaml",
}
PIP = {
    "PIL": "pillow", "cv2": "opencv-python-headless", "foxglove": "foxglove-sdk",
    "open3d": "open3d-cpu", "SimpleITK": "simpleitk", "skimage": "scikit-image", "yaml": "pyyaml",
}  # fmt: skip
ROS = re.compile(r"^(rclpy|ament_index_python|launch|launch_ros|\w+_(msgs|srvs|interfaces))$")
NOT_ON_PYPI = {"tf2_msgs", "ament_index_python", "launch", "launch_ros"}


def modules(package: Path) -> list[Path]:
    return sorted((package / package.name).rglob("*.py"))


def imports(package: Path) -> set[str]:
    """Top-level names that the package's modules import, without itself and the standard library."""
    found: set[str] = set()
    for path in modules(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names) - {package.name}


def needed_keys(package: Path) -> set[str]:
    names = imports(package)
    unknown = {n for n in names if n not in ROSDEP and n not in NAMES and not ROS.match(n)}
    assert not unknown, f"{package.name} imports {unknown}: add it to ROSDEP and to pyproject.toml"
    return {ROSDEP.get(n, n) for n in names} - {None}


def entry_points(package: Path) -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read(package / "setup.cfg", encoding="utf-8")
    text = parser.get("options.entry_points", "console_scripts", fallback="")
    pairs = (line.split("=", 1) for line in text.splitlines() if line.strip())
    return {name.strip(): target.strip() for name, target in pairs}


def has_main(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in body)


def distribution(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return match[0].lower().replace("_", "-")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
class TestPackage:
    def test_package_xml_is_format_3_ament_python(self, package: Path) -> None:
        root = ET.parse(package / "package.xml").getroot()
        assert root.get("format") == "3"
        assert root.findtext("name") == package.name
        assert root.findtext("license") == PROJECT["project"]["license"]
        assert root.findtext("export/build_type") == "ament_python"
        for tag in ("version", "description", "maintainer"):
            assert root.findtext(tag)

    def test_versions_agree(self, package: Path) -> None:
        parser = configparser.ConfigParser()
        parser.read(package / "setup.cfg", encoding="utf-8")
        version = PROJECT["project"]["version"]
        assert ET.parse(package / "package.xml").getroot().findtext("version") == version
        assert parser["metadata"]["version"] == version
        assert parser["metadata"]["name"] == package.name
        assert parser["develop"]["script_dir"] == f"$base/lib/{package.name}"
        assert parser["install"]["install_scripts"] == f"$base/lib/{package.name}"

    def test_exec_depends_are_the_imports(self, package: Path) -> None:
        declared = {
            node.text for node in ET.parse(package / "package.xml").getroot().iter("exec_depend")
        }
        launched = {"launch", "launch_ros", "ros2bag"}  # bag.launch.py runs `ros2 bag play`
        runs = launched if package.name == "spine_nav_bringup" else set()
        assert declared == needed_keys(package) | runs

    def test_every_node_is_an_executable(self, package: Path) -> None:
        nodes = {
            (name := path.stem.removesuffix("_node")): f"{package.name}.executables:{name}"
            for path in (package / package.name / "ros").glob("*.py")
            if has_main(path)
        }
        if package.name == "spine_nav_bringup":
            nodes["spinenav"] = PROJECT["project"]["scripts"]["spinenav"]
        assert entry_points(package) == nodes

    def test_marker_and_root_project_know_it(self, package: Path) -> None:
        assert (package / "resource" / package.name).is_file()
        build = PROJECT["tool"]["hatch"]["build"]
        assert f"src/{package.name}/{package.name}" in build["targets"]["wheel"]["packages"]
        assert f"src/{package.name}" in build["dev-mode-dirs"]


def test_packages_import_only_from_layers_below_their_own() -> None:
    assert set().union(*LAYERS) >= NAMES, "a new package needs its place in LAYERS"
    below: set[str] = set()
    for layer in LAYERS:
        for package in (p for p in PACKAGES if p.name in layer):
            above = imports(package) & NAMES - below
            assert not above, f"{package.name} imports {sorted(above)}"
        below |= layer


def test_pyproject_names_every_wheel_that_is_imported() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    declared = {
        distribution(r)
        for r in (*PROJECT["project"]["dependencies"], *extras["ros"], *extras["realsense"])
    }
    names = set().union(*(imports(p) for p in PACKAGES)) - NAMES - NOT_ON_PYPI
    wheels = {f"ros-{n.replace('_', '-')}" if ROS.match(n) else PIP.get(n, n) for n in names}
    assert {w.replace("_", "-") for w in wheels} <= declared


@pytest.mark.parametrize("python", ["py310", "py311", "py312"])
def test_lock_pins_every_requirement_with_hashes(python: str) -> None:
    text = (ROOT / "requirements" / f"lock-{python}.txt").read_text(encoding="utf-8")
    entries = re.findall(r"^([a-z0-9._-]+)==(\S+) \\\n((?: +--hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.MULTILINE)  # fmt: skip
    assert len(entries) == text.count("==")
    locked = {name for name, _, _ in entries}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["ros"], *extras["realsense"]]
    assert {distribution(r) for r in (*wanted, *extras["dev"])} <= locked
    assert "torch" not in locked


def test_wheel_holds_what_ros2_launch_and_run_look_for(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        data = {
            i.filename.split(".data/data/")[1]: i
            for i in archive.infolist()
            if ".data/data/" in i.filename
        }
        for package in PACKAGES:
            assert f"share/ament_index/resource_index/packages/{package.name}" in data
            assert f"share/{package.name}/package.xml" in data
            for name, target in entry_points(package).items():
                info = data[f"lib/{package.name}/{name}"]
                assert info.external_attr >> 16 & 0o111 == 0o111, f"{name} is not executable"
                module, function = target.split(":")
                assert f"from {module} import {function};" in archive.read(info).decode()
                assert module.replace(".", "/") + ".py" in archive.namelist()
        for folder, package_name in (("launch", "bringup"), ("config", "bringup")):
            for path in (ROOT / folder).rglob("*.*"):
                if "__pycache__" not in path.parts and path.is_file():
                    assert f"share/spine_nav_{package_name}/{path.relative_to(ROOT)}" in data
        for path in (ROOT / "models").glob("*.*"):
            assert f"share/spine_perception/models/{path.name}" in data
