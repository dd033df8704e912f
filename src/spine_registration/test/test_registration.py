# SPDX-License-Identifier: Apache-2.0
"""Registration from scratch: the right names, or none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import registration_support as support
from scipy.spatial.transform import Rotation

from spine_nav_common.core.types import Rejected
from spine_registration.core import registration
from spine_registration.core.config import NavigatorConfig
from spine_registration.core.registration import Registration, register

CONFIG = NavigatorConfig()


def run(model, pixels, instances, noise, config=CONFIG):
    return register(model, pixels, instances, noise, config)


def scene(model, seed, roll_deg=90.0, tilt_deg=(0.0, 0.0), **kw):
    """Truth, pixels and instances of everything that `model` has."""
    rng = np.random.default_rng(seed)
    T = support.bent(model, support.rigid_pose(model, roll_deg, tilt_deg), rng)
    pixels = support.bone_pixels(model, T, rng, noise_m=0.6e-3, tissue_m=0.8e-3, **kw)
    return T, pixels, support.instances_of(model, T, rng)


def is_clear(found):
    return isinstance(found, Registration) and found.clear


@pytest.mark.parametrize(
    ("roll_deg", "tilt_deg"),
    [(0.0, (0.0, 0.0)), (90.0, (15.0, 0.0)), (-90.0, (0.0, -20.0)), (163.0, (-10.0, 15.0))],
)
def test_finds_all_levels_whatever_side_the_head_is_on(model, noise, roll_deg, tilt_deg):
    T, pixels, instances = scene(model, 1, roll_deg, tilt_deg)
    found = run(model, pixels, instances, noise)
    assert is_clear(found), found
    assert found.best.name == "L1-L4"
    assert found.margin > CONFIG.level_margin
    assert support.tre_mm(model, found.best.estimate.T_camera_ct, T).max() < 1.5


def test_the_reading_that_was_followed_is_heard_before_another_takes_its_place(
    model, noise, monkeypatch
):
    """A hand over the wound: the votes that are left start one level off, and no rival is near."""
    T, pixels, instances = scene(model, 7)
    off = support.rigid_pose(model, 90.0)
    off[:, :3, 3] += T[0, :3, :3] @ (model.anchor_m[0] - model.anchor_m[1])
    monkeypatch.setattr(registration, "find_starts", lambda *_: [registration.Start(off[0], 0.0)])
    monkeypatch.setattr(registration, "_shifted", lambda *_: None)
    monkeypatch.setattr(registration, "reversed_start", lambda *_: registration.Start(off[0], 0.0))
    alone = run(model, pixels, instances, noise)
    assert is_clear(alone), alone  # nothing that is heard speaks against it
    assert support.tre_mm(model, alone.best.estimate.T_camera_ct, T).max() > 10.0
    found = register(model, pixels, instances, noise, CONFIG, followed=T)
    assert isinstance(found, Registration)
    assert support.tre_mm(model, found.best.estimate.T_camera_ct, T).max() < 1.5


def test_the_order_of_the_instances_does_not_matter(model, noise):
    T, pixels, instances = scene(model, 2)
    found = run(model, pixels, instances[::-1], noise)
    assert is_clear(found), found
    assert support.tre_mm(model, found.best.estimate.T_camera_ct, T).max() < 1.5


def test_a_vertebra_beyond_the_case_does_not_shift_the_names(world_model, model, noise):
    """L5 is in view, but not in the case."""
    T, pixels, instances = scene(world_model, 3)
    found = run(model, pixels, instances, noise)
    assert isinstance(found, Registration)
    assert support.tre_mm(model, found.best.estimate.T_camera_ct, T[:4]).max() < 1.5


def test_a_level_that_the_network_missed_is_placed_all_the_same(model, noise):
    T, pixels, instances = scene(model, 4)
    found = run(model, pixels, instances[:1] + instances[2:], noise)
    assert is_clear(found), found
    assert support.tre_mm(model, found.best.estimate.T_camera_ct, T).max() < 1.5


def test_two_levels_are_enough_or_refused_but_never_wrong(world_model, noise):
    two = support.part_model(world_model, ("L3", "L4"))
    T, pixels, instances = scene(two, 5)
    found = run(two, pixels, instances, noise)
    assert isinstance(found, Registration)
    assert support.tre_mm(two, found.best.estimate.T_camera_ct, T).max() < 2.0


def test_a_level_that_is_not_exposed_is_placed_by_its_neighbours(model, noise):
    """L1 of the case is still under muscle: no bone, no instance."""
    some = replace(model, exposed=np.array([False, True, True, True]))
    rng = np.random.default_rng(6)
    T = support.bent(some, support.rigid_pose(some), rng)
    share = {v: 1.0 for v in ("L2", "L3", "L4")}
    pixels = support.bone_pixels(some, T, rng, noise_m=0.6e-3, share=share)
    instances = support.instances_of(some, T, rng, ("L2", "L3", "L4"))
    found = run(some, pixels, instances, noise)
    assert is_clear(found), found
    assert support.tre_mm(some, found.best.estimate.T_camera_ct, T)[1:].max() < 1.5


@pytest.mark.parametrize("seed", range(4))
def test_identical_vertebrae_are_never_named_without_the_surgeon(world_model, noise, seed):
    """The classic harm, off by one: five equal vertebrae open, the case knows three of them."""
    names = ("L1", "L2", "L3", "L4", "L5")
    five = support.stacked_model(world_model, "L3", names)
    rng = np.random.default_rng([21, seed])
    T = support.rigid_pose(five)
    pixels = support.bone_pixels(five, T, rng, noise_m=0.6e-3)
    instances = support.instances_of(five, T, rng)
    found = run(support.part_model(five, ("L2", "L3", "L4")), pixels, instances, noise)
    assert not is_clear(found), (found.best.name, found.margin)


def test_unequal_exposure_does_not_name_identical_vertebrae(world_model, noise):
    """As before, but two of the five are half under muscle: the count of bone pixels prefers one
    answer, the shapes none."""
    names = ("L1", "L2", "L3", "L4", "L5")
    five = support.stacked_model(world_model, "L3", names)
    for seed, half in enumerate((("L1", "L5"), ("L1", "L2"))):
        rng = np.random.default_rng([22, seed])
        T = support.rigid_pose(five)
        share = {v: 0.55 if v in half else 1.0 for v in names}
        pixels = support.bone_pixels(five, T, rng, noise_m=0.6e-3, share=share)
        instances = support.instances_of(five, T, rng)
        found = run(support.part_model(five, ("L2", "L3", "L4")), pixels, instances, noise)
        assert not is_clear(found), (half, found.margin)


def test_the_margin_decides(world_model, noise):
    _, pixels, instances = scene(world_model, 7)
    two = support.part_model(world_model, ("L2", "L3"))
    assert is_clear(run(two, pixels, instances, noise))
    found = run(two, pixels, instances, noise, replace(CONFIG, level_margin=1e6))
    assert isinstance(found, Registration)
    assert not found.clear
    assert found.best.name in found.reason
    assert found.rival in found.reason


def test_no_instances_is_a_refusal(model, noise):
    _, pixels, _ = scene(model, 8)
    found = run(model, pixels, (), noise)
    assert isinstance(found, Rejected)
    assert "no vertebra" in found.reason


def test_votes_without_meaning_are_not_an_answer(model, noise):
    """Instances anywhere, turned anyhow."""
    _, pixels, instances = scene(model, 9)
    for seed in range(3):
        rng = np.random.default_rng([9, seed])
        turned = Rotation.random(len(instances), random_state=rng).as_matrix()
        garbage = tuple(
            replace(i, centre_m=i.centre_m + rng.uniform(-0.08, 0.08, 3), R_camera_anatomy=R)
            for i, R in zip(instances, turned)
        )
        assert not is_clear(run(model, pixels, garbage, noise)), seed


def test_bone_that_is_no_spine_is_not_an_answer(model, noise):
    """A wavy plate with plausible votes on it: nothing of the case's shape."""
    _, pixels, instances = scene(model, 10)
    for seed in range(3):
        rng = np.random.default_rng([10, seed])
        p = pixels.points_m.copy()
        wave = 6e-3 * np.sin(p[:, 0] / 7e-3 + rng.uniform(0, 6)) * np.sin(p[:, 1] / 9e-3)
        p[:, 2] = 0.5 + wave + rng.normal(0, 0.6e-3, len(p))
        assert not is_clear(run(model, replace(pixels, points_m=p), instances, noise)), seed


@pytest.mark.parametrize("seed", range(3))
def test_votes_with_head_and_foot_swapped_do_not_turn_the_spine_round(model, noise, seed):
    """Either the shape overrules the votes, or the surgeon is asked."""
    T, pixels, instances = scene(model, [11, seed])
    swap = np.diag([-1.0, 1.0, -1.0])
    flipped = tuple(replace(i, R_camera_anatomy=i.R_camera_anatomy @ swap) for i in instances)
    found = run(model, pixels, flipped, noise)
    if is_clear(found):
        assert support.tre_mm(model, found.best.estimate.T_camera_ct, T).max() < 1.5


@pytest.mark.parametrize("largest", range(5))
def test_the_largest_instance_may_lie_beyond_the_case(world_model, noise, largest):
    """L2 to L4 of five in view; whichever looks largest, the right answer is among the tried."""
    T, pixels, instances = scene(world_model, 13)
    instances = tuple(
        replace(i, area_m2=2e-3 if k == largest else 0.8e-3) for k, i in enumerate(instances)
    )
    three = support.part_model(world_model, ("L2", "L3", "L4"))
    found = run(three, pixels, instances, noise)
    assert isinstance(found, Registration)
    assert support.tre_mm(three, found.best.estimate.T_camera_ct, T[1:4]).max() < 1.5
