# SPDX-License-Identifier: Apache-2.0
"""A compiled kernel is kept on disk, and a damaged file there stops no start."""

import importlib.util
import pickle

import pytest

KERNEL = """
from spine_nav_common.core.compiled import compiled
@compiled
def double(x):
    return 2.0 * x
"""


class Gone:
    """Stands for a type that the next version does not have."""

    def __reduce__(self):
        return getattr, (int, "a_name_that_is_not_there")


def truncated(data):
    return data[: len(data) // 2]


def of_a_type_that_is_gone(data):
    first = pickle.loads(data)  # of an index, the version
    return (pickle.dumps(first) if isinstance(first, str) else b"") + pickle.dumps(Gone())


def start(file):
    """A new process's view of the kernel: the module, its result, and how often it was compiled."""
    spec = importlib.util.spec_from_file_location("kernel", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    value = module.double(1.5)
    return value, sum(module.double.stats.cache_misses.values())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "kernel.py"
    path.write_text(KERNEL)
    return path


def test_the_second_start_compiles_nothing(file):
    assert start(file) == (3.0, 1)
    assert start(file) == (3.0, 0)


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [truncated, of_a_type_that_is_gone])
def test_a_file_that_cannot_be_read_costs_a_compilation(file, ending, damage):
    start(file)
    (kept,) = file.parent.rglob(f"*.{ending}")
    kept.write_bytes(damage(kept.read_bytes()))
    assert start(file) == (3.0, 1)
    assert start(file) == (3.0, 0), "a whole one has taken its place"
