# SPDX-License-Identifier: Apache-2.0
"""Frames of a recording, again and again if asked; the node that plays them keeps the pace."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from spine_nav_common.core.recording import load_remap, open_recording
from spine_nav_common.core.types import Rejected, RgbdFrame, StereoFrame

_LOOP_GAP_NS = 66_666_667


class Recorded:
    """Frames of a rosbag2 recording with their own stamps, in order of time; see FrameSource.

    Args:
        path: rosbag2 folder, .mcap or .db3 file.
        remap: file that names other topics (see spinenav --remap).
        loop: begin again at the end, with stamps that go on.
        scenes: what to play of that which the recording holds.

    Raises:
        RecordingError: the recording cannot be used; says file, field and remedy.
    """

    real_time = False

    def __init__(
        self,
        path: Path,
        remap: Path | None = None,
        loop: bool = False,
        scenes: Sequence[str] = ("rgbd", "stereo"),
    ) -> None:
        names = load_remap(remap) if remap else None
        there = open_recording(path, names).scenes
        # A recording without either is asked for RGB-D, which says what is missing.
        self.scenes = tuple(s for s in there if s in scenes) or ("rgbd",)
        # Each stream is read by its own reader: a recording keeps one position and one count.
        self._recordings = {scene: open_recording(path, names) for scene in self.scenes}
        self._loop = loop
        self._stop = threading.Event()
        self._first = self._streams()  # checks topics and sizes before the start

    def _streams(self) -> list[Iterator[RgbdFrame | StereoFrame]]:
        return [
            recording.rgbd_frames() if scene == "rgbd" else recording.stereo_frames()
            for scene, recording in self._recordings.items()
        ]

    @property
    def truncated(self) -> str | None:
        """Why the recording ended early, or None."""
        return next((r.truncated for r in self._recordings.values() if r.truncated), None)

    def frames(self) -> Iterator[RgbdFrame | StereoFrame | Rejected]:
        """See FrameSource."""
        streams, offset_ns, first_ns, last_ns = self._first, 0, None, 0
        while True:
            for frame in heapq.merge(*streams, key=lambda f: f.stamp_ns):
                if self._stop.is_set():
                    return
                first_ns = frame.stamp_ns if first_ns is None else first_ns
                last_ns = frame.stamp_ns
                yield replace(frame, stamp_ns=frame.stamp_ns + offset_ns) if offset_ns else frame
            if not self._loop or first_ns is None:
                return
            offset_ns += last_ns - first_ns + _LOOP_GAP_NS
            streams = self._streams()

    def close(self) -> None:
        """See FrameSource."""
        self._stop.set()
