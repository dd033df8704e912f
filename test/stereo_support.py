# SPDX-License-Identifier: Apache-2.0
"""What the stereo tests share: a pair of images, a recording of them, and a tracker that needs none."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.static_frames import StaticTransform
from spine_nav_common.core.types import (
    Head3D,
    Intrinsics,
    Rejected,
    RodFit,
    ScrewTrack,
    StereoFrame,
    StereoResult,
)

CAMERA = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)
BASELINE_M = 0.06
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 66_666_667
LEVELS = ("L2", "L3", "L4", "L5")


def heads_m() -> dict[tuple[str, str], np.ndarray]:
    """(level, side) to saddle point (3,): head up in the image, a lordosis, 0.5 m away."""
    found = {}
    for i, level in enumerate(LEVELS):
        for side, sign in (("left", -1.0), ("right", 1.0)):
            z = 0.5 - 0.004 * (1.5 - abs(i - 1.5)) ** 2
            found[level, side] = np.array([sign * (0.020 + 0.001 * i), -0.05 + 0.033 * i, z])
    return found


def tracks(labelled: bool = True, shift_m: float = 0.0) -> tuple[ScrewTrack, ...]:
    """All heads of the fake scene as tracks, axes towards the camera."""
    covariance = np.diag([0.2e-3, 0.2e-3, 0.5e-3]) ** 2
    return tuple(
        ScrewTrack(
            i,
            Head3D(point + (shift_m, 0, 0), covariance, np.array([0.0, 0.0, -1.0]), 0.03, 0.9, 0.2),
            1.1,
            level if labelled else "",
            side if labelled else "",
        )
        for i, ((level, side), point) in enumerate(heads_m().items())
    )


def rod(side: str = "left", overhang_m: float = 0.01) -> RodFit:
    """The rod of one side, cranial end first, through its saddles; its middle is not seen."""
    saddles = np.array([p for (_, s), p in heads_m().items() if s == side])
    y = np.arange(saddles[0, 1] - overhang_m, saddles[-1, 1] + overhang_m, 0.0008)
    x = np.polyval(np.polyfit(saddles[:, 1], saddles[:, 0], 1), y)
    z = np.polyval(np.polyfit(saddles[:, 1], saddles[:, 2], 3), y)
    seen = np.abs(y - y.mean()) > 0.012
    return RodFit(np.stack([x, y, z], axis=1), np.where(seen, 0.3, 0.6), seen, side)


class FakeTracker:
    """Gives the fake scene's heads and rods in every frame, and obeys these modes.

    `reject_at` refuses that frame, `error_at` raises there, `empty` finds nothing, `slow_s` sleeps,
    `hidden` holds that track, `shift_at` moves the first head from that frame on.
    """

    def __init__(
        self, reject_at: int | None = None, error_at: int | None = None, empty: bool = False,
        slow_s: float = 0.0, hidden: int | None = None, labelled: bool = True,
        shift_at: int | None = None,
    ) -> None:  # fmt: skip
        self.reject_at, self.error_at, self.empty = reject_at, error_at, empty
        self.slow_s, self.hidden, self.labelled = slow_s, hidden, labelled
        self.shift_at = shift_at
        self.stamps: list[int] = []
        self.vertebrae: list[object] = []
        self.resets = 0

    def process(self, frame, vertebrae=None, case=None) -> StereoResult | Rejected:
        self.stamps.append(frame.stamp_ns)
        self.vertebrae.append(vertebrae)
        time.sleep(self.slow_s)
        count = len(self.stamps)
        if count == self.error_at:
            raise RuntimeError("broken on purpose")
        if count == self.reject_at:
            return Rejected("the left image is black: check exposure and lens cap")
        if self.empty:
            return StereoResult(frame.stamp_ns, (), (), {"finder": 1.0})
        # depends on the pixels alone, so that equal bytes cannot come from constants
        screws = tracks(self.labelled, shift_m=float(frame.left.mean()) * 1e-6)
        if self.shift_at is not None and count >= self.shift_at:
            head = replace(screws[0].head, point_m=screws[0].head.point_m + (0.012, 0.0, 0.0))
            screws = (replace(screws[0], head=head), *screws[1:])
        if self.hidden is not None:
            screws = tuple(replace(s, hidden=s.track_id == self.hidden) for s in screws)
        rods = (rod("left"), rod("right"))
        return StereoResult(frame.stamp_ns, screws, rods, {"finder": 1.0, "refine": 2.0})

    def reset(self) -> None:
        self.resets += 1


def frame(index: int, camera: Intrinsics = CAMERA) -> StereoFrame:
    """A textured pair at one depth (0.5 m): the right image is the left one shifted."""
    rng = np.random.default_rng(index)
    coarse = rng.integers(30, 220, (camera.height // 8, camera.width // 8 + 8), dtype=np.uint8)
    wide = cv2.resize(coarse, (camera.width + 64, camera.height), interpolation=cv2.INTER_CUBIC)
    disparity = round(camera.fx * BASELINE_M / 0.5)
    left, right = wide[:, : camera.width], wide[:, disparity : disparity + camera.width]
    stamp_ns = START_NS + index * PERIOD_NS
    return StereoFrame(stamp_ns, left.copy(), right.copy(), camera, BASELINE_M)


def write_stereo_recording(folder: Path, count: int = 6, sqlite3: bool = False) -> Path:
    """`count` pairs at 15 Hz; returns the folder."""
    with RecordingWriter(folder, compress=False, sqlite3=sqlite3) as writer:
        for index in range(count):
            writer.write_stereo(frame(index))
    return folder


# How the fake rig lies: the left stereo camera 40 mm beside the colour camera, turned by 5 degrees.
T_LEFT_COLOUR = np.array(
    [
        [np.cos(np.radians(5.0)), 0.0, np.sin(np.radians(5.0)), -0.04],
        [0.0, 1.0, 0.0, 0.002],
        [-np.sin(np.radians(5.0)), 0.0, np.cos(np.radians(5.0)), 0.01],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
Q_LEFT_COLOUR = (0.0, float(np.sin(np.radians(2.5))), 0.0, float(np.cos(np.radians(2.5))))
LEFT, COLOUR = "stereo_left_optical_frame", "camera_color_optical_frame"


def write_calibration(file: Path, shift_m: float = 0.0) -> Path:
    """A calibration file of the fake rig; shift_m: wrong by that much."""
    x, y, z = (float(v) for v in T_LEFT_COLOUR[:3, 3])
    file.write_text(
        f"version: 1\ntransforms:\n- parent: {LEFT}\n  child: {COLOUR}\n"
        f"  translation_m: [{x + shift_m}, {y}, {z}]\n  q_xyzw: {list(Q_LEFT_COLOUR)}\n"
    )
    return file


def record_tf_static(writer: RecordingWriter, stamp_ns: int = START_NS) -> None:
    """The fake rig on /tf_static, both cameras under a link of their own."""
    writer.write_static(
        [
            StaticTransform(LEFT, "rig", np.eye(4), "test"),
            StaticTransform("rig", COLOUR, T_LEFT_COLOUR, "test"),
        ],
        stamp_ns,
    )
