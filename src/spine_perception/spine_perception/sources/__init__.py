# SPDX-License-Identifier: Apache-2.0
"""Where frames come from, without ROS: a recording, the virtual operation, a RealSense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from spine_nav_common.core.types import Rejected, RgbdFrame, StereoFrame
from spine_nav_common.parameters import ParameterError


class SourceError(ParameterError):
    """A source cannot start: says what is missing and the remedy."""


class FrameSource(Protocol):
    """A camera, real or not.

    `real_time`: frames come when the camera makes them, with stamps of the system clock;
    otherwise `frames` yields as fast as asked and the stamps say when each was taken. `scenes`:
    what it gives, `rgbd`, `stereo` or both.
    """

    real_time: bool
    scenes: tuple[str, ...]

    def frames(self) -> Iterator[RgbdFrame | StereoFrame | Rejected]:
        """Frames in order of time; `Rejected` for each stretch without frames, with the reason."""
        ...

    def close(self) -> None:
        """End `frames` soon, from another thread; release the device."""
        ...
