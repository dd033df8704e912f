# SPDX-License-Identifier: Apache-2.0
"""Another person's spine, a mirrored case, another level's mesh, an operated vertebra: each is
put before the navigator on purpose, and the right patient as well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy_twins as twins
import pytest
import registration_support as support

from spine_nav_common.core.types import Case, Mesh, Status
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.splits import anatomy_seeds
from spine_registration.core import frame_kernels, identity
from spine_registration.core.estimator import anchors, assign
from spine_registration.core.model import GRID_M, build_model
from spine_registration.core.navigator import MAX_FOREIGN, Navigator

LEVELS = ("L1", "L2", "L3", "L4")
POSED = (Status.TRACKED, Status.OCCLUDED)


@pytest.fixture(scope="module")
def truth(world_model):
    return support.bent(world_model, support.rigid_pose(world_model), np.random.default_rng(2), 0.7)


@pytest.fixture(scope="module")
def frames(stage, truth):
    return [stage.frame(i, truth) for i in range(1, 37)]


@pytest.fixture(scope="module")
def other_case():
    """The same levels of another person of the list `train`."""
    seed = anatomy_seeds("train")[8]
    anatomy = make_anatomy(np.random.default_rng(seed), levels=LEVELS)
    return Case("other", "LPS", anatomy.meshes, LEVELS, (), "")


@pytest.fixture(scope="module")
def other_model(other_case):
    return build_model(other_case)


def insist(navigator: Navigator, frames) -> list:
    """All results; whatever the navigator asks, the surgeon confirms."""
    results = []
    for frame in frames:
        results.append(navigator.process(frame))
        if navigator.pending is not None:
            navigator.confirm(True)
    return results


def shown(results) -> int:
    return sum(e.status in POSED or e.T_camera_ct is not None for r in results for e in r.levels)


def swapped(model, level: str, by: str):
    """The model whose mesh of `level` is the one of `by`, at the place of the right one."""
    k, j = model.levels.index(level), model.levels.index(by)
    shift = model.anchor_m[k] - model.anchor_m[j]
    arrays = {}
    for name in ("offset", "shape", "dorsal_normal"):
        arrays[name] = getattr(model, name).copy()
        arrays[name][k] = getattr(model, name)[j]
    for name in ("origin_m", "dorsal_m", "centroid_m"):
        arrays[name] = getattr(model, name).copy()
        arrays[name][k] = getattr(model, name)[j] + shift
    return replace(model, **arrays)


def test_the_right_patient_is_proven_at_once(case, model, stage, frames):
    navigator = Navigator(case, support.Oracle(stage), model=model)
    first = navigator.process(frames[0])
    assert any("shape of the case proven" in e for e in first.events)
    assert first.identity == "proven" and first.identity_margin_nat > identity.PROVEN_NAT
    results = [navigator.process(f) for f in frames[1:20]]
    assert all(e.status is Status.TRACKED for r in results for e in r.levels)
    assert not any("differs from the CT" in e for r in results for e in r.events)
    assert sum("shape leads by" in e for r in results for e in r.events) == 1


def test_another_patient_is_never_shown_even_if_the_surgeon_confirms(
    other_case, other_model, stage, frames
):
    navigator = Navigator(other_case, support.Oracle(stage), model=other_model)
    results = insist(navigator, frames)
    assert shown(results) == 0
    registered = sum(any(e.startswith("registered") for e in r.events) for r in results)
    assert 1 <= registered <= MAX_FOREIGN  # it was looked at, and did not come back by itself
    assert all(e.status is Status.REJECTED for e in results[-1].levels)
    assert results[-1].identity == "refused" and results[-1].identity_margin_nat < 0.0
    assert "not the spine of this case" in results[-1].levels[0].reason


def test_only_a_new_registration_asks_again(other_case, other_model, stage, frames):
    navigator = Navigator(other_case, support.Oracle(stage), model=other_model)
    insist(navigator, frames)
    # By chance of a fault nothing else clears it: the mended case comes with a new registration.
    assert navigator.process(stage.frame(50, stage.truth[frames[0].stamp_ns][1])).levels[0].status \
        is Status.REJECTED  # fmt: skip
    navigator.request_registration()
    again = insist(navigator, [stage.frame(51, stage.truth[frames[0].stamp_ns][1])])
    assert "not the spine" not in again[0].levels[0].reason
    assert shown(again) == 0


def test_a_mirrored_case_is_never_shown(world, world_model, truth):
    """Joints that differ by 3 mm from side to side, as they do in people."""

    def uneven(mesh: Mesh) -> Mesh:
        v = mesh.vertices_m.copy()
        v[:, 1] += 1.5e-3 * np.sin(2 * np.pi * v[:, 0] / 0.03)
        return Mesh(v, mesh.faces)

    real = replace(world, meshes={level: uneven(mesh) for level, mesh in world.meshes.items()})
    flip = np.array([-1.0, 1.0, 1.0])
    meshes = {
        v: Mesh(real.meshes[v].vertices_m * flip, real.meshes[v].faces[:, ::-1].copy())
        for v in ("L2", "L3", "L4")
    }
    stage = support.Stage(real, world_model)
    frames = [stage.frame(i, truth) for i in range(1, 25)]
    case = Case("mirrored", "LPS", meshes, tuple(meshes), (), "")
    navigator = Navigator(case, support.Oracle(stage))
    assert shown(insist(navigator, frames)) == 0


def test_a_mesh_of_another_level_is_refused_and_the_others_are_shown(case, model, stage, frames):
    navigator = Navigator(case, support.Oracle(stage), model=swapped(model, "L2", "L4"))
    last = insist(navigator, frames[:20])[-1]
    by_name = {e.level: e for e in last.levels}
    assert by_name["L2"].status is Status.REJECTED
    assert "not L2 of the case" in by_name["L2"].reason
    assert by_name["L4"].status is Status.TRACKED


def test_a_level_that_was_foreign_does_not_turn_into_an_operated_one():
    foreign, operated = identity.Change("L2", "", 3.0), identity.Change("L2", "left lamina", 3.0)
    before, now = (
        identity.Verdict(50.0, np.array([9.0, -20.0]), 1.0, 0.8, 40, changed, other)
        for changed, other in (((), (foreign,)), ((operated,), ()))
    )
    assert identity._still_foreign(None, now) is now
    after = identity._still_foreign(before, now)
    assert after.changed == () and [c.level for c in after.foreign] == ["L2"]


@pytest.mark.parametrize("mm", [7.0, -8.0])
def test_an_operated_vertebra_is_told_and_the_others_are_shown(case, model, stage, frames, mm):
    """The lamina stood higher, or lower, in the CT than it does now."""
    k, mesh = model.levels.index("L3"), case.meshes["L3"]
    aside = (model.dorsal_m[k] - model.anchor_m[k]) @ model.axes
    at = model.dorsal_m[k][np.argmin(np.abs(aside[:, 0] - 0.01) + np.abs(aside[:, 2]))]
    near = np.exp(-((mesh.vertices_m - at) ** 2).sum(axis=1) / (2 * 6.7e-3**2))
    before = mesh.vertices_m + 1e-3 * mm * near[:, None] * model.axes[:, 1]
    ct = replace(case, meshes={**case.meshes, "L3": replace(mesh, vertices_m=before)})
    results = insist(Navigator(ct, support.Oracle(stage), model=build_model(ct)), frames[:20])
    assert all(e.status is Status.TRACKED for e in results[-1].levels if e.level != "L3")
    told = [e for r in results for e in r.events if e.startswith("L3")]
    told += [e.reason for e in results[-1].levels if e.level == "L3"]
    assert any("operated on since" in words for words in told)


def test_a_short_lead_must_hold_and_a_long_one_proves_at_once(
    case, model, stage, frames, monkeypatch
):
    real = identity.judge
    for lead, until in ((identity.PROVEN_NAT + 1.0, identity.HELD), (identity.SURE_NAT + 1.0, 1)):
        monkeypatch.setattr(
            identity, "judge", lambda *a, lead=lead: replace(real(*a), margin_nat=lead)
        )
        navigator = Navigator(case, support.Oracle(stage), model=model)
        proven = [navigator.process(f).identity == "proven" for f in frames[:5]]
        assert proven.index(True) == until - 1


def test_a_proof_that_turns_is_withdrawn(case, model, other_model, stage, frames):
    """The evidence of another patient after a proof: all levels are lost, not shown on."""
    navigator = Navigator(case, support.Oracle(stage), model=model)
    for frame in frames[:16]:
        navigator.process(frame)
    patches = navigator._patches
    odd = (
        patches.centre_m[..., :1] * 0 + 3e-3 * np.sin(300 * patches.centre_m.sum(axis=2))[..., None]
    )
    e = navigator._identity.evidence
    navigator._identity = replace(
        navigator._identity, evidence=replace(e, moment=e.moment + e.weight * odd[..., 0])
    )
    results = [navigator.process(f) for f in frames[16:31]]
    assert any("all levels lost: this is not the spine" in e for r in results for e in r.events)


def test_noise_alone_decides_nothing(model):
    """Patches full of strong noise speak neither for the case nor against it."""
    patches = identity.make_patches(model)
    rng = np.random.default_rng(0)
    size = patches.centre_m.shape[:2]
    frames, weight = 12.0, np.full(size, 12 * 20e-6)
    still = 2e-3 * rng.normal(size=size)
    passing = 2e-3 * rng.normal(size=(12, *size))
    means = still + passing
    evidence = identity.Evidence(
        frames, weight, weight * means.mean(axis=0), np.full(size, frames), means.sum(axis=0),
        (means**2).sum(axis=0), np.full(len(size) and size[0], 0.5 * frames),
    )  # fmt: skip
    verdict = identity.judge(evidence, patches)
    assert verdict is not None
    assert identity.CONTRADICTED_NAT < verdict.margin_nat


def test_only_a_clear_loss_says_that_it_is_another_spine():
    close, clear = (
        identity.Verdict(nat, np.array([nat]), 1.0, 0.8, 40)
        for nat in (identity.CONTRADICTED_NAT + 1.0, identity.CONTRADICTED_NAT - 1.0)
    )
    assert "cannot be told" in identity._refusal(close)
    assert "not the spine of this case" in identity._refusal(clear)


def test_too_little_bone_gives_no_verdict(model):
    patches = identity.make_patches(model)
    assert identity.judge(identity.begin(patches).evidence, patches) is None


def test_kernel_against_its_numpy_twin(model):
    rng = np.random.default_rng(4)
    T = support.rigid_pose(model)
    pixels = support.bone_pixels(model, T, rng)
    patches = identity.make_patches(model)
    level = assign(model, T, pixels, identity.LIMIT_M)
    arguments = (
        pixels.points_m, pixels.ray, pixels.centre_vote_m, pixels.bone, pixels.clean,
        pixels.area_m2, level, T, anchors(model, T), patches.slot, patches.centre_m,
        identity.PATCH_REACH_M, identity.LIMIT_M, identity.VOTE_REACH_M,
        model.field, model.offset, model.shape, model.origin_m, GRID_M,
    )  # fmt: skip
    weight, moment = frame_kernels.sort_into_patches(*arguments)
    expected = twins.sort_into_patches(model, pixels, level, T, patches)
    assert weight.sum() > 0
    np.testing.assert_allclose(weight, expected[0], rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(moment, expected[1], rtol=1e-3, atol=1e-11)
