# SPDX-License-Identifier: Apache-2.0
"""The overlay's promises: only tracked levels of this image are guidance, the rest is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from rod_bending_ar.core.annotation import STATUS_COLOUR
from rod_bending_ar.core.lens import project_px
from rod_bending_ar.core.silhouette import silhouette
from rod_bending_ar.overlay import PLAN_COLOUR, draw_overlay
from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    Mesh,
    NavigationResult,
    ScrewPlan,
    Status,
)

K = Intrinsics(320, 240, 300.0, 300.0, 160.0, 120.0)
GREY = np.full((240, 320, 3), 90, np.uint8)
STAMP = 5_000_000_000


def box(y_m: float) -> Mesh:
    shape = trimesh.creation.box((0.06, 0.03, 0.03))
    return Mesh(np.asarray(shape.vertices) + (0, y_m, 0), np.asarray(shape.faces, np.int32))


CASE = Case(
    "test", "LPS", {"L3": box(-0.02), "L4": box(0.02)}, ("L3", "L4"),
    (
        ScrewPlan("L3", "left", np.array([-0.015, -0.02, -0.015]), np.array([-0.015, -0.02, 0.02])),
        ScrewPlan("L4", "left", np.array([-0.015, 0.02, -0.015]), np.array([-0.015, 0.02, 0.02])),
    ),
    "",
)  # fmt: skip


def pose(y_deg: float = 20.0) -> np.ndarray:
    T = trimesh.transformations.rotation_matrix(np.radians(y_deg), (0, 1, 0))
    T[:3, 3] = (0.0, 0.0, 0.5)
    return T


def result(l3: Status, l4: Status = Status.SEARCHING, **extra) -> NavigationResult:
    def estimate(level, status):
        if status in (Status.TRACKED, Status.OCCLUDED):
            return LevelEstimate(level, status, pose(), None, None, 1.2, **extra)
        return LevelEstimate(level, status, reason="the level is not clear, please confirm")

    return NavigationResult(STAMP, (estimate("L3", l3), estimate("L4", l4)))


def near(picture: np.ndarray, colour, tolerance: int = 40) -> int:
    """How many pixels below the legend and above the banner have this colour."""
    body = picture[45:215].astype(int)
    return int((np.abs(body - np.array(colour)).max(axis=2) < tolerance).sum())


def draw(res, **options) -> np.ndarray:
    return draw_overlay(GREY, K, CASE, res, **options)


def test_a_tracked_level_is_green_with_its_trajectory():
    picture = draw(result(Status.TRACKED))
    assert near(picture, STATUS_COLOUR[Status.TRACKED]) > 60
    assert near(picture, PLAN_COLOUR) > 5


def test_the_drawing_lies_where_the_bone_is():
    picture = draw(result(Status.TRACKED))
    changed = np.abs(picture.astype(int) - 90).max(axis=2) > 30
    assert changed[108, 160]  # L3 projects to about (160, 108)
    assert not changed[160:210, 20:100].any()


def test_an_occluded_level_is_an_amber_outline_without_trajectory():
    picture = draw(result(Status.OCCLUDED))
    assert near(picture, STATUS_COLOUR[Status.OCCLUDED]) > 60
    assert near(picture, PLAN_COLOUR) == 0
    assert near(picture, STATUS_COLOUR[Status.TRACKED]) == 0
    assert (picture[104:112, 150:156] == 90).all()  # no fill


@pytest.mark.parametrize(
    "status", [Status.SEARCHING, Status.REGISTERING, Status.LOST, Status.REJECTED]
)
def test_no_other_status_draws_anything_over_the_anatomy(status):
    picture = draw(result(status))
    assert (picture[45:215] == 90).all()
    assert (picture[:40, :150] != 90).any()  # but the legend names it


def test_a_pose_that_came_with_a_wrong_status_is_not_drawn():
    bad = result(Status.TRACKED)
    levels = tuple(replace(e, status=Status.LOST) for e in bad.levels)
    assert (draw(replace(bad, levels=levels))[45:215] == 90).all()


def test_a_result_of_another_image_is_stale_and_not_drawn():
    live = draw(result(Status.TRACKED), stamp_ns=STAMP)
    assert near(live, STATUS_COLOUR[Status.TRACKED]) > 60
    stale = draw(result(Status.TRACKED), stamp_ns=STAMP + 66_000_000)
    assert (stale[45:215] == 90).all()


def test_without_a_result_only_banner_and_note():
    assert (draw(None)[45:215] == 90).all()


def test_the_banner_is_always_there():
    for res in (None, result(Status.TRACKED), result(Status.LOST)):
        assert (draw(res)[222:, 60:260] != 90).mean() > 0.5


def test_a_hand_in_front_stays_in_front():
    depth = np.full((240, 320), 0.485, np.float32)
    depth[:, :160] = 0.35
    bare = replace(CASE, plan=())
    picture = draw_overlay(GREY, K, bare, result(Status.TRACKED), depth=depth)
    assert (picture[100:115, 100:152] == 90).all()
    assert (picture[100:108, 166:172] != 90).any()


def changed_at(picture: np.ndarray, pixel: np.ndarray, reach: int = 2) -> bool:
    """Whether anything is drawn about a pixel."""
    u, v = np.round(pixel).astype(int)
    return bool((picture[v - reach : v + reach + 1, u - reach : u + reach + 1] != 90).any())


def places() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of L3's entry, target, and the end of the axis that stands out of the bone."""
    T, plan = pose(), CASE.plan[0]
    outward = (plan.entry_m - plan.target_m) / np.linalg.norm(plan.entry_m - plan.target_m)
    points = np.array([plan.entry_m, plan.target_m, plan.entry_m + 0.02 * outward])
    return tuple(project_px(points @ T[:3, :3].T + T[:3, 3], K))


def test_a_hand_stays_before_the_entry_point_and_its_axis() -> None:
    depth = np.full((240, 320), 0.49, np.float32)
    entry, target, stub = places()
    free = draw(result(Status.TRACKED), depth=depth)
    assert all(changed_at(free, p) for p in (entry, target, stub))
    hand = np.full_like(depth, 0.40)
    covered = draw(result(Status.TRACKED), depth=hand)
    bare = draw_overlay(GREY, K, replace(CASE, plan=()), result(Status.TRACKED), depth=hand)
    assert np.array_equal(covered, bare)


def test_a_tool_covers_what_it_stands_before_and_nothing_else() -> None:
    entry, target, _ = places()
    depth = np.full((240, 320), 0.49, np.float32)
    u, v = np.round(entry).astype(int)
    depth[v - 12 : v + 13, u - 12 : u + 13] = 0.44
    picture = draw(result(Status.TRACKED), depth=depth)
    assert not changed_at(picture, entry)
    assert changed_at(picture, target) or np.abs(target - entry).max() < 14


def test_where_no_depth_is_measured_nothing_is_covered() -> None:
    picture = draw(result(Status.TRACKED), depth=np.full((240, 320), np.nan, np.float32))
    assert all(changed_at(picture, p) for p in places())


def test_the_age_of_the_image_stands_in_the_picture() -> None:
    pictures = [draw(result(Status.TRACKED), age_ms=age) for age in (None, 34.0, 34.2, 480.0)]
    assert np.array_equal(pictures[1], pictures[2])
    assert len({p.tobytes() for p in pictures}) == 3
    differs = np.argwhere((pictures[1] != pictures[3]).any(axis=2))
    assert differs[:, 0].min() > 180 and differs[:, 1].min() > 160  # lower right corner


def test_a_level_out_of_view_is_not_an_error():
    T = pose()
    T[0, 3] = 5.0
    behind = pose()
    behind[2, 3] = -0.5
    for away in (T, behind):
        levels = (LevelEstimate("L3", Status.TRACKED, away, None, None, 1.0),)
        assert (draw(NavigationResult(STAMP, levels))[45:215] == 90).all()


def test_input_is_not_changed_and_scale_enlarges():
    before = GREY.copy()
    picture = draw(result(Status.TRACKED), scale=2)
    assert picture.shape == (480, 640, 3)
    assert (before == GREY).all()


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected uint8"):
        draw_overlay(GREY[:100], K, CASE, None)
    with pytest.raises(ValueError, match="expected uint8"):
        draw_overlay(GREY.astype(np.float32), K, CASE, None)
    with pytest.raises(ValueError, match="depth is"):
        draw(result(Status.TRACKED), depth=np.ones((10, 10), np.float32))


def sphere(radius_m: float = 0.02) -> Mesh:
    shape = trimesh.creation.icosphere(subdivisions=4, radius=radius_m)
    return Mesh(np.asarray(shape.vertices), np.asarray(shape.faces, np.int32))


def pixels_of(seen) -> np.ndarray:
    """(N, 2) x and y of the pixels in the mask."""
    return np.argwhere(seen.mask)[:, ::-1] + (seen.x0, seen.y0)


def test_a_silhouette_is_the_disc_that_a_sphere_shows():
    T = np.eye(4)
    T[:3, 3] = (0.01, -0.02, 0.5)
    seen = silhouette(sphere(), T, K)
    pixels = pixels_of(seen)
    centre = project_px(T[None, :3, 3], K)[0]
    radius = 300.0 * 0.02 / 0.5
    assert np.abs(pixels.mean(axis=0) - centre).max() < 0.35
    assert np.linalg.norm(pixels - centre, axis=1).max() < radius + 1.0
    assert len(pixels) == pytest.approx(np.pi * radius**2, rel=0.06)
    assert seen.depth_m[seen.mask].min() == pytest.approx(0.48, abs=1e-3)
    assert seen.shade.max() > 0.98 and (seen.shade[~seen.mask] == 0).all()


def test_a_silhouette_is_cut_by_the_image_and_none_outside():
    T = np.eye(4)
    T[:3, 3] = (-0.26, 0.0, 0.5)  # 160 px left of the middle: half of it is outside
    seen = silhouette(sphere(), T, K)
    assert seen.x0 == 0 and 0 < pixels_of(seen)[:, 0].max() < 20
    T[0, 3] = -0.4
    assert silhouette(sphere(), T, K) is None
    T[:3, 3] = (0.0, 0.0, 0.06)
    assert silhouette(sphere(), T, K) is None, "too near"


def test_a_flat_mesh_has_a_silhouette():
    square = np.array([[-0.02, -0.02, 0], [0.02, -0.02, 0], [0.02, 0.02, 0], [-0.02, 0.02, 0.0]])
    mesh = Mesh(square, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    T = np.eye(4)
    T[2, 3] = 0.5
    assert silhouette(mesh, T, K).mask.sum() == pytest.approx(24 * 24, rel=0.1)
