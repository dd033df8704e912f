# SPDX-License-Identifier: Apache-2.0
"""Measures of a vertebra belong to its bone, not to how a search came to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spine_nav_common.core.types import Rejected
from spine_nav_sim.core.anatomy import make_anatomy
from spine_planning.core.implants import Implants
from spine_planning.core.measures import measures_of
from spine_planning.core.planner import Pedicle, plan_vertebra


@pytest.fixture(scope="module")
def vertebra():
    mesh = make_anatomy(np.random.default_rng(200001), ("L2", "L3"), "virtual").meshes["L3"]
    found = plan_vertebra("L3", mesh, Implants())
    assert not isinstance(found, Rejected), found
    return found


def from_elsewhere(pedicle: Pedicle, rng: np.random.Generator) -> Pedicle:
    turn = Rotation.from_rotvec(np.radians(6.0) * rng.normal(size=3) / np.sqrt(3.0))
    return replace(
        pedicle,
        point_m=pedicle.point_m + 1e-3 * rng.normal(size=3) / np.sqrt(3.0),
        into=turn.apply(pedicle.into),
    )


def test_a_pedicle_is_measured_along_its_own_axis_wherever_the_search_began(vertebra):
    plain = measures_of(vertebra)
    assert 5.0 < plain["pedicle_width_left_mm"] < 16.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        moved = {s: from_elsewhere(p, rng) for s, p in vertebra.pedicles.items()}
        found = measures_of(replace(vertebra, pedicles=moved))
        assert found.keys() == plain.keys()
        for name, value in found.items():
            assert value == pytest.approx(plain[name], abs=0.7 if "_deg" in name else 0.3), name
