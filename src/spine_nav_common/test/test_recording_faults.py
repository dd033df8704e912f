# SPDX-License-Identifier: Apache-2.0
"""Recordings that are broken on purpose: a clear refusal, or everything that still reads."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.images import encode_image
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import Intrinsics, RgbdFrame

COLOUR = "/camera/camera/color/image_raw"
COLOUR_INFO = "/camera/camera/color/camera_info"
DEPTH = "/camera/camera/aligned_depth_to_color/image_raw"
DEPTH_INFO = "/camera/camera/aligned_depth_to_color/camera_info"
IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"


class Bag(RecordingWriter):
    """A writer whose messages a test may change or drop: {topic: change(i, msg)}."""

    def __init__(self, path: Path, changes=None, **options) -> None:
        super().__init__(path, **options)
        self._changes = changes or {}
        self._index: dict[str, int] = {}

    def write(self, topic, msgtype, msg, stamp_ns) -> None:
        i = self._index[topic] = self._index.get(topic, -1) + 1
        msg = self._changes.get(topic, lambda _, m: m)(i, msg)
        if msg is not None:
            super().write(topic, msgtype, msg, stamp_ns)


def bag(path: Path, frames, changes=None, **options) -> Path:
    with Bag(path, changes, **options) as writer:
        for frame in frames:
            (writer.write_stereo if hasattr(frame, "left") else writer.write_rgbd)(frame)
    return path


def fields(**values):
    return lambda _, msg: replace(msg, **values)


def at(index: int, change):
    """Apply a change to one message of a topic only."""
    return lambda i, msg: change(i, msg) if i == index else msg


def lost(i, msg):
    return None


def pixels(image: np.ndarray, encoding: str):
    return lambda i, msg: replace(msg, **encode_image(image, encoding))


def refused(path: Path, *words: str, stereo: bool = False) -> None:
    with pytest.raises(RecordingError) as caught:
        recording = open_recording(path)
        list(recording.stereo_frames() if stereo else recording.rgbd_frames())
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.remedy
    for word in words:
        assert word in text, text


# -- refused before the first frame


def test_nothing_there(tmp_path):
    refused(tmp_path / "none", "no such recording")
    refused(tmp_path, ".mcap or .db3")
    (tmp_path / "film.avi").write_bytes(b"x")
    refused(tmp_path / "film.avi", ".avi")


@pytest.mark.parametrize("name", ["rec.mcap", "rec.db3"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x89MCAP0\r\n", b"SQLite format 3\0"])
def test_corrupt_from_the_start(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, name, "record again")
    refused(tmp_path, name)


@pytest.mark.parametrize("sqlite3", [False, True])
def test_empty_recording(tmp_path, sqlite3):
    bag(tmp_path / "rec", [], sqlite3=sqlite3)
    refused(tmp_path / "rec", "empty")


def test_topic_without_messages(tmp_path, rgbd):
    with Bag(tmp_path / "rec", {DEPTH: lost}) as writer:
        writer.write_rgbd(rgbd(0))
    refused(tmp_path / "rec", DEPTH, "not in the recording", "--remap")


def test_topic_of_another_type(tmp_path, rgbd):
    with Bag(tmp_path / "rec", {COLOUR: lost}) as writer:
        writer.write_rgbd(rgbd(0))
        text = writer.message("std_msgs/msg/String", data="x")
        RecordingWriter.write(writer, COLOUR, "std_msgs/msg/String", text, 1)
    refused(tmp_path / "rec", COLOUR, "no images")


def test_rgbd_recording_is_no_stereo_recording(tmp_path, rgbd, stereo):
    bag(tmp_path / "rgbd", [rgbd(0)])
    refused(tmp_path / "rgbd", "/stereo/left/image_rect", COLOUR, stereo=True)
    bag(tmp_path / "stereo", [stereo(0)])
    refused(tmp_path / "stereo", COLOUR, "/stereo/left/image_rect")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({COLOUR_INFO: lost}, [COLOUR_INFO, "not in the recording"]),
        ({COLOUR_INFO: fields(k=np.zeros(9))}, [COLOUR_INFO, "zero", "calibrated"]),
        ({COLOUR_INFO: fields(k=np.full(9, np.nan))}, [COLOUR_INFO, "NaN"]),
        ({COLOUR_INFO: fields(width=640, height=480)}, [COLOUR, "48x32", "640x480"]),
        ({COLOUR: fields(encoding="bayer_rggb16")}, [COLOUR, "bayer_rggb16", "8 bits"]),
        ({COLOUR: fields(data=np.zeros(3, np.uint8))}, [COLOUR, "3 bytes"]),
        ({DEPTH: fields(encoding="rgb8", step=144)}, [DEPTH, "rgb8"]),
        ({DEPTH: pixels(np.full((24, 40), 500, np.uint16), "16UC1")},
         [DEPTH, "40x24", "48x32", "not aligned", "aligned_depth_to_color"]),
        ({DEPTH_INFO: fields(k=np.array([50.0, 0, 20, 0, 50, 14, 0, 0, 1]))},
         [DEPTH, "not aligned", "align_depth"]),
        ({DEPTH: pixels(np.full((32, 48), 500.0, np.float32), "32FC1")},
         [DEPTH, "500 m", "wrong unit"]),
        ({DEPTH: pixels(np.full((32, 48), 5000, np.uint16), "16UC1")}, [DEPTH, "5 m", "millimetres"]),
        ({DEPTH: pixels(np.full((32, 48), 50, np.uint16), "16UC1")}, [DEPTH, "0.05 m"]),
    ],
)  # fmt: skip
def test_streams_that_cannot_be_used(tmp_path, rgbd, changes, words):
    bag(tmp_path / "rec", [rgbd(i) for i in range(3)], changes)
    refused(tmp_path / "rec", *words)


def test_wrong_unit_is_found_though_the_first_frames_have_no_depth(tmp_path, rgbd):
    none = np.zeros((32, 48), np.uint16)
    far = np.full((32, 48), 5000, np.uint16)
    bag(tmp_path / "rec", [rgbd(i) for i in range(8)],
        {DEPTH: lambda i, m: pixels(none if i < 6 else far, "16UC1")(i, m)})  # fmt: skip
    refused(tmp_path / "rec", "wrong unit")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"/stereo/right/camera_info": fields(p=np.array([60.0, 0, 23, 0, 0, 60, 15, 0, 0, 0, 1, 0]))},
         ["/stereo/right/camera_info", "baseline"]),
        ({"/stereo/right/camera_info": fields(p=np.array([60.0, 0, 23, 3.6, 0, 60, 15, 0, 0, 0, 1, 0]))},
         ["swapped"]),
        ({"/stereo/left/camera_info": fields(p=np.zeros(12))}, ["P is zero"]),
        ({"/stereo/left/camera_info": fields(width=40)}, ["40x32", "48x32"]),
        ({"/stereo/right/image_rect": pixels(np.zeros((20, 30), np.uint8), "mono8")},
         ["(20, 30)", "camera_info"]),
    ],
)  # fmt: skip
def test_stereo_that_cannot_be_used(tmp_path, stereo, changes, words):
    bag(tmp_path / "rec", [stereo(i) for i in range(2)], changes)
    refused(tmp_path / "rec", *words, stereo=True)


# -- single frames: counted, and nothing else is lost


def test_doubled_and_late_frames_are_counted_and_give_no_frame(tmp_path, rgbd):
    order = [0, 1, 1, 2, 5, 3, 4, 0, 6]
    with RecordingWriter(tmp_path / "rec") as writer:
        for arrival, i in enumerate(order):
            real, stamp = writer.write, rgbd(0).stamp_ns + arrival * 33_333_333
            writer.write = lambda t, k, m, _, w=real, s=stamp: w(t, k, m, s)  # log time = arrival
            writer.write_rgbd(rgbd(i))
            writer.write = real
    recording = open_recording(tmp_path / "rec")
    stamps = [f.stamp_ns for f in recording.rgbd_frames()]
    assert stamps == [rgbd(i).stamp_ns for i in (0, 1, 2, 5, 6)]
    assert recording.counts == {"read": 5, "duplicated": 2, "late": 2, "unpaired": 0, "bad": 0}
    assert sum(recording.reasons.values()) == 4  # the depth images that went with them


@pytest.mark.parametrize(
    ("changes", "counter", "reason"),
    [
        ({DEPTH: at(4, lost)}, "unpaired", "colour image without depth"),
        ({DEPTH: at(4, fields(encoding="jpeg2000"))}, "bad", "jpeg2000"),
        ({DEPTH: at(4, fields(data=np.zeros(9, np.uint8)))}, "bad", "9 bytes"),
        ({DEPTH: at(4, pixels(np.full((16, 24), 500, np.uint16), "16UC1"))}, "bad", "24x16"),
        ({COLOUR: at(4, fields(data=np.zeros(9, np.uint8)))}, "bad", "9 bytes"),
        ({COLOUR: at(4, pixels(np.zeros((16, 24, 3), np.uint8), "rgb8"))}, "bad", "24x16"),
    ],
)
def test_one_bad_frame_keeps_its_place_without_depth(tmp_path, rgbd, changes, counter, reason):
    bag(tmp_path / "rec", [rgbd(i) for i in range(7)], changes)
    recording = open_recording(tmp_path / "rec")
    frames = list(recording.rgbd_frames())
    assert [f.stamp_ns for f in frames] == [rgbd(i).stamp_ns for i in range(7)]
    assert [bool(np.isnan(f.depth_m).all()) for f in frames] == [i == 4 for i in range(7)]
    assert frames[4].colour.shape == (32, 48, 3)
    assert recording.counts["read"] == 7
    assert recording.counts[counter] == 1
    assert any(reason in text for text in recording.reasons)


def test_zero_camera_info_in_mid_run_is_passed_over(tmp_path, rgbd):
    bag(tmp_path / "rec", [rgbd(i) for i in range(6)],
        {COLOUR_INFO: lambda i, m: replace(m, k=np.zeros(9)) if i % 2 else m})  # fmt: skip
    recording = open_recording(tmp_path / "rec")
    assert {f.intrinsics for f in recording.rgbd_frames()} == {rgbd(0).intrinsics}
    assert sum(n for text, n in recording.reasons.items() if "zero" in text) == 3


def test_depth_without_numbers_becomes_no_depth(tmp_path, rgbd):
    depth = np.full((32, 48), 0.5, np.float32)
    depth[0, :4] = (np.nan, np.inf, -np.inf, -0.2)
    bag(tmp_path / "rec", [rgbd(0)], {DEPTH: pixels(depth, "32FC1")})
    (frame,) = open_recording(tmp_path / "rec").rgbd_frames()
    assert np.isnan(frame.depth_m[0, :4]).all()
    assert (frame.depth_m[1:] == np.float32(0.5)).all()


def test_black_and_saturated_frames_are_frames(tmp_path, rgbd):
    black, white = np.zeros((32, 48, 3), np.uint8), np.full((32, 48, 3), 255, np.uint8)
    bag(tmp_path / "rec", [rgbd(i) for i in range(2)],
        {COLOUR: lambda i, m: pixels((black, white)[i], "rgb8")(i, m)})  # fmt: skip
    assert [f.colour.mean() for f in open_recording(tmp_path / "rec").rgbd_frames()] == [0.0, 255.0]


def test_stereo_frames_that_cannot_be_given_are_counted(tmp_path, stereo):
    left, right = "/stereo/left/image_rect", "/stereo/right/image_rect"
    bag(tmp_path / "rec", [stereo(i) for i in range(8)], {
        left: at(5, fields(data=np.zeros(5, np.uint8))),
        right: at(4, lost),
    })  # fmt: skip
    recording = open_recording(tmp_path / "rec")
    stamps = [f.stamp_ns for f in recording.stereo_frames()]
    assert stamps == [stereo(i).stamp_ns for i in (0, 1, 2, 3, 6, 7)]
    assert recording.counts == {"read": 6, "duplicated": 0, "late": 0, "unpaired": 1, "bad": 1}


def test_message_that_does_not_deserialise_is_counted(tmp_path, rgbd):
    with RecordingWriter(tmp_path / "rec") as writer:
        for i in range(6):
            writer.write_rgbd(rgbd(i))
            if i == 4:
                connection = writer._connections[DEPTH]
                writer._writer.write(connection, rgbd(4).stamp_ns, b"\0\1\0\0 no image")
    recording = open_recording(tmp_path / "rec")
    assert len(list(recording.rgbd_frames())) == 6
    assert [t for t in recording.reasons if "message damaged" in t]


# -- files that are cut off


BIG = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)


@pytest.fixture(scope="module")
def long_bags(tmp_path_factory) -> dict[str, Path]:
    """30 frames each of 96 kB: several MCAP chunks, many sqlite pages."""
    rng = np.random.default_rng(0)
    frames = [
        RgbdFrame(
            10**18 + i * 33_333_333,
            rng.integers(0, 256, (120, 160, 3), dtype=np.uint8),
            np.full((120, 160), 0.5, np.float32),
            BIG,
        )
        for i in range(30)
    ]
    base = tmp_path_factory.mktemp("bags")
    return {
        "zstd": bag(base / "zstd", frames),
        "plain": bag(base / "plain", frames, compress=False),
        "sqlite": bag(base / "sqlite", frames, sqlite3=True),
    }


def cut(bags: dict[str, Path], kind: str, share: float, to: Path) -> Path:
    """A copy of a bag whose storage file ends early; metadata.yaml as a killed recorder: none."""
    source = next(p for p in bags[kind].iterdir() if p.suffix != ".yaml")
    target = to / source.name
    data = source.read_bytes()
    target.write_bytes(data[: int(share * len(data))])
    return target


@pytest.mark.parametrize("with_metadata", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("kind", ["zstd", "plain", "sqlite"])
def test_cut_off_file_gives_all_that_reads(tmp_path, long_bags, kind, share, with_metadata):
    file = cut(long_bags, kind, share, tmp_path)
    if with_metadata:
        shutil.copy(long_bags[kind] / "metadata.yaml", tmp_path)
    recording = open_recording(tmp_path)
    frames = list(recording.rgbd_frames())
    # at least what lies before the cut, less the chunk (1 MiB = 11 frames) that it goes through
    assert 30 * share - 12 <= len(frames) <= 30 * share + 1
    assert [f.stamp_ns for f in frames] == [10**18 + i * 33_333_333 for i in range(len(frames))]
    assert file.name in recording.truncated
    assert np.isfinite(frames[0].depth_m).all()


def test_mcap_that_lacks_only_its_end_loses_nothing(tmp_path, long_bags):
    file = cut(long_bags, "zstd", 1.0, tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    recording = open_recording(file)
    assert len(list(recording.rgbd_frames())) == 30
    assert "cut off" in recording.truncated


def test_damaged_chunk_in_the_middle_ends_the_recording_there(tmp_path, long_bags):
    file = cut(long_bags, "zstd", 1.0, tmp_path)
    data = bytearray(file.read_bytes())
    chunk = data.find(b"\x28\xb5\x2f\xfd", len(data) // 3)  # the head of a zstd frame
    data[chunk : chunk + 64] = bytes(64)
    file.write_bytes(data)
    recording = open_recording(file)
    frames = list(recording.rgbd_frames())
    assert 3 <= len(frames) < 30
    assert "damaged" in recording.truncated


def test_missing_part_of_a_split_bag_is_told(tmp_path, rgbd):
    first = bag(tmp_path / "rec", [rgbd(0), rgbd(1)])
    file = first / "metadata.yaml"
    file.write_text(file.read_text().replace("- rec.mcap", "- rec.mcap\n  - rec_1.mcap", 1))
    recording = open_recording(first)
    assert len(list(recording.rgbd_frames())) == 2
    assert "rec_1.mcap" in recording.truncated


def test_cut_so_early_that_no_frame_reads(tmp_path, long_bags):
    for kind in ("zstd", "plain", "sqlite"):
        file = cut(long_bags, kind, 0.002, tmp_path)
        refused(file, file.name)
