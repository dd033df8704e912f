# SPDX-License-Identifier: Apache-2.0
"""`spinenav calibrate pivot`, `handeye` and `time`: pose streams to a file."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.calibration_file import write_values
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.geometry import invert, q_xyzw_from_rotation
from spine_nav_common.core.handeye import PoseNoise, calibrate_handeye
from spine_nav_common.core.pivot import calibrate_pivot
from spine_nav_common.core.pose_streams import PoseStream, read_poses
from spine_nav_common.core.time_offset import time_offset
from spine_nav_common.core.types import Rejected

_SLOP_S = 0.01
_MOST_PAIRS = 60


def _rms(x: np.ndarray, scale: float = 1.0) -> float:
    return round(scale * float(np.sqrt((x**2).mean())), 4)


def _numbers(x: np.ndarray, scale: float = 1.0) -> list[float]:
    return [float(f"{scale * v:.9g}") for v in np.ravel(x)]


def _dated(serial: str, days: int) -> dict[str, Any]:
    made = datetime.now(timezone.utc).date()
    return {
        "serial": serial,
        "made": made.isoformat(),
        "expires": (made + timedelta(days=days)).isoformat(),
    }


def pivot(source: str, out: Path, *, unit: str, serial: str, days: int) -> str:
    """The tip of a pointer to a file; returns what to tell. Raises InputError."""
    stream = read_poses(source, unit)
    found = calibrate_pivot(stream.T)
    if isinstance(found, Rejected):
        raise InputError(source, "poses", found.reason, "and record again")
    gone = [f"{t:.3f} s" for t in stream.stamp_s[~found.used]]
    told = {
        "poses": len(stream), "left out": gone, "swing_deg": round(found.swing_deg, 1),
        "residual_rms_mm": _rms(found.residual_m[found.used], 1e3),
        "held_out_rms_mm": _rms(found.held_out_m, 1e3), "sigma_worst_mm": round(1e3 * found.sigma_m, 3),
    }  # fmt: skip
    values = {
        **_dated(serial, days), "tip_m": _numbers(found.tip_m),
        "covariance_mm2": _numbers(found.covariance_m2, 1e6), "told": told,
    }  # fmt: skip
    write_values(out, "pivot", 1, values)
    tip = ", ".join(f"{1e3 * v:.2f}" for v in found.tip_m)
    return (
        f"tip at {tip} mm in the marker's frame, sigma {told['sigma_worst_mm']} mm where it is known worst"
        f"\n{found.used.sum()} of {len(stream)} poses, swing {told['swing_deg']} deg (RMS, least axis); residual"
        f" {told['residual_rms_mm']} mm, {told['held_out_rms_mm']} on parts that took no part (RMS)"
        + (f"\nleft out: {', '.join(gone)}" if gone else "")
    )  # fmt: skip


def paired(
    a: PoseStream, b: PoseStream, offset_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) stamps and (N, 4, 4) poses of both streams at one moment, evenly thinned."""
    at = b.stamp_s + offset_s
    after = np.clip(np.searchsorted(a.stamp_s, at), 1, len(a) - 1)
    near = np.where(at - a.stamp_s[after - 1] < a.stamp_s[after] - at, after - 1, after)
    good = np.flatnonzero(np.abs(a.stamp_s[near] - at) <= _SLOP_S)
    if len(good) > _MOST_PAIRS:
        good = good[np.linspace(0, len(good) - 1, _MOST_PAIRS).round().astype(int)]
    return at[good], a.T[near[good]], b.T[good]


def handeye(
    body: str, camera: str, out: Path, *, unit: str, offset_ms: float, noise: PoseNoise, inverted: str,
    frames: tuple[str, str], serial: str, days: int,
) -> str:  # fmt: skip
    """Where a camera sits on a tracked body to a file; returns what to tell. Raises InputError.

    inverted: which streams are the other way round: "", "body", "camera" or "both".
    """
    streams = [read_poses(s, unit) for s in (body, camera)]
    for i, name in enumerate(("body", "camera")):
        if inverted in (name, "both"):
            streams[i] = PoseStream(streams[i].stamp_s, np.array([invert(T) for T in streams[i].T]))
    stamps, a, b = paired(streams[0], streams[1], 1e-3 * offset_ms)
    if not len(stamps):
        raise InputError(
            camera, "stamps", f"no pose lies within {1e3 * _SLOP_S:.0f} ms of one of {body}",
            "give the clocks' difference: --offset MS (spinenav calibrate time)",
        )  # fmt: skip
    found = calibrate_handeye(a, b, noise, noise)
    if isinstance(found, Rejected):
        raise InputError(camera, "poses", found.reason, "and record again")
    gone = [f"{t:.3f} s" for t in stamps[~found.used]]
    told = {
        "pairs": len(stamps), "left out": gone, "sigma_mm": round(found.sigma_mm, 4),
        "sigma_deg": round(found.sigma_deg, 4), "noise_over_stated": round(found.noise, 2),
        "held_out_rms_mm": _rms(found.held_out_mm), "held_out_rms_deg": _rms(found.held_out_deg),
    }  # fmt: skip
    X = found.T_body_camera
    edge = {
        "parent": frames[0], "child": frames[1], "translation_m": _numbers(X[:3, 3]),
        "q_xyzw": _numbers(q_xyzw_from_rotation(X[:3, :3])),
    }  # fmt: skip
    values = {
        **_dated(serial, days), "transforms": [edge],
        "T_base_target": _numbers(found.T_base_target), "covariance": _numbers(found.covariance),
        "told": told,
    }  # fmt: skip
    write_values(out, "handeye", 1, values)
    t = ", ".join(f"{1e3 * v:.2f}" for v in X[:3, 3])
    return (
        f"{frames[1]} at {t} mm in {frames[0]}: sigma {told['sigma_mm']} mm, {told['sigma_deg']} deg where it"
        f" is known worst\n{found.used.sum()} of {len(stamps)} pairs; a pair that took no part errs by"
        f" {told['held_out_rms_mm']} mm, {told['held_out_rms_deg']} deg at the target (RMS); noise"
        f" {told['noise_over_stated']} times what was stated"
        + (f"\nleft out: {', '.join(gone)}" if gone else "")
    )  # fmt: skip


def clocks(first: str, second: str, out: Path, *, most_s: float, serial: str, days: int) -> str:
    """The time between two streams to a file; returns what to tell. Raises InputError."""
    found = time_offset(read_poses(first), read_poses(second), most_s)
    if isinstance(found, Rejected):
        raise InputError(second, "poses", found.reason, "and record again")
    told = {"alike": round(found.alike, 3), "elsewhere": round(found.rival, 3)}
    values = {
        **_dated(serial, days), "offset_ms": round(1e3 * found.offset_s, 3),
        "sigma_ms": round(1e3 * found.sigma_s, 3), "told": told,
    }  # fmt: skip
    write_values(out, "time", 1, values)
    return (
        f"stamps of {second} are {-1e3 * found.offset_s:.2f} ms ahead: add {1e3 * found.offset_s:.2f} ms"
        f" (sigma {1e3 * found.sigma_s:.2f}); the two speeds are alike by {told['alike']}, elsewhere by"
        f" {told['elsewhere']} at most"
    )
