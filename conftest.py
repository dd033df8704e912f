# SPDX-License-Identifier: Apache-2.0
"""Keeps launch_testing's plugin to the launch tests, and what nodes remember to one test run.

The plugin imports every test module that pytest looks at, to see whether it is a launch test; one
that skips itself on import then takes its whole folder with it, and no launch test is found.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LAUNCH_TESTS = Path(__file__).parent / "test" / "launch"


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """An ordinary module, unless it is a launch test's."""
    if module_path.parent == LAUNCH_TESTS:
        return None  # who comes next decides
    return pytest.Module.from_parent(parent, path=module_path)


@pytest.fixture(scope="session", autouse=True)
def state_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a killed node leaves is no other run's, nor the user's."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
