# SPDX-License-Identifier: Apache-2.0
"""The types that every room of SpineNav shares. SI units; `T_target_source` maps source to target.

Covariances are 6x6, translation first (x, y, z, rx, ry, rz), a left perturbation in the camera
frame about the frame's origin of the estimate's *anchor point*: T = Exp(xi) applied about `anchor`.
See docs/conventions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

LEVELS: tuple[str, ...] = (
    *(f"T{i}" for i in range(1, 13)),
    *(f"L{i}" for i in range(1, 7)),
    "S1",
)
LEVEL_CODE: dict[str, int] = {level: i + 1 for i, level in enumerate(LEVELS)}
BONE_OF_UNKNOWN_LEVEL = 254


class Status(str, Enum):
    """State of one level in one frame; only TRACKED may be shown as guidance."""

    SEARCHING = "searching"
    REGISTERING = "registering"
    TRACKED = "tracked"
    OCCLUDED = "occluded"
    LOST = "lost"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Rejected:
    """A refusal: what was asked for is not given, and why."""

    reason: str


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera of a rectified image; pixel centres at integer coordinates, in pixels."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class RgbdFrame:
    """One RGB-D frame. colour (H, W, 3) uint8 RGB; depth_m (H, W) float32 metres, NaN = none;
    both on the colour camera's pixel grid. stamp_ns is the colour image's header stamp."""

    stamp_ns: int
    colour: np.ndarray
    depth_m: np.ndarray
    intrinsics: Intrinsics
    frame_id: str = "camera_color_optical_frame"


@dataclass(frozen=True)
class StereoFrame:
    """One rectified stereo pair, (H, W) or (H, W, 3) uint8; baseline_m > 0."""

    stamp_ns: int
    left: np.ndarray
    right: np.ndarray
    intrinsics: Intrinsics
    baseline_m: float
    frame_id: str = "stereo_left_optical_frame"


@dataclass(frozen=True)
class Mesh:
    """A triangle surface: vertices_m (N, 3) float64 metres, faces (M, 3) int32, outward winding."""

    vertices_m: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class ScrewPlan:
    """A planned screw in the case's mesh frame, metres. side is 'left' or 'right'."""

    level: str
    side: str
    entry_m: np.ndarray
    target_m: np.ndarray


@dataclass(frozen=True)
class Case:
    """The preoperative data of one patient. frame is 'LPS' or 'RAS' and rules over meshes and plan
    alike (the plan has been brought into the mesh frame). Meshes share one CT frame, in metres.
    notes: what the reader mended or guessed; every run shows them to the user. landmarks: by level and
    name, (3,) metres, what the surgeon touches to check a pose. lies: as the bones lie, where that is not
    as frame says, see `orientation`."""

    name: str
    frame: str
    meshes: dict[str, Mesh]
    exposed_levels: tuple[str, ...]
    plan: tuple[ScrewPlan, ...]
    sha256: str
    notes: tuple[str, ...] = ()
    landmarks: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    lies: str = ""

    @property
    def orientation(self) -> str:
        """Where the patient's left, posterior and superior are, for `anatomical_axes`: three letters,
        to which side x, y and z point."""
        return self.lies or self.frame

    def plan_points_m(self, level: str) -> np.ndarray:
        """(4, 3) entry and target, left then right, or (N, 3) mesh vertices without plan lines."""
        lines = [p for p in self.plan if p.level == level]
        if not lines:
            return self.meshes[level].vertices_m
        lines.sort(key=lambda p: p.side)
        return np.array([q for p in lines for q in (p.entry_m, p.target_m)])


@dataclass(frozen=True)
class LevelEstimate:
    """What is known of one level in one frame. T_camera_ct is None unless TRACKED or OCCLUDED.

    noise: the part of `covariance` that is new with every frame; what is left of it stays (bias).
    measured: of an OCCLUDED level, this frame placed it and its predicted TRE alone is too large to show.
    """

    level: str
    status: Status
    T_camera_ct: np.ndarray | None = None
    covariance: np.ndarray | None = None
    anchor_camera_m: np.ndarray | None = None
    predicted_tre_mm: float | None = None
    reason: str = ""
    noise: np.ndarray | None = None
    measured: bool = False


@dataclass(frozen=True)
class NavigationResult:
    """All exposed levels in one frame, in the order of the case; timings in ms per stage.

    identity: "unknown", "proven" or "refused": whether this is the spine of the case, by its shape.
    identity_margin_nat: by how much the case's shape leads other people's; None before a comparison.
    """

    stamp_ns: int
    levels: tuple[LevelEstimate, ...]
    timings_ms: dict[str, float] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    labels: np.ndarray | None = None  # (H, W) uint8, docs/contracts.md, section 6
    identity: str = "unknown"
    identity_margin_nat: float | None = None


@dataclass(frozen=True)
class Head3D:
    """A triangulated head. point_m (3,), covariance_m2 (3, 3), axis (3,) unit out of the bone.

    epipolar_px: how far left and right rows differ.
    """

    point_m: np.ndarray
    covariance_m2: np.ndarray
    axis: np.ndarray
    axis_sigma_rad: float
    confidence: float
    epipolar_px: float


@dataclass(frozen=True)
class ScrewTrack:
    """A head followed over frames. hidden: not measured in this frame but held."""

    track_id: int
    head: Head3D
    bound95_mm: float
    level: str = ""
    side: str = ""
    hidden: bool = False
    age: int = 1


@dataclass(frozen=True)
class RodFit:
    """One rod as a smooth 3D curve: points (N, 3) at most 1 mm apart from end to end.

    sigma_mm (N,): standard error of the curve (3D, root of the covariance's trace); seen (N,) bool.
    free_m (N, 3): the same places as measured without the heads that hold the rod; free_sigma_mm
    (N,): standard error of that curve's shape, wherever the whole of it lies. None: not told.
    """

    centreline_m: np.ndarray
    sigma_mm: np.ndarray
    seen: np.ndarray
    side: str = ""
    free_m: np.ndarray | None = None
    free_sigma_mm: np.ndarray | None = None


@dataclass(frozen=True)
class StereoResult:
    """All screws and rods of one frame; timings in ms per stage; events in words for the user."""

    stamp_ns: int
    screws: tuple[ScrewTrack, ...]
    rods: tuple[RodFit, ...]
    timings_ms: dict[str, float]
    events: tuple[str, ...] = ()
