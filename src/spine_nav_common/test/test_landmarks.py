# SPDX-License-Identifier: Apache-2.0
"""Tips of the processes are where an anatomist would touch, in either frame."""

from __future__ import annotations

import numpy as np
import pytest

from spine_nav_common.core.landmarks import SPINOUS, TRANSVERSE, landmarks, process_tips
from spine_nav_common.core.types import Case, Mesh, Rejected


def star(frame: str = "LPS") -> Mesh:
    """A body with a posterior process that hangs caudally and one to each side, the left one longer."""
    import trimesh

    flip = np.array((1.0, 1.0, 1.0) if frame == "LPS" else (-1.0, -1.0, 1.0))
    parts = [
        trimesh.creation.box((0.04, 0.03, 0.025)),
        _box((0.004, 0.03, 0.012), (0.0, 0.03, -0.008)),
        _box((0.03, 0.006, 0.006), (0.035, 0.012, 0.0)),
        _box((0.02, 0.006, 0.006), (-0.03, 0.012, 0.0)),
    ]
    whole = trimesh.util.concatenate(parts)
    return Mesh(np.asarray(whole.vertices) * flip, np.asarray(whole.faces, np.int32))


def _box(size, centre):
    import trimesh

    return trimesh.creation.box(size, trimesh.transformations.translation_matrix(centre))


@pytest.mark.parametrize("frame", ["LPS", "RAS"])
def test_tips_lie_at_the_ends_of_the_processes(frame):
    flip = np.array((1.0, 1.0, 1.0) if frame == "LPS" else (-1.0, -1.0, 1.0))
    tips = {x.name: x.point_m * flip for x in process_tips(star(frame), frame)}
    assert np.linalg.norm(tips[SPINOUS] - (0.0, 0.045, -0.014)) < 3e-3
    assert np.linalg.norm(tips[TRANSVERSE["left"]] - (0.05, 0.015, 0.0)) < 3e-3
    assert np.linalg.norm(tips[TRANSVERSE["right"]] - (-0.04, 0.015, 0.0)) < 3e-3


def test_what_the_case_names_comes_first_and_a_sacrum_needs_it():
    case = Case("c", "LPS", {"L5": star(), "S1": star()}, ("L5", "S1"), (), "")
    assert [x.name for x in landmarks(case, "L5")] == [SPINOUS, *TRANSVERSE.values()]
    assert isinstance(landmarks(case, "S1"), Rejected)
    assert isinstance(landmarks(case, "L1"), Rejected)
    named = Case(**{**vars(case), "landmarks": {"S1": {"crest": np.ones(3)}}})
    (only,) = landmarks(named, "S1")
    assert only.name == "crest" and only.point_m.tolist() == [1.0, 1.0, 1.0]
