# SPDX-License-Identifier: Apache-2.0
"""Frames of a recording, again and again if asked; the node that plays them keeps the pace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from spine_nav_common.core.recording import load_remap, open_recording
from spine_nav_common.core.types import Rejected, RgbdFrame

_LOOP_GAP_NS = 66_666_667


class Recorded:
    """RGB-D frames of a rosbag2 recording with their own stamps; see FrameSource.

    Args:
        path: rosbag2 folder, .mcap or .db3 file.
        remap: file that names other topics (see spinenav --remap).
        loop: begin again at the end, with stamps that go on.

    Raises:
        RecordingError: the recording cannot be used; says file, field and remedy.
    """

    real_time = False

    def __init__(self, path: Path, remap: Path | None = None, loop: bool = False) -> None:
        self.recording = open_recording(path, load_remap(remap) if remap else None)
        self._loop = loop
        self._stop = threading.Event()
        self._first = self.recording.rgbd_frames()  # checks topics and sizes before the start

    @property
    def truncated(self) -> str | None:
        """Why the recording ended early, or None."""
        return self.recording.truncated

    def frames(self) -> Iterator[RgbdFrame | Rejected]:
        """See FrameSource."""
        frames, offset_ns, first_ns, last_ns = self._first, 0, None, 0
        while True:
            for frame in frames:
                if self._stop.is_set():
                    return
                first_ns = frame.stamp_ns if first_ns is None else first_ns
                last_ns = frame.stamp_ns
                yield replace(frame, stamp_ns=frame.stamp_ns + offset_ns) if offset_ns else frame
            if not self._loop or first_ns is None:
                return
            offset_ns += last_ns - first_ns + _LOOP_GAP_NS
            frames = self.recording.rgbd_frames()

    def close(self) -> None:
        """See FrameSource."""
        self._stop.set()
