# SPDX-License-Identifier: Apache-2.0
"""A prepared case on disk is the one that would be built, or none."""

from dataclasses import fields, replace

import numpy as np
import pytest

from spine_registration import model_store
from spine_registration.model_store import prepared


@pytest.fixture(autouse=True)
def built(monkeypatch, model):
    """Cases for which a model was built."""
    calls = []
    monkeypatch.setattr(model_store, "build_model", lambda case: calls.append(case) or model)
    return calls


def assert_same(a, b):
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name == "plan_points_m":
            assert len(x) == len(y)
            for p, q in zip(x, y, strict=True):
                np.testing.assert_array_equal(p, q)
        else:
            np.testing.assert_array_equal(x, y)
            assert np.asarray(x).dtype == np.asarray(y).dtype


def test_what_was_kept_is_what_was_built(case, built, tmp_path):
    first, second = prepared(case, tmp_path), prepared(case, tmp_path)
    assert len(built) == 1
    assert_same(first, second)


def test_another_case_is_built_anew(case, built, tmp_path):
    prepared(case, tmp_path)
    level, mesh = next(iter(case.meshes.items()))
    moved = replace(mesh, vertices_m=mesh.vertices_m + 1e-6)
    prepared(replace(case, meshes={**case.meshes, level: moved}), tmp_path)
    prepared(replace(case, exposed_levels=case.exposed_levels[:1]), tmp_path)
    assert len(built) == 3


@pytest.mark.parametrize("fault", ["cut", "changed byte", "empty", "of another version"])
def test_a_damaged_file_is_never_used(case, built, tmp_path, fault):
    whole = prepared(case, tmp_path)
    (file,) = tmp_path.glob("*.npz")
    data = bytearray(file.read_bytes())
    if fault == "cut":
        data = data[: len(data) // 2]
    elif fault == "changed byte":
        data[len(data) // 3] ^= 0x40
    elif fault == "empty":
        data = bytearray()
    file.write_bytes(data)
    if fault == "of another version":
        np.savez(file, levels=np.array(whole.levels))
    assert_same(prepared(case, tmp_path), whole)
    assert len(built) == 2
    prepared(case, tmp_path)
    assert len(built) == 2, "mended on disk"


def test_a_folder_that_cannot_be_written_costs_time_only(case, built, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    prepared(case, blocked)
    prepared(case, blocked)
    assert len(built) == 2


def test_the_oldest_are_dropped(case, tmp_path, monkeypatch):
    monkeypatch.setattr(model_store, "KEPT", 1)
    prepared(case, tmp_path)
    prepared(replace(case, exposed_levels=case.exposed_levels[:1]), tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 1
