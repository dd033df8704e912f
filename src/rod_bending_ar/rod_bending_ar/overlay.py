# SPDX-License-Identifier: Apache-2.0
"""The picture that the surgeon sees: registered vertebrae and planned screws over the camera image.

Only a `tracked` level of this very image is drawn as guidance. An `occluded` level keeps an amber
outline and loses its trajectories; every other level is named in the legend with its reason.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    Mesh,
    NavigationResult,
    ScrewPlan,
    Status,
)

from .core.annotation import STATUS_COLOUR, label_layout, paint_banner, paint_label, paint_legend

PLAN_COLOUR = (90, 235, 255)
ENTRY_COLOUR = (255, 255, 255)
FACES_PER_LEVEL = 1200  # enough for a smooth outline at 640x480, cheap enough for 15 Hz
SCREW_RADIUS_M = 2.75e-3
STUB_M = 0.022  # how far the planned axis is prolonged out of the bone, towards the surgeon
OCCLUDER_MARGIN_M = 0.012  # measured surface this much nearer than the model hides the model
CHI_2D_95 = 2.4477  # sqrt of the 95 % quantile of chi-square with two degrees of freedom
NEAR_M = 0.05
REFERENCE_WIDTH_PX = 640  # text is drawn at its own size on an image of this width


@dataclass(frozen=True)
class _Shape:
    """A decimated mesh: vertices (N, 3) metres, faces (M, 3), unit normals (M, 3)."""

    vertices_m: np.ndarray
    faces: np.ndarray
    normals: np.ndarray


# Keyed by identity; the mesh is kept beside its shape so that the id cannot be reused.
_shapes: OrderedDict[int, tuple[Mesh, _Shape]] = OrderedDict()
_SHAPES_KEPT = 64


def simplify(mesh: Mesh, faces: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 3) metres and triangles (M, 3) of the mesh with at most about `faces` faces."""
    if len(mesh.faces) <= faces:
        return mesh.vertices_m, np.asarray(mesh.faces)
    import open3d as o3d  # heavy; only where a mesh is really decimated

    full = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices_m), o3d.utility.Vector3iVector(mesh.faces)
    )
    small = full.simplify_quadric_decimation(faces)
    return np.asarray(small.vertices), np.asarray(small.triangles)


def _with_normals(mesh: Mesh) -> _Shape:
    vertices, triangles = simplify(mesh, FACES_PER_LEVEL)
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1)
    good = length > 0
    return _Shape(vertices, triangles[good], normals[good] / length[good, None])


def _shape(mesh: Mesh) -> _Shape:
    if id(mesh) not in _shapes:
        _shapes[id(mesh)] = (mesh, _with_normals(mesh))
        while len(_shapes) > _SHAPES_KEPT:
            _shapes.popitem(last=False)
    return _shapes[id(mesh)][1]


def project_px(points_m: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """(N, 3) metres in the optical frame, z > 0, to (N, 2) pixels."""
    z = points_m[:, 2]
    return np.stack(
        [
            intrinsics.fx * points_m[:, 0] / z + intrinsics.cx,
            intrinsics.fy * points_m[:, 1] / z + intrinsics.cy,
        ],
        axis=1,
    )


def _transform(T_camera_ct: np.ndarray, points_m: np.ndarray) -> np.ndarray:
    return points_m @ T_camera_ct[:3, :3].T + T_camera_ct[:3, 3]


@dataclass(frozen=True)
class _Render:
    """One level in image pixels, cropped to its box at (x0, y0): shade 0..1, depth_m, mask."""

    x0: int
    y0: int
    mask: np.ndarray
    shade: np.ndarray
    depth_m: np.ndarray

    def pixels(self) -> np.ndarray:
        """(N, 2) x and y in the image of the pixels in the mask."""
        rows, columns = np.nonzero(self.mask)
        return np.stack([columns + self.x0, rows + self.y0], axis=1)


def _render(mesh: Mesh, T_camera_ct: np.ndarray, intrinsics: Intrinsics) -> _Render | None:
    """Front faces painted from far to near into a face-index image; None when out of view."""
    shape = _shape(mesh)
    points = _transform(T_camera_ct, shape.vertices_m)
    if points[:, 2].min() < NEAR_M:
        return None
    pixels = project_px(points, intrinsics)
    low = np.maximum(np.floor(pixels.min(axis=0)).astype(int), 0)
    high = np.minimum(
        np.ceil(pixels.max(axis=0)).astype(int) + 1, [intrinsics.width, intrinsics.height]
    )
    if np.any(high - low < 2):
        return None
    centres = points[shape.faces].mean(axis=1)
    normals = shape.normals @ T_camera_ct[:3, :3].T
    facing = -np.einsum("ij,ij->i", normals, centres) / np.linalg.norm(centres, axis=1)
    front = np.flatnonzero(facing > 0)
    front = front[np.argsort(-centres[front, 2])]
    # Sub-pixel corners: fillConvexPoly takes fixed-point coordinates with 4 fractional bits.
    fixed = np.round((pixels - low) * 16).astype(np.int32)[shape.faces[front]]
    index = np.zeros((high[1] - low[1], high[0] - low[0]), np.float32)
    for order, triangle in enumerate(fixed, start=1):
        cv2.fillConvexPoly(index, triangle, float(order), cv2.LINE_8, 4)
    painted = index.astype(np.int32)
    shade = np.concatenate([[0.0], facing[front]]).astype(np.float32)[painted]
    depth = np.concatenate([[0.0], centres[front, 2]]).astype(np.float32)[painted]
    return _Render(int(low[0]), int(low[1]), painted > 0, shade, depth)


def _paint_level(
    image: np.ndarray,
    render: _Render,
    colour: tuple[int, int, int],
    live: bool,
    depth_m: np.ndarray | None,
    scale: int,
) -> None:
    """Translucent shaded bone (only if live) and the outline; the hand in front stays in front."""
    shade = render.shade
    outline = render.mask.astype(np.uint8)
    if depth_m is not None:
        h, w = outline.shape
        measured = depth_m[render.y0 : render.y0 + h, render.x0 : render.x0 + w]
        with np.errstate(invalid="ignore"):
            outline[measured < render.depth_m - OCCLUDER_MARGIN_M] = 0
        outline = cv2.medianBlur(outline, 7)  # depth is ragged at edges; the outline must not be
    if scale > 1:
        size = (outline.shape[1] * scale, outline.shape[0] * scale)
        outline = (
            cv2.GaussianBlur(cv2.resize(outline * 255, size), (0, 0), scale * 0.7) > 127
        ).astype(np.uint8)
        shade = cv2.resize(shade, size, interpolation=cv2.INTER_LINEAR)
    x0, y0 = render.x0 * scale, render.y0 * scale
    region = image[y0 : y0 + outline.shape[0], x0 : x0 + outline.shape[1]]
    if live:
        ink = np.array(colour, np.float32) * (0.25 + 0.75 * shade[..., None])
        blended = cv2.addWeighted(region, 0.55, ink.astype(np.uint8), 0.45, 0.0)
        cv2.copyTo(blended, outline, region)
    contours, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contours = [c for c in contours if cv2.contourArea(c) > 60 * scale**2]
    cv2.drawContours(region, contours, -1, (0, 0, 0), 2 * scale + 1, cv2.LINE_AA)
    cv2.drawContours(region, contours, -1, colour, scale, cv2.LINE_AA)


def entry_ellipse_px(
    estimate: LevelEstimate, point_camera_m: np.ndarray, intrinsics: Intrinsics
) -> tuple[tuple[float, float], float] | None:
    """95 % ellipse of the pose's error at a point, in the image: ((semi-axes) px, angle deg).

    Falls back to a circle of predicted_tre_mm where the estimate has no covariance; None where
    it has neither.
    """
    z = float(point_camera_m[2])
    if estimate.covariance is None or estimate.anchor_camera_m is None:
        if estimate.predicted_tre_mm is None:
            return None
        radius = intrinsics.fx * estimate.predicted_tre_mm * 1e-3 / z
        return (radius, radius), 0.0
    lever = point_camera_m - estimate.anchor_camera_m
    skew = np.array([[0, -lever[2], lever[1]], [lever[2], 0, -lever[0]], [-lever[1], lever[0], 0]])
    J = np.hstack([np.eye(3), -skew])
    P = np.array(
        [
            [intrinsics.fx / z, 0, -intrinsics.fx * point_camera_m[0] / z**2],
            [0, intrinsics.fy / z, -intrinsics.fy * point_camera_m[1] / z**2],
        ]
    )
    values, vectors = np.linalg.eigh(P @ J @ estimate.covariance @ J.T @ P.T)
    axes = CHI_2D_95 * np.sqrt(np.maximum(values, 0.0))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    return (float(axes[1]), float(axes[0])), angle


def _line(image: np.ndarray, a: np.ndarray, b: np.ndarray, colour: tuple, width: int) -> None:
    p, q = (tuple(np.round(v * 16).astype(int).tolist()) for v in (a, b))
    cv2.line(image, p, q, (0, 0, 0), width + 2, cv2.LINE_AA, 4)
    cv2.line(image, p, q, colour, width, cv2.LINE_AA, 4)


def _paint_plan(
    image: np.ndarray,
    plan: ScrewPlan,
    estimate: LevelEstimate,
    intrinsics: Intrinsics,
    scale: int,
) -> None:
    """Axis from outside the bone to the target, the entry ring, and the 95 % error ellipse."""
    entry, target = _transform(
        estimate.T_camera_ct,
        np.array([plan.entry_m, plan.target_m]),  # type: ignore[arg-type]
    )
    if min(entry[2], target[2]) < NEAR_M:
        return
    outward = (entry - target) / np.linalg.norm(entry - target)
    chain = np.array([entry + STUB_M * outward, entry, target])
    if chain[0, 2] < NEAR_M:
        return
    stub_px, entry_px, target_px = (project_px(chain, intrinsics) + 0.5) * scale - 0.5
    _line(image, entry_px, target_px, PLAN_COLOUR, scale)
    _line(image, entry_px, stub_px, ENTRY_COLOUR, 2 * scale)
    centre = tuple(np.round(entry_px * 16).astype(int).tolist())
    radius = intrinsics.fx * SCREW_RADIUS_M / entry[2] * scale
    cv2.circle(image, centre, round(radius * 16), (0, 0, 0), scale + 2, cv2.LINE_AA, 4)
    cv2.circle(image, centre, round(radius * 16), ENTRY_COLOUR, scale, cv2.LINE_AA, 4)
    ellipse = entry_ellipse_px(estimate, entry, intrinsics)
    if ellipse is not None:
        (a, b), angle = ellipse
        axes = (max(round(a * scale * 16), 16), max(round(b * scale * 16), 16))
        colour = STATUS_COLOUR[Status.TRACKED]
        cv2.ellipse(image, centre, axes, angle, 0, 360, (0, 0, 0), scale + 2, cv2.LINE_AA, 4)
        cv2.ellipse(image, centre, axes, angle, 0, 360, colour, scale, cv2.LINE_AA, 4)
    cv2.circle(
        image, tuple(np.round(target_px * 16).astype(int).tolist()), 32 * scale, PLAN_COLOUR,
        cv2.FILLED, cv2.LINE_AA, 4,
    )  # fmt: skip


def draw_overlay(
    colour: np.ndarray,
    intrinsics: Intrinsics,
    case: Case,
    result: NavigationResult | None,
    depth: np.ndarray | None = None,
    *,
    stamp_ns: int | None = None,
    scale: int = 1,
) -> np.ndarray:
    """The camera image with what is known of this very image drawn over it.

    colour: (H, W, 3) uint8 RGB. depth: (H, W) metres, NaN = none, same pixel grid; where given,
    a hand or tool in front of a vertebra stays in front of its drawing. stamp_ns: the image's
    stamp; a result of another image is named stale and none of it is drawn. scale: integer
    enlargement for pictures. Returns (H·scale, W·scale, 3) uint8 RGB; the input is not changed.

    Raises:
        ValueError: the image is not (H, W, 3) uint8 or does not fit the intrinsics.
    """
    if colour.dtype != np.uint8 or colour.shape != (intrinsics.height, intrinsics.width, 3):
        raise ValueError(
            f"overlay: colour is {colour.dtype} {colour.shape}, expected uint8 "
            f"({intrinsics.height}, {intrinsics.width}, 3); pass the intrinsics of this image"
        )
    if depth is not None and depth.shape != colour.shape[:2]:
        raise ValueError(f"overlay: depth is {depth.shape}, colour {colour.shape[:2]}")
    image = colour.copy()
    if scale > 1:
        size = (intrinsics.width * scale, intrinsics.height * scale)
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    text_scale = max(1, round(image.shape[1] / REFERENCE_WIDTH_PX))
    if result is None:
        paint_legend(image, (), "no registration", text_scale)
    elif stamp_ns is not None and result.stamp_ns != stamp_ns:
        age_ms = (stamp_ns - result.stamp_ns) / 1e6
        paint_legend(image, (), f"STALE: last result is {age_ms:.0f} ms old, not shown", text_scale)
    else:
        _paint_result(image, intrinsics, case, result, depth, scale, text_scale)
    paint_banner(image, text_scale)
    return image


def _paint_result(
    image: np.ndarray,
    intrinsics: Intrinsics,
    case: Case,
    result: NavigationResult,
    depth: np.ndarray | None,
    scale: int,
    text_scale: int,
) -> None:
    shown = [
        e
        for e in result.levels
        if e.status in (Status.TRACKED, Status.OCCLUDED) and e.T_camera_ct is not None
    ]
    # Far levels first, so that a near one lies over its neighbour.
    renders = {e.level: _render(case.meshes[e.level], e.T_camera_ct, intrinsics) for e in shown}
    shown = [e for e in shown if renders[e.level] is not None and renders[e.level].mask.any()]
    shown.sort(key=lambda e: -float(renders[e.level].depth_m.max()))
    for estimate in shown:
        live = estimate.status is Status.TRACKED
        # A held outline is drawn whole: cut by what covers it, only crumbs of it would be left.
        _paint_level(
            image,
            renders[estimate.level],
            STATUS_COLOUR[estimate.status],
            live,
            depth if live else None,
            scale,
        )
    for estimate in shown:
        if estimate.status is Status.TRACKED:
            for plan in case.plan:
                if plan.level == estimate.level:
                    _paint_plan(image, plan, estimate, intrinsics, scale)
    if shown:
        pixels = {e.level: renders[e.level].pixels() * scale for e in shown}
        for label in label_layout(shown, pixels, text_scale, image.shape):
            paint_label(image, label, text_scale)
    paint_legend(image, result.levels, "", text_scale)
