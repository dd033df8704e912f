# SPDX-License-Identifier: Apache-2.0
"""A flat ChArUco board before a simulated RGB-D camera: a recording for `spinenav calibrate depth`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.errors import InputError
from spine_nav_common.core.geometry import exp_so3
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import Intrinsics, RgbdFrame
from spine_nav_sim.core.operation import Progress
from spine_nav_sim.core.sensor import (
    CAMERAS,
    DepthNoise,
    camera_intrinsics,
    measure_depth,
    random_depth_noise,
)

_TEXTURE_PX = 40  # of one square in the texture
_RIM = 0.5  # white rim about the squares, in squares
_SUPER = 2  # rays per pixel and axis
_FRAME_NS = 100_000_000


@dataclass(frozen=True)
class BoardScene:
    """How a board is shown.

    Attributes:
        board: an OpenCV CharucoBoard. square_m: its square. size: columns and rows of squares.
        camera: name of a model in `sensor.CAMERAS`. views: how many.
        near_m, far_m: range of distances. bend_m: how far the board's middle stands out.
        blur_px: sigma of the lens. seed: of camera, poses and noise.
        individual: the camera of another scene (`Scene.intrinsics`, `Scene.depth_noise`), to which
            `camera`, `width` and `height` must belong; None: one is drawn from `seed`.
    """

    board: Any
    square_m: float
    size: tuple[int, int]
    camera: str = "d415"
    views: int = 30
    near_m: float = 0.30
    far_m: float = 0.62
    bend_m: float = 0.0
    blur_px: float = 0.6
    width: int = 640
    height: int = 480
    seed: int = 0
    individual: tuple[Intrinsics, DepthNoise] | None = None


def board_camera(scene: BoardScene) -> tuple[Intrinsics, DepthNoise]:
    """The individual camera of a scene."""
    if scene.individual is not None:
        return scene.individual
    rng = np.random.default_rng([scene.seed, 0])
    model = CAMERAS[scene.camera]
    intrinsics = camera_intrinsics(model, scene.width, scene.height, rng)
    return intrinsics, random_depth_noise(rng, model, 0.6, 0.5 * (scene.near_m + scene.far_m))


def board_frames(scene: BoardScene) -> Iterator[tuple[RgbdFrame, np.ndarray]]:
    """Frames, and their true depth (H, W) in metres, NaN beside the board."""
    intrinsics, noise = board_camera(scene)
    texture = _texture(scene)
    for number in range(scene.views):
        rng = np.random.default_rng([scene.seed, 1, number])
        T = _pose(scene, intrinsics, number, rng)
        colour, depth, cosine = _shown(scene, intrinsics, texture, T)
        image = np.clip(colour + rng.normal(0.0, 2.0, colour.shape), 0, 255).astype(np.uint8)
        measured = measure_depth(
            depth, cosine, np.zeros(depth.shape, np.float32), intrinsics, CAMERAS[scene.camera],
            noise, number,
        )  # fmt: skip
        rgb = np.repeat(image[..., None], 3, axis=2)
        yield RgbdFrame((number + 1) * _FRAME_NS, rgb, measured, intrinsics, "camera"), depth


def simulate_board(out_dir: Path, scene: BoardScene, progress: Progress | None = None) -> None:
    """Write out_dir/recording (MCAP) with the views of a board. Raises InputError: it is there already."""
    recording = Path(out_dir) / "recording"
    if recording.exists():
        raise InputError(recording, "", "is already there", "name another folder")
    with RecordingWriter(recording) as writer:
        for done, (frame, _) in enumerate(board_frames(scene), 1):
            writer.write_rgbd(frame)
            if progress is not None:
                progress(done, scene.views, "")


def bias_image(scene: BoardScene, distance_m: float) -> np.ndarray:
    """(H, W) metres by which this camera reads a flat wall at that distance too far; without noise."""
    intrinsics, noise = board_camera(scene)
    quiet = DepthNoise(
        1e-9, 1.0, noise.fwhm_px, noise.bias_share, noise.bias_scale, noise.bias_cells, 0.0, 0.0,
        0.0, noise.seed,
    )  # fmt: skip
    # The field is drawn after the noise that stays: both must be drawn for it to be the same.
    wall = np.full((scene.height, scene.width), distance_m, np.float32)
    one, none = np.ones_like(wall), np.zeros_like(wall)
    return measure_depth(wall, one, none, intrinsics, CAMERAS[scene.camera], quiet, 0) - wall


def _texture(scene: BoardScene) -> np.ndarray:
    size = tuple(n * _TEXTURE_PX for n in scene.size)
    rim = round(_RIM * _TEXTURE_PX)
    board = scene.board.generateImage(size, marginSize=0)
    return 20 + 200 * (np.pad(board, rim, constant_values=255) > 127).astype(np.float32)


def _pose(scene: BoardScene, k: Intrinsics, number: int, rng: np.random.Generator) -> np.ndarray:
    """T_camera_board: distances in turn, the board's middle anywhere in the image, tilts to 35 deg."""
    share = (number + 0.5) / scene.views
    z = scene.near_m + (scene.far_m - scene.near_m) * share
    u, v = rng.uniform(0.1, 0.9) * k.width, rng.uniform(0.1, 0.9) * k.height
    tilt = np.radians(rng.uniform(-35.0, 35.0, 2))
    R = exp_so3(np.array([*tilt, 0.0])) @ exp_so3(np.array([0.0, 0.0, rng.uniform(-np.pi, np.pi)]))
    middle = 0.5 * scene.square_m * np.array([*scene.size, 0.0])
    T = np.eye(4)
    T[:3, :3] = R
    T[:3, 3] = np.array([(u - k.cx) / k.fx * z, (v - k.cy) / k.fy * z, z]) - R @ middle
    return T


def _shown(
    scene: BoardScene, k: Intrinsics, texture: np.ndarray, T: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey (H, W) float, true depth (H, W), cosine of incidence (H, W); by rays, so that a bent board
    is one."""
    w, h = _SUPER * scene.width, _SUPER * scene.height
    x = ((np.arange(w) + 0.5) / _SUPER - 0.5 - k.cx) / k.fx
    y = ((np.arange(h) + 0.5) / _SUPER - 0.5 - k.cy) / k.fy
    rays = np.dstack([*np.meshgrid(x, y), np.ones((h, w))])
    R, t = T[:3, :3], T[:3, 3]
    direction, origin = rays @ R, -R.T @ t  # in the board's frame
    across = scene.square_m * np.array(scene.size)
    z = -origin[2] / direction[..., 2]
    for _ in range(3 if scene.bend_m else 0):
        p = origin + z[..., None] * direction
        s = p[..., :2] / across
        z = (scene.bend_m * (1.0 - (2.0 * s[..., 0] - 1.0) ** 2) - origin[2]) / direction[..., 2]
    p = origin + z[..., None] * direction
    unit = p[..., :2] / scene.square_m
    at = ((unit + _RIM) * _TEXTURE_PX - 0.5).astype(np.float32)
    shown = cv2.remap(
        texture, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
        borderValue=70.0,
    )  # fmt: skip
    grey = cv2.resize(shown, (scene.width, scene.height), interpolation=cv2.INTER_AREA)
    grey = cv2.GaussianBlur(grey, (0, 0), scene.blur_px)
    on = ((unit > -_RIM) & (unit < np.array(scene.size) + _RIM)).all(axis=-1) & (z > 0.05)
    middle = slice(_SUPER // 2, None, _SUPER)
    depth = np.where(on, z, np.nan)[middle, middle].astype(np.float32)
    norm = np.linalg.norm(direction[middle, middle], axis=-1)
    cosine = np.abs(direction[middle, middle, 2]) / norm
    return grey, depth, cosine.astype(np.float32)
