# SPDX-License-Identifier: Apache-2.0
"""Screws from mesh files: the saddle is found again, and what is no screw is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from spine_nav_common.core.errors import InputError
from spine_nav_sim.core.implant_files import load_implant
from spine_nav_sim.core.implant_screws import build_screw
from spine_nav_sim.core.implant_shapes import join, moved
from spine_nav_sim.core.implants import MM, random_screw_design, screw_pose

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # R_file_ours: z up becomes y up


def write(path, mesh, R=UP, shift_mm=(0.0, 0.0, 0.0), scale=1e3):
    v = scale * mesh.vertices_m @ R.T + shift_mm
    trimesh.Trimesh(v, mesh.faces, process=False).export(path)
    return path


def whole(design, yaw_rad=0.0):
    """The standing screw in one piece, its ball at the origin, the channel turned by yaw."""
    parts = build_screw(design, np.random.default_rng(0))
    hint = np.array([np.cos(yaw_rad), np.sin(yaw_rad), 0.0])
    pose = screw_pose(design, np.zeros(3), np.array([0, 0, 1.0]), hint, standoff_m=0.0)
    mesh = join([moved(parts.tulip, pose.T_world_tulip), moved(parts.shank, pose.T_world_shank)])
    return mesh, pose


def draw(family, seed, rod=0.0055):
    design = random_screw_design(np.random.default_rng(seed), [family], rod)
    return replace(design, shank_length_m=40 * MM)


@pytest.mark.parametrize("family", ["round", "flats", "monoaxial", "square_flared"])
@pytest.mark.parametrize("yaw_deg", [0.0, 33.0, 90.0])
def test_saddle_and_channel_are_found_from_the_shape(tmp_path, family, yaw_deg):
    truth = draw(family, seed=int(yaw_deg))
    mesh, pose = whole(truth, np.deg2rad(yaw_deg))
    design, parts = load_implant(write(tmp_path / "screw.ply", mesh))
    assert design.rod_diameter_m == truth.rod_diameter_m
    assert design.channel_m == pytest.approx(truth.channel_m, abs=0.25 * MM)
    assert design.top_m == pytest.approx(truth.top_m, abs=0.15 * MM)  # so is the saddle's height
    assert design.monoaxial and design.max_tilt_rad == 0
    # the file's points in our frame are the design's own, up to half a turn
    own = parts.tulip.vertices_m
    assert own[:, 2].max() == pytest.approx(truth.top_m, abs=0.15 * MM)
    head = moved(mesh, np.linalg.inv(pose.T_world_tulip)).vertices_m
    head = head[head[:, 2] > 2 * MM]
    for axis in (0, 1):
        span = own[own[:, 2] > 2.15 * MM][:, axis]
        assert span.max() == pytest.approx(head[:, axis].max(), abs=0.2 * MM)
    low = parts.shank.vertices_m
    assert low[:, 2].min() + design.saddle_to_ball_m * -1 == pytest.approx(
        -truth.saddle_to_ball_m - truth.ball_radius_m - 40 * MM, abs=0.2 * MM
    )


def test_saddle_follows_the_head_and_not_the_files_origin(tmp_path):
    mesh, _ = whole(draw("round", 1))
    one = load_implant(write(tmp_path / "a.ply", mesh))[1].tulip
    two = load_implant(write(tmp_path / "b.ply", mesh, shift_mm=(0.2, 30.0, -0.1)))[1].tulip
    np.testing.assert_allclose(
        one.vertices_m.mean(axis=0), two.vertices_m.mean(axis=0), atol=0.1 * MM
    )


def test_rod_is_the_one_that_the_channel_takes(tmp_path):
    for rod in (0.00475, 0.006):
        mesh, _ = whole(draw("flats", 4, rod))
        assert load_implant(write(tmp_path / "s.ply", mesh))[0].rod_diameter_m == rod


def test_tulip_alone_gets_a_shank_and_may_tilt(tmp_path):
    truth = draw("round", 2)
    parts = build_screw(truth, np.random.default_rng(0))
    design, loaded = load_implant(write(tmp_path / "tulip.stl", parts.tulip, shift_mm=(0, 50, 0)))
    assert design.top_m == pytest.approx(truth.top_m, abs=0.15 * MM)
    assert design.bottom_m == pytest.approx(truth.bottom_m, abs=0.15 * MM)
    assert design.max_tilt_rad > 0.3 and not design.monoaxial
    assert loaded.shank.vertices_m[:, 2].min() < -40 * MM
    # our ball stays under the rod
    assert design.saddle_to_ball_m - design.ball_radius_m > 0.5 * design.rod_diameter_m


def test_ball_head_is_told_from_a_tulip_and_its_centre_is_the_saddle(tmp_path):
    truth = draw("modular", 3)
    mesh, _ = whole(truth)
    design, parts = load_implant(write(tmp_path / "ball.ply", mesh))
    assert design.ball_only and parts.set_screw is None
    assert design.ball_radius_m == pytest.approx(truth.ball_radius_m, rel=0.02)
    distance = np.linalg.norm(parts.tulip.vertices_m, axis=1)
    assert distance.max() == pytest.approx(truth.ball_radius_m, abs=0.1 * MM)
    assert np.isfinite([design.tulip_diameter_m, design.top_m, design.bottom_m]).all()


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("none.ply", lambda p: None, "missing"),
        ("text.ply", lambda p: p.write_text("no mesh"), "not readable"),
        ("cube.ply", lambda p: trimesh.creation.box().export(p), "fewer than 50"),
        (
            "metres.ply",
            lambda p: write(p, whole(draw("round", 0))[0], scale=1.0),
            "no screw",
        ),
        (
            "lying.ply",
            lambda p: write(p, whole(draw("round", 0))[0], R=np.eye(3)),
            "no screw",
        ),
        (
            "down.ply",
            lambda p: write(p, whole(draw("round", 0))[0], R=np.diag([1.0, -1, 1]) @ UP),
            "no head",
        ),
        (
            "ring.ply",
            lambda p: write(p, whole(draw("closed_ring", 0))[0]),
            "channel",
        ),
        (
            "pin.ply",
            lambda p: (
                trimesh.creation.cylinder(6.0, 40.0, sections=64)
                .apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]))
                .export(p)
            ),
            "no head",
        ),
    ],
)
def test_what_is_no_screw_is_refused_with_file_and_remedy(tmp_path, name, make, says):
    file = tmp_path / name
    make(file)
    with pytest.raises(InputError, match=says) as caught:
        load_implant(file)
    assert name in str(caught.value) and caught.value.remedy


def test_nan_is_refused(tmp_path):
    mesh, _ = whole(draw("round", 0))
    mesh.vertices_m[5, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        load_implant(write(tmp_path / "nan.ply", mesh))


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared test data is not on this machine")
def test_screws_that_others_made():
    balls = sorted(DATA.glob("implant_pedicle_screws_BSEL/*.ply"))
    tulips = sorted(DATA.glob("implant_screws_SlicerPedicleScrewSimulator/*.ply"))
    assert balls and tulips
    for file in balls:
        design, _ = load_implant(file)
        assert design.ball_only
        assert 2e3 * design.ball_radius_m == pytest.approx(8.5, abs=0.1)  # its SOURCE.md
        diameter, length = file.stem[1:].split("L")
        assert 1e3 * design.shank_diameter_m == pytest.approx(float(diameter), abs=0.1)
        assert 1e3 * design.shank_length_m == pytest.approx(float(length), abs=0.5)
    heights = []
    for file in tulips:
        design, _ = load_implant(file)
        assert not design.ball_only and design.rod_diameter_m == 0.0055
        heights.append(1e3 * design.top_m)
    assert np.ptp(heights) < 0.2  # the same head on every shank
