# SPDX-License-Identifier: Apache-2.0
"""Folders of PNGs and bags of ROS 1 become recordings; what they lack is named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from spine_nav_bringup import cli
from spine_nav_bringup.import_data import import_rosbag1, import_tum
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.recorded_messages import load_remap
from spine_nav_common.core.recording import open_recording

W, H, N = 64, 48, 3
RNG = np.random.default_rng(4)
COLOUR = RNG.integers(0, 255, (N, H, W, 3), np.uint8)
DEPTH_MM = RNG.integers(400, 900, (N, H, W)).astype(np.uint16)
DEPTH_MM[:, :5] = 0
K = (61.0, 62.0, 31.5, 23.5)
CAMERA = "fx: 61.0\nfy: 62.0\ncx: 31.5\ncy: 23.5\n"


def same(recording: Path, remap: dict[str, str] | None = None) -> list[int]:
    frames = list(open_recording(recording, remap).rgbd_frames())
    assert len(frames) == N
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.colour, COLOUR[i])
        expected = np.where(DEPTH_MM[i] == 0, np.nan, 1e-3 * DEPTH_MM[i])
        np.testing.assert_allclose(frame.depth_m, expected, atol=1e-6)
        k = frame.intrinsics
        assert (k.fx, k.fy, k.cx, k.cy) == K
    return [f.stamp_ns for f in frames]


@pytest.fixture
def tum(tmp_path) -> Path:
    folder = tmp_path / "tum"
    lists: dict[str, list[str]] = {"rgb": ["# colour images"], "depth": ["# depth maps"]}
    for i in range(N):
        for kind, late_s, image in (
            ("rgb", 0.0, cv2.cvtColor(COLOUR[i], cv2.COLOR_RGB2BGR)),
            ("depth", 0.004, (5 * DEPTH_MM[i].astype(np.uint32)).astype(np.uint16)),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            name = f"{kind}/{i}.png"
            cv2.imwrite(str(folder / name), image)
            lists[kind].append(f"{1305031102.175304 + 0.033 * i + late_s:.6f} {name}")
    for kind, lines in lists.items():
        (folder / f"{kind}.txt").write_text("\n".join(lines) + "\n")
    (folder / "camera.yaml").write_text(CAMERA + "depth_scale: 5000\n")
    return folder


def test_a_folder_of_pngs_is_the_recording_that_it_was(tum, tmp_path, capsys):
    assert cli.main(["import", "tum", str(tum), "--out", str(tmp_path / "out")]) == 0
    assert "spinenav replay" in capsys.readouterr().out
    assert same(tmp_path / "out/recording")[0] == 1305031102175304000


def test_associations_and_the_yaml_of_orb_slam_are_read(tum, tmp_path):
    rgb, depth = ((tum / f"{k}.txt").read_text().splitlines()[1:] for k in ("rgb", "depth"))
    (tum / "associations.txt").write_text("\n".join(map(" ".join, zip(rgb, depth, strict=True))))
    for kind in ("rgb", "depth"):
        (tum / f"{kind}.txt").unlink()
    lines = "".join(f"Camera.{line}\n" for line in CAMERA.splitlines())
    (tum / "camera.yaml").write_text("%YAML:1.0\n" + lines + "DepthMapFactor: 5000.0\n")
    import_tum(tum, tmp_path / "out")
    same(tmp_path / "out/recording")


def test_what_a_folder_lacks_is_named(tum, tmp_path):
    def refused(words: str) -> None:
        with pytest.raises(InputError, match=words):
            import_tum(tum, tmp_path / "none")

    depth = (tum / "depth.txt").read_text().splitlines()
    (tum / "depth.txt").write_text("\n".join(depth[:-1]))
    assert "1 colour images without depth" in import_tum(tum, tmp_path / "two").missing
    (tum / "depth.txt").write_text("soon depth/0.png\n")
    refused("no time in seconds")
    (tum / "depth.txt").write_text("\n".join(depth))
    cv2.imwrite(str(tum / "depth/1.png"), np.zeros((H, W), np.uint8))
    refused("export depth as 16 bit PNG")
    (tum / "depth/1.png").unlink()
    refused("depth/1.png: missing")
    (tum / "depth.txt").unlink()
    refused("depth.txt: missing")
    (tum / "camera.yaml").write_text(CAMERA)
    refused("depth_scale")
    (tum / "camera.yaml").write_text(CAMERA + "depth_scale: 5000\nk1: 0.2\n")
    refused("distorted")
    (tum / "camera.yaml").unlink()
    refused("write camera.yaml there")
    assert not (tmp_path / "none/recording/metadata.yaml").exists()


def bag(file: Path, prefix: str) -> Path:
    store = get_typestore(Stores.ROS1_NOETIC)
    t = store.types
    kinds = {
        "color/image_raw": "sensor_msgs/msg/Image", "color/camera_info": "sensor_msgs/msg/CameraInfo",
        "aligned_depth_to_color/image_raw": "sensor_msgs/msg/Image",
        "aligned_depth_to_color/camera_info": "sensor_msgs/msg/CameraInfo",
    }  # fmt: skip
    with Writer(file) as writer:
        to = {n: writer.add_connection(prefix + n, k, typestore=store) for n, k in kinds.items()}
        for i in range(N):
            stamp = t["builtin_interfaces/msg/Time"](sec=100 + i, nanosec=5)
            head = t["std_msgs/msg/Header"](seq=i, stamp=stamp, frame_id="camera")
            fx, fy, cx, cy = K
            roi = t["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
            k = np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1.0])
            p = np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1.0, 0])
            info = t["sensor_msgs/msg/CameraInfo"](
                head, H, W, "plumb_bob", np.zeros(5), k, np.eye(3).ravel(), p, 0, 0, roi
            )
            for name, kind in kinds.items():
                message = info
                if name.endswith("raw"):
                    image, form = (COLOUR, "rgb8") if name[0] == "c" else (DEPTH_MM, "16UC1")
                    data = image[i].view(np.uint8).ravel()
                    message = t[kind](head, H, W, form, 0, len(data) // H, data)
                writer.write(to[name], (100 + i) * 10**9, store.serialize_ros1(message, kind))
    return file


@pytest.mark.parametrize("prefix", ["/camera/camera/", "/camera/"])
def test_a_bag_of_ros_1_is_read_with_the_names_of_its_driver(tmp_path, prefix):
    done, remap = import_rosbag1(bag(tmp_path / "a.bag", prefix), tmp_path / "out")
    assert not done.missing and (remap is None) == (prefix == "/camera/camera/")
    stamps = same(done.written[0], load_remap(remap) if remap else None)
    assert stamps == [(100 + i) * 10**9 + 5 for i in range(N)]


def test_bags_that_are_none_are_refused(tmp_path):
    other = bag(tmp_path / "other.bag", "/eye/")
    assert "/eye/color/image_raw" in import_rosbag1(other, tmp_path / "o")[0].missing[0]
    device = bag(tmp_path / "rs.bag", "/device_0/sensor_0/")
    with pytest.raises(InputError, match="spinenav import realsense"):
        import_rosbag1(device, tmp_path / "out")
    cut = tmp_path / "cut.bag"
    cut.write_bytes(other.read_bytes()[:3000])
    with pytest.raises(InputError, match="rosbag reindex"):
        import_rosbag1(cut, tmp_path / "out")
    assert not (tmp_path / "out/recording").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("fx: 61.0", "fx: .nan", "no positive number"),
        ("depth_scale: 5000", "depth_scale: 0.001", "units per metre"),
        ("cx: 31.5", "cx: 320.0", "lies outside"),
    ],
)
def test_a_camera_that_cannot_be_the_pictures_is_refused(tum, tmp_path, old, new, words):
    file = tum / "camera.yaml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(InputError, match=words):
        import_tum(tum, tmp_path / "none")
    assert not (tmp_path / "none/recording").exists()


def test_times_in_milliseconds_are_refused(tum, tmp_path):
    (tum / "depth.txt").write_text("1305031102175.3 depth/0.png\n")
    with pytest.raises(InputError, match="write seconds"):
        import_tum(tum, tmp_path / "none")


def test_an_import_that_is_stopped_leaves_no_half_recording(tum, tmp_path):
    def stop(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_tum(tum, tmp_path / "out", stop)
    assert not (tmp_path / "out/recording").exists()


def test_an_output_below_a_file_is_one_line(tum, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["import", "tum", str(tum), "--out", str(tmp_path / "file/x")]) == 2
    err = capsys.readouterr().err
    assert "Not a directory" in err and "Traceback" not in err
