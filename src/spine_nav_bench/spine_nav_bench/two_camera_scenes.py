# SPDX-License-Identifier: Apache-2.0
"""Two RGB-D cameras on one stand over a virtual operation, and hands that cover one of them in turns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.geometry import exp_se3, invert
from spine_nav_common.core.handeye import HandEyeFound, PoseNoise, calibrate_handeye
from spine_nav_common.core.types import Case
from spine_nav_sim.core import sensor as sensors
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.motion import rigid
from spine_nav_sim.core.operation import ALL_LEVELS
from spine_nav_sim.core.rig import Mounted
from spine_nav_sim.core.scene import (
    SceneConfig,
    camera_distance,
    make_scene,
    place_camera,
    wound_centre_m,
)
from spine_nav_sim.core.scene_props import Pass, Prop, passing_props
from spine_nav_sim.core.scene_render import Scene
from spine_registration.core.between import Between

PAIRS = (("d415", "d405"), ("d405", "d415"), ("d415", "d415"), ("d415", "d435"))
"""By turns: the first camera and the second."""
DISTANCE_M = {"d405": (0.28, 0.36)}
"""To the wound, as a model's depth wants it."""
_DISTANCE_M = (0.38, 0.50)
SECONDS, FPS = 7.0, 10.0
HANDS = ((2.0, 3.8), (4.6, 6.4))
"""Seconds in which a hand is over the first camera, and over the second."""
APART_DEG = (25.0, 50.0)
PITCH_DEG = (12.0, 28.0)
BOARD_VIEWS = 20
_CLOSE = 0.55  # of the way from the wound to the camera: a hand covers most of the view there
_PALM_M = np.array([0.10, 0.03, 0.0])


@dataclass(frozen=True)
class TwoCameraScene:
    """One operation by two cameras. T_first_second (4, 4): truth. between: as a board measured it."""

    name: str
    case: Case
    first: Scene
    second: Scene
    T_first_second: np.ndarray
    between: Between
    cameras: tuple[str, str]


def two_camera_scene(seed: int, index: int, hands: bool = True) -> TwoCameraScene:
    """The operation of an anatomy seed; pairs of cameras by turns, each hand-held and standing."""
    rng = np.random.default_rng([810_000, seed])
    anatomy = make_anatomy(np.random.default_rng(seed), ALL_LEVELS, f"virtual-{seed}")
    turn, pair = divmod(index, len(PAIRS))
    names = PAIRS[pair]
    config = SceneConfig(
        camera=names[0], camera_moves=(turn + pair) % 2 == 0, tool_passes=False, seconds=SECONDS,
        pitch_deg=PITCH_DEG, hardness=0.5, fps=FPS,
        distance_m=DISTANCE_M.get(names[0], _DISTANCE_M),
    )  # fmt: skip
    first = make_scene(anatomy, rng, config)
    second = _beside(first, names[1], rng)
    T_first_second = first.camera_path.T_camera_world(0.0) @ invert(
        second.camera_path.T_camera_world(0.0)
    )
    if hands:
        props = [
            p
            for scene, when in zip((first, second), HANDS, strict=True)
            for p in _hand(scene, when, rng)
        ]
        first, second = (
            replace(s, props=[*first.props, *props], _still={}) for s in (first, second)
        )
    found = _calibrated(T_first_second, rng)
    case = Case(anatomy.name, "LPS", anatomy.meshes, first.exposed, anatomy.plan, "")
    return TwoCameraScene(
        anatomy.name, case, first, second, T_first_second,
        Between(found.T_body_camera, found.covariance, "the board"), names,
    )  # fmt: skip


def _beside(first: Scene, camera: str, rng: np.random.Generator) -> Scene:
    """The scene by another camera on the same stand, that looks at the wound from another side."""
    model = sensors.CAMERAS[camera]
    intrinsics = sensors.camera_intrinsics(model, 640, 480, rng)
    config = replace(
        first.config, camera=camera, camera_moves=False,
        distance_m=DISTANCE_M.get(camera, _DISTANCE_M),
    )  # fmt: skip
    T_first_world = first.camera_path.T_camera_world(0.0)
    while True:
        path = place_camera(first.T_world_wound, first.wound, intrinsics, model, rng, config)
        T = path.T_camera_world(0.0)
        apart = np.degrees(np.arccos(np.clip(T_first_world[2, :3] @ T[2, :3], -1.0, 1.0)))
        if APART_DEG[0] <= apart <= APART_DEG[1]:
            break
    mounted = Mounted(first.camera_path, T @ invert(T_first_world))
    distance = camera_distance(path, first.T_world_wound, first.wound)
    return replace(
        first, config=config, camera_path=mounted, intrinsics=intrinsics, camera_model=model,
        depth_noise=sensors.random_depth_noise(rng, model, config.hardness, distance),
        colour_sensor=sensors.random_colour_sensor(rng, config.hardness), _still={},
    )  # fmt: skip


def _hand(scene: Scene, when: tuple[float, float], rng: np.random.Generator) -> list[Prop]:
    """A gloved hand between the wound and the scene's camera, that comes from the camera's side."""
    eye = invert(scene.camera_path.T_camera_world(0.0) @ scene.T_world_wound)[:3, 3]
    centre = wound_centre_m(scene.wound)
    away = (eye - centre) * (1.0, 0.0, 1.0)
    away /= np.linalg.norm(away)
    turn = rigid(np.array([0.0, np.arctan2(-away[2], away[0]), 0.0]), np.zeros(3), np.zeros(3))
    palm = centre + _CLOSE * (eye - centre)
    work = palm - turn[:3, :3] @ _PALM_M
    visit = Pass(
        *when, work + 0.35 * away, work, rng.uniform(0.004, 0.012, 3), rng.uniform(0.3, 1.0), 0.0
    )
    while True:  # the simulation's hands, each with its sleeve
        kit = passing_props(scene.wound, scene.palette, rng, 30.0, 0.5)
        gloves = [i for i, p in enumerate(kit) if p.albedo is scene.palette["glove"]]
        if gloves:
            return [replace(p, T_wound_prop=turn, passes=(visit,)) for p in kit[gloves[0] :][:2]]


def _calibrated(T_first_second: np.ndarray, rng: np.random.Generator) -> HandEyeFound:
    """What `calibrate handeye` says of the two cameras, by views of a board with its usual noise."""
    noise = PoseNoise()
    sigma = 1.0 / noise.information

    def noisy(T: np.ndarray) -> np.ndarray:
        return np.asarray(T @ exp_se3(sigma * rng.standard_normal(6)))

    first, second = [], []
    for _ in range(BOARD_VIEWS):
        turn = np.array([*rng.uniform(-0.7, 0.7, 2), rng.uniform(-1.6, 1.6)])
        board = rigid(turn, np.zeros(3), np.array([*rng.uniform(-0.05, 0.05, 2), 0.45]))
        first.append(
            invert(noisy(board))
        )  # the board's frame is the base, the first camera the body
        second.append(noisy(invert(T_first_second) @ board))
    found = calibrate_handeye(np.array(first), np.array(second), noise, noise)
    assert isinstance(found, HandEyeFound), found
    return found
