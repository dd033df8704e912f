# SPDX-License-Identifier: Apache-2.0
"""Both cameras of one recording; where one is broken, the other is used and the loss is told."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .depth_calibration import DepthCalibration
from .errors import RecordingError
from .graph import SCENES
from .recording import Recording, open_recording
from .static_frames import StaticTransform
from .types import RgbdFrame, StereoFrame

_WORDS = {"rgbd": "RGB-D", "stereo": "stereo"}


@dataclass
class RecordedScenes:
    """What of a recording can be used.

    Attributes:
        recordings: scene (`rgbd`, `stereo`) to its reader; each has its own position and counts.
        broken: scene to why it cannot be used although its topics are there.
        rgbd, stereo: checked streams of frames, None where there is none.
    """

    recordings: dict[str, Recording] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    rgbd: Iterator[RgbdFrame] | None = None
    stereo: Iterator[StereoFrame] | None = None

    @property
    def streams(self) -> list[Iterator[RgbdFrame] | Iterator[StereoFrame]]:
        """All streams that can be used."""
        return [stream for stream in (self.rgbd, self.stereo) if stream is not None]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed or left out, in words for the user; complete when all is read."""
        return tuple(dict.fromkeys(n for r in self.recordings.values() for n in r.notes))

    @property
    def incomplete(self) -> str:
        """Why less came of the recording than it should hold; empty where all came."""
        cuts = [r.truncated for r in self.recordings.values() if r.truncated]
        left_out = [
            f"the {_WORDS[scene]} part cannot be used: {reason}"
            for scene, reason in self.broken.items()
        ]
        return "; ".join(dict.fromkeys([*cuts, *left_out]))


def open_scenes(
    path: str | Path,
    remap: dict[str, str] | None = None,
    wanted: Collection[str] = SCENES,
    since_ns: int = 0,
    depth_calibration: DepthCalibration | None = None,
    transforms: Sequence[StaticTransform] = (),
) -> RecordedScenes:
    """Open the wanted scenes of a recording, each checked before its first frame; frames with a
    stamp before `since_ns` are left out. transforms: of calibration files, beside the recording's own.

    A recording that holds none of them is asked for the first, which says what is missing.

    Raises RecordingError: the recording, or every wanted scene in it, cannot be used. CalibrationError:
    the depth calibration is not of this camera.
    """
    held = open_recording(path, remap).scenes
    asked = [s for s in held if s in wanted] or [s for s in SCENES if s in wanted][:1]
    found = RecordedScenes()
    for scene in asked:
        recording = open_recording(path, remap)
        try:
            if scene == "rgbd":
                found.rgbd = recording.rgbd_frames(since_ns, depth_calibration, transforms)
            else:
                found.stereo = recording.stereo_frames(since_ns)
        except RecordingError as error:
            found.broken[scene] = str(error)
            if len(found.broken) == len(asked):
                raise
            continue
        found.recordings[scene] = recording
    return found
