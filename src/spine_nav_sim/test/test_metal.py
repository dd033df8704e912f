# SPDX-License-Identifier: Apache-2.0
"""Metal mirrors what stands where the law of reflection says, and blood dulls it."""

from dataclasses import replace

import numpy as np
import pytest

from spine_nav_sim.core.materials import random_palette
from spine_nav_sim.core.metal import (
    Surroundings,
    random_looks,
    random_surroundings,
    shade_metal,
)
from spine_nav_sim.core.render import Lamp

BLACK = np.zeros(3, np.float32)


def surroundings_with_spot(row: int, column: int) -> Surroundings:
    picture = np.zeros((96, 192, 3), np.float32)
    picture[row - 2 : row + 3, column - 2 : column + 3] = 1.0
    return Surroundings((picture, picture, picture), np.eye(3))


@pytest.fixture
def looks():
    rng = np.random.default_rng(0)
    return replace(
        random_looks(rng, random_palette(rng), 0.5),
        mirror=1.0, blur=0.0, gloss=0.0, brushed=0.0, blood=0.0,
        albedo=np.ones(3, np.float32),
    )  # fmt: skip


def shade_at(looks, normal, surroundings):
    """The surface at the origin, seen from +y (above)."""
    return shade_metal(
        looks, np.zeros((1, 3)), np.array([normal]), np.eye(3), np.zeros((1, 3)),
        np.array([0.0, 0.5, 0.0]), (), None, BLACK, surroundings,
    )[0]  # fmt: skip


def test_a_mirror_facing_the_camera_shows_what_is_above(looks):
    up = surroundings_with_spot(3, 96)
    up = Surroundings(tuple(np.where(np.arange(96)[:, None, None] < 6, 1.0, p).astype(np.float32)
                            for p in up.levels), up.R_panorama_world)  # fmt: skip
    assert shade_at(looks, [0.0, 1.0, 0.0], up).min() > 0.9


def test_a_mirror_tilted_by_half_the_angle_shows_the_spot(looks):
    # a spot at 90 degrees from up, towards +z: panorama's middle column
    spot = surroundings_with_spot(48, 96)
    tilted = np.array([0.0, np.cos(np.pi / 4), np.sin(np.pi / 4)])
    assert shade_at(looks, tilted, spot).min() > 0.9
    assert shade_at(looks, [0.0, 1.0, 0.0], spot).max() < 0.1
    other_way = tilted * [1.0, 1.0, -1.0]
    assert shade_at(looks, other_way, spot).max() < 0.1


def test_normals_that_face_away_are_turned(looks):
    spot = surroundings_with_spot(48, 96)
    away = -np.array([0.0, np.cos(np.pi / 4), np.sin(np.pi / 4)])
    assert shade_at(looks, away, spot).min() > 0.9


def test_blood_takes_the_mirror_away(looks):
    bright = Surroundings((np.ones((96, 192, 3), np.float32),) * 3, np.eye(3))
    clean = shade_at(looks, [0.0, 1.0, 0.0], bright)
    smeared = shade_at(replace(looks, blood=1.0), [0.0, 1.0, 0.0], bright)
    assert smeared.mean() < 0.6 * clean.mean()


def test_a_shadowed_lamp_gives_no_light(looks):
    lamp = Lamp(np.array([0.0, 1.0, 0.0]), np.zeros(3), 0.2, np.ones(3, np.float32))
    dark = Surroundings((np.zeros((96, 192, 3), np.float32),) * 3, np.eye(3))
    dull = replace(looks, mirror=0.0)
    light = [
        shade_metal(
            dull, np.zeros((1, 3)), np.array([[0.0, 1.0, 0.0]]), np.eye(3), np.zeros((1, 3)),
            np.array([0.0, 0.5, 0.0]), (lamp,), np.full((1, 1), lit, np.float32), BLACK, dark,
        )[0].mean()
        for lit in (0.0, 1.0)
    ]  # fmt: skip
    assert light[0] == 0.0
    assert light[1] > 0.3


def test_the_panorama_shows_each_lamp_in_its_direction():
    rng = np.random.default_rng(1)
    lamp = Lamp(np.array([0.3, 1.0, 0.2]), np.zeros(3), 0.2, np.ones(3, np.float32))
    around = random_surroundings(
        rng, np.eye(4), (lamp,), random_palette(rng), np.full(3, 0.3, np.float32)
    )
    toward = lamp.position_m / np.linalg.norm(lamp.position_m)
    at_lamp = around.look(toward[None], 0.0)[0].mean()
    below = around.look(np.array([[0.0, -1.0, 0.0]]), 0.0)[0].mean()
    assert at_lamp > 10.0 * below
    rough = around.look(toward[None], 1.0)[0].mean()
    assert below < rough < at_lamp
