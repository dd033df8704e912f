# SPDX-License-Identifier: Apache-2.0
"""Rendered views on disk, and the training samples cut from them.

A view file (npz, not compressed: reading speed counts) holds, for an image of h x w pixels:
colour (h, w, 3) uint8; depth, free of noise, and measured, by the sensor model, both (h, w) uint16
in 0.05 mm, 0 = none; instance (h, w) uint8, 0 = not bone, else 1 + index into the rows of centre_m, cranial, dorsal (K, 3) float32 in the
camera frame; tissue (h, w) uint8, film on the bone in 0.1 mm, 255 = more; camera (4,) fx fy cx cy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from spine_nav_common.core.types import Intrinsics
from spine_perception.core.features import CENTRE_SCALE_M, features, roll_of, to_ray_frame, turn
from spine_perception.core.grid import camera_points, pixel_maps, sample_depth, upright_angle
from training.spine_unet.augment import (
    add_blood,
    add_glints,
    add_implants,
    add_occluders,
    crop_out,
    degrade_depth,
    shift_colour,
    warp_jitter,
)

DEPTH_UNIT_M = 0.00005
TISSUE_UNIT_M = 0.0001
CLEAN_LIMIT_M = 0.0004
MODEL_SENSOR_SHARE = 0.4  # of samples: the simulation's own sensor model; else `augment`'s faults
PERFECT_SENSOR_SHARE = 0.2  # and no fault at all: shape is learnt sooner where it can be seen
PITCH_RANGE_M, CLOSE_PITCH_M = (0.0010, 0.0027), 0.0017


@dataclass(frozen=True)
class View:
    """One rendered view; fields as in the module's docstring, depth in metres with NaN."""

    colour: np.ndarray
    depth_m: np.ndarray
    measured_m: np.ndarray
    instance: np.ndarray
    tissue_m: np.ndarray
    centre_m: np.ndarray
    cranial: np.ndarray
    dorsal: np.ndarray
    intrinsics: Intrinsics

    @cached_property
    def median_m(self) -> float:
        """Typical depth."""
        return float(np.nanmedian(self.depth_m))


@dataclass(frozen=True)
class Sample:
    """x (C, n, n); bone, clean, weight (n, n); vectors (9, n/2, n/2) and where they hold."""

    x: np.ndarray
    bone: np.ndarray
    clean: np.ndarray
    weight: np.ndarray
    vectors: np.ndarray
    holds: np.ndarray
    instance: np.ndarray


def save_view(path: Path, view: View) -> None:
    """Write a view, whole or not at all."""
    tissue = np.nan_to_num(view.tissue_m / TISSUE_UNIT_M, nan=255.0, posinf=255.0)
    k = view.intrinsics
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(
            file,
            colour=view.colour,
            depth=_to_units(view.depth_m),
            measured=_to_units(view.measured_m),
            instance=view.instance.astype(np.uint8),
            tissue=np.round(np.clip(tissue, 0, 255)).astype(np.uint8),
            centre_m=view.centre_m.astype(np.float32),
            cranial=view.cranial.astype(np.float32),
            dorsal=view.dorsal.astype(np.float32),
            camera=np.array([k.fx, k.fy, k.cx, k.cy], np.float64),
        )
    part.rename(path)


def load_view(path: Path) -> View:
    """Read a view written by `save_view`."""
    with np.load(path) as data:
        depth = _to_metres(data["depth"])
        height, width = depth.shape
        return View(
            data["colour"],
            depth,
            _to_metres(data["measured"]),
            data["instance"],
            data["tissue"].astype(np.float32) * np.float32(TISSUE_UNIT_M),
            data["centre_m"],
            data["cranial"],
            data["dorsal"],
            Intrinsics(width, height, *map(float, data["camera"])),
        )


def _to_units(depth_m: np.ndarray) -> np.ndarray:
    units = np.nan_to_num(depth_m / DEPTH_UNIT_M, nan=0.0, posinf=0.0)
    return np.round(np.clip(units, 0, 65535)).astype(np.uint16)


def _to_metres(units: np.ndarray) -> np.ndarray:
    depth = units.astype(np.float32) * np.float32(DEPTH_UNIT_M)
    depth[units == 0] = np.nan
    return depth


def find_views(folder: Path) -> list[Path]:
    """All view files below a folder, in a fixed order."""
    return sorted(folder.glob("[!.]*/*.npz"))


def random_grid(rng: np.random.Generator, view: View, size: int) -> np.ndarray:
    """(2, 3) affine cell-to-pixel map: random pitch, roll and centre, mostly near bone.

    Inference turns its grid until the spine is upright, wrong at first in the worst case.
    """
    k = view.intrinsics
    bone = np.flatnonzero(view.instance)
    if len(bone) and rng.random() < 0.9:
        at = int(bone[rng.integers(len(bone))])
    else:
        at = int(rng.integers(view.instance.size))
    v, u = divmod(at, k.width)
    depth = view.depth_m[v, u]
    if not np.isfinite(depth):
        depth = view.median_m
    # Most passes look closely; the search alone is coarse.
    finest, coarsest = PITCH_RANGE_M
    coarsest = coarsest if rng.random() < 0.35 else CLOSE_PITCH_M
    pitch = np.exp(rng.uniform(np.log(finest), np.log(coarsest)))
    scale = pitch * k.fx / depth
    spread = rng.choice([0.005, 0.015, 0.04]) * k.fx / depth
    u, v = u + rng.normal(0, 1) * spread, v + rng.normal(0, 1) * spread
    angle = _random_roll(rng, view, (u, v))
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corner = np.array([u, v]) - linear @ np.full(2, 0.5 * (size - 1))
    return np.column_stack([linear, corner])


def _random_roll(rng: np.random.Generator, view: View, centre_px: tuple[float, float]) -> float:
    """Upright and upside down alike, so that the network must look which it is; the rest any."""
    draw = rng.random()
    if not len(view.cranial) or draw < 0.4:
        return float(rng.uniform(-np.pi, np.pi))
    k, axis = view.intrinsics, view.cranial.mean(axis=0)
    x, y = (centre_px[0] - k.cx) / k.fx, (centre_px[1] - k.cy) / k.fy
    upright = upright_angle(axis[:2] - np.array([x, y]) * axis[2])
    return upright + np.radians(rng.uniform(-35, 35)) + (np.pi if draw < 0.7 else 0.0)


def make_sample(
    view: View, affine: np.ndarray, size: int, rng: np.random.Generator, augment: bool
) -> Sample:
    """Cut one sample; without `augment` the sensor model's depth and the plain colour."""
    k = view.intrinsics
    u, v = pixel_maps(affine, size)
    scale = float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))
    sensor = rng.random() if augment else 0.0
    if sensor < MODEL_SENSOR_SHARE:
        depth = sample_depth(view.measured_m, affine, size)
    elif sensor < MODEL_SENSOR_SHARE + PERFECT_SENSOR_SHARE:
        depth = sample_depth(view.depth_m, affine, size)
    else:
        du, dv = warp_jitter(rng, u, v, scale)
        depth = _nearest(np.nan_to_num(view.depth_m, nan=0.0), du, dv)
        depth[depth <= 0] = np.nan
        depth = degrade_depth(rng, depth)
    label = _nearest(view.instance, u, v)
    tissue = _nearest(view.tissue_m, u, v)
    colour = cv2.remap(view.colour, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    colour = colour.astype(np.float32) / 255.0
    if augment:
        pitch = scale * view.median_m / k.fx
        add_glints(rng, depth, colour, label)
        add_blood(rng, depth, colour, label)
        add_implants(rng, depth, colour, label, pitch)
        add_occluders(rng, depth, colour, label, pitch)
        colour = shift_colour(rng, colour)
        crop_out(rng, depth, colour, label)
    # Votes start from the measured point, noise included, as they do at inference.
    points, x, y = camera_points(depth, affine, k)
    inputs = features(depth, colour, x, y, affine, (k.fx, k.fy))

    seen = np.isfinite(depth)
    bone = (label > 0) & seen
    clean = bone & (tissue < CLEAN_LIMIT_M)
    half = np.s_[::2, ::2]
    row = label[half].astype(int) - 1
    row[row < 0] = 0
    centres, cranials, dorsals = (
        a if len(a) else np.zeros((1, 3), np.float32)
        for a in (view.centre_m, view.cranial, view.dorsal)
    )
    offset = (centres[row] - points[half]) / np.float32(CENTRE_SCALE_M)
    roll = -roll_of(affine)
    vectors = np.concatenate(
        [
            turn(to_ray_frame(a, x[half], y[half]), roll)
            for a in (offset, cranials[row], dorsals[row])
        ],
        axis=2,
    ).transpose(2, 0, 1)
    holds = bone[half] & np.isfinite(vectors).all(axis=0)
    return Sample(
        inputs,
        bone.astype(np.float32),
        clean.astype(np.float32),
        seen.astype(np.float32),
        np.where(holds, vectors, 0.0).astype(np.float32),
        holds.astype(np.float32),
        np.where(bone, label, 0).astype(np.uint8),
    )


def _nearest(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return cv2.remap(image, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
