# SPDX-License-Identifier: Apache-2.0
"""A camera that is mounted upside down: the same points in space, in a frame turned about its axis."""

from __future__ import annotations

import numpy as np
import pytest

from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import Intrinsics, RgbdFrame


def points(frame: RgbdFrame) -> np.ndarray:
    """(H, W, 3) in the camera's frame, metres."""
    k = frame.intrinsics
    v, u = np.mgrid[: k.height, : k.width]
    z = frame.depth_m
    return np.dstack([(u - k.cx) / k.fx * z, (v - k.cy) / k.fy * z, z])


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_camera_sees_the_same_points(tmp_path, rgbd, quarters):
    upright = rgbd(0)
    k = upright.intrinsics
    turned = k
    for _ in range(quarters):  # np.rot90: (u, v) of the image goes to (v, width - 1 - u)
        turned = Intrinsics(
            turned.height, turned.width, turned.fy, turned.fx,
            turned.cy, turned.width - 1 - turned.cx,
        )  # fmt: skip
    with RecordingWriter(tmp_path / "rec") as writer:
        writer.write_rgbd(
            RgbdFrame(
                upright.stamp_ns,
                np.ascontiguousarray(np.rot90(upright.colour, quarters)),
                np.ascontiguousarray(np.rot90(upright.depth_m, quarters)),
                turned,
            )
        )
    (frame,) = open_recording(tmp_path / "rec").rgbd_frames()
    back = np.rot90(points(frame), -quarters)
    angle = np.pi / 2 * quarters
    R = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    np.testing.assert_allclose(back, points(upright) @ R.T, atol=2e-6)
