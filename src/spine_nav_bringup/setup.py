# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from setuptools import setup

PACKAGE = "spine_nav_bringup"
# launch/ and config/ stand at the top of the repository, where a reader looks for them.
TOP = Path(__file__).resolve().parents[2]


def installed(folder: str) -> list[tuple[str, list[str]]]:
    """data_files that copy a top-level folder to share/<package>/<folder>."""
    files = [
        p for p in sorted((TOP / folder).rglob("*")) if p.is_file() and "__pycache__" not in p.parts
    ]
    return [
        (f"share/{PACKAGE}/{p.parent.relative_to(TOP)}", [f"../../{p.relative_to(TOP)}"])
        for p in files
    ]


# Metadata and executables stand in setup.cfg; only data_files cannot.
setup(
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *installed("launch"),
        *installed("config"),
    ],
)
