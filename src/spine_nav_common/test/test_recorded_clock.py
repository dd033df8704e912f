# SPDX-License-Identifier: Apache-2.0
"""Drivers without a clock: receive times where they are sound, a refusal where they are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.recorded_clock import lacks_clock, receive_slop_ns
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import Rejected

SHARED = Path(__file__).resolve().parents[4] / "shared"
COLOUR = "/camera/camera/color/image_raw"
DEPTH = "/camera/camera/aligned_depth_to_color/image_raw"
MS = 1_000_000
PERIOD = 33_333_333


class Bag(RecordingWriter):
    """`stamp` and `received` say what stands in a header and when it was recorded (ns)."""

    def __init__(self, path: Path, stamp: Callable, received: Callable) -> None:
        super().__init__(path)
        self.stamp, self.received = stamp, received

    def write(self, topic, msgtype, msg, stamp_ns) -> None:
        header = self.header(self.stamp(topic, stamp_ns), msg.header.frame_id)
        super().write(topic, msgtype, replace(msg, header=header), self.received(topic, stamp_ns))


def write(path: Path, frames, stamp=lambda topic, t: 0, received=lambda topic, t: t) -> Path:
    with Bag(path, stamp, received) as writer:
        for frame in frames:
            (writer.write_stereo if hasattr(frame, "left") else writer.write_rgbd)(frame)
    return path


def late(topic: str, t: int) -> int:
    """Each topic arrives a little later than the one before it, with jitter."""
    order = {COLOUR: 1, DEPTH: 5}.get(topic, 2)
    return t + (order + (t // PERIOD) % 3) * MS


@pytest.mark.parametrize("constant_ns", [0, 77_000_000_000])
@pytest.mark.parametrize("received", [lambda topic, t: t, late])
def test_receive_times_are_used_and_told(tmp_path, rgbd, constant_ns, received):
    frames = [rgbd(i) for i in range(8)]
    recording = open_recording(
        write(tmp_path / "rec", frames, lambda topic, t: constant_ns, received)
    )
    read = list(recording.rgbd_frames())
    assert [f.stamp_ns for f in read] == [received(COLOUR, f.stamp_ns) for f in frames]
    for a, b in zip(read, frames, strict=True):
        np.testing.assert_array_equal(a.colour, b.colour)
        np.testing.assert_allclose(a.depth_m, b.depth_m, atol=1e-6)
    assert recording.counts["unpaired"] == recording.counts["duplicated"] == 0
    (note,) = recording.notes
    assert COLOUR in note and "receive times are used" in note and f"is {constant_ns}" in note


def test_good_stamps_are_never_replaced(tmp_path, rgbd):
    frames = [rgbd(i) for i in range(5)]
    path = write(tmp_path / "rec", frames, lambda topic, t: t, lambda topic, t: t + 70 * MS)
    recording = open_recording(path)
    assert [f.stamp_ns for f in recording.rgbd_frames()] == [f.stamp_ns for f in frames]
    assert recording.notes == []


def test_one_stream_without_a_clock_brings_both_to_receive_times(tmp_path, rgbd):
    frames = [rgbd(i) for i in range(5)]
    path = write(tmp_path / "rec", frames, lambda topic, t: 0 if topic == DEPTH else t, late)
    recording = open_recording(path)
    assert [f.stamp_ns for f in recording.rgbd_frames()] == [
        late(COLOUR, f.stamp_ns) for f in frames
    ]
    assert recording.counts["unpaired"] == 0
    assert DEPTH in recording.notes[0]


def burst(topic: str, t: int) -> int:
    return t - (t // PERIOD % 3) * (PERIOD - MS)


@pytest.mark.parametrize(
    ("received", "why"),
    [
        (lambda topic, t: 5, "bursts"),
        (burst, "bursts"),
        (lambda topic, t: t + (PERIOD // 2 if topic == DEPTH else 0), "17 ms apart"),
        (lambda topic, t: t + (10**10 if topic == DEPTH else 0), "different times"),
    ],
)
def test_receive_times_that_tell_nothing_are_refused(tmp_path, rgbd, received, why):
    path = write(tmp_path / "rec", [rgbd(i) for i in range(8)], received=received)
    with pytest.raises(RecordingError) as caught:
        open_recording(path).rgbd_frames()
    text = str(caught.value)
    assert COLOUR in text and "every header stamp is 0" in text and why in text
    assert "let the driver stamp" in text


def test_stereo_without_a_clock(tmp_path, stereo):
    frames = [stereo(i) for i in range(6)]
    recording = open_recording(write(tmp_path / "rec", frames))
    assert [f.stamp_ns for f in recording.stereo_frames()] == [f.stamp_ns for f in frames]
    assert "receive times" in recording.notes[0]


def test_images_without_a_stamp_among_stamped_ones_are_left_out_and_told(tmp_path, rgbd):
    frames = [rgbd(i) for i in range(6)]
    first = frames[1].stamp_ns
    recording = open_recording(
        write(tmp_path / "rec", frames, lambda topic, t: t if t > first else 0)
    )
    assert [f.stamp_ns for f in recording.rgbd_frames()] == [f.stamp_ns for f in frames[2:]]
    assert recording.counts["unstamped"] == 4  # two frames' colour and depth
    assert recording.counts["duplicated"] == 0
    assert "4 images without a stamp were left out" in recording.notes[0]


def test_a_clock_that_starts_at_zero_is_a_clock(tmp_path, rgbd):
    frames = [replace(rgbd(i), stamp_ns=i * PERIOD) for i in range(4)]
    recording = open_recording(write(tmp_path / "rec", frames, lambda topic, t: t))
    assert [f.stamp_ns for f in recording.rgbd_frames()] == [f.stamp_ns for f in frames]
    assert recording.notes == []


@pytest.mark.parametrize(
    ("stamps", "lacks"),
    [([], False), ([0], True), ([0, 0], True), ([5], False), ([5, 5], False), ([5, 5, 5], True),
     ([0, 0, 5], False), ([1, 2, 3], False)],
)  # fmt: skip
def test_what_is_no_clock(stamps, lacks):
    assert lacks_clock(stamps) == lacks


def test_nothing_received_is_nothing_sound():
    assert isinstance(receive_slop_ns([], [1]), Rejected)
    assert receive_slop_ns([10], [12]) == 5 * MS


def test_the_shared_recordings():
    """Two of the kinds as other tools wrote them; their pixels are those of the scene they are of."""
    scene = SHARED / "data/scenes/rgbd_p001_five_levels/recording"
    inputs = SHARED / "cases/inputs"
    if not (scene.is_dir() and inputs.is_dir()):
        pytest.skip("the shared data are not here")
    true = list(zip(range(3), open_recording(scene).rgbd_frames(), strict=False))
    for name, notes in (
        ("stamps_all_zero", 1),
        ("colour_bayer_rggb8", 0),
        ("colour_yuv422_yuy2", 0),
    ):
        recording = open_recording(inputs / name / "recording")
        frames = list(recording.rgbd_frames())
        assert len(recording.notes) == notes, name
        assert [f.stamp_ns for f in frames] == [f.stamp_ns for _, f in true], name
        assert recording.counts["bad"] == recording.counts["unpaired"] == 0
        for (_, a), b in zip(true, frames, strict=True):
            apart = np.abs(a.colour.astype(float) - b.colour).mean()
            assert apart < 6.0, (name, apart)  # of 255: what a mosaic or shared chroma loses
