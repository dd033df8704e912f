# SPDX-License-Identifier: Apache-2.0
"""The virtual operation's truth, determinism, events and ranges."""

from dataclasses import replace

import cv2
import numpy as np
import open3d as o3d
import pytest

from spine_nav_common.core.geometry import backproject_depth, check_transform, invert
from spine_nav_common.core.types import LEVEL_CODE, Intrinsics, Mesh
from spine_nav_sim.core.anatomy import Anatomy, make_anatomy
from spine_nav_sim.core.scene import SceneConfig, make_scene
from spine_nav_sim.core.views import render_view, render_views

PLAIN = SceneConfig(
    exposed=("L2", "L3", "L4"),
    camera="d415",
    width=320,
    height=240,
    distance_m=(0.45, 0.5),
    off_centre=0.05,
    tool_passes=False,
    resect_share=0.0,
    burr_share=0.0,
    threads=1,
)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return make_anatomy(np.random.default_rng(7), ("L1", "L2", "L3", "L4", "L5"), "test")


def scene_of(anatomy, seed=1, **changes):
    return make_scene(anatomy, np.random.default_rng(seed), replace(PLAIN, **changes))


@pytest.fixture(scope="module")
def scene(anatomy):
    return scene_of(anatomy)


@pytest.fixture(scope="module")
def frame(scene):
    return scene.render(1.0)


def arrays(frame):
    return (frame.colour, frame.depth_true_m, frame.depth_m, frame.instance, frame.tissue_m)


def test_equal_seeds_make_equal_frames_in_any_order(anatomy, frame):
    again = scene_of(anatomy)
    again.render(0.3)
    for a, b in zip(arrays(frame), arrays(again.render(1.0)), strict=True):
        np.testing.assert_array_equal(a, b)
    other = scene_of(anatomy, seed=2).render(1.0)
    assert not np.array_equal(frame.colour, other.colour)


def test_a_still_camera_s_cache_changes_nothing(anatomy):
    scene = scene_of(anatomy)
    first = scene.render(0.5)
    cached = scene.render(0.5)
    scene.forget()
    for one, two, three in zip(arrays(first), arrays(cached), arrays(scene.render(0.5)),
                               strict=True):  # fmt: skip
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_types_are_those_of_a_driver(frame):
    rgbd = frame.to_frame(42)
    assert rgbd.stamp_ns == 42
    assert rgbd.colour.shape == (240, 320, 3)
    assert rgbd.colour.dtype == np.uint8
    assert rgbd.depth_m.dtype == np.float32
    assert (rgbd.intrinsics.width, rgbd.intrinsics.height) == (320, 240)
    assert set(np.unique(frame.instance)) <= {0, *LEVEL_CODE.values()}


@pytest.mark.parametrize("seed", [1, 5])
def test_true_depth_on_bone_lies_on_the_ct_surface_plus_its_tissue(anatomy, seed):
    frame = scene_of(anatomy, seed=seed).render(1.3)
    points = backproject_depth(frame.intrinsics, frame.depth_true_m)
    for level in ("L2", "L3", "L4"):
        seen = frame.instance == LEVEL_CODE[level]
        assert seen.sum() == frame.visible_px[level] > 50
        check_transform(frame.T_camera_ct[level])
        T = invert(frame.T_camera_ct[level])
        local = points[seen] @ T[:3, :3].T + T[:3, 3]
        mesh = anatomy.meshes[level]
        surface = o3d.t.geometry.RaycastingScene(nthreads=1)
        surface.add_triangles(
            o3d.core.Tensor(mesh.vertices_m.astype(np.float32)),
            o3d.core.Tensor(mesh.faces.astype(np.uint32)),
        )
        signed = surface.compute_signed_distance(local.astype(np.float32)).numpy()
        tissue = frame.tissue_m[seen]
        assert tissue.min() >= 0.0
        assert tissue.max() <= 0.003 + 1e-6
        # Displaced along interpolated normals, a point can be nearer to another fold, never farther.
        assert (signed <= tissue + 2e-4).all()
        assert np.quantile(signed, 0.01) > -2e-4
        bare = tissue < 1e-6
        assert bare.any()
        assert np.quantile(np.abs(signed[bare]), 0.99) < 2e-4
        thick = tissue > 0.0005
        if thick.any():
            assert np.median(signed[thick] / tissue[thick]) > 0.7


def test_vertices_projected_by_opencv_carry_their_level(anatomy, frame):
    camera = frame.intrinsics
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1.0]])
    for level in ("L2", "L3", "L4"):
        T = frame.T_camera_ct[level]
        vertices = anatomy.meshes[level].vertices_m
        uv, _ = cv2.projectPoints(vertices, cv2.Rodrigues(T[:3, :3])[0], T[:3, 3], matrix, None)
        u, v = np.rint(uv[:, 0]).astype(int).T
        inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        z = (vertices @ T[:3, :3].T + T[:3, 3])[:, 2]
        u, v, z = u[inside], v[inside], z[inside]
        visible = np.abs(frame.depth_true_m[v, u] - z) < 0.0003
        assert visible.sum() > 20
        found = frame.instance[v, u][visible]
        # Where bone dips under the tissue, rounding to a pixel may hit the tissue beside it.
        assert (found == LEVEL_CODE[level]).mean() > 0.85
        assert np.isin(found, (0, LEVEL_CODE[level])).mean() > 0.98


def test_tissue_on_bone_only(frame):
    assert not frame.tissue_m[frame.instance == 0].any()


def test_noise_off_gives_the_truth(anatomy):
    frame = scene_of(anatomy, depth_noise=False).render(0.0)
    np.testing.assert_array_equal(frame.depth_m, frame.depth_true_m)


def test_noise_on_bone_is_that_of_a_depth_camera(frame):
    error = (frame.depth_m - frame.depth_true_m)[frame.instance > 0]
    assert 1e-4 < np.nanmedian(np.abs(error)) < 4e-3
    assert np.isnan(error).mean() < 0.4


def test_breathing_moves_every_level_within_its_range(anatomy):
    breathing = scene_of(anatomy, breathing_mm=(1.5, 1.5), pushes=False)
    t = np.linspace(0.0, 5.0, 101)
    peaks = {}
    for level, mesh in anatomy.meshes.items():
        centre = np.append(mesh.vertices_m.mean(axis=0), 1.0)
        path = np.array([(breathing.motion.T_world_ct(level, s) @ centre)[:3] for s in t])
        peaks[level] = 500.0 * np.linalg.norm(np.ptp(path, axis=0))
    assert all(0.3 * 1.5 - 1e-6 <= p <= 1.5 + 1e-6 for p in peaks.values())
    assert len({round(p, 6) for p in peaks.values()}) > 1
    still = scene_of(anatomy, breathing_mm=(0.0, 0.0), pushes=False)
    for level in anatomy.meshes:
        np.testing.assert_array_equal(
            still.motion.T_world_ct(level, 0.0), still.motion.T_world_ct(level, 3.3)
        )


def test_a_bump_moves_one_exposed_level_for_good(anatomy):
    bumped = scene_of(anatomy, bump=True, pushes=False, breathing_mm=(0.0, 0.0), seconds=6.0)
    moved = {}
    for level, mesh in anatomy.meshes.items():
        centre = np.append(mesh.vertices_m.mean(axis=0), 1.0)
        before, after = ((bumped.motion.T_world_ct(level, t) @ centre)[:3] for t in (2.9, 5.9))
        moved[level] = 1e3 * np.linalg.norm(after - before)
    jumped = [level for level, mm in moved.items() if mm > 1e-9]
    assert len(jumped) == 1
    assert jumped[0] in PLAIN.exposed
    assert 2.0 <= moved[jumped[0]] <= 5.0


def test_tools_hide_bone_for_a_part_of_the_time(anatomy):
    busy = scene_of(anatomy, seed=4, tool_passes=True, tool_busy=0.6, width=160, height=120)
    free = scene_of(anatomy, seed=4, width=160, height=120)
    shares = []
    for t in np.arange(0.0, 10.0, 0.8):
        hidden, bare = busy.render(t), free.render(t)
        shares.append(np.sum(hidden.instance > 0) / np.sum(bare.instance > 0))
        # What is hidden is hidden by something nearer.
        lost = (hidden.instance == 0) & (bare.instance > 0)
        assert (hidden.depth_true_m[lost] < bare.depth_true_m[lost] + 1e-6).all()
    assert min(shares) < 0.7
    assert max(shares) > 0.98


@pytest.mark.parametrize("area_mm2", [600.0, 1200.0])
def test_the_exposed_area_is_what_was_asked_for(anatomy, area_mm2):
    frame = scene_of(
        anatomy, visible_area_mm2=(area_mm2, area_mm2), pitch_deg=(0.0, 0.0), tissue_mm=0.0
    ).render(0.0)
    pixel_mm2 = 1e6 * frame.depth_true_m**2 / (frame.intrinsics.fx * frame.intrinsics.fy)
    seen = np.isin(frame.instance, [LEVEL_CODE[level] for level in PLAIN.exposed])
    assert pixel_mm2[seen].sum() / 3.0 == pytest.approx(area_mm2, rel=0.25)
    # Neighbours peek out at most; all levels have a pose and a count.
    assert frame.visible_px["L1"] + frame.visible_px["L5"] < 0.5 * seen.sum()
    assert set(frame.visible_px) == set(anatomy.meshes) == set(frame.T_camera_ct)


def test_cameras_stand_where_the_configuration_says(anatomy):
    rolls = []
    for seed in range(12):
        scene = scene_of(anatomy, seed=seed, distance_m=(0.35, 0.75), camera="random")
        T = scene.camera_path.T_camera_world(0.0)
        T_wound_camera = invert(T @ scene.T_world_wound)
        distance = T_wound_camera[1, 3] / -T_wound_camera[1, 2] - scene.wound.skin_y_m
        assert 0.25 < distance < 0.9
        assert np.degrees(np.arccos(-T_wound_camera[1, 2])) <= 25.001
        assert scene.camera_model.name in ("d415", "d435", "d405", "zedm")
        rolls.append(np.degrees(np.arctan2(T_wound_camera[2, 0], T_wound_camera[0, 0])) // 90)
    assert len(set(rolls)) >= 3  # the head lies on any side of the picture


def test_a_moving_camera_moves_the_picture_and_the_truth(anatomy):
    moving = scene_of(anatomy, camera_moves=True, breathing_mm=(0.0, 0.0), pushes=False)
    a, b = moving.render(0.0), moving.render(2.0)
    relative = [invert(a.T_camera_ct[v]) @ b.T_camera_ct[v] for v in ("L2", "L3")]
    assert np.linalg.norm(relative[0][:3, 3]) > 1e-4
    together = [T[level] for T in (a.T_camera_ct, b.T_camera_ct) for level in ("L2", "L3")]
    np.testing.assert_allclose(
        invert(together[0]) @ together[1], invert(together[2]) @ together[3], atol=1e-12
    )


def test_a_burr_hole_lies_under_the_ct_surface(anatomy):
    assert anatomy.plan
    frames = [scene_of(anatomy, seed=s, burr_share=1.0, tissue_mm=1.0).render(0.0)
              for s in (1, 2)]  # fmt: skip
    drilled = [f for f in frames if f.tissue_m.min() < -0.001]
    assert drilled
    assert all(f.tissue_m.min() >= -0.004 - 1e-6 for f in frames)


def test_a_resected_level_loses_bone_but_not_its_truth(anatomy):
    whole = scene_of(anatomy, seed=3)
    cut = scene_of(anatomy, seed=3, exposed=("L3",), resect_share=1.0)
    assert set(cut.motion.rest) == set(whole.motion.rest)
    assert set(cut.render(0.0).T_camera_ct) == set(anatomy.meshes)


@pytest.mark.parametrize("camera", ["d415", "zedm"])
def test_matched_stereo_depth_is_near_the_truth(anatomy, camera):
    stereo = scene_of(anatomy, depth="stereo", camera=camera, width=640, height=480)
    frame = stereo.render(0.0)
    error = (frame.depth_m - frame.depth_true_m)[frame.instance > 0]
    assert np.isnan(error).mean() < 0.4
    assert np.nanmedian(np.abs(error)) < 0.004
    assert np.nanmax(np.abs(error)) > 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exposed": ("L2", "T3")}, "T3"),
        ({"camera": "kinect"}, "kinect"),
        ({"depth": "lidar"}, "lidar"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(anatomy, changes, words):
    with pytest.raises(ValueError, match=words):
        scene_of(anatomy, **changes)


def test_meshes_without_a_posterior_arch_under_the_opening_are_refused(anatomy):
    beads = {
        level: Mesh(1e-3 * (mesh.vertices_m - mesh.vertices_m.mean(axis=0)) + centre, mesh.faces)
        for centre, (level, mesh) in zip(
            ([0.0, 0.0, 0.07], [0.0, 0.0, 0.035], [0.0, 0.0, 0.0]),
            list(anatomy.meshes.items())[1:4],
            strict=True,
        )
    }
    with pytest.raises(ValueError, match="no bone lies under the opening"):
        make_scene(replace(anatomy, meshes=beads), np.random.default_rng(0), PLAIN)


def test_views_come_at_the_asked_size_and_differ(anatomy):
    camera = Intrinsics(96, 80, 90.0, 90.0, 47.5, 39.5)
    views = render_views(anatomy, np.random.default_rng(0), PLAIN, views=3, intrinsics=camera)
    assert [v.colour.shape for v in views] == [(80, 96, 3)] * 3
    assert all(v.intrinsics == camera for v in views)
    poses = [v.T_camera_ct["L3"] for v in views]
    assert np.abs(poses[0] - poses[1]).max() > 0.01
    single = render_view(anatomy, np.random.default_rng(0), PLAIN, intrinsics=camera)
    np.testing.assert_array_equal(single.colour, views[0].colour)
