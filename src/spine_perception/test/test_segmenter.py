# SPDX-License-Identifier: Apache-2.0
"""The segmenter around a network whose answers are known, and its refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spine_nav_common.core.types import Intrinsics, Rejected, RgbdFrame
from spine_perception.core import segmenter as sg
from spine_perception.core.features import CENTRE_SCALE_M, N_CHANNELS, roll_of, to_ray_frame, turn
from spine_perception.core.grid import GRID_SIZE, PITCH_M, camera_points, sample_depth
from spine_perception.core.instances import assign_cells, find_instances
from spine_perception.core.segmentation import RoiHint, Segmentation

R_TRUE = Rotation.from_euler("xyz", [100.0, 15.0, 90.0], degrees=True).as_matrix()
CAMERA = Intrinsics(640, 480, 610.0, 606.0, 318.0, 243.0)


def plate_frame(boxes: list[tuple[int, int, int, int]], depth: float = 0.5) -> RgbdFrame:
    """Grey background at `depth`, bright plates 8 mm nearer; boxes are (u0, v0, u1, v1) pixels."""
    colour = np.full((480, 640, 3), (120, 40, 40), np.uint8)
    depth_m = np.full((480, 640), depth, np.float32)
    for u0, v0, u1, v1 in boxes:
        colour[v0:v1, u0:u1] = (225, 215, 195)
        depth_m[v0:v1, u0:u1] = depth - 0.008
    return RgbdFrame(7, colour, depth_m, CAMERA)


class OracleNetwork:
    """Answers from the truth: a cell is bone if bright, and votes for the nearest of the centres.

    It must be told the grid, which a network does not see: `Segmenter` tests patch it in.
    """

    provider = "oracle"
    model_sha256 = "0" * 64

    def __init__(self, frame: RgbdFrame, centres: np.ndarray, R: np.ndarray) -> None:
        self.frame, self.centres, self.R = frame, centres, R
        self.affine: np.ndarray | None = None
        self.angles: list[float] = []
        self.inputs: list[np.ndarray] = []

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert x.shape == (1, N_CHANNELS, GRID_SIZE, GRID_SIZE)
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
        self.inputs.append(x)
        bone = (x[0, -3:].mean(axis=0) > 0.4) & (x[0, 1] > 0)
        masks = np.where(bone, 8.0, -8.0).astype(np.float32)[None].repeat(2, axis=0)
        vectors = np.zeros((9, GRID_SIZE // 2, GRID_SIZE // 2), np.float32)
        if self.affine is not None:
            vectors = self._vectors(self.affine)
        return masks, vectors

    def _vectors(self, affine: np.ndarray) -> np.ndarray:
        depth = sample_depth(self.frame.depth_m, affine, GRID_SIZE)
        points, x, y = (a[::2, ::2] for a in camera_points(depth, affine, self.frame.intrinsics))
        distance = np.linalg.norm(points[:, :, None] - self.centres, axis=3)
        nearest = self.centres[np.nan_to_num(distance, nan=9.0).argmin(axis=2)]
        parts = [(nearest - points) / CENTRE_SCALE_M]
        parts += [np.broadcast_to(self.R[:, k], points.shape) for k in (2, 1)]
        turned = np.concatenate(
            [turn(to_ray_frame(p, x, y), -roll_of(affine)) for p in parts], axis=2
        )
        return np.nan_to_num(turned).transpose(2, 0, 1).astype(np.float32)


@pytest.fixture
def three_plates() -> tuple[RgbdFrame, np.ndarray]:
    """Three bright plates in a row, and the centres (3, 3) of the vertebrae behind them."""
    boxes = [(240 + 60 * k, 220, 280 + 60 * k, 270) for k in range(3)]
    frame = plate_frame(boxes)
    z = 0.492 + 0.02
    u = np.array([260.0, 320.0, 380.0])
    centres = np.column_stack(
        [
            (u - CAMERA.cx) / CAMERA.fx * z,
            np.full(3, (245 - CAMERA.cy) / CAMERA.fy * z),
            np.full(3, z),
        ]
    )
    return frame, centres


def _segment(frame, centres, hint=None, angles=None) -> Segmentation | Rejected:
    """Run with an oracle that is told each grid before it answers; `angles` collects the turns."""
    network = OracleNetwork(frame, centres, R_TRUE)
    if angles is not None:
        network.angles = angles

    class Told(sg.Segmenter):
        def _pass(self, frame, grid, angle):
            network.affine = grid.turned(angle)
            network.angles.append(angle)
            return super()._pass(frame, grid, angle)

    return Told(network).run(frame, hint)


def test_votes_come_back_in_the_camera_frame(three_plates):
    frame, centres = three_plates
    seg = _segment(frame, centres)
    instances = find_instances(seg)
    assert len(instances) == 3
    found = np.array([i.centre_m for i in instances])
    order = np.argsort(-(centres @ R_TRUE[:, 2]))
    assert np.abs(found - centres[order]).max() < 1e-3
    for instance in instances:
        assert instance.R_camera_anatomy == pytest.approx(R_TRUE, abs=1e-2)
        assert np.linalg.det(instance.R_camera_anatomy) == pytest.approx(1.0)
    # 40 x 50 px plates at 0.492 m
    area = 40 * 50 * 0.492**2 / (CAMERA.fx * CAMERA.fy)
    assert [i.area_m2 for i in instances] == pytest.approx([area] * 3, rel=0.1)


def test_cells_are_assigned_to_the_instance_that_they_vote_for(three_plates):
    frame, centres = three_plates
    seg = _segment(frame, centres)
    instances = find_instances(seg)
    owner = assign_cells(seg, instances)
    assert set(np.unique(owner)) == {-1, 0, 1, 2}
    assert ((owner >= 0) <= (seg.bone > 0.5)).all()
    for k, instance in enumerate(instances):
        middle = seg.points_m[owner == k].mean(axis=0)
        assert np.linalg.norm((middle - instance.centre_m)[:2]) < 0.003


def test_the_last_pass_sees_the_spine_upright(three_plates):
    frame, centres = three_plates
    head_px = R_TRUE[:2, 2] / np.linalg.norm(R_TRUE[:2, 2])  # the plates are near the axis
    searched, tracked = [], []
    _segment(frame, centres, angles=searched)
    hint = RoiHint(320.0, 245.0, 0.5, cranial_px=(float(head_px[0]), float(head_px[1])))
    _segment(frame, centres, hint, angles=tracked)
    assert len(tracked) == 1
    assert len(searched) in (2, 3)
    for angle in (searched[-1], tracked[-1]):
        up = np.array([np.sin(angle), -np.cos(angle)])
        assert up @ head_px > np.cos(np.radians(36.0))


@pytest.mark.parametrize(
    "hint",
    [
        None,
        RoiHint(320.0, 245.0, 0.5),
        RoiHint(320.0, 245.0, 0.5, (0.3, -0.8)),
        RoiHint(320.0, 245.0, 0.5, (-1.0, 0.2)),
    ],
)
def test_bone_is_where_the_image_says(three_plates, hint):
    frame, centres = three_plates
    seg = _segment(frame, centres, hint)
    u, v = np.meshgrid(np.arange(640), np.arange(480))
    bone = seg.bone_at(u, v) > 0.5
    truth = frame.depth_m < 0.495
    assert (bone & truth).sum() / (bone | truth).sum() > 0.9
    assert (seg.clean <= seg.bone).all()
    assert seg.bone_at(-500.0, -500.0) == 0.0
    assert seg.clean_at(np.array([260.0]), np.array([245.0]))[0] > 0.9


def test_the_search_recentres_on_bone_at_the_rim_of_the_image():
    frame = plate_frame([(560, 400, 600, 450)], depth=0.7)
    centre = np.array([[0.29, 0.21, 0.71]])
    seg = _segment(frame, centre)
    middle = (seg.grid.u0 + 111.5 * seg.grid.scale, seg.grid.v0 + 111.5 * seg.grid.scale)
    assert middle == pytest.approx((580, 425), abs=12)
    assert seg.grid.scale == pytest.approx(PITCH_M * 608 / 0.692, rel=0.02)


def test_no_bone_without_depth(three_plates):
    frame, centres = three_plates
    depth = frame.depth_m.copy()
    depth[:, 300:340] = np.nan
    seg = _segment(dataclasses.replace(frame, depth_m=depth), centres)
    assert not (seg.bone[np.isnan(seg.points_m[..., 2])] > 0).any()
    assert len(find_instances(seg)) == 2


def test_a_frame_without_bone_is_refused():
    assert _segment(plate_frame([]), np.zeros((1, 3))) == Rejected("no bone in view")
    hint = RoiHint(320.0, 240.0, 0.5)
    assert _segment(plate_frame([]), np.zeros((1, 3)), hint) == Rejected("no bone in view")


def _broken(frame, **changes):
    return dataclasses.replace(frame, **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"colour": np.zeros((480, 640, 3), np.uint8)}, "black"),
        ({"colour": np.full((480, 640, 3), 255, np.uint8)}, "saturated"),
        ({"colour": np.zeros((480, 640), np.uint8)}, "shape"),
        ({"depth_m": np.full((480, 640), np.nan, np.float32)}, "no depth"),
        ({"depth_m": np.full((480, 640), np.inf, np.float32)}, "no depth"),
        ({"depth_m": np.zeros((480, 640), np.float32)}, "no depth"),
        ({"depth_m": np.full((480, 640), 500.0, np.float32)}, "millimetres"),
        ({"depth_m": np.full((240, 320), 0.5, np.float32)}, "differ in size"),
        ({"intrinsics": dataclasses.replace(CAMERA, fx=0.0)}, "focal"),
        ({"intrinsics": dataclasses.replace(CAMERA, cx=float("nan"))}, "focal"),
        ({"intrinsics": dataclasses.replace(CAMERA, width=320, height=240)}, "camera_info"),
    ],
)
@pytest.mark.parametrize("kind", ["network", "colour"])
def test_a_useless_frame_is_refused_with_its_reason(three_plates, changes, reason, kind):
    frame, centres = three_plates
    segmenter = (
        sg.ColourSegmenter()
        if kind == "colour"
        else sg.Segmenter(OracleNetwork(frame, centres, R_TRUE))
    )
    answer = segmenter.run(_broken(frame, **changes))
    assert isinstance(answer, Rejected)
    assert reason in answer.reason


def test_scattered_nan_and_inf_do_no_harm(three_plates):
    frame, centres = three_plates
    rng = np.random.default_rng(3)
    depth = frame.depth_m.copy()
    depth[rng.random(depth.shape) < 0.1] = np.nan
    depth[rng.random(depth.shape) < 0.05] = np.inf
    seg = _segment(_broken(frame, depth_m=depth), centres)
    assert np.isfinite(seg.bone).all()
    assert len(find_instances(seg)) == 3


def test_the_colour_baseline_finds_bone_and_casts_no_votes(three_plates):
    frame, _ = three_plates
    seg = sg.ColourSegmenter().run(frame)
    assert isinstance(seg, Segmentation)
    assert seg.bone_at(260.0, 245.0) > 0.9
    assert seg.bone_at(100.0, 100.0) < 0.1
    assert np.isnan(seg.centre_m).all()
    assert find_instances(seg) == ()
    assert sg.ColourSegmenter().run(plate_frame([])) == Rejected("no bone in view")


def test_sampling_many_points_at_once(three_plates):
    """More than OpenCV's 32767 rows, and any shape."""
    frame, _ = three_plates
    seg = sg.ColourSegmenter().run(frame)
    u = np.linspace(0, 639, 70000).reshape(100, 700)
    sampled = seg.bone_at(u, 245.0)
    assert sampled.shape == u.shape
    assert sampled.dtype == np.float32
    assert seg.bone_at(np.zeros(0), np.zeros(0)).shape == (0,)
