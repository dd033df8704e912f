# SPDX-License-Identifier: Apache-2.0
"""Two cameras on one spine, made of poses with errors of their own: one estimate, and every way in which
the second camera, or both, may not be believed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import registration_support as support

from spine_nav_common.core.geometry import exp_se3, exp_so3, invert, perturb_about, transform
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Rejected, Status
from spine_registration.core import put_together
from spine_registration.core.between import Between, SeenByBoth, checked, from_spine
from spine_registration.core.put_together import CHECK_TICKS, PutTogether

MS = 1_000_000
X = transform(exp_so3(np.array([0.1, 0.6, -1.2])), np.array([-0.3, 0.05, 0.12]))  # T_first_second
BOTH = ("first", "second")


def cov(mm: float, deg: float) -> np.ndarray:
    return np.diag([(1e-3 * mm) ** 2] * 3 + [np.radians(deg) ** 2] * 3)


NOISE, BIAS = cov(0.05, 0.05), cov(0.5, 0.3)
BOARD = Between(X, cov(0.1, 0.03), "between.yaml")


class Eye:
    """A camera that sees the levels at their true poses, off by its biases and by noise."""

    def __init__(self, model, truth, T_eye_first, seed, bias=1.0):
        self.model, self.seen = model, T_eye_first @ truth
        self.rng = np.random.default_rng(seed)
        root = bias * np.linalg.cholesky(BIAS)
        self.bias = [root @ self.rng.standard_normal(6) for _ in model.levels]

    def look(self, stamp_ns, hidden=(), named=0, identity="proven", moved=None, nat=9.0):
        """named: every level is called by the name of its neighbour so many levels lower."""
        out = []
        for k, level in enumerate(self.model.levels):
            at = k - named
            if level in hidden or not 0 <= at < len(self.seen):
                out.append(LevelEstimate(level, Status.SEARCHING, reason="covered"))
                continue
            T = self.seen[at] if moved is None else moved @ self.seen[at]
            anchor = T[:3, :3] @ self.model.anchor_m[at] + T[:3, 3]
            xi = self.bias[at] + np.linalg.cholesky(NOISE) @ self.rng.standard_normal(6)
            T = perturb_about(T, xi, anchor)
            if named:  # the neighbour's shape lies on this bone
                T = T @ transform(np.eye(3), self.model.anchor_m[at] - self.model.anchor_m[k])
            out.append(
                LevelEstimate(level, Status.TRACKED, T, NOISE + BIAS, anchor, 1.5, noise=NOISE)
            )
        return NavigationResult(stamp_ns, tuple(out), identity=identity, identity_margin_nat=nat)


@pytest.fixture
def eyes(model, truth):
    poses = truth[: len(model.levels)]
    return Eye(model, poses, np.eye(4), 1), Eye(model, poses, invert(X), 2)


@pytest.fixture
def together(model):
    return PutTogether(model, BOARD, 3.6)


def run(together, eyes, count, start=0, first=None, second=None):
    """`first`, `second`: what is said of each look; False: the camera has no frame."""
    out = []
    for i in range(start, start + count):
        stamp = (i + 1) * 66 * MS
        looks = [
            None if how is False else eye.look(stamp, **(how or {}))
            for eye, how in zip(eyes, (first, second), strict=True)
        ]
        out.append(together(stamp, *looks))
    return out


def anchors_m(model, told):
    return np.array(
        [
            e.T_camera_ct[:3, :3] @ model.anchor_m[k] + e.T_camera_ct[:3, 3]
            for k, e in enumerate(told.result.levels)
        ]
    )


def largest_step_mm(model, many):
    places = np.array([anchors_m(model, t) for t in many])
    return 1e3 * np.linalg.norm(np.diff(places, axis=0), axis=2).max(axis=1)


def test_the_second_camera_joins_when_the_spine_bears_it_out_and_nothing_jumps(
    model, eyes, together
):
    told = run(together, eyes, 40)
    assert {c for t in told[: CHECK_TICKS - 1] for c in t.cameras.values()} == {("first",)}
    assert "together yet" in told[0].out["second"]
    assert all(c == BOTH for t in told[CHECK_TICKS:] for c in t.cameras.values())
    assert told[-1].out == {"first": "", "second": ""}
    assert largest_step_mm(model, told).max() < 0.5
    joined = anchors_m(model, told[CHECK_TICKS - 1]) - anchors_m(model, told[-1])
    assert 1e3 * np.linalg.norm(joined, axis=1).max() > 0.2, "nothing was there to ease"


def test_a_hand_over_either_camera_moves_nothing_but_without_learned_biases_it_does(
    model, truth, together, monkeypatch
):
    poses = truth[: len(model.levels)]
    eyes = Eye(model, poses, np.eye(4), 3, 1.3), Eye(model, poses, invert(X), 4, 1.3)

    def hands(judge):
        run(judge, eyes, 30)
        return (
            run(judge, eyes, 2, 30) + run(judge, eyes, 20, 32, first=False)
            + run(judge, eyes, 20, 52) + run(judge, eyes, 20, 72, second={"hidden": model.levels})
            + run(judge, eyes, 5, 92)
        )  # fmt: skip

    told = hands(together)
    assert [t.cameras["L2"] for t in (told[0], told[5], told[30], told[50], told[-1])] == [
        BOTH, ("second",), BOTH, ("first",), BOTH,
    ]  # fmt: skip
    assert all(e.status is Status.TRACKED for t in told for e in t.result.levels)
    assert largest_step_mm(model, told).max() < 0.5
    assert told[5].out["first"] == "no frame" and told[50].out["second"] == "covered"

    fuse = put_together.fuse
    monkeypatch.setattr(
        put_together, "fuse", lambda known, *more: (known, fuse(known, *more)[1])
    )  # learned biases switched off
    monkeypatch.setattr(put_together, "EASE_S", 1e-9)
    assert largest_step_mm(model, hands(PutTogether(model, BOARD, 3.6))).max() > 0.5


def test_both_are_better_than_one_and_the_bound_holds(model, truth):
    poses = truth[: len(model.levels)]
    one, both, under = [], [], []
    for seed in range(12):
        eyes = Eye(model, poses, np.eye(4), seed), Eye(model, poses, invert(X), 100 + seed)
        told = run(PutTogether(model, BOARD, 3.6), eyes, 50)[-1]
        alone = run(PutTogether(model, BOARD, 3.6), eyes, 10, second=False)[-1]
        for t, into in ((alone, one), (told, both)):
            mm = support.tre_mm(model, np.array([e.T_camera_ct for e in t.result.levels]), poses)
            into += list(mm)
        under += list(mm <= [e.predicted_tre_mm for e in told.result.levels])
    assert np.mean(both) < 0.85 * np.mean(one)
    assert np.mean(under) > 0.9


@pytest.mark.parametrize("seed", range(6))
def test_a_transform_that_is_5_mm_off_is_refused_and_the_first_camera_goes_on(model, eyes, seed):
    off = np.random.default_rng(seed).standard_normal(3)
    wrong = X.copy()
    wrong[:3, 3] += 5e-3 * off / np.linalg.norm(off)
    told = run(PutTogether(model, replace(BOARD, T_first_second=wrong), 3.6), eyes, 30)
    assert {c for t in told for c in t.cameras.values()} == {("first",)}
    assert "does not fit" in told[-1].out["second"] and "calibrate again" in told[-1].out["second"]
    assert sum("dropped" in e for t in told for e in t.result.events) == 1
    assert all(e.status is Status.TRACKED for e in told[-1].result.levels)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (invert(X), "the other way round"),
        (np.diag([-1.0, 1, 1, 1]) @ X @ np.diag([-1.0, 1, 1, 1]), "mirrored"),
        (transform(X[:3, :3], 1.05 * X[:3, 3]), "1.05"),
        (X @ exp_se3(np.array([0.02, 0, 0, 0, 0.1, 0])), "moved since"),
    ],
)
def test_a_wrong_transform_is_refused_with_what_is_wrong_about_it(model, eyes, wrong, said):
    together = PutTogether(model, replace(BOARD, T_first_second=wrong), 3.6)
    told = run(together, eyes, 20)[-1]
    assert said in told.out["second"], told.out
    assert "second" not in {n for c in told.cameras.values() for n in c}


def test_a_camera_that_is_bumped_is_dropped_without_a_jump_and_comes_back_when_it_fits(
    model, eyes, together
):
    before = run(together, eyes, 40)
    bump = exp_se3(np.array([4e-3, -3e-3, 2e-3, 0.0, 0.0, 0.0]))
    told = run(together, eyes, 20, 40, second={"moved": bump})
    assert "one of the cameras was moved" in told[-1].out["second"]
    assert told[-1].cameras["L2"] == ("first",)
    refused = [e for t in told for e in t.result.levels if e.status is not Status.TRACKED]
    assert {e.status for e in refused} == {Status.REJECTED}
    assert all("contradict" in e.reason for e in refused) and len(refused) <= 2 * len(model.levels)
    step = anchors_m(model, told[-1]) - anchors_m(model, before[-1])
    assert 1e3 * np.linalg.norm(step, axis=1).max() < 0.5
    assert run(together, eyes, 80, 60)[-1].cameras["L2"] == BOTH


def test_two_names_for_one_vertebra_show_nothing_until_they_are_one(model, eyes, together):
    run(together, eyes, 30)
    told = run(together, eyes, 5, 30, second={"named": 1})
    for t in told:
        assert {e.status for e in t.result.levels} == {Status.REJECTED}
        assert "name one vertebra differently" in t.result.levels[0].reason
        assert all(e.T_camera_ct is None for e in t.result.levels)
    # Also while one of the two is away: which of them was wrong is not known.
    away = run(together, eyes, 5, 35, second=False)
    assert {e.status for t in away for e in t.result.levels} == {Status.REJECTED}
    back = run(together, eyes, 10, 40)
    assert back[-1].cameras["L2"] == BOTH
    assert any("alike again" in e for t in back for e in t.result.events)


def test_two_names_are_told_from_the_first_moment_on(model, eyes, together):
    told = run(together, eyes, 3, second={"named": -1})
    assert {e.status for t in told for e in t.result.levels} == {Status.REJECTED}


def test_a_camera_that_sees_another_patient_is_heard(model, eyes, together):
    run(together, eyes, 20)
    told = run(together, eyes, 1, 20, second={"identity": "refused", "nat": -40.0})[0]
    assert {e.status for e in told.result.levels} == {Status.REJECTED}
    assert "another spine" in told.result.levels[0].reason and told.result.identity == "refused"


def test_a_camera_that_cannot_tell_whose_spine_it_is_says_nothing_against_the_other(
    model, eyes, together
):
    run(together, eyes, 20)
    unsure = {"identity": "refused", "nat": -2.3, "hidden": model.levels}
    told = run(together, eyes, 3, 20, second=unsure)[-1]
    assert {e.status for e in told.result.levels} == {Status.TRACKED}
    assert told.cameras["L2"] == ("first",) and told.out["second"] == "covered"


def test_levels_that_one_camera_each_sees_are_all_shown(model, eyes, together):
    run(together, eyes, 20)
    told = run(
        together, eyes, 5, 20, first={"hidden": ("L1", "L2")}, second={"hidden": ("L3", "L4")}
    )
    assert [told[-1].cameras[v] for v in model.levels] == [("second",)] * 2 + [("first",)] * 2
    assert all(e.status is Status.TRACKED for e in told[-1].result.levels)


def test_the_cameras_are_registered_by_the_spine_and_one_level_is_not_enough(model, eyes):
    together = PutTogether(model, None, 3.6)
    one = run(together, eyes, 10, second={"hidden": ("L1", "L3", "L4")})
    assert "2 levels that both cameras track are needed" in one[-1].out["second"]
    together = PutTogether(model, None, 3.6)
    told = run(together, eyes, 30)
    assert told[-1].cameras["L2"] == BOTH and together.between is not None
    assert together.between.source == "the spine itself"
    off = together.between.T_first_second @ invert(X)
    anchor = anchors_m(model, told[-1]).mean(axis=0)
    assert 1e3 * np.linalg.norm(off[:3, :3] @ anchor + off[:3, 3] - anchor) < 1.5
    # It is made of the first camera's own poses: the second makes their bound hardly smaller.
    alone = run(PutTogether(model, None, 3.6), eyes, 3, second=False)[-1]
    for both, single in zip(told[-1].result.levels, alone.result.levels, strict=True):
        assert both.predicted_tre_mm > 0.85 * single.predicted_tre_mm
    assert largest_step_mm(model, run(together, eyes, 10, 30, first=False)).max() < 0.5


def test_vertebrae_that_do_not_lie_alike_register_nothing(model, eyes):
    first, second = (eye.look(MS) for eye in eyes)
    bent = list(second.levels)
    bent[1] = replace(
        bent[1], T_camera_ct=exp_se3(np.array([0, 0, 8e-3, 0, 0, 0])) @ bent[1].T_camera_ct
    )
    seen = [SeenByBoth(a, b, model.anchor_m[k]) for k, (a, b) in enumerate(zip(first.levels, bent))]
    found = from_spine(seen)
    assert isinstance(found, Rejected) and "do not lie alike" in found.reason
    assert "do not lie alike" in checked(BOARD, seen) or "does not fit" in checked(BOARD, seen)


def test_no_result_at_all_is_a_fault_of_the_caller(together):
    with pytest.raises(ValueError, match="neither"):
        together(MS, None, None)
