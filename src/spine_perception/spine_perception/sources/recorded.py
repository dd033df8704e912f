# SPDX-License-Identifier: Apache-2.0
"""Frames of a recording, again and again if asked; the node that plays them keeps the pace."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from spine_nav_common.core.recorded_messages import load_remap
from spine_nav_common.core.recorded_scenes import open_scenes
from spine_nav_common.core.static_frames import StaticTransform
from spine_nav_common.core.types import Rejected, RgbdFrame, StereoFrame

LOOP_GAP_NS = 66_666_667


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
        self._open = partial(open_scenes, path, names, tuple(scenes))
        self._found = self._open()  # checks topics and sizes before the start
        self.scenes = tuple(self._found.recordings)
        self._loop = loop
        self._offset_ns, self._since_ns = 0, 0  # see go_on
        self._first_ns: int | None = None
        self.lap_ns = 0  # by how much the stamps grow from one round to the next; 0 = not known yet
        self._stop = threading.Event()

    @property
    def truncated(self) -> str | None:
        """Why less came than the recording should hold, or None."""
        return self._found.incomplete or None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed in the recording, and what of it is broken, in words for the user."""
        return (*self._found.notes, *self._found.broken.values())

    @property
    def static_transforms(self) -> tuple[StaticTransform, ...]:
        """Fixed transforms between frames that the recording holds."""
        return tuple(next(iter(self._found.recordings.values())).static_transforms())

    def go_on(self, first_ns: int, since_ns: int, lap_ns: int) -> None:
        """Before `frames`: leave out what was played, or should have been, before a stamp.

        Args:
            first_ns: stamp of the recording's first frame.
            since_ns: the stamp at which to go on, as it was played (rounds add to it).
            lap_ns: see the attribute.
        """
        self.lap_ns = lap_ns
        self._offset_ns = (since_ns - first_ns) // lap_ns * lap_ns if lap_ns and self._loop else 0
        self._since_ns = since_ns - self._offset_ns
        self._first_ns = first_ns
        self._found = self._open(since_ns=self._since_ns)

    def frames(self) -> Iterator[RgbdFrame | StereoFrame | Rejected]:
        """See FrameSource."""
        offset_ns, first_ns = self._offset_ns, self._first_ns
        while True:
            last_ns = None
            for frame in heapq.merge(*self._found.streams, key=lambda f: f.stamp_ns):
                if self._stop.is_set():
                    return
                first_ns = frame.stamp_ns if first_ns is None else first_ns
                last_ns = frame.stamp_ns
                yield replace(frame, stamp_ns=frame.stamp_ns + offset_ns) if offset_ns else frame
            if not self._loop or first_ns is None:
                return
            if last_ns is not None:
                self.lap_ns = last_ns - first_ns + LOOP_GAP_NS
            # It may have gone on behind the end of a round whose length is not known.
            offset_ns += self.lap_ns or self._since_ns - first_ns
            self._found = self._open()

    def close(self) -> None:
        """See FrameSource."""
        self._stop.set()
