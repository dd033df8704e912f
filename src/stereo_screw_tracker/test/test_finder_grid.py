# SPDX-License-Identifier: Apache-2.0
"""The finder's grid: places go there and back, and the cameras' exposures drop out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stereo_screw_tracker.core import finder_grid
from stereo_screw_tracker.core.finder_grid import CELL_PX, HEIGHT, WIDTH, letterbox

SIZES = ((640, 480), (1280, 720), (1920, 1080), (800, 600), (481, 640), (333, 77))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_places_go_to_the_grid_and_back(width, height):
    box = letterbox(width, height)
    corners = np.array([[0, 0], [width - 1, height - 1], [width / 3, height / 7]])
    assert box.to_image(box.to_grid(corners)) == pytest.approx(corners)
    assert box.wide == WIDTH or box.high == HEIGHT
    edges = box.to_grid(np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]]))
    assert edges[0] == pytest.approx((box.left - 0.5, box.top - 0.5))
    assert edges[1] == pytest.approx((box.left + box.wide - 0.5, box.top + box.high - 0.5))
    assert abs(box.scale[0] / box.scale[1] - 1) < 0.02


@pytest.mark.parametrize(("width", "height"), ((640, 480), (1280, 720), (1920, 1080)))
def test_a_spot_lies_in_the_input_where_the_letterbox_says(width, height):
    image = np.full((height, width), 90, np.uint8)
    uv = np.array([0.71 * width, 0.36 * height])
    radius = 4 * width / WIDTH
    cv2.circle(image, tuple(round(16 * c) for c in uv), int(16 * radius), 250, -1, 0, 4)
    x = finder_grid.place(image, letterbox(width, height))
    v, u = np.nonzero(x > 0.5 * x.max())
    assert (u.mean(), v.mean()) == pytest.approx(letterbox(width, height).to_grid(uv), abs=0.3)


def test_margins_are_zero():
    image = np.random.default_rng(0).integers(0, 255, (720, 1280)).astype(np.uint8)
    x = finder_grid.place(image, letterbox(1280, 720))
    assert not x[:59].any()
    assert x[60:419].any(axis=1).all()


def test_gain_and_offset_drop_out():
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 6)
    image = 100 + 40 * (image - image.mean()) / image.std()
    one, other = finder_grid.normalise(image), finder_grid.normalise(0.6 * image + 40)
    assert np.abs(one - other).mean() < 0.1 * np.abs(one).mean()


def test_a_flat_image_stays_flat():
    assert not finder_grid.normalise(np.full((HEIGHT, WIDTH), 17, np.uint8)).any()


def test_the_second_pair_is_the_mirrored_right_and_left():
    rng = np.random.default_rng(2)
    left, right = (rng.integers(0, 255, (480, 640)).astype(np.uint8) for _ in range(2))
    x = finder_grid.network_input(left, right, letterbox(640, 480))
    assert x.shape == (2, 2, HEIGHT, WIDTH)
    assert x.dtype == np.float32
    assert np.array_equal(x[1, 0], x[0, 1, :, ::-1])
    assert np.array_equal(x[1, 1], x[0, 0, :, ::-1])
    again = finder_grid.network_input(right[:, ::-1], left[:, ::-1], letterbox(640, 480))
    assert again[0] == pytest.approx(x[1], abs=1e-3)


def test_colour_and_grey_are_the_same_to_it():
    grey = np.random.default_rng(3).integers(0, 255, (48, 64)).astype(np.uint8)
    box = letterbox(64, 48)
    assert np.array_equal(
        finder_grid.place(np.repeat(grey[..., None], 3, axis=2), box), finder_grid.place(grey, box)
    )


def test_cell_centres_tile_the_grid():
    centres = finder_grid.cell_centres()
    assert centres[0, 0] == pytest.approx(((CELL_PX - 1) / 2,) * 2)
    assert centres[-1, -1] == pytest.approx(
        (WIDTH - 1 - (CELL_PX - 1) / 2, HEIGHT - 1 - (CELL_PX - 1) / 2)
    )
