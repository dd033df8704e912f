# SPDX-License-Identifier: Apache-2.0
"""Stereo scenes: truth lies where the pictures show it, and simulate writes both."""

import json
from dataclasses import replace

import numpy as np
import pytest

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.truth import load_truth
from spine_nav_common.core.types import Intrinsics
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.operation import simulate
from spine_nav_sim.core.render import pixel_rays
from spine_nav_sim.core.scene_config import SceneConfig
from spine_nav_sim.core.stereo_config import StereoConfig
from spine_nav_sim.core.stereo_layout import make_stereo_scene
from spine_nav_sim.core.stereo_scene import FIRST_ROD, OTHER_METAL, _finer, right_camera

SCENE = SceneConfig(exposed=("L2", "L3"), fps=4.0, seconds=1.0, threads=1, tool_passes=False,
                    distance_m=(0.4, 0.45), resect_share=0.0, burr_share=0.0,
                    breathing_mm=(0.2, 0.4), pushes=False)  # fmt: skip
CONFIG = StereoConfig(scene=SCENE, sizes=((320, 240),), missing_share=0.0, rods="seated")


@pytest.fixture(scope="module")
def anatomy():
    return make_anatomy(np.random.default_rng(3), ("L1", "L2", "L3", "L4"), "virtual-3")


@pytest.fixture(scope="module")
def scene(anatomy):
    return make_stereo_scene(anatomy, np.random.default_rng(4), CONFIG)


@pytest.fixture(scope="module")
def pair(scene):
    return scene.render(0.5)


def test_every_planned_screw_of_the_exposed_levels_stands(pair):
    assert {(h.level, h.side) for h in pair.heads} == {
        (level, side) for level in ("L2", "L3") for side in ("left", "right")
    }
    for head in pair.heads:
        assert np.linalg.norm(head.axis) == pytest.approx(1.0)
        assert head.axis @ head.head_m < 0.0, "the axis points out of the bone, to the camera"


def test_the_left_pixel_is_the_projected_saddle_and_the_right_differs_by_the_calibration(
    scene, pair
):
    k = pair.intrinsics
    for head in pair.heads:
        x, y, z = head.head_m
        np.testing.assert_allclose(head.left_px, [k.fx * x / z + k.cx, k.fy * y / z + k.cy])
        nominal = [k.fx * (x - pair.baseline_m) / z + k.cx, k.fy * y / z + k.cy]
        error = head.right_px - nominal
        assert 0.0 < np.abs(error).max() < 1.0
    exact = replace(scene, T_right_left=right_camera(pair.baseline_m, k, 0.0, 0.0))
    for head in exact.render(0.5).heads:
        assert head.right_px[1] == pytest.approx(head.left_px[1])


def test_row_and_vergence_errors_have_the_stated_size():
    k = Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)
    T = right_camera(0.06, k, 0.5, -0.25)
    x = T[:3, :3] @ np.array([0.0, 0.0, 0.5]) + T[:3, 3]
    assert k.fy * x[1] / x[2] == pytest.approx(-0.5, abs=1e-3)
    assert k.fx * x[0] / x[2] + k.fx * 0.06 / 0.5 == pytest.approx(-0.25, abs=0.01)


def test_a_pixel_is_the_mean_of_its_fine_rays():
    k = Intrinsics(8, 6, 10.0, 11.0, 3.3, 2.2)
    fine = pixel_rays(_finer(k, 2))
    mean = fine.reshape(6, 2, 8, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(mean, pixel_rays(k), atol=1e-6)


def test_seated_rods_pass_through_the_saddles_and_are_seen(scene, pair):
    assert pair.rods
    for rod in pair.rods:
        step = np.linalg.norm(np.diff(rod.centreline_m, axis=0), axis=1)
        assert step.max() <= 0.001
        for head in pair.heads:
            if head.side == rod.side:  # breathing moves the levels against each other
                gap = np.linalg.norm(rod.centreline_m - head.head_m, axis=1).min()
                assert gap < 0.0008
        assert rod.seen_left.any()


def test_rows_across_the_spine_and_rods_with_a_given_overhang_on_both_sides(anatomy):
    config = replace(
        CONFIG,
        scene=replace(SCENE, roll_deg=(85.0, 95.0)),
        one_rod_share=0.0,
        overhang_m=(0.01, 0.01),
    )
    for seed in range(3):
        scene = make_stereo_scene(anatomy, np.random.default_rng(seed), config)
        T_left_world = scene.scene.camera_path.T_camera_world(0.0)
        cranial = T_left_world[:3, :3] @ scene.scene.T_world_wound[:3, 2]
        assert abs(cranial[0]) < 0.5 * abs(cranial[1])
        assert {rod.side for rod in scene.rods} == {"left", "right"}
        for rod in scene.rods:
            saddles = [
                transform_points(scene.scene.motion.rest[s.level], s.saddle_ct_m)
                for s in scene.screws
                if s.side == rod.side
            ]
            ends = rod.centreline_m[[0, -1]]
            for end in ends:
                nearest = np.linalg.norm(np.array(saddles) - end, axis=1).min()
                assert nearest == pytest.approx(0.01, abs=1e-4)


def test_what_covers_a_head_is_counted(scene, pair):
    """Take the rods away: no head may be seen less than before."""
    bare = replace(
        scene, rods=(), implants=tuple(i for i in scene.implants if not 100 <= i.owner < 250)
    )
    assert len(bare.implants) < len(scene.implants)
    for with_rod, without in zip(pair.heads, bare.render(0.5).heads, strict=True):
        assert 0 <= with_rod.visible_px <= without.visible_px
        assert (with_rod.seen <= without.seen + 1e-9).all()
    assert any(a.visible_px < b.visible_px
               for a, b in zip(pair.heads, bare.render(0.5).heads, strict=True))  # fmt: skip


def test_metal_changes_the_picture_where_the_truth_says(scene, pair):
    none = replace(scene, implants=())
    off = none.render(0.5)
    difference = np.abs(pair.left.astype(int) - off.left.astype(int))
    difference = difference.reshape(*difference.shape[:2], -1).max(axis=2)
    visible = [h for h in pair.heads if h.seen[0] > 0.5]
    assert visible
    for head in visible:
        u, v = np.rint(head.left_px).astype(int)
        assert difference[v - 4 : v + 5, u - 4 : u + 5].max() > 15
    assert FIRST_ROD > len(pair.heads)


def test_equal_seeds_give_equal_pairs(anatomy, pair):
    again = make_stereo_scene(anatomy, np.random.default_rng(4), CONFIG).render(0.5)
    np.testing.assert_array_equal(again.left, pair.left)
    np.testing.assert_array_equal(again.right, pair.right)
    other = make_stereo_scene(anatomy, np.random.default_rng(5), CONFIG)
    assert other.baseline_m != pair.baseline_m


def test_links_and_blood_come_on_top_of_the_same_operation(anatomy, scene):
    def others(stereo):
        return sum(i.owner == OTHER_METAL for i in stereo.implants)

    linked = make_stereo_scene(
        anatomy, np.random.default_rng(4), replace(CONFIG, cross_link_share=1.0, pooled_share=1.0)
    )
    assert len(linked.rods) == 2 and others(linked) == others(scene) + 1  # seated: nothing pools
    for one, other in zip(linked.screws, scene.screws, strict=True):
        np.testing.assert_array_equal(one.saddle_ct_m, other.saddle_ct_m)
    bare = replace(CONFIG, rods="none", families=("round",))
    dry, wet = (
        make_stereo_scene(anatomy, np.random.default_rng(4), replace(bare, pooled_share=share))
        for share in (0.0, 1.0)
    )
    assert others(wet) == others(dry) + len(wet.screws)
    shown = [np.mean([h.seen for h in s.render(0.0).heads]) for s in (dry, wet)]
    assert shown[1] < shown[0] - 0.1  # it hides a part of the heads, and the truth says so


def test_too_few_planned_screws_are_refused(anatomy):
    bare = replace(anatomy, plan=anatomy.plan[:1])
    with pytest.raises(ValueError, match="at least 2"):
        make_stereo_scene(bare, np.random.default_rng(1), CONFIG)


def test_an_unknown_kind_of_rod_is_refused(anatomy):
    with pytest.raises(ValueError, match="floating"):
        make_stereo_scene(anatomy, np.random.default_rng(1), replace(CONFIG, rods="floating"))


@pytest.mark.parametrize("scenes", [("stereo",), ("rgbd", "stereo")])
def test_simulate_writes_pairs_with_truth(anatomy, tmp_path, scenes):
    rgbd = replace(SCENE, width=160, height=120)
    simulate(tmp_path / "out", anatomy, seed=2, seconds=0.5, scenes=scenes, config=rgbd,
             stereo_config=CONFIG)  # fmt: skip
    truth = load_truth(tmp_path / "out" / "truth.json")
    pairs = list(open_recording(tmp_path / "out" / "recording").stereo_frames())
    assert [p.stamp_ns for p in pairs] == sorted({s.stamp_ns for s in truth.screws})
    assert len(pairs) == 2
    assert len(truth.screws) == 4 * len(pairs)
    assert truth.rods
    assert len(truth.frames) == 2
    if "rgbd" in scenes:  # the poses belong to the RGB-D camera, which came first
        assert max(truth.frames) < min(p.stamp_ns for p in pairs)
    document = json.loads((tmp_path / "out" / "truth.json").read_text())
    assert document["exposed"] == ["L2", "L3"]


def test_a_tray_of_screws_lies_beside_the_wound_and_changes_nothing_else(anatomy, scene):
    config = replace(CONFIG, tray_screws=6)
    for seed in (4, 5, 6):
        with_tray = make_stereo_scene(anatomy, np.random.default_rng(seed), config)
        without = make_stereo_scene(anatomy, np.random.default_rng(seed), CONFIG)
        tray = with_tray.implants[len(without.implants) :]
        assert {i.owner for i in tray} == {OTHER_METAL} and len(tray) == 2
        assert [s.saddle_ct_m.tolist() for s in with_tray.screws] == [
            s.saddle_ct_m.tolist() for s in without.screws
        ]
        wound = with_tray.scene.wound
        box = tray[1].solid.corners  # of the screws, wound frame
        assert np.abs(box[:, 0]).min() > wound.half_width_m and np.ptp(box[:, 2]) > 0.03


def test_a_mirror_alone_is_the_only_implant_and_no_bone_shows(anatomy):
    alone = make_stereo_scene(anatomy, np.random.default_rng(4), replace(CONFIG, rods="alone"))
    assert [i.owner for i in alone.implants] == [FIRST_ROD] and not alone.screws
    looks = alone.implants[0].looks
    assert (looks.mirror, looks.blur, looks.blood) == (1.0, 0.0, 0.0)
    pair = alone.render(0.5)
    assert not pair.heads and pair.rods[0].seen_left.any()
    shown = [s.scene.trace(s.scene.camera_path.T_camera_world(0.5), pair.T_camera_ct, 0.5)[0]
             for s in (alone, make_stereo_scene(anatomy, np.random.default_rng(4), CONFIG))]  # fmt: skip
    bone = [int((buffer.instance > 0).sum()) for buffer in shown]
    assert bone[0] < 0.02 * bone[1]
