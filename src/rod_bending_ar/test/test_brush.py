# SPDX-License-Identifier: Apache-2.0
"""What is put on pixels, held against exact geometry."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rod_bending_ar.core.annotation import label_layout
from rod_bending_ar.core.brush import border
from rod_bending_ar.core.paint import Ink
from rod_bending_ar.core.text import draw_text, shade_box
from spine_nav_common.core.types import LevelEstimate, Status

WHITE = (255, 255, 255)


def drawn(put, depth=None, size=(60, 80)) -> np.ndarray:
    """(H, W) how white the picture is after `put(ink)`."""
    image, ink = np.zeros((*size, 3), np.uint8), Ink()
    put(ink)
    ink.flush(image, depth)
    assert (image[..., 0] == image[..., 2]).all()
    return image[..., 0].astype(float) / 255.0


def test_a_line_lies_where_it_was_to_be_drawn_and_is_everywhere_as_wide():
    a, b = np.array([10.3, 12.8]), np.array([61.7, 40.4])
    y, x = np.indices((60, 80)).astype(float)
    way = (b - a) / np.linalg.norm(b - a)
    across = (x - a[0]) * -way[1] + (y - a[1]) * way[0]
    along = (x - a[0]) * way[0] + (y - a[1]) * way[1]
    middle = (along > 3.0) & (along < np.linalg.norm(b - a) - 3.0)
    # in one piece, and in many that must not be seen where they meet
    pieces = a + np.linspace(0.0, 1.0, 40)[:, None] * (b - a)
    for points in (np.stack([a, b]), pieces):
        white = drawn(lambda ink, p=points: ink.line(p, WHITE, 2, 0))
        assert (white[middle] * across[middle]).sum() / white[middle].sum() == pytest.approx(
            0.0, abs=0.02
        )
        exact = np.clip(1.0 + 0.25 + 0.5 - np.abs(across), 0.0, 1.0)
        assert np.abs(white - exact)[middle].max() < 0.02


def test_a_circle_has_no_gaps_and_no_knots():
    middle, radius = np.array([40.2, 29.6]), 12.4
    white = drawn(lambda ink: ink.ring(middle, radius, WHITE, 4, 0))
    y, x = np.indices((60, 80)).astype(float)
    off = np.abs(np.hypot(x - middle[0], y - middle[1]) - radius)
    assert white[off < 1.4].min() > 0.95 and white[off > 3.1].max() == 0.0


def test_an_ellipse_is_as_long_and_as_wide_as_it_was_told():
    turn = np.radians(30.0)
    way, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    shape = np.stack([20.0 * way, 6.0 * across], axis=1)
    middle = np.array([40.0, 30.0])
    white = drawn(lambda ink: ink.ovals(middle[None], shape[None], WHITE, 1))
    y, x = np.nonzero(white > 0.5)
    off = np.stack([x, y], axis=1) - middle
    assert np.abs(off @ way).max() == pytest.approx(20.0, abs=1.0)
    assert np.abs(off @ across).max() == pytest.approx(6.0, abs=1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e9])
def test_a_point_that_is_nowhere_takes_its_pieces_with_it_and_no_others(bad):
    points = np.array([[10.0, 10.0], [20.0, 10.0], [bad, 10.0], [40.0, 10.0], [50.0, 10.0]])
    white = drawn(lambda ink: ink.line(points, WHITE, 1, 0))
    assert white[10, 10:20].min() > 0.9 and white[10, 41:50].min() > 0.9
    assert white[10, 24:37].max() == 0.0


def test_what_is_nearer_than_a_line_covers_it_there_alone():
    depth = np.full((60, 80), 0.5, np.float32)
    depth[:, 30:50] = 0.4
    depth[10, 60] = 0.4  # one pixel of noise covers nothing
    points = np.array([[5.0, 10.0], [75.0, 10.0]])
    white = drawn(lambda ink: ink.line(points, WHITE, 1, 0, 0.45), depth)
    assert white[10, 32:48].max() == 0.0
    assert white[10, 5:28].min() > 0.9 and white[10, 52:75].min() > 0.9
    unknown = drawn(lambda ink: ink.line(points, WHITE, 1, 0, 0.45), np.full_like(depth, np.nan))
    assert unknown[10, 5:75].min() > 0.9
    before = drawn(lambda ink: ink.line(points, WHITE, 1, 0), depth)
    assert before[10, 5:75].min() > 0.9, "nothing covers what has no depth"


def test_an_outline_lies_on_the_edge_of_the_disc_that_was_cast_into_pixels():
    y, x = np.indices((60, 80)).astype(float)
    middle, radius = np.array([40.3, 29.8]), 20.0
    mask = (np.hypot(x - middle[0], y - middle[1]) <= radius).astype(np.uint8)
    contour = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0]
    off = np.linalg.norm(border(contour[:, 0], 1) - middle, axis=1) - radius
    assert abs(off.mean()) < 0.08 and np.quantile(np.abs(off), 0.95) < 0.3


def test_text_and_boxes_are_clipped_to_the_picture_and_to_a_part_of_it():
    for x, y in ((-20, 2), (70, 2), (5, -8), (5, 55), (200, 200)):
        image = np.full((60, 80, 3), 90, np.uint8)
        shade_box(image, x, y, 30, 12, 0.5)
        draw_text(image, "tracked", x, y, 12, WHITE)
        assert ((image != 90).any()) == (x < 80)
    whole = np.full((60, 80, 3), 90, np.uint8)
    shade_box(whole[:, :40], 30, 10, 30, 10, 0.5)
    assert (whole[10:20, 30:40] == 45).all() and (whole[:, 40:] == 90).all()


def test_labels_of_a_slanting_spine_lie_beside_each_other():
    levels = [LevelEstimate(f"L{k}", Status.TRACKED, np.eye(4), None, None, 1.0) for k in range(5)]
    for turn in np.radians(np.arange(0.0, 180.0, 7.0)):
        way = np.array([np.cos(turn), np.sin(turn)])
        chain = np.array([500.0, 500.0]) + 45.0 * np.arange(-2, 3)[:, None] * way
        corners = chain[:, None] + 30.0 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        labels = label_layout(levels, corners, 2, (1000, 1000))
        for i, a in enumerate(labels):
            for b in labels[:i]:
                gap = np.abs(a.at_px - b.at_px)
                assert (gap >= 0.5 * (np.array(a.size_px) + b.size_px)).any(), np.degrees(turn)
