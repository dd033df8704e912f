# SPDX-License-Identifier: Apache-2.0
"""The table of two cameras counts what one of them sees, and every step where a camera leaves or joins."""

from __future__ import annotations

import numpy as np
import pytest

from spine_nav_bench.bench_two_cameras import (
    BOTH,
    FIRST,
    METHODS,
    SECOND,
    TWO_CAMERAS_TARGETS,
    Shown,
    brief,
    judged,
    pooled,
    seen_by,
    steps,
    two_cameras_table,
)
from spine_nav_bench.two_camera_scenes import APART_DEG, HANDS, two_camera_scene
from spine_nav_sim.core.splits import anatomy_seeds

FAR = [(200, 200)] * 6


def at(mm, *cameras, bound=2.0):
    return Shown(np.array([[mm, 0.0, 0.0]] * 4), bound, cameras)


def scene(both, first=None, second=None, pixels=FAR):
    rows = {
        BOTH: both,
        FIRST: first or [at(1.0, FIRST)] * 6,
        SECOND: second or [at(1.0, SECOND)] * 6,
    }
    made = judged({m: {"L2": rows[m]} for m in METHODS}, {"L2": pixels})
    return {
        "scene": "s",
        "cameras": ["a", "b"],
        "moves": True,
        "exposed": ["L2"],
        "events": [],
        **made,
    }


def record(*scenes):
    return {"scenes": [brief(s) for s in scenes], "pooled": pooled(scenes), "seconds": 7.0}


def verdicts(*scenes):
    found = [t.read(record(*scenes)) for t in TWO_CAMERAS_TARGETS]
    return [None if f is None else f[1] for f in found]


def test_a_step_counts_as_a_switch_where_other_cameras_take_part():
    rows = [at(1.0, FIRST), at(1.4, FIRST), at(2.0, SECOND), Shown(None), at(9.0, FIRST)]
    assert list(steps(rows)) == [(pytest.approx(0.4), False), (pytest.approx(0.6), True)]


def test_a_jump_at_a_switch_misses_the_target_and_one_elsewhere_does_not():
    calm = [at(0.5, FIRST, SECOND)] * 3 + [at(0.9, SECOND)] * 3
    assert verdicts(scene(calm)) == [True, True, True]
    jump = [at(0.5, FIRST, SECOND)] * 3 + [at(1.1, SECOND)] * 3
    assert not verdicts(scene(calm), scene(jump))[1]
    moving = [at(0.2 + 0.6 * (i % 2), FIRST, SECOND) for i in range(6)]
    assert verdicts(scene(calm), scene(moving))[1]


def test_what_one_camera_sees_and_nobody_shows_is_missing_and_what_none_sees_is_not():
    gone = [at(0.5, FIRST, SECOND)] * 5 + [Shown(None)]
    assert not verdicts(scene(gone))[0]
    covered = [(200, 200)] * 5 + [(90, 90)]
    assert verdicts(scene(gone, pixels=covered))[0]
    beside_one = [(200, 200)] * 5 + [(90, 160)]
    assert not verdicts(scene(gone, pixels=beside_one))[0]
    late = [Shown(None)] * 2 + [at(0.5, FIRST)] * 4  # from the first pose on
    assert record(scene(late))["pooled"][BOTH]["availability"] == 1.0
    assert seen_by([(200, 40), (99, 100)]).tolist() == [[True, False], [False, False]]


def test_the_table_has_every_method_and_scene():
    text = "\n".join(two_cameras_table(record(scene([at(5.0, FIRST)] * 6))))
    assert (
        "| first alone | 100.0 %" in text
        and "| both | 100.0 % | 5.00 / 5.00 / 5.00 | 0.0 % | 6 |" in text
    )
    assert "| s | a+b | hand-held | L2–L2 |" in text


def test_the_hands_cover_one_camera_each_and_the_transform_is_as_a_board_tells_it():
    made = two_camera_scene(anatomy_seeds("train")[7], 0)
    apart = np.degrees(np.arccos(made.T_first_second[2, 2]))
    assert APART_DEG[0] <= apart <= APART_DEG[1]
    off = np.linalg.norm(made.between.T_first_second[:3, 3] - made.T_first_second[:3, 3])
    assert 0.0 < off < 2e-3
    level = made.case.exposed_levels[len(made.case.exposed_levels) // 2]
    for camera, other, (begin, end) in zip(
        (made.first, made.second), (made.second, made.first), HANDS, strict=True
    ):
        middle = 0.5 * (begin + end)
        share = [
            c.render(middle).visible_px[level] / c.render(0.0).visible_px[level]
            for c in (camera, other)
        ]
        assert share[0] < 0.1 and share[1] > share[0]
