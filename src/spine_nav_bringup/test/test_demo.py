# SPDX-License-Identifier: Apache-2.0
"""What the demo shows and when it fails; its recording, read back."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import trimesh
from rosbags.highlevel import AnyReader

from rod_bending_ar.pictures import write_error_over_time, write_strip, write_update_time
from spine_nav_bringup.demo import choose_moments, close_up, results_of, traces, verdict
from spine_nav_bringup.demo_recording import write_foxglove
from spine_nav_bringup.use_cases import CONFIGS
from spine_nav_common.core.graph import paced
from spine_nav_common.core.outputs import PoseRow
from spine_nav_common.core.truth import Truth, TruthFrame
from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    Mesh,
    NavigationResult,
    RgbdFrame,
    ScrewPlan,
    Status,
)

K = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)
SHAPE = trimesh.creation.icosphere(subdivisions=2, radius=0.02)
MESH = Mesh(np.asarray(SHAPE.vertices), np.asarray(SHAPE.faces, np.int32))
PLAN = ScrewPlan("L3", "left", np.array([0.0, 0.02, 0.0]), np.array([0.0, -0.02, 0.0]))
CASE = Case("demo", "LPS", {"L3": MESH, "L4": MESH}, ("L3", "L4"), (PLAN,), "")
GOOD = {"wrong_level": 0, "silent_failures": 0, "tracked": 10}


def rows(pattern: str) -> list[PoseRow]:
    """One frame per character: number of levels that are tracked."""
    T = np.eye(4)
    T[2, 3] = 0.5
    found = []
    for i, c in enumerate(pattern):
        for k, level in enumerate(("L3", "L4")):
            ok = k < int(c)
            found.append(
                PoseRow(
                    i * 66_000_000 + 5, level, Status.TRACKED if ok else Status.LOST,
                    T if ok else None, 1.5 if ok else None, None,
                )
            )  # fmt: skip
    return found


def moments_of(pattern: str, visible: str):
    """Moments of a run; `visible` has one digit of bone in view per frame."""
    results = results_of(rows(pattern))
    seen = {s: int(c) for s, c in zip(sorted(results), visible, strict=True)}
    return choose_moments(results, seen)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"wrong_level": 1}, "wrong level"),
        ({"silent_failures": 2}, "silent failures"),
        ({"tracked": 0}, "never tracked|ever tracked"),
    ],
)
def test_a_demo_that_measured_harm_fails_and_says_so(change, text):
    assert verdict(GOOD) == []
    (problem,) = verdict({**GOOD, **change})
    assert any(t in problem for t in text.split("|"))


def test_the_pictures_show_the_first_pose_the_occlusion_and_the_recovery():
    moments = moments_of("0012222100222222", "9999999610799999")
    captions = " ".join(m.caption for m in moments)
    assert len(moments) == 4
    for words in ("first pose", "before a tool passes", "most covered", "after it"):
        assert words in captions
    assert [m.stamp_ns for m in moments] == sorted(m.stamp_ns for m in moments)


def test_a_run_without_occlusion_is_shown_evenly():
    moments = moments_of("0222202222", "9" * 10)  # one frame was dropped, none was covered
    assert [m.caption for m in moments] == ["0.1 s", "0.3 s", "0.4 s", "0.6 s"]


def test_the_close_up_shows_the_same_pixels_with_the_same_rays():
    colour = np.arange(480 * 640 * 3, dtype=np.uint32).astype(np.uint8).reshape(480, 640, 3)
    k = Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5)
    depth = np.linspace(0.4, 0.6, 480 * 640, dtype=np.float32).reshape(480, 640)
    frame = RgbdFrame(5, colour, depth, k)
    near = close_up(frame, CASE, results_of(rows("2"))[5])
    assert near.colour.shape == (300, 400, 3)
    x, y = round(k.cx - near.intrinsics.cx), round(k.cy - near.intrinsics.cy)
    assert (near.colour == colour[y : y + 300, x : x + 400]).all()
    assert (near.depth_m == depth[y : y + 300, x : x + 400]).all()
    assert close_up(frame, CASE, None) is frame


@pytest.mark.parametrize("pattern", ["0", "2", "00", "22", "020"])
def test_short_runs_have_pictures_too(pattern):
    moments = moments_of(pattern, "9" * len(pattern))
    assert 1 <= len(moments) <= 4


def test_traces_hold_errors_only_where_there_is_a_pose():
    own = rows("022")
    T = np.eye(4)
    T[2, 3] = 0.501
    stamps = sorted({r.stamp_ns for r in own})
    frames = {s: TruthFrame(s, {"L3": T, "L4": T}) for s in stamps}
    trace = traces(own, Truth(("L3", "L4"), ("L3", "L4"), (PLAN,), frames), CASE)[0]
    assert np.isnan(trace.tre_mm[0])
    assert trace.tre_mm[1:] == pytest.approx([1.0, 1.0])
    assert np.isnan(trace.bound_mm[0])


def test_pictures_are_written(tmp_path):
    own = rows("0122221")
    frames = {r.stamp_ns: TruthFrame(r.stamp_ns, {"L3": np.eye(4), "L4": np.eye(4)}) for r in own}
    found = traces(own, Truth(("L3", "L4"), ("L3", "L4"), (PLAN,), frames), CASE)
    write_error_over_time(tmp_path / "e.png", found, "title")
    write_update_time(tmp_path / "u.png", [1, 2], [2.0, 3.0], [3.0, 4.0])
    image = np.zeros((120, 160, 3), np.uint8)
    write_strip(tmp_path / "s.png", [("a", image), ("b", image), ("c", image)])
    for name in "eus":
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_a_level_that_is_not_tracked_has_no_tf_and_no_marker(tmp_path):
    T = np.eye(4)
    T[2, 3] = 0.5

    def frame(i: int, status: Status):
        colour = np.full((120, 160, 3), 80, np.uint8)
        image = RgbdFrame(10 + i, colour, np.full((120, 160), 0.6, np.float32), K)
        pose = T if status in (Status.TRACKED, Status.OCCLUDED) else None
        bound = None if pose is None else 1.2
        level = LevelEstimate("L3", status, pose, predicted_tre_mm=bound)
        lost = LevelEstimate("L4", Status.LOST, reason="gone")
        return image, NavigationResult(10 + i, (level, lost))

    stages = (Status.SEARCHING, Status.TRACKED, Status.OCCLUDED)
    folder = write_foxglove(tmp_path / "r", CASE, [frame(i, s) for i, s in enumerate(stages)])
    found: dict[str, list] = {}
    with AnyReader([folder]) as reader:
        for connection, _, raw in reader.messages():
            found.setdefault(connection.topic, []).append(
                reader.deserialize(raw, connection.msgtype)
            )
    assert [[t.child_frame_id for t in m.transforms] for m in found["/tf"]] == [
        [], ["vertebra_L3"], []
    ]  # fmt: skip
    bones = [[m.action for m in a.markers] for a in found["/spine/vertebrae"]]
    assert bones == [[3], [3, 0], [3]]
    plans = [len(a.markers) for a in found["/spine/guidance/trajectories"]]
    assert plans == [1, 4, 1]
    status = found["/spine/registration/status"][1].status
    values = {v.key: v.value for v in status[0].values}
    assert (values["level"], values["status"], values["pose_index"]) == ("L3", "tracked", "0")
    assert {v.key: v.value for v in status[1].values}["pose_index"] == "-1"
    assert len(found["/camera/camera/color/image_raw/compressed"]) == 3
    assert len(found["/camera/camera/color/camera_info"]) == 3


def test_at_the_cameras_own_pace_the_limits_of_age_are_the_nodes_own():
    def limits(rate):
        pairs = (text.split("=") for text in paced(rate))
        return {name: float(value) for name, value in pairs}

    own, slow = limits(1.0), limits(0.25)
    assert own.pop("camera_source.rate") == 1.0 and slow.pop("camera_source.rate") == 0.25
    for name, value in own.items():
        node, parameter = name.split(".")
        default = {f.name: f.default for f in fields(CONFIGS[node])}[parameter]
        assert value == default, name
        assert slow[name] == 4.0 * value
