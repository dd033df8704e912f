# SPDX-License-Identifier: Apache-2.0
"""Single views for training: a new random scene, then a few frames of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spine_nav_common.core.types import Intrinsics
from spine_nav_sim.core import sensor as sensors
from spine_nav_sim.core.scene import (
    Rendered,
    SceneConfig,
    camera_distance,
    make_scene,
    place_camera,
    place_lamps,
)

if TYPE_CHECKING:
    from spine_nav_sim.core.anatomy import Anatomy

_SECONDS = 4.0  # enough for every phase of breathing and of a tool's visit


def render_views(
    anatomy: Anatomy,
    rng: np.random.Generator,
    config: SceneConfig,
    *,
    views: int = 4,
    intrinsics: Intrinsics | None = None,
) -> list[Rendered]:
    """`views` frames of one new scene, each with its own camera, light, noise and time.

    intrinsics: camera of the result (any size); default: a random individual of the camera model
    at config.width x config.height.
    """
    config = replace(config, seconds=min(config.seconds, _SECONDS), camera_moves=False)
    scene = make_scene(anatomy, rng, config)
    frames = []
    for _ in range(views):
        scene.intrinsics = intrinsics or sensors.camera_intrinsics(
            scene.camera_model, config.width, config.height, rng
        )
        scene.camera_path = place_camera(
            scene.T_world_wound, scene.wound, scene.intrinsics, scene.camera_model, rng, config
        )
        scene.lamps = place_lamps(scene.T_world_wound, scene.wound, rng)
        scene.cast_shadows = bool(rng.uniform() < config.shadows)
        scene.depth_noise = sensors.random_depth_noise(
            rng,
            scene.camera_model,
            config.hardness,
            camera_distance(scene.camera_path, scene.T_world_wound, scene.wound),
        )
        scene.colour_sensor = sensors.random_colour_sensor(rng, config.hardness)
        scene.forget()
        frames.append(scene.render(float(rng.uniform(0.0, config.seconds))))
    return frames


def render_view(
    anatomy: Anatomy,
    rng: np.random.Generator,
    config: SceneConfig,
    *,
    intrinsics: Intrinsics | None = None,
) -> Rendered:
    """One view of a new scene; see `render_views`, which is cheaper per view."""
    return render_views(anatomy, rng, config, views=1, intrinsics=intrinsics)[0]
