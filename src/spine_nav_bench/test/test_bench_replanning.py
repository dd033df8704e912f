# SPDX-License-Identifier: Apache-2.0
"""The bench of drilling by the pose: its judge is the true bone, and it can say no."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rod_bending_ar.core.cortex import Cortex
from spine_nav_bench.bench_replanning import (
    CONDITIONS,
    DRILL_MM,
    REPLANNING_TARGETS,
    replanning_section,
    summary,
)
from spine_nav_bench.replanning_episodes import METHODS, Episode, drill, judged, make_world
from spine_nav_common.core.geometry import invert, log_se3
from spine_nav_sim.core.anatomy import make_anatomy
from spine_planning.core.implants import Implants
from spine_planning.core.planner import plan_vertebra


@pytest.fixture(scope="module")
def bone():
    mesh = make_anatomy(np.random.default_rng(4), ("L3",)).meshes["L3"]
    plan = plan_vertebra("L3", mesh, Implants()).pedicles["left"].plans[0].plan
    cortex = Cortex(mesh, (plan,), "LPS")
    cortex.prepare()
    return mesh, cortex, plan


def test_a_hole_is_judged_on_the_true_bone(bone):
    _, cortex, plan = bone
    line = np.array([plan.entry_m, plan.target_m])
    wall, inside = judged(cortex, line, DRILL_MM)
    assert wall > 2e-3 and inside == pytest.approx(np.linalg.norm(line[1] - line[0]), rel=0.02)
    aside = np.cross(line[1] - line[0], [0.0, 0.0, 1.0])
    aside *= 6e-3 / np.linalg.norm(aside)
    assert min(judged(cortex, line + s * aside, DRILL_MM)[0] for s in (1.0, -1.0)) < 0.0
    thick = judged(cortex, line, DRILL_MM + 2.0)[0]
    assert thick == pytest.approx(wall - 1e-3, abs=0.3e-3)


def test_a_hole_that_is_none_touches_nothing_and_goes_through_no_bone(bone):
    _, cortex, plan = bone
    assert judged(cortex, np.zeros((0, 3)), DRILL_MM) == (np.inf, 0.0)
    assert judged(cortex, np.tile(plan.entry_m + [0.1, 0.0, 0.0], (5, 1)), DRILL_MM)[1] == 0.0


def test_errors_are_as_large_as_they_are_stated(bone):
    """Squared errors over the covariance average to their dimension, and to more where told so."""
    for scale in (1.0, 1.5):
        ratios = []
        for i in range(120):
            world = make_world(*bone, (7, i), scale)
            true, said = world.frame(3)
            anchor = np.eye(4)
            anchor[:3, 3] = world.anchor_m
            xi = log_se3(invert(anchor) @ said.T_camera_ct @ invert(true) @ anchor)
            ratios.append(xi @ np.linalg.solve(world.covariance, xi))
        assert np.mean(ratios) == pytest.approx(6.0 * scale**2, rel=0.25)


def test_every_method_meets_the_same_world(bone):
    first, again = make_world(*bone, (9, 1)), make_world(*bone, (9, 1))
    assert np.array_equal(first.frame(5)[0], again.frame(5)[0])
    assert np.array_equal(first.frame(5)[1].T_camera_ct, again.frame(5)[1].T_camera_ct)


def test_a_pose_that_is_far_off_breaches_the_plan_that_stands(bone):
    """Errors four times as large as stated: whoever never looks again goes through the wall."""
    found = [drill(make_world(*bone, (3, i), 4.0), "fixed", DRILL_MM) for i in range(12)]
    assert any(not e.safe for e in found)


def test_an_episode_goes_to_the_planned_depth_and_stays_off_the_wall(bone):
    for method in METHODS:
        found = drill(make_world(*bone, (5, 0)), method, DRILL_MM)
        assert found.safe and found.penetration > 0.85, (method, found)
        assert bool(found.replan_ms) == (method != "fixed")


def test_what_is_not_known_well_enough_is_not_drilled(bone):
    world = make_world(*bone, (5, 0), rough=6.0)
    found = drill(world, "ours", DRILL_MM)
    assert found.penetration == 0.0 and found.safe and found.why
    assert drill(replace(world), "fixed", DRILL_MM).penetration > 0.5


def record(unsafe: int, penetration: float):
    good = Episode(1.0, penetration, (4.0,) * 9, "planned depth")
    bad = replace(good, wall_mm=-0.5)
    m = summary([bad] * unsafe + [good] * (200 - unsafe))
    rows = {c.name: {"tre_mm": None, "methods": dict.fromkeys(METHODS, m)} for c in CONDITIONS}
    return {
        "seeds": [300000], "drill_mm": DRILL_MM, "conditions": rows, "command": "c", "time": "t",
        "commit": "0" * 40, "dirty": False, "model_sha256": None,
        "machine": {"cpu": "c", "cores": 2, "load_1min": 0.0}, "wall_s": 1.0,
    }  # fmt: skip


def test_targets_are_read_and_missed_where_they_are_missed():
    assert [t.read(record(1, 0.93))[1] for t in REPLANNING_TARGETS] == [True, True, True]
    assert [t.read(record(2, 0.91))[1] for t in REPLANNING_TARGETS] == [False, False, True]
    text = "\n".join(replanning_section(record(2, 0.91)))
    assert "| 200 | 2 | 99.0 % (at least 96.9 %) | 91" in text


def test_few_episodes_prove_little():
    good = Episode(1.0, 1.0, (), "planned depth")
    assert summary([good] * 10)["safe_lower95"] == pytest.approx(0.741, abs=1e-3)
    assert summary([good] * 600)["safe_lower95"] > 0.995
    assert summary([])["safe"] is None and summary([])["safe_lower95"] is None
