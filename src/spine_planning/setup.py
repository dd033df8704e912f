# SPDX-License-Identifier: Apache-2.0
from setuptools import setup

PACKAGE = "spine_planning"

# Metadata and executables stand in setup.cfg; only data_files cannot.
setup(
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
    ],
)
