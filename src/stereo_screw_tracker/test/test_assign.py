# SPDX-License-Identifier: Apache-2.0
"""Level and side: the patient's, one to one, and empty rather than wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from screw_support import (
    LEVELS,
    R_CAMERA_PATIENT,
    heads_m,
    in_camera,
    patient_heads_mm,
    posterior,
)

from spine_nav_common.core.case import anatomical_axes
from spine_nav_common.core.geometry import transform
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.screw_rows import saddle_rows
from spine_nav_common.core.types import Case, Head3D, Mesh, ScrewPlan
from stereo_screw_tracker.core.assign import Labels, assign
from stereo_screw_tracker.core.config import AssignConfig

CONFIG = AssignConfig()
TRUE_SIDES = ("left",) * 5 + ("right",) * 5
TRUE_LEVELS = LEVELS * 2


def heads(points: np.ndarray) -> list[Head3D]:
    return [Head3D(p, 1e-7 * np.eye(3), posterior(), 0.05, 0.9, 0.0) for p in points]


def vertebra(centre_mm: np.ndarray, axes: np.ndarray) -> Mesh:
    """A box about a centre given as left, posterior, superior in mm; vertices in the mesh frame."""
    corners = np.array([[x, y, z] for x in (-30, 30) for y in (-25, 25) for z in (-12, 12)])
    return Mesh(1e-3 * (corners + centre_mm) @ axes.T, np.zeros((0, 3), np.int32))


def case_of(frame: str, planned: bool) -> tuple[Case, dict[str, np.ndarray]]:
    """A case whose screws stand where patient_heads_mm has them, and the poses of its levels."""
    axes = anatomical_axes(frame)
    meshes, plan = {}, []
    for k, level in enumerate(LEVELS):
        both = np.array([patient_heads_mm(side)[k] for side in ("left", "right")])
        centre = both.mean(axis=0) + (0.0, -35.0, 0.0)
        meshes[level] = vertebra(centre, axes)
        for side, head in zip(("left", "right"), both, strict=True):
            lean = np.array([0.2 if side == "left" else -0.2, 1.0, 0.0])
            lean /= np.linalg.norm(lean)
            entry = head - 15.0 * lean  # the saddle stands 15 mm out of the bone
            plan.append(
                ScrewPlan(level, side, 1e-3 * axes @ entry, 1e-3 * axes @ (entry - 40.0 * lean))
            )
    # camera <- mesh: undo the axes of the frame, then patient to camera
    T = transform(R_CAMERA_PATIENT @ axes.T, np.array([0.0, 0.0, 0.5]))
    case = Case("t", frame, meshes, LEVELS, tuple(plan) if planned else (), "")
    return case, {level: T for level in LEVELS}


def named(points: np.ndarray, **arguments: object) -> Labels:
    defaults = {"vertebrae": None, "case": None, "cranial": "", "config": CONFIG}
    return assign(heads(points), **{**defaults, **arguments})


class TestWithVertebrae:
    @pytest.mark.parametrize("frame", ["LPS", "RAS"])
    @pytest.mark.parametrize("planned", [True, False])
    def test_every_head_gets_its_level_and_side(self, frame: str, planned: bool) -> None:
        case, vertebrae = case_of(frame, planned)
        labels = named(heads_m(), vertebrae=vertebrae, case=case)
        assert labels.levels == TRUE_LEVELS
        assert labels.sides == TRUE_SIDES
        assert labels.cranial is not None and labels.cranial @ (0, -1, 0) > 0.99

    def test_a_mirrored_frame_would_be_noticed(self) -> None:
        """RAS data that call themselves LPS put left where right is: sides must follow the frame."""
        case, vertebrae = case_of("RAS", planned=False)
        wrong = replace(case, frame="LPS")
        labels = named(heads_m(), vertebrae=vertebrae, case=wrong)
        assert labels.sides != TRUE_SIDES

    def test_screws_some_millimetres_off_the_plan_keep_their_names(self) -> None:
        case, vertebrae = case_of("LPS", planned=True)
        off = np.random.default_rng(3).uniform(-4e-3, 4e-3, (10, 3))
        labels = named(heads_m() + off, vertebrae=vertebrae, case=case)
        assert labels.levels == TRUE_LEVELS and labels.sides == TRUE_SIDES

    def test_a_head_half_way_between_two_levels_gets_no_level_but_its_side(self) -> None:
        case, vertebrae = case_of("LPS", planned=True)
        points = heads_m(("left",))
        middle = 0.5 * (points[1] + points[2])
        labels = named(middle[None], vertebrae=vertebrae, case=case)
        assert labels.levels == ("",)
        assert labels.sides == ("left",)

    def test_a_head_far_from_every_plan_gets_nothing(self) -> None:
        case, vertebrae = case_of("LPS", planned=True)
        labels = named(heads_m()[:1] + (0.0, 0.06, 0.0), vertebrae=vertebrae, case=case)
        assert (labels.levels, labels.sides) == (("",), ("",))

    def test_two_heads_never_share_a_place(self) -> None:
        case, vertebrae = case_of("LPS", planned=True)
        points = heads_m(("left",))[[2, 2]] + [(0, 0, 0), (0, 5e-3, 0)]
        labels = named(points, vertebrae=vertebrae, case=case)
        assert sum(v == "L4" for v in labels.levels) <= 1

    def test_only_registered_levels_are_named(self) -> None:
        case, vertebrae = case_of("LPS", planned=True)
        labels = named(heads_m(), vertebrae={"L4": vertebrae["L4"]}, case=case)
        assert [v for v in labels.levels if v] == ["L4", "L4"]

    def test_a_level_that_the_case_lacks_is_an_error(self) -> None:
        case, vertebrae = case_of("LPS", planned=True)
        with pytest.raises(ValueError, match="T12"):
            named(heads_m(), vertebrae={"T12": vertebrae["L4"]}, case=case)

    def test_a_pose_that_mirrors_is_an_error(self) -> None:
        case, vertebrae = case_of("LPS", planned=True)
        with pytest.raises(ValueError, match="mirrors"):
            named(
                heads_m(), vertebrae={"L4": vertebrae["L4"] @ np.diag([-1.0, 1, 1, 1])}, case=case
            )

    def test_a_screw_that_would_stand_inside_the_bone_is_not_the_planned_one(self) -> None:
        case, vertebrae = case_of("LPS", planned=True)
        deep = heads_m()[:1] - 0.05 * posterior()
        assert named(deep, vertebrae=vertebrae, case=case).levels == ("",)


class TestWithoutVertebrae:
    def test_nothing_tells_nothing(self) -> None:
        labels = named(heads_m())
        assert set(labels.levels) == set(labels.sides) == {""}
        assert labels.cranial is None

    def test_cranial_up_puts_the_patients_left_on_the_images_left(self) -> None:
        """The patient lies prone and the camera looks at the back: no mirror in between."""
        points = heads_m()
        labels = named(points, cranial="up")
        for point, side in zip(points, labels.sides, strict=True):
            assert side == ("left" if point[0] < 0.0 else "right")
        assert labels.sides == TRUE_SIDES
        assert set(labels.levels) == {""}

    @pytest.mark.parametrize(
        ("cranial", "degrees"), [("up", 0), ("right", 90), ("down", 180), ("left", 270)]
    )
    def test_all_four_directions(self, cranial: str, degrees: int) -> None:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        roll = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        labels = named(heads_m() @ roll.T, cranial=cranial)
        assert labels.sides == TRUE_SIDES
        assert labels.cranial is not None
        assert labels.cranial @ (roll @ (0.0, -1.0, 0.0)) > 0.95

    def test_the_opposite_direction_swaps_the_sides(self) -> None:
        up, down = named(heads_m(), cranial="up"), named(heads_m(), cranial="down")
        assert all({a, b} == {"left", "right"} for a, b in zip(up.sides, down.sides, strict=True))

    def test_one_row_alone_stays_without_a_guess(self) -> None:
        labels = named(heads_m(("left",)), cranial="up")
        assert set(labels.sides) == {""}
        # but its rod can still be told which end is cranial
        assert labels.cranial is not None and labels.cranial @ (0.0, -1.0, 0.0) > 0.99

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_few_heads_stay_without_a_guess(self, count: int) -> None:
        labels = named(heads_m(("left",))[:count], cranial="up")
        assert labels.sides == ("",) * count

    def test_sides_are_those_that_the_rod_planner_reads(self) -> None:
        points = heads_m()[[7, 2, 9, 0, 4, 5, 1, 8, 3, 6]]
        labels = named(points, cranial="up")
        rows = [
            ScrewRow(0, i, p, posterior(), 0.9, 1.0, "", side)
            for i, (p, side) in enumerate(zip(points, labels.sides, strict=True))
        ]
        left, right = saddle_rows(rows, "screws.csv", cranial="up")
        assert (len(left.ids), len(right.ids)) == (5, 5)
        assert np.allclose(left.saddles_mm, 1e3 * heads_m(("left",)))

    def test_uneven_rows_are_split_too(self) -> None:
        points = np.concatenate([in_camera(patient_heads_mm("left")[:3]), heads_m(("right",))])
        labels = named(points, cranial="up")
        assert labels.sides == ("left",) * 3 + ("right",) * 5
