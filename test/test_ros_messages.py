# SPDX-License-Identifier: Apache-2.0
"""Messages and back: images, poses, covariance, results; named QoS; pairing of raw messages."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from scipy.spatial.transform import Rotation

from spine_nav_common.core.geometry import log_se3, perturb_about, transform
from spine_nav_common.core.images import ImageError, decode_depth
from spine_nav_common.core.rectify import RgbdRectifier
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_nav_common.parameters import ParameterError, build, load_file
from spine_nav_common.ros import qos
from spine_nav_common.ros.conversions import (
    anchored_covariance,
    camera_info_message,
    header,
    image_message,
    pose_array,
    pose_covariance,
    pose_message,
    stamp_from_ns,
    stamp_to_ns,
    transform_message,
)
from spine_nav_common.ros.frames import FramePairer
from spine_nav_common.ros.results import result_from_messages, result_messages, status_fields

pytestmark = pytest.mark.ros
CONFIG = Path(__file__).parents[1] / "config"


def random_pose(rng, reach=0.3):
    R = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    return transform(R, rng.uniform(-reach, reach, 3) + (0.0, 0.0, 0.6))


@pytest.mark.parametrize("stamp_ns", [0, 1, 999_999_999, 1_700_000_000_123_456_789])
def test_stamps_are_exact(stamp_ns):
    assert stamp_to_ns(stamp_from_ns(stamp_ns)) == stamp_ns


def test_an_image_is_carried_as_array_b_and_comes_back():
    depth = np.array([[0.5, np.nan], [0.25, 1.5]], np.float32)
    message = image_message(depth, "32FC1", 7, "camera")
    assert message.data.typecode == "B" and message.step == 8
    np.testing.assert_array_equal(decode_depth(message), depth)


def test_an_image_that_does_not_fit_its_encoding_is_refused():
    with pytest.raises(ImageError):
        image_message(np.zeros((2, 2), np.float32), "rgb8", 0, "camera")


def test_poses_and_transforms_come_back_and_point_the_same_way():
    rng = np.random.default_rng(1)
    for _ in range(20):
        T = random_pose(rng)
        np.testing.assert_allclose(pose_array(pose_message(T)), T, atol=1e-12)
        tf = transform_message(T, 5, "camera", "vertebra_L3")
        assert (tf.header.frame_id, tf.child_frame_id) == ("camera", "vertebra_L3")
        assert tf.transform.translation.x == T[0, 3]


@pytest.mark.parametrize("bad", [np.nan, 2.0])
def test_a_pose_that_is_not_rigid_is_never_published(bad):
    T = np.eye(4)
    T[0, 0] = bad
    with pytest.raises(ValueError, match="pose to publish"):
        pose_message(T)


def test_covariance_is_that_of_the_childs_origin_about_fixed_axes():
    """Against sampling: perturb about the anchor, read position and rotation as ROS means them."""
    rng = np.random.default_rng(2)
    T = random_pose(rng)
    anchor = T[:3, 3] + (0.10, -0.25, 0.05)  # the CT origin lies far from the bone
    L = rng.normal(size=(6, 6)) * np.array([1e-4] * 3 + [1e-3] * 3)[:, None]
    covariance = L @ L.T
    samples = rng.multivariate_normal(np.zeros(6), covariance, 40000)
    seen = []
    for xi in samples:
        moved = perturb_about(T, xi, anchor)
        turn = log_se3(transform(moved[:3, :3] @ T[:3, :3].T, np.zeros(3)))[3:]
        seen.append(np.concatenate([moved[:3, 3] - T[:3, 3], turn]))
    expected = np.cov(np.array(seen).T)
    ours = pose_covariance(covariance, T, anchor)
    np.testing.assert_allclose(ours, expected, atol=0.04 * np.abs(expected).max())
    np.testing.assert_allclose(np.sqrt(np.diag(ours)), np.sqrt(np.diag(expected)), rtol=0.03)
    np.testing.assert_allclose(anchored_covariance(ours, T, anchor), covariance, rtol=1e-9)


def make_result():
    rng = np.random.default_rng(3)
    shown = [
        LevelEstimate(v, s, random_pose(rng), np.eye(6) * 1e-6, np.array([0, 0, 0.6]), 0.8765, r)
        for v, s, r in (
            ("L1", Status.TRACKED, ""),
            ("L2", Status.OCCLUDED, "hand"),
            ("L4", Status.TRACKED, ""),
        )
    ]
    lost = LevelEstimate("L3", Status.LOST, reason="no bone")
    return NavigationResult(123_456_789_012, (shown[0], shown[1], lost, shown[2]))


def test_a_result_survives_its_messages():
    result = make_result()
    messages = result_messages(result, "camera", "L1 to L4?")
    back = result_from_messages(messages.status, messages.vertebra_poses)
    assert back.stamp_ns == result.stamp_ns
    for a, b in zip(result.levels, back.levels, strict=True):
        assert (a.level, a.status, a.reason) == (b.level, b.status, b.reason)
        if a.T_camera_ct is None:
            assert b.T_camera_ct is None and b.predicted_tre_mm is None
        else:
            np.testing.assert_allclose(a.T_camera_ct, b.T_camera_ct, atol=1e-12)
            assert b.predicted_tre_mm == a.predicted_tre_mm


def test_only_tracked_levels_are_where_a_viewer_can_draw_them():
    messages = result_messages(make_result(), "camera")
    assert list(messages.poses) == ["L1", "L4"]
    assert len(messages.vertebra_poses.poses) == 2
    index = {f["level"]: f["pose_index"] for f in map(status_fields, messages.status.status)}
    assert index == {"L1": "0", "L2": "-1", "L3": "-1", "L4": "1"}
    assert {f["hypothesis"] for f in map(status_fields, messages.status.status)} == {""}


def test_a_pose_of_another_stamp_is_never_joined():
    messages = result_messages(make_result(), "camera")
    messages.vertebra_poses.header = header(1, "camera")
    back = {
        e.level: e for e in result_from_messages(messages.status, messages.vertebra_poses).levels
    }
    assert back["L1"].status is Status.LOST and back["L1"].T_camera_ct is None
    assert result_from_messages(messages.status, None).levels[0].status is Status.LOST


def test_unknown_qos_is_an_error_and_sensor_input_accepts_every_publisher():
    with pytest.raises(ValueError, match="SENSOR_IN"):
        qos.qos_named("FAST")
    assert qos.qos_named("SENSOR_IN") is qos.SENSOR_IN
    assert qos.SENSOR_IN.reliability.name == "BEST_EFFORT"
    assert qos.LATCHED.durability.name == "TRANSIENT_LOCAL"


# --- pairing of raw messages ----------------------------------------------------------------------


def messages_of(index, shift_ns=0, camera=support.CAMERA):
    f = support.frame(index, camera)
    return (
        image_message(f.colour, "rgb8", f.stamp_ns, f.frame_id),
        image_message(f.depth_m, "32FC1", f.stamp_ns + shift_ns, f.frame_id),
        camera_info_message(f.intrinsics, f.stamp_ns, f.frame_id),
    )


def paired(order):
    frames = []
    pairer = FramePairer(frames.append, 5.0)
    for kind, message in order:
        getattr(pairer, kind)(message)
    return frames, pairer


def test_pairs_in_any_order_of_arrival_and_decodes_as_a_recording_does():
    c0, d0, i0 = messages_of(0)
    c1, d1, _ = messages_of(1)
    order = [("info", i0), ("depth", d0), ("colour", c0), ("colour", c1), ("depth", d1)]
    frames, _ = paired(order)
    assert [f.stamp_ns for f in frames] == [support.frame(i).stamp_ns for i in (0, 1)]
    decoded = frames[1].decode(RgbdRectifier())
    expected = support.frame(1)
    np.testing.assert_array_equal(decoded.colour, expected.colour)
    np.testing.assert_array_equal(decoded.depth_m, expected.depth_m)
    assert decoded.intrinsics == expected.intrinsics


def test_depth_a_few_ms_off_is_joined_and_missing_depth_is_all_nan():
    order = [("info", messages_of(0)[2])]
    for i in range(6):
        c, d, _ = messages_of(i, shift_ns=4_000_000)
        order += [("colour", c)] + ([("depth", d)] if i != 3 else [])
    frames, pairer = paired(order)
    assert [f.stamp_ns for f in frames][:5] == [support.frame(i).stamp_ns for i in range(5)]
    assert frames[2].depth is not None and frames[3].depth is None
    assert np.isnan(frames[3].decode(RgbdRectifier()).depth_m).all()
    assert pairer.counts()["colour_without_depth"] == 1


def test_camera_info_of_another_size_or_without_focal_length_is_refused():
    c, d, i = messages_of(0)
    frames, _ = paired([("info", i), ("colour", c), ("depth", d)])
    i.width, i.height = 128, 96
    with pytest.raises(ValueError, match="its camera_info says 128x96"):
        frames[0].decode(RgbdRectifier())
    i.k = [0.0] * 9
    with pytest.raises(ValueError, match="focal length"):
        frames[0].decode(RgbdRectifier())


# --- configuration files --------------------------------------------------------------------------


def test_every_use_case_file_names_every_parameter_and_is_up_to_date():
    from spine_nav_bringup.use_cases import CONFIGS, USE_CASES, use_case_yaml

    for use_case in USE_CASES:
        file = CONFIG / f"{use_case}.yaml"
        assert file.read_text() == use_case_yaml(use_case), (
            "a parameter has changed: run `python -m spine_nav_bringup.use_cases config`"
        )
        for node, values in load_file(file, CONFIGS).items():
            build(CONFIGS[node], values, str(file))


def test_a_file_for_navigation_reaches_the_node_and_a_typing_error_does_not(tmp_path):
    import rclpy

    from spine_nav_common.ros.runtime import prepare_environment
    from spine_registration.ros.navigation import NavigationNode

    file = tmp_path / "p.yaml"
    file.write_text(
        "/**/navigation:\n  ros__parameters:\n    navigator.level_margin: 11.0\n    cas: 1\n"
    )
    support.own_domain()
    prepare_environment()
    arguments = ["--ros-args", "--params-file", str(file)]
    try:
        rclpy.init(args=arguments)
        with pytest.raises(ParameterError, match="unknown parameter 'cas'; did you mean"):
            NavigationNode(namespace="/spine")
        rclpy.try_shutdown()
        file.write_text(file.read_text().replace("    cas: 1\n", ""))
        rclpy.init(args=arguments)
        node = NavigationNode(namespace="/or_2/spine")
        assert node.get_parameter("navigator.level_margin").value == 11.0
        node.destroy_node()
    finally:
        rclpy.try_shutdown()


def published_kinds():
    """Topic to the type that a node advertises, read from the nodes' own lines."""
    from spine_nav_common.ros import topics

    found = {}
    for path in (CONFIG.parent / "src").glob("*/*/ros/*.py"):
        for kind, name in re.findall(r"advertise\(\s*(\w+), topics\.([A-Z_]+),", path.read_text()):
            found[f"/spine/{getattr(topics, name)}"] = kind
    return found


def test_viewer_layouts_show_topics_as_what_they_are():
    """RViz's displays, and Foxglove's 3D panel, each with a type that it draws."""
    kinds = published_kinds()
    rviz = yaml.safe_load((CONFIG / "spinenav.rviz").read_text())
    judged = 0
    for display in rviz["Visualization Manager"]["Displays"]:
        topic = display.get("Topic", {}).get("Value")
        if topic in kinds:
            assert display["Class"] == f"rviz_default_plugins/{kinds[topic]}", topic
            judged += 1
    assert judged >= 5
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())
    drawn = set(layout["configById"]["3D!guidance"]["topics"]) & kinds.keys()
    assert len(drawn) >= 4 and {kinds[t] for t in drawn} <= {"MarkerArray", "Path", "PoseArray"}


def test_viewer_layouts_name_topics_that_exist():
    from spine_nav_common.ros import topics

    names = {
        f"/spine/{v}" for k, v in vars(topics).items() if k.isupper() and not v.startswith("/")
    }
    rviz = yaml.safe_load((CONFIG / "spinenav.rviz").read_text())
    shown = [d["Topic"]["Value"] for d in rviz["Visualization Manager"]["Displays"] if "Topic" in d]
    assert set(shown) <= names and len(shown) == 8
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())
    image = layout["configById"]["Image!overlay"]["imageMode"]["imageTopic"]
    assert image in names
    assert set(layout["configById"]["3D!guidance"]["topics"]) <= names
    panels = layout["configById"]
    raw = {v["topicPath"] for k, v in panels.items() if k.startswith("RawMessages!")}
    assert {"/spine/health", "/spine/guidance/bending/status"} < raw <= names
    assert set(re.findall(r'"([A-Z0-9][A-Za-z0-9]+![a-z]+)"', json.dumps(layout["layout"]))) == set(
        panels
    )
