# SPDX-License-Identifier: Apache-2.0
"""Designs of pedicle screws, drawn at random per family, and how a screw stands in the bone.

Tulip frame: origin at the saddle point (where the axis of a seated rod crosses the tulip's axis),
+z along the tulip's axis out of the bone, +x along the rod channel; the arms stand at +-y.
Shank frame: origin at the ball's centre, +z out of the bone, the shank runs to -z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MM = 1e-3
FAMILIES_TRAIN = ("round", "flats", "slim", "reduction", "monoaxial", "modular")
# never used for training: the judge's screws must look different from all that was learnt
FAMILIES_JUDGE = ("closed_ring", "square_flared")
# beside FAMILIES_TRAIN where networks learn: operations, demo and calibration keep to the ones above
FAMILIES_SCHOOL = (*FAMILIES_TRAIN, "winged", "mixed")
ROD_DIAMETERS_M = (0.00475, 0.0055, 0.006)


@dataclass(frozen=True)
class ScrewDesign:
    """One screw in metres and radians. `top_m`, `bottom_m`: tulip's ends above, below the saddle.

    flat_x_m, flat_y_m: half width of flats cut at the channel's ends and at the arms' outsides
    (at least the radius: none). squareness: 2 is round, larger is a superellipse. taper: radius at
    the tulip's bottom over that at its top. crown: how the top's outer edge is broken over
    `chamfer_m`, 'chamfer' or 'round'. tabs_m: arms' extra length (reduction screw), part of
    `top_m`. notch_m: depth of the tool notches. drive: 'hex' or 'torx'. ball_only: the
    modular screw before its tulip is mounted: the tulip's measures are the ball's, and the saddle
    point is its centre.
    """

    family: str
    shank_diameter_m: float
    shank_length_m: float
    thread_pitch_m: float
    thread_depth_m: float
    thread_starts: int
    neck_m: float
    ball_radius_m: float
    rod_diameter_m: float
    tulip_diameter_m: float
    top_m: float
    bottom_m: float
    wall_m: float
    channel_m: float
    saddle_to_ball_m: float
    max_tilt_rad: float
    flat_x_m: float
    flat_y_m: float
    squareness: float
    taper: float
    crown: str
    chamfer_m: float
    tabs_m: float
    notch_m: float
    drive: str
    drive_m: float
    closed_head: bool = False
    monoaxial: bool = False
    ball_only: bool = False

    @property
    def tulip_height_m(self) -> float:
        """Height of the tulip without extended tabs."""
        return self.top_m + self.bottom_m - self.tabs_m


@dataclass(frozen=True)
class ScrewPose:
    """A screw standing in the world: saddle_m (3,), axis (3,) unit, the tulip's, out of the bone."""

    T_world_shank: np.ndarray
    T_world_tulip: np.ndarray
    saddle_m: np.ndarray
    axis: np.ndarray


def random_screw_design(
    rng: np.random.Generator, families: Sequence[str], rod_diameter_m: float | None = None
) -> ScrewDesign:
    """Draw a screw of one of `families` (names of FAMILIES_TRAIN or FAMILIES_JUDGE).

    rod_diameter_m: the rod it must take, None draws one of ROD_DIAMETERS_M.

    Raises:
        ValueError: an unknown family, or a rod thinner than 4 or thicker than 6.5 mm.
    """
    family = str(rng.choice(list(families)))
    if family not in FAMILIES_SCHOOL + FAMILIES_JUDGE:
        raise ValueError(f"families: no screw family {family!r}; use FAMILIES_TRAIN or _JUDGE")
    rod = float(rng.choice(ROD_DIAMETERS_M, p=[0.2, 0.55, 0.25]))
    if rod_diameter_m is not None:
        rod = float(rod_diameter_m)
        if not 4.0 * MM <= rod <= 6.5 * MM:
            raise ValueError(f"rod_diameter_m: {rod:.4g} is no spinal rod; use 0.004 to 0.0065")
    channel = rod + rng.uniform(0.15, 0.4) * MM
    least = max(11.0 * MM, channel + 5.4 * MM)
    diameter = rng.uniform(least, 15.0 * MM)
    squared = family == "square_flared"
    if family == "slim":
        diameter = rng.uniform(least, least + 1.0 * MM)
    if squared:  # its sides lie nearer than the corners, to which the diameter refers
        diameter = rng.uniform(13.0 * MM, 15.0 * MM)
    # the set screw's thread must bite into both arms and leave a wall
    wall = 0.5 * diameter - 0.5 * channel - rng.uniform(0.6, 1.1) * MM
    ball_radius = rng.uniform(2.8, 3.6) * MM
    monoaxial = family == "monoaxial"
    modular = family == "modular"
    if modular:
        ball_radius = rng.uniform(3.0, 5.0) * MM
    saddle_to_ball = 0.0 if modular else 0.5 * rod + rng.uniform(0.5, 1.2) * MM + ball_radius
    radius = 0.5 * diameter
    tabs = rng.uniform(10.0, 20.0) * MM if family == "reduction" else 0.0
    winged = family == "winged"
    if winged:  # short tabs that spread, as they are bent open for the rod
        tabs = rng.uniform(4.0, 12.0) * MM
    mixed = family == "mixed"  # every measure by itself, beyond what the named families have
    if mixed:
        diameter = rng.uniform(least, 17.0 * MM)
        wall = 0.5 * diameter - 0.5 * channel - rng.uniform(0.6, 1.1) * MM
        radius = 0.5 * diameter
        tabs = rng.uniform(2.0, 16.0) * MM if rng.uniform() < 0.4 else 0.0
        monoaxial = bool(rng.uniform() < 0.3)
    top = max(0.5 * rod + rng.uniform(3.4, 6.0) * MM, 13.0 * MM - saddle_to_ball - 1.8 * MM)
    if mixed:
        top += rng.uniform(-0.5, 2.5) * MM
    bottom = saddle_to_ball + rng.uniform(0.3, 0.6) * ball_radius
    bottom = min(max(bottom, 13.0 * MM - top), 19.0 * MM - top)
    if modular:  # nothing but the ball
        top, bottom, diameter = ball_radius, 0.75 * ball_radius, 2.0 * ball_radius
    flat_x = radius * (rng.uniform(0.74, 0.92) if family in ("flats", "slim") else 1.05)
    if family in ("monoaxial", "reduction") and rng.uniform() < 0.5:
        flat_x = radius * rng.uniform(0.78, 0.95)
    flat_y = radius * (rng.uniform(0.88, 0.97) if family == "flats" else 1.05)
    if mixed:
        flat_x = radius * (rng.uniform(0.74, 0.98) if rng.uniform() < 0.5 else 1.05)
        flat_y = radius * (rng.uniform(0.85, 0.98) if rng.uniform() < 0.5 else 1.05)
    rounded = winged or (mixed and rng.uniform() < 0.5)
    return ScrewDesign(
        family=family,
        shank_diameter_m=rng.uniform(4.5, 8.5) * MM,
        shank_length_m=rng.uniform(30.0, 60.0) * MM,
        thread_pitch_m=rng.uniform(2.0, 3.2) * MM,
        thread_depth_m=rng.uniform(0.5, 1.0) * MM,
        thread_starts=int(rng.choice([1, 2], p=[0.6, 0.4])),
        neck_m=rng.uniform(1.0, 3.0) * MM,
        ball_radius_m=ball_radius,
        rod_diameter_m=rod,
        tulip_diameter_m=diameter,
        top_m=top + tabs,
        bottom_m=bottom,
        wall_m=wall,
        channel_m=channel,
        saddle_to_ball_m=saddle_to_ball,
        max_tilt_rad=0.0 if monoaxial or modular else float(np.deg2rad(rng.uniform(20.0, 35.0))),
        flat_x_m=flat_x,
        flat_y_m=flat_y,
        squareness=rng.uniform(3.5, 6.0) if squared else rng.uniform(2.3, 3.0) if rounded else 2.0,
        taper=rng.uniform(0.66, 0.8) if squared else rng.uniform(0.8, 1.0),
        crown=str(rng.choice(["chamfer", "round"])),
        chamfer_m=rng.uniform(0.3, 1.4) * MM,
        tabs_m=tabs,
        notch_m=0.0 if rng.uniform() < 0.35 else rng.uniform(0.3, 0.8) * MM,
        drive=str(rng.choice(["hex", "torx"])),
        drive_m=rng.uniform(3.0 * MM, min(4.4 * MM, 0.66 * channel)),
        closed_head=family == "closed_ring",
        monoaxial=monoaxial,
        ball_only=modular,
    )


def _unit(vector: np.ndarray, name: str) -> np.ndarray:
    vector = np.asarray(vector, float)
    length = float(np.linalg.norm(vector))
    if vector.shape != (3,) or not np.isfinite(length) or length < 1e-9:
        raise ValueError(f"{name}: needs a finite vector of three, not zero")
    return vector / length


def _frame(axis: np.ndarray, hint: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """T_world_frame with +z on `axis` and +x as near to `hint` as that allows."""
    x = hint - axis * (hint @ axis)
    if np.linalg.norm(x) < 1e-6:  # hint along the axis: any direction is as near
        x = np.eye(3)[np.argmin(np.abs(axis))]
        x = x - axis * (x @ axis)
    x = x / np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3] = np.column_stack([x, np.cross(axis, x), axis])
    T[:3, 3] = origin
    return T


def screw_pose(
    design: ScrewDesign,
    entry_m: np.ndarray,
    direction_out: np.ndarray,
    channel_hint: np.ndarray,
    tilt_rad: float = 0.0,
    tilt_towards: np.ndarray | None = None,
    standoff_m: float = 0.004,
    spin_rad: float = 0.0,
) -> ScrewPose:
    """Stand a screw in the bone.

    entry_m (3,): entry point; direction_out (3,): the trajectory from target to entry; the ball's
    centre lies `standoff_m` above the entry on it. The tulip leans by `tilt_rad`, at most
    design.max_tilt_rad, towards `tilt_towards` (3,) (needed for a tilt; its part along the
    trajectory does not count) and turns so that +x comes as near as possible to channel_hint (3,).
    spin_rad: how far the shank has been turned in.
    """
    out = _unit(direction_out, "direction_out")
    hint = _unit(channel_hint, "channel_hint")
    ball = np.asarray(entry_m, float) + standoff_m * out
    tilt = float(np.clip(tilt_rad, 0.0, design.max_tilt_rad))
    axis = out
    if tilt > 0.0:
        if tilt_towards is None:
            raise ValueError("tilt_towards: missing; a tilted tulip needs a direction to lean to")
        towards = np.asarray(tilt_towards, float)
        sideways = _unit(towards - out * (towards @ out), "tilt_towards")
        axis = np.cos(tilt) * out + np.sin(tilt) * sideways
    saddle = ball + design.saddle_to_ball_m * axis
    spun = _frame(out, hint, ball)
    c, s = np.cos(spin_rad), np.sin(spin_rad)
    spun[:3, :3] = spun[:3, :3] @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    return ScrewPose(spun, _frame(axis, hint, saddle), saddle, axis)
