# SPDX-License-Identifier: Apache-2.0
"""The predicted error is drawn as what the covariance says, and never smaller than the bound says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rod_bending_ar.bulls_eye import TILE_PX, bulls_eyes
from rod_bending_ar.core.annotation import STATUS_COLOUR
from rod_bending_ar.core.error_shape import error_shapes_px
from rod_bending_ar.core.paint import Stroke
from rod_bending_ar.overlay import draw_overlay
from spine_nav_common.core.geometry import perturb_about, transform_points
from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    Mesh,
    NavigationResult,
    ScrewPlan,
    Status,
)

K = Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)
GREEN = STATUS_COLOUR[Status.TRACKED]
ENTRY, TARGET = np.array([0.01, 0.0, 0.0]), np.array([0.02, 0.005, 0.04])
PLAN = ScrewPlan("L3", "left", ENTRY, TARGET)
SQUARE = np.array([[-0.03, -0.03, 0], [0.03, -0.03, 0], [0.03, 0.03, 0], [-0.03, 0.03, 0.0]])
MESH = Mesh(SQUARE, np.array([[0, 1, 2], [0, 2, 3]], np.int32))
CASE = Case("t", "LPS", {"L3": MESH}, ("L3",), (PLAN,), "")
T = np.eye(4)
T[2, 3] = 0.5


def known(covariance, bound_mm=0.5, anchor=(0.0, 0.0, 0.5)) -> LevelEstimate:
    anchor_m = None if covariance is None else np.array(anchor)
    return LevelEstimate("L3", Status.TRACKED, T, covariance, anchor_m, bound_mm)


def shape_at(estimate, point) -> np.ndarray:
    return error_shapes_px([estimate], np.array([point]), K)[0]


def axes_of(shape) -> tuple[float, float, float]:
    """Longer and shorter semi-axis, and the angle of the longer."""
    lengths = np.linalg.norm(shape, axis=0)
    way = shape[:, lengths.argmax()]
    return lengths.max(), lengths.min(), float(np.degrees(np.arctan2(way[1], way[0]))) % 180.0


def test_the_ellipse_is_the_projected_covariance():
    covariance = np.diag([1e-6, 4e-6, 1e-6, 0, 0, 0])
    long, short, angle = axes_of(shape_at(known(covariance), (0.0, 0.0, 0.5)))
    assert long == pytest.approx(2.4477 * 600 * 2e-3 / 0.5, rel=1e-3)
    assert short == pytest.approx(2.4477 * 600 * 1e-3 / 0.5, rel=1e-3)
    assert angle == pytest.approx(90.0)


def test_an_uncertain_turn_moves_what_is_far_from_the_anchor_across_its_arm():
    covariance = np.diag([1e-12, 1e-12, 1e-12, 0, 0, 0.01**2])
    long, _, angle = axes_of(shape_at(known(covariance, 0.1), (0.03, 0.0, 0.5)))
    assert long == pytest.approx(2.4477 * 600 * 0.01 * 0.03 / 0.5, rel=1e-2)
    assert angle == pytest.approx(90.0, abs=0.1)


def test_95_of_100_drawn_poses_put_the_point_inside():
    rng = np.random.default_rng(3)
    root = np.diag([2e-4, 4e-4, 1e-3, 4e-3, 1e-2, 2e-3]) @ rng.normal(0.0, 1.0, (6, 6))
    anchor = np.array([0.02, -0.01, 0.45])
    point = transform_points(T, TARGET)
    shape = shape_at(known(root @ root.T, 1e-3, anchor), point)
    moved = np.array(
        [
            transform_points(perturb_about(T, root @ z, anchor), TARGET)
            for z in rng.normal(size=(4000, 6))
        ]
    )
    off = 600.0 * (moved[:, :2] / moved[:, 2:] - point[:2] / point[2])
    inside = np.linalg.norm(np.linalg.solve(shape, off.T), axis=0) <= 1.0
    assert inside.mean() == pytest.approx(0.95, abs=0.015)


def test_the_covariance_of_the_message_about_the_childs_origin_gives_the_same():
    ros = pytest.importorskip("spine_nav_common.ros.conversions", reason="needs ROS messages")
    far = T.copy()
    far[:3, 3] = (0.2, -0.3, 0.7)  # a CT's origin lies decimetres from the bone
    anchor = np.array([0.0, 0.0, 0.5])
    ours = np.diag([1e-7, 4e-7, 9e-7, 1e-4, 4e-4, 2e-4])
    theirs = ros.pose_covariance(ours, far, anchor)
    point = np.array([0.01, 0.02, 0.52])
    a = shape_at(known(ours, 0.1, anchor), point)
    b = shape_at(known(theirs, 0.1, far[:3, 3]), point)
    np.testing.assert_allclose(a @ a.T, b @ b.T, rtol=1e-6)


NONE = {
    "none": None,
    "zero": np.zeros((6, 6)),
    "NaN": np.full((6, 6), np.nan),
    "one NaN": np.diag([1e-6, 4e-6, np.nan, 1e-4, 1e-4, 1e-4]),
    "infinite": np.diag([1e-6, np.inf, 1e-6, 1e-4, 1e-4, 1e-4]),
    "not positive": np.diag([1e-6, -4e-6, 1e-6, 1e-4, 1e-4, 1e-4]),
    "negative": -np.eye(6),
}


@pytest.mark.parametrize("covariance", NONE.values(), ids=NONE)
def test_what_is_no_covariance_leaves_the_circle_of_the_bound(covariance):
    long, short, _ = axes_of(shape_at(known(covariance, 1.5), (0.0, 0.0, 0.5)))
    assert long == short == pytest.approx(600 * 1.5e-3 / 0.5)


@pytest.mark.parametrize("bound_mm", [0.2, 1.0, 3.0])
def test_it_is_never_shorter_than_the_bound_says(bound_mm):
    covariance = np.diag([1e-8, 9e-8, 1e-8, 1e-6, 1e-6, 1e-6])
    long, short, _ = axes_of(shape_at(known(covariance, bound_mm), (0.0, 0.0, 0.5)))
    own = 2.4477 * 600 * 3e-4 / 0.5
    assert long == pytest.approx(max(own, 600 * 1e-3 * bound_mm / 0.5), rel=1e-2)
    assert short / long == pytest.approx(1.0 / 3.0, abs=0.02), "it grows as a whole"


def drawn(estimate) -> list[np.ndarray]:
    """The green closed lines about the screw's entry and target on the picture."""
    strokes: list[Stroke] = []
    colour = np.full((480, 640, 3), 90, np.uint8)
    result = NavigationResult(1, (estimate,))
    draw_overlay(colour, K, replace(CASE, meshes={"L3": MESH}), result, strokes=strokes)
    ends = [
        600.0 * p[:2] / p[2] + (320, 240) for p in transform_points(T, np.stack([ENTRY, TARGET]))
    ]
    return [
        s.points
        for end in ends
        for s in strokes
        if s.colour == GREEN and np.linalg.norm(s.points[:-1].mean(axis=0) - end) < 0.5
    ]


def extents(line) -> np.ndarray:
    return np.asarray(np.ptp(line, axis=0))


def test_the_picture_shows_an_ellipse_at_entry_and_target():
    covariance = np.diag([1e-7, 16e-7, 1e-7, 1e-8, 1e-8, 1e-8])
    entry, target = drawn(known(covariance))
    for line in (entry, target):
        width, height = extents(line)
        assert height / width == pytest.approx(4.0, rel=0.15), "a circle is no picture of it"
    # a turn about the anchor moves the target, 40 mm away, further than the entry
    turning = covariance + np.diag([0, 0, 0, 0.06**2, 0, 0])
    entry, target = drawn(known(turning))
    assert extents(target)[1] > 1.3 * extents(entry)[1]
    for bad in (None, NONE["zero"], NONE["NaN"], NONE["not positive"]):
        for line in drawn(known(bad)):
            width, height = extents(line)
            assert width == pytest.approx(height, rel=0.02)
    assert not drawn(replace(known(covariance), predicted_tre_mm=None))


def test_the_view_along_the_trajectory_shows_it_too():
    def lengths(estimate) -> tuple[np.ndarray, np.ndarray]:
        """Spread of the green pixels about the middle along their main axes, shorter first."""
        tile = bulls_eyes(CASE, NavigationResult(1, (estimate,)))[:TILE_PX, :TILE_PX]
        y, x = np.nonzero(np.abs(tile.astype(int) - GREEN).max(axis=2) < 60)
        off = np.stack([x, y], axis=1) - 0.5 * TILE_PX
        off = off[np.abs(off).max(axis=1) < 80]
        values, ways = np.linalg.eigh(off.T @ off / len(off))
        return np.sqrt(values), ways[:, 1]

    round_, _ = lengths(known(None, 2.0))
    assert round_[1] == pytest.approx(round_[0], rel=0.1)
    first, way_1 = lengths(known(np.diag([16e-7, 1e-7, 1e-7, 1e-8, 1e-8, 1e-8]), 0.5))
    second, way_2 = lengths(known(np.diag([1e-7, 16e-7, 1e-7, 1e-8, 1e-8, 1e-8]), 0.5))
    assert first[1] > 2.0 * first[0] and second[1] > 2.0 * second[0]
    assert abs(way_1 @ way_2) < 0.2
