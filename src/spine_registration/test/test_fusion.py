# SPDX-License-Identifier: Apache-2.0
"""Two cameras on one vertebra: better than each, no jump where one fails, and no pose where they disagree."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from spine_nav_common.core.geometry import exp_so3, transform
from spine_nav_common.core.types import Rejected
from spine_registration.core.fusion import Biases, CameraPose, Fused, fuse

ANCHOR = np.array([0.01, -0.02, 0.3])
TRUE = transform(exp_so3(np.array([0.3, -0.2, 0.1])), np.array([0.02, 0.01, 0.5]))
MS = 1_000_000


def cov(mm: float, deg: float) -> np.ndarray:
    return np.diag([(1e-3 * mm) ** 2] * 3 + [np.radians(deg) ** 2] * 3)


NOISE = cov(0.05, 0.05)


def pose(off: np.ndarray, bias: np.ndarray) -> CameraPose:
    """The true pose, moved by `off` (6,) about the anchor."""
    R = exp_so3(off[3:]) @ TRUE[:3, :3]
    t = TRUE[:3, :3] @ ANCHOR + TRUE[:3, 3] + off[:3] - R @ ANCHOR
    return CameraPose(transform(R, t), NOISE, bias)


def error_mm(fused: Fused) -> float:
    T = fused.T_common_ct
    return 1e3 * float(np.linalg.norm((T[:3, :3] - TRUE[:3, :3]) @ ANCHOR + T[:3, 3] - TRUE[:3, 3]))


def run(seed: int, frames: int, gone: set[int] = frozenset(), sigma_mm=(0.6, 0.6)):
    """Fused poses of two cameras with biases of their own; B alone in the frames `gone`."""
    rng = np.random.default_rng(seed)
    priors = [cov(s, 0.3) for s in sigma_mm]
    biases = [np.linalg.cholesky(p) @ rng.standard_normal(6) for p in priors]
    known, out = Biases(), []
    for i in range(frames):
        seen = {
            name: pose(b + np.linalg.cholesky(NOISE) @ rng.standard_normal(6), p)
            for name, b, p in zip("AB", biases, priors, strict=True)
            if not (name == "A" and i in gone)
        }
        known, fused = fuse(known, (i + 1) * 66 * MS, seen, ANCHOR)
        assert isinstance(fused, Fused)
        out.append(fused)
    return out, biases


def test_both_together_are_better_than_each():
    both, alone = [], []
    for seed in range(40):
        fused, biases = run(seed, 20)
        both.append(error_mm(fused[-1]))
        alone += [1e3 * np.linalg.norm(b[:3]) for b in biases]
    assert np.sqrt(np.mean(np.square(both))) < 0.85 * np.sqrt(np.mean(np.square(alone)))


def test_the_covariance_is_the_error_that_is_made():
    for alone in (set(), set(range(15, 60))):
        distances = []
        for seed in range(60):
            fused, _ = run(seed, 60, alone)
            T, P = fused[-1].T_common_ct, fused[-1].covariance
            e = (T[:3, :3] - TRUE[:3, :3]) @ ANCHOR + T[:3, 3] - TRUE[:3, 3]
            distances.append(e @ np.linalg.inv(P[:3, :3]) @ e)
        assert 2.0 < np.mean(distances) < 4.2, alone  # 3 degrees of freedom


@pytest.mark.parametrize("seed", range(8))
def test_where_one_camera_fails_and_returns_the_pose_does_not_jump(seed):
    fused, biases = run(seed, 90, set(range(30, 60)), (0.8, 0.8))
    apart = 1e3 * np.linalg.norm((biases[0] - biases[1])[:3])
    moved = [
        1e3 * np.linalg.norm(b.T_common_ct[:3] @ [*ANCHOR, 1] - a.T_common_ct[:3] @ [*ANCHOR, 1])
        for a, b in pairwise(fused)
    ]
    assert fused[29].cameras == ("A", "B") and fused[30].cameras == ("B",)
    assert max(moved[29], moved[59]) < 0.5, (moved[29], moved[59], apart)
    assert max(moved[5:]) < 0.5
    grown = [np.trace(f.covariance[:3, :3]) for f in (fused[29], fused[31], fused[59])]
    assert grown[0] <= grown[1] < grown[2]


def test_cameras_that_contradict_each_other_give_no_pose():
    prior = cov(0.5, 0.3)
    off = np.array([0.006, 0.0, 0.0, 0.0, 0.0, 0.0])
    known, fused = fuse(
        Biases(), MS, {"A": pose(np.zeros(6), prior), "B": pose(off, prior)}, ANCHOR
    )
    assert isinstance(fused, Rejected) and "contradict" in fused.reason and "6.0 mm" in fused.reason
    assert known.cameras == ()


def test_no_camera_is_no_pose_and_a_broken_one_is_told():
    known, fused = fuse(Biases(), MS, {}, ANCHOR)
    assert isinstance(fused, Rejected)
    broken = pose(np.zeros(6), NOISE)
    broken.T_common_ct[0, 0] = np.nan
    with pytest.raises(ValueError, match="A"):
        fuse(known, MS, {"A": broken}, ANCHOR)
