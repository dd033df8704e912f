# SPDX-License-Identifier: Apache-2.0
"""The bench of the planner: its judge is the true surface, and it can say no."""

from __future__ import annotations

import numpy as np
import pytest

from spine_nav_bench.bench_planning import (
    PLANNING_TARGETS,
    VOXEL_MM,
    _judged,
    planning_section,
    voxelised,
)
from spine_nav_common.core.types import Mesh, Rejected
from spine_nav_sim.core.anatomy import make_anatomy
from spine_planning.core.implants import Implants
from spine_planning.core.planner import plan_vertebra

RECORD = {
    "seeds": [300000], "voxel_mm": 1.0, "pedicles": 2, "refused": [], "rule_based": 2,
    "rule_based_a": 0.5, "share_a": 0.5, "share_ab": 1.0, "share_wrongly_refused": 0.0,
    "screws": [
        {"diameter_mm": 6.5, "grade": "A", "name": "L3_left"},
        {"diameter_mm": 6.5, "grade": "B", "name": "L3_right"},
    ],
    "surface_mm": {"mean": 0.2, "median": 0.2, "p95": 0.5, "count": 9},
    "measures": {}, "surface_s": None, "planner_10_screws_s": None,
    "command": "c", "time": "t", "commit": "0" * 40, "dirty": False, "model_sha256": None,
    "machine": {"cpu": "c", "cores": 2, "load_1min": 0.0}, "wall_s": 1.0,
}  # fmt: skip


def test_targets_are_read_and_missed_where_they_are_missed():
    marks = {t.what.split(",")[0]: t.read(RECORD) for t in PLANNING_TARGETS}
    assert next(v for k, v in marks.items() if k.startswith("plans"))[1] is False
    assert next(v for k, v in marks.items() if k.startswith("pedicles"))[1] is True
    assert "| 6.5 mm | 2 | 1 | 1 | 0 | 0 | 0 |" in planning_section(RECORD)


@pytest.fixture(scope="module")
def bone():
    return make_anatomy(np.random.default_rng(4), ("L3",)).meshes["L3"]


def test_a_mask_is_the_bone_to_a_voxel(bone):
    image, mask = voxelised(bone, np.random.default_rng(0))
    corners = bone.vertices_m[bone.faces]
    volume = np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6.0
    assert mask.sum() * VOXEL_MM**3 == pytest.approx(1e9 * volume, rel=0.02)
    middle = np.argwhere(mask).mean(axis=0)[::-1]
    at = image.TransformContinuousIndexToPhysicalPoint([float(v) for v in middle])
    assert np.all(1e-3 * np.array(at) > bone.vertices_m.min(axis=0))


def test_screws_are_judged_on_the_true_bone(bone):
    """A truth that lies 7 mm to the side of what was planned on makes of every A something else."""
    vertebra = plan_vertebra("L3", bone, Implants())
    same, none = _judged(0, "L3", vertebra, bone)
    assert [s["grade"] for s in same] == ["A", "A"] and not none
    aside = Mesh(bone.vertices_m + [0.007, 0.0, 0.0], bone.faces)
    assert "A" not in [s["grade"] for s in _judged(0, "L3", vertebra, aside)[0]]


def test_a_refusal_counts_as_wrong_where_a_thin_screw_fits(bone):
    _, refused = _judged(0, "L3", Rejected("no"), bone)
    assert len(refused) == 2 and all(r["fits"] for r in refused)
