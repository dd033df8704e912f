# SPDX-License-Identifier: Apache-2.0
"""One pose of a vertebra from several registered cameras, each with its own errors.

A camera's pose errs by noise that is new in every frame, and by a bias (its depth's, that of the
transform between the cameras) that stays. The biases of all cameras are estimated jointly, with the
pose free in every frame: what two cameras disagree about is told to be theirs, by their covariances.
So where one camera fails the other's bias is known as well as both knew it, and the pose does not jump;
the estimate then forgets slowly what it knew of the bias, and its covariance grows to that of one
camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import chi2

from spine_nav_common.core.geometry import check_transform, exp_so3, log_so3
from spine_nav_common.core.types import Rejected

FORGET_S = 20.0
"""A bias is known for so long: it changes as camera and patient move against each other."""
CHANCE = 1e-6
"""Cameras that differ by more than their covariances allow with this chance contradict each other: one of
them is wrong, and nothing tells which."""


@dataclass(frozen=True)
class CameraPose:
    """One camera's pose of one vertebra, in the common frame (the first camera's, say).

    Attributes:
        T_common_ct: (4, 4), metres.
        noise, bias: (6, 6) covariances of what is new in each frame and of what stays; translation of
            `anchor` (metres) first, then rotation vector (rad), in the common frame's axes. The error
            of the transform between the cameras belongs to `bias`.
    """

    T_common_ct: np.ndarray
    noise: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Biases:
    """What is known of the cameras' biases: mean (6 n,), covariance (6 n, 6 n), prior (6 n, 6 n), and what
    has been allowed for of its growth, `widest` (6 n, 6 n)."""

    cameras: tuple[str, ...] = ()
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    covariance: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    prior: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    widest: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    stamp_ns: int = 0


@dataclass(frozen=True)
class Fused:
    """The pose (4, 4) in the common frame, its total covariance (6, 6) as `CameraPose`, who took part."""

    T_common_ct: np.ndarray
    covariance: np.ndarray
    cameras: tuple[str, ...]


def fuse(
    known: Biases, stamp_ns: int, seen: Mapping[str, CameraPose], anchor_ct_m: np.ndarray
) -> tuple[Biases, Fused | Rejected]:
    """The pose at `stamp_ns` (ns, not before the last) from the cameras that saw the vertebra.

    Args:
        seen: by camera; a camera that failed, or whose pose is rejected, is left out.
        anchor_ct_m: (3,) point of the bone about which covariances are stated, mesh frame.

    Returns the biases to give to the next call, and the pose; Rejected where no camera saw it or the
    cameras contradict each other (then the biases stay as they were). Raises ValueError for a pose that is
    no rigid transform.
    """
    if not seen:
        return known, Rejected("no camera sees it")
    for name, pose in seen.items():
        check_transform(pose.T_common_ct, name)
    before = _forgotten(_with(known, seen), stamp_ns)
    names = [n for n in before.cameras if n in seen]
    base = seen[names[0]].T_common_ct
    z = np.concatenate([difference(seen[n].T_common_ct, base, anchor_ct_m) for n in names])
    rows = np.concatenate([_slot(before.cameras.index(n)) for n in names])
    H = np.tile(np.eye(6), (len(names), 1))  # every camera measures the one pose
    B = np.zeros((len(rows), len(before.mean)))
    B[np.arange(len(rows)), rows] = 1.0
    noise = np.zeros((len(rows), len(rows)))
    for i, n in enumerate(names):
        noise[6 * i : 6 * i + 6, 6 * i : 6 * i + 6] = seen[n].noise
    S = B @ before.covariance @ B.T + noise  # of the measurements about the pose
    W = np.linalg.inv(S)
    P = np.linalg.inv(H.T @ W @ H)
    off = z - B @ before.mean
    x = P @ H.T @ W @ off
    left = off - H @ x
    freedom = len(rows) - 6
    if freedom and left @ W @ left > chi2.isf(CHANCE, freedom):
        mm = 1e3 * np.linalg.norm(z[6:9] - z[:3])
        return known, Rejected(
            f"the cameras {', '.join(names)} contradict each other ({mm:.1f} mm): check their transform"
        )
    gain = before.covariance @ B.T @ (W - W @ H @ P @ H.T @ W)
    covariance = before.covariance - gain @ B @ before.covariance
    after = Biases(
        before.cameras, before.mean + gain @ off, 0.5 * (covariance + covariance.T), before.prior,
        before.widest, stamp_ns,
    )  # fmt: skip
    return after, Fused(moved(base, x, anchor_ct_m), P, tuple(names))


def _slot(i: int) -> np.ndarray:
    return np.arange(6 * i, 6 * i + 6)


def _with(known: Biases, seen: Mapping[str, CameraPose]) -> Biases:
    """Cameras that were never seen begin with their prior; the others' priors are those of now, and what
    a prior has grown by (less bone in view, say) may have changed the bias by as much."""
    cameras = known.cameras + tuple(n for n in seen if n not in known.cameras)
    size, old = 6 * len(cameras), len(known.mean)
    mean = np.zeros(size)
    mean[:old] = known.mean
    covariance, prior, widest = np.zeros((3, size, size))
    for grown, before in (
        (covariance, known.covariance), (prior, known.prior), (widest, known.widest),
    ):  # fmt: skip
        grown[:old, :old] = before
    for i, name in enumerate(cameras):
        own = np.ix_(_slot(i), _slot(i))
        if i >= len(known.cameras):
            covariance[own] = prior[own] = widest[own] = seen[name].bias
        elif name in seen:
            more = _growth(widest[own], seen[name].bias)
            covariance[own] += more
            widest[own] += more
            prior[own] = seen[name].bias
    return Biases(cameras, mean, covariance, prior, widest, known.stamp_ns)


def _growth(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """(6, 6) by how much a covariance has grown, in the directions in which it has."""
    scale = np.sqrt(np.diag(now)) + 1e-12  # metres and radians beside each other
    value, axis = np.linalg.eigh((now - before) / np.outer(scale, scale))
    grown = (axis * np.maximum(value, 0.0)) @ axis.T
    return np.asarray(grown * np.outer(scale, scale))


def _forgotten(known: Biases, stamp_ns: int) -> Biases:
    """Towards the prior, by how much time has passed."""
    since_s = 1e-9 * max(0, stamp_ns - known.stamp_ns) if known.stamp_ns else 0.0
    kept = float(np.exp(-since_s / FORGET_S))
    covariance, widest = (
        kept**2 * known_ + (1.0 - kept**2) * known.prior
        for known_ in (known.covariance, known.widest)
    )
    return Biases(known.cameras, kept * known.mean, covariance, known.prior, widest, stamp_ns)


def difference(T: np.ndarray, base: np.ndarray, anchor_m: np.ndarray) -> np.ndarray:
    """(6,) from base to T: how the anchor moves, and the rotation vector, in the common axes."""
    shift = (T[:3, :3] - base[:3, :3]) @ anchor_m + T[:3, 3] - base[:3, 3]
    return np.concatenate([shift, log_so3(T[:3, :3] @ base[:3, :3].T)])


def moved(base: np.ndarray, x: np.ndarray, anchor_m: np.ndarray) -> np.ndarray:
    """(4, 4) the pose at `difference` x (6,) from base."""
    T = np.eye(4)
    T[:3, :3] = exp_so3(x[3:]) @ base[:3, :3]
    T[:3, 3] = base[:3, :3] @ anchor_m + base[:3, 3] + x[:3] - T[:3, :3] @ anchor_m
    return T
