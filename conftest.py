# SPDX-License-Identifier: Apache-2.0
"""Keeps launch_testing's plugin to the launch tests, what nodes remember to one test run, and what
waits for other processes to one worker.

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


# Two workers (`make test`): graphs of processes and browsers one after the other on the one, what
# only computes on the other, which gives way.
GRAPHS = "graphs"
_ITS_FILES = (
    "test_ros_", "test_launch_", "test_guardian", "test_display", "test_igtl", "test_budgets",
    "test_bench_display", "test_bench_live_stereo", "test_session_stream",
)  # fmt: skip
_GIVES_WAY = 10


def _waits_for_others(item: pytest.Item) -> bool:
    return item.path.name.startswith(_ITS_FILES)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names the group of each test, for `--dist loadgroup`."""
    for item in items:
        group = GRAPHS if _waits_for_others(item) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A worker that computes gives way for good: the graphs are one group, which is handed out
    first, and a worker that had it has no other beside it any more."""
    global _GIVES_WAY
    if "PYTEST_XDIST_WORKER" in os.environ and _GIVES_WAY:
        if not _waits_for_others(item):
            os.nice(_GIVES_WAY)
        _GIVES_WAY = 0
