# SPDX-License-Identifier: Apache-2.0
"""A small invented patient and camera for the tests of this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh

from spine_nav_common.core.case import anatomical_axes, write_case
from spine_nav_common.core.types import Case, Intrinsics, Mesh, RgbdFrame, ScrewPlan, StereoFrame


def make_case(levels: tuple[str, ...] = ("L1", "L2", "L3"), frame: str = "LPS") -> Case:
    """Ellipsoids with a spinous tip, 35 mm apart, off the origin so that no mirror looks alike."""
    left, posterior, superior = anatomical_axes(frame).T
    meshes, plan = {}, []
    for i, level in enumerate(levels):
        centre = 0.030 * left + 0.070 * posterior + (0.200 - 0.035 * i) * superior
        sphere = trimesh.creation.icosphere(subdivisions=2)
        v = sphere.vertices * (0.040, 0.025, 0.014)
        v[:, 1] += 0.020 * np.exp(-((v[:, 0] / 0.010) ** 2)) * (v[:, 1] > 0)
        axes = np.stack([left, posterior, superior], axis=1)
        meshes[level] = Mesh(v @ axes.T + centre, sphere.faces.astype(np.int32))
        for side, sign in (("left", 1.0), ("right", -1.0)):
            entry = centre + sign * 0.020 * left + 0.022 * posterior
            plan.append(
                ScrewPlan(level, side, entry, entry - 0.035 * posterior - sign * 0.01 * left)
            )
    return Case("invented", frame, meshes, levels, tuple(plan), "")


@pytest.fixture
def case() -> Case:
    return make_case()


@pytest.fixture
def case_dir(tmp_path: Path, case: Case) -> Path:
    write_case(tmp_path / "case", case)
    return tmp_path / "case"


CAMERA = Intrinsics(48, 32, 60.0, 61.0, 23.5, 15.5)


def make_rgbd(i: int = 0, camera: Intrinsics = CAMERA) -> RgbdFrame:
    """Frame i of a 30 Hz stream: noise in colour, a plane with holes at about half a metre."""
    rng = np.random.default_rng(i)
    shape = (camera.height, camera.width)
    depth = (0.45 + 0.1 * rng.random(shape)).round(3).astype(np.float32)
    depth[rng.random(shape) < 0.2] = np.nan
    colour = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    return RgbdFrame(1_700_000_000_000_000_000 + i * 33_333_333, colour, depth, camera)


def make_stereo(i: int = 0, camera: Intrinsics = CAMERA) -> StereoFrame:
    rng = np.random.default_rng(i)
    left, right = rng.integers(0, 256, (2, camera.height, camera.width), dtype=np.uint8)
    return StereoFrame(1_700_000_000_000_000_000 + i * 33_333_333, left, right, camera, 0.06)


@pytest.fixture
def rgbd() -> Callable[..., RgbdFrame]:
    return make_rgbd


@pytest.fixture
def stereo() -> Callable[..., StereoFrame]:
    return make_stereo


@pytest.fixture
def build_case() -> Callable[..., Case]:
    return make_case
