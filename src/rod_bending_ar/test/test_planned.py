# SPDX-License-Identifier: Apache-2.0
"""A planned rod in pictures: settings as text, where its heads are now, and what the picture says."""

from dataclasses import replace

import numpy as np
import pytest
from rod_support import screw_rows

from rod_bending_ar.core.bender import MARK, parse_step, step_text
from rod_bending_ar.core.forward import BendStep
from rod_bending_ar.core.planned import PlannedRod, motion_of_heads, planned_from_fields
from rod_bending_ar.stereo_overlay import (
    BELOW_SHARE,
    PANEL_SHARE,
    PLAN,
    draw_stereo,
    result_of,
    steady_view,
)
from spine_nav_common.core.geometry import transform
from spine_nav_common.core.types import Intrinsics, Rejected, StereoFrame

TEXTS = (
    "1: feed 22.5 mm, rotate 0.0 deg, bend to 12.9 deg",
    "2: feed 60.0 mm, rotate -35.0 deg, bend to 20.1 deg",
)
STEPS = tuple(map(parse_step, TEXTS))
FIELDS = {
    "side": "left", "state": "bending", "text": "1 of 2 bends done", "rod": "Ti6Al4V 5.5 mm",
    "length_mm": "120.0", "steps": "2", "steps_done": "1", "warnings": "",
    **{f"step {s.n}": step_text(s) for s in STEPS},
}  # fmt: skip


def test_the_next_bend_is_the_corrected_one_where_there_is_one() -> None:
    assert planned_from_fields(FIELDS, None).next_bend == STEPS[1]
    text = "2: feed 61.0 mm, rotate -30.0 deg, bend to 19.0 deg"
    assert planned_from_fields({**FIELDS, "next": text}, None).next_bend == parse_step(text)
    assert planned_from_fields({**FIELDS, "steps_done": "2"}, None).next_bend is None


def test_a_step_that_is_read_again_is_the_same_step_so_that_its_picture_is_not_drawn_anew() -> None:
    assert len({parse_step(TEXTS[0]), parse_step(TEXTS[0])}) == 1
    assert parse_step(TEXTS[0]) != BendStep(1, 22.5, 0.0, 11.0, 12.9)


@pytest.mark.parametrize("state", ["good", "waiting", "refused"])
def test_no_bend_is_told_where_none_is_to_be_done(state: str) -> None:
    assert planned_from_fields({**FIELDS, "state": state}, None).next_bend is None


def test_a_bend_that_cannot_be_read_is_none() -> None:
    with pytest.raises(ValueError, match="is no bend"):
        planned_from_fields({**FIELDS, "step 2": "bend it a little"}, None)


def test_the_motion_of_heads_is_that_of_the_camera() -> None:
    then = screw_rows()
    a = np.radians(4.0)
    R = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    T = transform(R, np.array([0.01, -0.02, 0.03]))
    now = [replace(r, head_m=T[:3, :3] @ r.head_m + T[:3, 3]) for r in then[2:]]  # two are hidden
    np.testing.assert_allclose(motion_of_heads(then, now), T, atol=1e-9)


def test_few_heads_or_heads_that_moved_place_no_plan() -> None:
    rows = screw_rows()
    few = motion_of_heads(rows, [*rows[:2], *(replace(r, track_id=r.track_id + 50) for r in rows)])
    assert isinstance(few, Rejected) and "2 of the heads" in few.reason
    one = replace(rows[0], head_m=rows[0].head_m + (0.012, 0.0, 0.0))
    moved = motion_of_heads(rows, [one, *rows[1:]])
    assert isinstance(moved, Rejected) and "against each other" in moved.reason


@pytest.mark.parametrize("close_up", [True, False])
def test_a_plan_is_drawn_only_beside_heads_of_the_same_pair(close_up: bool) -> None:
    rows = screw_rows()
    camera = Intrinsics(640, 480, 600.0, 600.0, 320.0, 380.0)
    image = np.full((480, 640), 90, np.uint8)
    curve = np.array([r.head_m for r in rows if r.side == "left"])
    rod = PlannedRod("left", "planned", "words", curve, "Ti6Al4V 5.5 mm", 150.0, STEPS, 0, STEPS[0])  # fmt: skip

    result = result_of(100, rows, ())

    def pink(frame_ns: int, rod: PlannedRod = rod) -> int:
        frame = StereoFrame(frame_ns, image, image, camera, 0.06)
        drawn = draw_stereo(
            frame,
            result,
            [rod],
            width_px=640,
            age_ms=80.0,
            view=None if close_up else steady_view(None, camera, result, 640),
        )
        if close_up:
            assert drawn.shape[1] == 640 + round(640 * PANEL_SHARE)
        else:
            assert drawn.shape[1] == 640, "words beneath"
            words = drawn[-round(640 * BELOW_SHARE) :]
            assert (words == MARK).all(axis=2).sum() > 20 or frame_ns != 100, (
                "the next bend's picture"
            )
        return int((drawn == PLAN).all(axis=2).sum())

    words = pink(100, replace(rod, curve_m=None))
    assert pink(100) > words and pink(101) == 0
    assert words > 200 or not close_up


def test_a_live_view_closes_up_on_the_heads_and_holds_still() -> None:
    camera = Intrinsics(1280, 960, 600.0, 600.0, 640.0, 640.0)

    def at(x_m: float, apart: float = 1.0) -> object:
        rows = [
            replace(r, head_m=r.head_m * (apart, apart, 1.0) + (x_m, 0.0, 0.0))
            for r in screw_rows()
        ]
        return result_of(100, rows, ())

    whole = steady_view(None, camera, None, 960)
    first = steady_view(whole, camera, at(0.0), 960)
    assert first.size[0] < 0.8 * whole.size[0], "closer than the whole image"
    assert steady_view(first, camera, at(0.004), 960) is first, "breathing does not move it"
    assert steady_view(first, camera, None, 960) is first, "nor a pair without heads"
    away = steady_view(first, camera, at(0.08), 960)
    assert away.corner[0] > first.corner[0] + 20, "it follows heads that leave it"
    assert steady_view(first, camera, at(0.0, 0.5), 960).size[0] < first.size[0]
    assert steady_view(first, camera, at(0.0, 1.4), 960).size[0] > first.size[0]
