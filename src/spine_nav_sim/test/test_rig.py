# SPDX-License-Identifier: Apache-2.0
"""A whole operation under two cameras of one rig: one patient, one clock, one fixed transform."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from spine_nav_common.core.errors import InputError
from spine_nav_common.core.geometry import invert, transform_points
from spine_nav_common.core.recorded_scenes import open_scenes
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.types import RgbdFrame, StereoFrame
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.rig import MetalProp, Stages, simulate_rig
from spine_nav_sim.core.stereo_config import StereoConfig

SCENE = StereoConfig().scene
CONFIG = replace(
    StereoConfig(),
    scene=replace(SCENE, exposed=("L2", "L3"), fps=5.0, threads=1, distance_m=(0.4, 0.4)),
    sizes=((320, 240),),
    missing_share=0.0,
)
SECONDS = 0.8


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    anatomy = make_anatomy(np.random.default_rng(3), ("L1", "L2", "L3"), "virtual-3")
    out = tmp_path_factory.mktemp("rig") / "out"
    rig = simulate_rig(out, anatomy, 5, SECONDS, CONFIG, Stages(0.25, 0.5))
    return out, rig, json.loads((out / "truth.json").read_text())


def test_screws_and_rods_come_when_their_stage_has_come(written):
    _, rig, truth = written
    stamps = sorted({f["stamp_ns"] for f in truth["frames"]})
    begun = min(s["stamp_ns"] for s in truth["screws"])
    laid = min(r["stamp_ns"] for r in truth["rods"])
    assert stamps[0] < begun < laid
    metal = [p for p in rig.rgbd.props if isinstance(p, MetalProp)]
    there = [[p.pose(t) is not None for p in metal] for t in (0.0, SECONDS)]
    assert not any(there[0]) and all(there[1])

    def above_m(frame):
        """How far the surface stands before each head's saddle, in the RGB-D camera's picture."""
        found, k = [], frame.intrinsics
        for screw in rig.stereo.screws:
            p = transform_points(frame.T_camera_ct[screw.level], screw.saddle_ct_m)
            u, v = round(k.fx * p[0] / p[2] + k.cx), round(k.fy * p[1] / p[2] + k.cy)
            found.append(p[2] - np.nanmin(frame.depth_true_m[v - 3 : v + 4, u - 3 : u + 4]))
        return np.array(found)

    grown = above_m(rig.rgbd.render(SECONDS)) - above_m(rig.rgbd.render(0.0))
    assert grown.max() > 0.002, "heads stand in its picture too"


def test_both_cameras_see_one_patient_through_the_recorded_transform(written):
    out, rig, truth = written
    scenes = open_scenes(out / "recording", {})
    fixed = next(iter(scenes.recordings.values())).static_transforms()
    (edge,) = fixed
    assert {edge.parent, edge.child} == {StereoFrame.frame_id, RgbdFrame.frame_id}
    T_left_colour = edge.T_parent_child if edge.parent == StereoFrame.frame_id else invert(edge.T_parent_child)  # fmt: skip
    poses = {f["stamp_ns"]: f["T_camera_ct_m"] for f in truth["frames"]}
    own = {(s.level, s.side): s for s in rig.stereo.screws}
    shared = [s for s in truth["screws"] if s["stamp_ns"] in poses]
    assert shared
    for entry in shared:
        T_left_ct = T_left_colour @ np.array(poses[entry["stamp_ns"]][entry["level"]])
        head = transform_points(T_left_ct, own[entry["level"], entry["side"]].saddle_ct_m)
        np.testing.assert_allclose(head, entry["head_camera_m"], atol=1e-6)


def test_the_recording_holds_every_frame_of_both_cameras_in_order(written):
    out, _, truth = written
    recording = open_recording(out / "recording")
    wide = [f.stamp_ns for f in recording.rgbd_frames()]
    pairs = [f.stamp_ns for f in recording.stereo_frames()]
    assert wide == [f["stamp_ns"] for f in truth["frames"]] and len(wide) == 12
    assert len(pairs) == 4 and set(pairs) <= set(wide)


def test_an_operation_that_is_there_is_not_overwritten(written):
    with pytest.raises(InputError, match="already there"):
        simulate_rig(written[0], None, 1, 1.0, CONFIG)
