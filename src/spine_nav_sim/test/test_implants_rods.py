# SPDX-License-Identifier: Apache-2.0
"""Rods and other metal: centrelines through the saddles, tubes without twist, closed surfaces."""

from itertools import pairwise

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from spine_nav_sim.core import implant_tools
from spine_nav_sim.core.implant_rods import frames_along, random_rod_curve, tube_mesh
from spine_nav_sim.core.implant_shapes import volume, weld
from spine_nav_sim.core.implants import FAMILIES_TRAIN, MM, random_screw_design

SADDLES = np.array([[0, 0, 0], [0.004, 0.035, 0.003], [0.002, 0.068, 0.012], [0, 0.1, 0.03]])


def closed(mesh):
    whole = weld(mesh.vertices_m, mesh.faces)
    body = trimesh.Trimesh(whole.vertices_m, whole.faces, process=False)
    return body.is_watertight and body.is_winding_consistent and volume(mesh) > 0


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_seated_rod_passes_every_saddle_exactly_and_hangs_over(count, seed):
    saddles = SADDLES[:count]
    curve = random_rod_curve(np.random.default_rng(seed), saddles, seated=True)
    distance, index = cKDTree(curve).query(saddles)
    assert distance.max() < 1e-12
    assert (np.diff(index) > 0).all()
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    assert 0 < steps.min() and steps.max() <= 1.0 * MM
    overhang = steps[: index[0]].sum(), steps[index[-1] :].sum()
    assert all(3 * MM - 1e-9 <= o <= 15 * MM + 1e-9 for o in overhang)


@pytest.mark.parametrize("seated", [True, False])
def test_rods_are_smooth(seated):
    for seed in range(20):
        curve = random_rod_curve(np.random.default_rng(seed), SADDLES, seated)
        t = np.diff(curve, axis=0)
        t /= np.linalg.norm(t, axis=1, keepdims=True)
        turn = np.arccos(np.clip(np.einsum("ij,ij->i", t[1:], t[:-1]), -1, 1))
        assert turn.max() < np.deg2rad(5)  # per step of about 0.8 mm
        assert np.linalg.norm(np.diff(curve, axis=0), axis=1).max() <= 1.0 * MM


def test_free_rod_keeps_off_the_saddles_line_but_near():
    away = []
    for seed in range(30):
        curve = random_rod_curve(np.random.default_rng(seed), SADDLES, seated=False)
        d = np.linalg.norm(curve.mean(axis=0) - SADDLES.mean(axis=0))
        assert 3.9 * MM < d < 51 * MM
        away.append(d)
    assert np.ptp(away) > 10 * MM


def test_same_seed_same_rod():
    one, two = (random_rod_curve(np.random.default_rng(3), SADDLES, True) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "saddles", [SADDLES[:1], SADDLES[:, :2], SADDLES * np.nan, np.zeros((3, 3))]
)
def test_rod_refuses_saddles_that_make_no_line(saddles):
    with pytest.raises(ValueError, match="saddles_m"):
        random_rod_curve(np.random.default_rng(0), saddles, True)


@pytest.mark.parametrize("end", ["round", "hex", "flat"])
@pytest.mark.parametrize("sides", [20, 32])
def test_tube_is_closed_and_has_its_radius(end, sides):
    curve = random_rod_curve(np.random.default_rng(1), SADDLES, True)
    mesh = tube_mesh(curve, 0.00275, sides, end)
    assert closed(mesh)
    fine = np.vstack([np.linspace(a, b, 9) for a, b in pairwise(curve)])
    distance = cKDTree(fine).query(mesh.vertices_m)[0]
    nearest = cKDTree(curve).query(mesh.vertices_m)[1]
    middle = (nearest > 3) & (nearest < len(curve) - 10)
    assert distance[middle].min() > 2.70 * MM and distance[middle].max() < 2.80 * MM
    beyond = 1.3 * MM if end == "round" else 0.0
    for tip, before, at in ((curve[0], curve[1], 0), (curve[-1], curve[-2], len(curve) - 1)):
        out = (tip - before) / np.linalg.norm(tip - before)
        reach = ((mesh.vertices_m[nearest == at] - tip) @ out).max()
        assert reach == pytest.approx(beyond, abs=0.1 * MM)
    corners = distance[nearest == len(curve) - 1]
    if end == "hex":
        assert corners.max() == pytest.approx(1.6 * 0.00275 / np.sqrt(3), abs=0.02 * MM)


def test_frames_do_not_flip_on_a_looping_curve():
    s = np.linspace(0, 4 * np.pi, 400)
    frames = frames_along(np.column_stack([np.cos(s), np.sin(s), 0.3 * s]) * 0.05)
    product = np.einsum("kij,kil->kjl", frames[1:], frames[:-1])
    step = np.arccos(np.clip((np.trace(product, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert step.max() < np.deg2rad(3)
    np.testing.assert_allclose(np.linalg.det(frames), 1, atol=1e-9)


def test_tube_refuses_nonsense():
    with pytest.raises(ValueError, match="centreline_m"):
        tube_mesh(np.zeros((2, 3)), 0.003)
    with pytest.raises(ValueError, match="neighbours coincide"):
        tube_mesh(np.zeros((5, 3)), 0.003)
    with pytest.raises(ValueError, match="'round', 'hex' or 'flat'"):
        tube_mesh(SADDLES, 0.003, end="square")


@pytest.mark.parametrize("name", ["rod_bender", "rod_holder", "k_wire", "needle", "suction_tip"])
def test_tools_are_closed_and_rise_from_their_tip(name):
    for seed in range(5):
        mesh = getattr(implant_tools, name)(np.random.default_rng(seed))
        assert closed(mesh)
        z = mesh.vertices_m[:, 2]
        assert -0.04 < z.min() < 0.001  # rollers and jaws reach round the rod
        assert 0.1 < z.max() < 0.45
        assert np.linalg.norm(mesh.vertices_m, axis=1).min() < 0.012


def test_rod_holder_leaves_the_rod_its_room():
    for seed in range(5):
        mesh = implant_tools.rod_holder(np.random.default_rng(seed), 0.0055)
        v = mesh.vertices_m
        assert np.hypot(v[:, 1], v[:, 2]).min() > 0.0027


def test_tower_encloses_the_tulip_and_leaves_the_channel_open():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        design = random_screw_design(rng, [f for f in FAMILIES_TRAIN if f != "modular"])
        mesh = implant_tools.tower(rng, design)
        assert closed(mesh)
        v = mesh.vertices_m
        assert np.hypot(v[:, 0], v[:, 1]).min() > 0.5 * design.tulip_diameter_m
        slot = v[:, 2] < design.top_m
        assert np.abs(v[slot, 1]).min() > 0.5 * design.rod_diameter_m
        assert v[:, 2].max() > design.top_m + 30 * MM
