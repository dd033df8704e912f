# SPDX-License-Identifier: Apache-2.0
"""The bench of segmentation: the truth itself is without fault, and each fault is counted."""

from __future__ import annotations

import numpy as np
import pytest

from spine_nav_bench.bench_segmentation import (
    SEGMENTATION_TARGETS,
    compared,
    segmentation_record,
    segmentation_section,
    written,
)
from spine_nav_common.core.types import LEVEL_CODE, LEVELS
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.ct_bones import make_bones
from spine_nav_sim.core.ct_scan import make_whole


def row(**changes):
    return {
        "kind": "virtual, 1 mm slices", "scan": "300000", "typical": True, "method": "network",
        "dice": {"L3": 0.96, "L4": 0.97}, "found": 2, "false": 0, "names": "asked", "s": 3.0,
    } | changes  # fmt: skip


def record(*rows):
    return {
        "seeds": [300000], "rows": list(rows), "shipped": True, "command": "c", "time": "t",
        "commit": "0" * 40, "dirty": False, "model_sha256": None,
        "machine": {"cpu": "c", "cores": 2, "load_1min": 0.0}, "wall_s": 1.0,
    }  # fmt: skip


def met(*rows):
    return {t.what.split()[0]: t.read(record(*rows)) for t in SEGMENTATION_TARGETS}


def test_targets_are_met_only_where_every_kind_of_scan_meets_its_own():
    kinds = ("virtual, 1 mm slices", "virtual, 3 mm slices", "real, 1.5 mm", "real, 3 mm")
    good = [row(kind=k) for k in kinds]
    assert all(told[1] for told in met(*good).values())
    assert not met(*good[:3])["Dice"][1]
    assert not met(*good[:3], row(kind=kinds[3], dice={"L3": 0.5}))["Dice"][1]
    assert not met(*good, row(false=1))["vertebrae"][1]
    assert not met(*good, row(names="wrong"))["scans"][1]
    assert "network" in "\n".join(segmentation_section(record(*good)))


@pytest.fixture(scope="module")
def whole():
    meshes = make_anatomy(np.random.default_rng(4), ("L3", "L4", "L5")).meshes
    bones = make_bones(meshes, np.random.default_rng(1))
    return make_whole(bones, np.random.default_rng(3), 2.0)


def numbered(truth):
    """Truth as a method gives it: numbers instead of names."""
    there = [v for v in LEVELS if (truth == LEVEL_CODE[v]).any()]
    codes = np.zeros_like(truth)
    for k, level in enumerate(there):
        codes[truth == LEVEL_CODE[level]] = LEVEL_CODE[LEVELS[k]]
    return codes, len(there)


def test_the_truth_is_without_fault_and_each_fault_counts(whole, tmp_path):
    scan, truth, cut = written(whole, 1.0, tmp_path)
    assert scan.spacing_mm == (1.0, 1.0, 1.0)
    codes, count = numbered(truth)
    same = compared(codes, truth, cut, count)
    assert set(same["dice"].values()) == {1.0} and same["false"] == 0
    lost = np.where(codes == LEVEL_CODE[LEVELS[count - 1]], 0, codes)
    assert compared(lost, truth, set(), count - 1)["dice"]["L5"] == 0.0
    ghost = codes.copy()
    ghost[:4, :4, :4] = LEVEL_CODE[LEVELS[count]]
    assert compared(ghost, truth, cut, count + 1)["false"] == 1
    joined = np.where(codes == LEVEL_CODE[LEVELS[1]], LEVEL_CODE[LEVELS[0]], codes)
    assert min(compared(joined, truth, set(), count)["dice"].values()) < 0.9


def test_thick_slices_are_means_and_keep_the_levels(whole, tmp_path):
    scan, truth, _ = written(whole, 3.0, tmp_path)
    assert scan.spacing_mm == (1.0, 1.0, 3.0)
    assert len(truth) == len(whole.hu) // 3
    assert set(np.unique(truth)) <= {0, *(LEVEL_CODE[v] for v in whole.unit.levels)}


def test_one_patient_goes_through_with_the_peer_beside():
    found = segmentation_record(None, 1)
    assert {r["method"] for r in found["rows"]} >= {"classical"}
    assert len({r["kind"] for r in found["rows"]}) == 2
