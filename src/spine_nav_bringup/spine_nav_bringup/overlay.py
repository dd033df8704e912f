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

from spine_nav_bringup.core.text import draw_text, shade_box, text_size
from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    Mesh,
    NavigationResult,
    ScrewPlan,
    Status,
)

BANNER = "RESEARCH SOFTWARE · not a medical device"
STATUS_COLOUR: dict[Status, tuple[int, int, int]] = {
    Status.TRACKED: (64, 224, 120),
    Status.OCCLUDED: (255, 176, 32),
    Status.REGISTERING: (120, 180, 255),
    Status.SEARCHING: (190, 190, 190),
    Status.LOST: (255, 96, 80),
    Status.REJECTED: (255, 96, 80),
}
PLAN_COLOUR = (90, 235, 255)
ENTRY_COLOUR = (255, 255, 255)
FACES_PER_LEVEL = 1200  # enough for a smooth outline at 640x480, cheap enough for 15 Hz
SCREW_RADIUS_M = 2.75e-3
STUB_M = 0.022  # how far the planned axis is prolonged out of the bone, towards the surgeon
OCCLUDER_MARGIN_M = 0.012  # measured surface this much nearer than the model hides the model
CHI_2D_95 = 2.4477  # sqrt of the 95 % quantile of chi-square with two degrees of freedom
NEAR_M = 0.05


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


@dataclass(frozen=True)
class _Label:
    """A label of two lines (level, bound), centred at `at_px`, led to `anchor_px` on the bone."""

    lines: tuple[str, ...]
    at_px: np.ndarray
    anchor_px: np.ndarray
    colour: tuple[int, int, int]
    size_px: tuple[int, int]


def _label_layout(
    shown: list[LevelEstimate], renders: dict[str, _Render], scale: int, shape: tuple[int, ...]
) -> list[_Label]:
    """Labels in a row beside the spine, pushed apart along it until none covers another."""
    centres, pixels = {}, {}
    for estimate in shown:
        render = renders[estimate.level]
        rows, columns = np.nonzero(render.mask)
        pixels[estimate.level] = np.stack([columns + render.x0, rows + render.y0], 1) * scale
        centres[estimate.level] = pixels[estimate.level].mean(axis=0)
    chain = np.array([centres[e.level] for e in shown])
    axis = np.array([0.0, 1.0])
    if len(chain) > 1:
        axis = np.linalg.svd(chain - chain.mean(axis=0))[2][0]
    aside = np.array([axis[1], -axis[0]])
    if (aside[1] if abs(aside[1]) > abs(aside[0]) else -aside[0]) > 0:
        aside = -aside  # above a horizontal spine, right of an upright one
    reach = max(float(((p - centres[n]) @ aside).max()) for n, p in pixels.items()) + 34 * scale
    labels = []
    for estimate in shown:
        lines: tuple[str, ...] = (estimate.level,)
        if estimate.status is Status.TRACKED and estimate.predicted_tre_mm is not None:
            lines += (f"{estimate.predicted_tre_mm:.1f} mm",)
        sizes = [text_size(t, (13 if i == 0 else 10) * scale, i == 0) for i, t in enumerate(lines)]
        box = (max(w for w, _ in sizes) + 8 * scale, sum(h for _, h in sizes) + 6 * scale)
        centre = centres[estimate.level]
        # All labels at one distance from the line of centres: a tidy row.
        offset = reach - float((centre - chain.mean(axis=0)) @ aside)
        labels.append(
            _Label(lines, centre + offset * aside, centre, STATUS_COLOUR[estimate.status], box)
        )
    labels.sort(key=lambda label: float(label.at_px @ axis))
    step = np.zeros(2)
    placed: list[_Label] = []
    for label in labels:
        at = label.at_px.copy()
        if placed:
            last = placed[-1]
            need = np.array([last.size_px[i] + label.size_px[i] for i in (0, 1)]) / 2 + 3 * scale
            gap = at - last.at_px
            if np.all(np.abs(gap) < need):
                along = np.abs(axis) + 1e-9
                step = axis * float(np.min((need - np.abs(gap)) / along))
                at = at + step
        half = np.array(label.size_px) / 2 + 2 * scale
        at = np.clip(at, half, np.array([shape[1], shape[0]]) - half)
        placed.append(_Label(label.lines, at, label.anchor_px, label.colour, label.size_px))
    return placed


def _paint_label(image: np.ndarray, label: _Label, scale: int) -> None:
    fixed = [tuple(np.round(p * 16).astype(int).tolist()) for p in (label.anchor_px, label.at_px)]
    cv2.line(image, fixed[0], fixed[1], label.colour, scale, cv2.LINE_AA, 4)
    cv2.circle(image, fixed[0], 32 * scale, label.colour, cv2.FILLED, cv2.LINE_AA, 4)
    width, height = label.size_px
    x, y = (np.round(label.at_px - np.array([width, height]) / 2)).astype(int).tolist()
    shade_box(image, x, y, width, height, 0.25)
    y += 2 * scale
    for i, text in enumerate(label.lines):
        size = (13 if i == 0 else 10) * scale
        text_width, text_height = text_size(text, size, i == 0)
        colour = label.colour if i == 0 else (235, 235, 235)
        draw_text(image, text, x + (width - text_width) // 2, y, size, colour, i == 0)
        y += text_height + 2 * scale


def _legend_line(estimate: LevelEstimate) -> str:
    if estimate.status is Status.TRACKED:
        bound = estimate.predicted_tre_mm
        return "tracked" + (f", 95 % within {bound:.1f} mm" if bound is not None else "")
    text = estimate.status.value
    if estimate.status is Status.OCCLUDED:
        text += ", pose held, not live"
    return f"{text}: {estimate.reason}" if estimate.reason else text


def _ellipsis(text: str, size_px: int, width: int) -> str:
    if text_size(text, size_px)[0] <= width:
        return text
    while text and text_size(text + "…", size_px)[0] > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _paint_legend(
    image: np.ndarray, levels: tuple[LevelEstimate, ...], headline: str, scale: int
) -> None:
    size, pad = 11 * scale, 6 * scale
    room = int(image.shape[1] * 0.55)
    name_width = max([text_size(e.level, size, True)[0] for e in levels], default=0) + 8 * scale
    lines = [(e, _ellipsis(_legend_line(e), size, room - name_width - 16 * scale)) for e in levels]
    step = text_size("Agl|", size)[1] + 4 * scale
    widths = [name_width + 16 * scale + text_size(t, size)[0] for _, t in lines]
    if headline:
        widths.append(text_size(headline, size, True)[0])
    if not widths:
        return
    count = len(lines) + bool(headline)
    shade_box(image, 0, 0, max(widths) + 2 * pad, count * step + 2 * pad - 4 * scale, 0.3)
    y = pad
    if headline:
        draw_text(image, headline, pad, y, size, STATUS_COLOUR[Status.LOST], True)
        y += step
    for estimate, text in lines:
        colour = STATUS_COLOUR[estimate.status]
        middle = (pad + 4 * scale, y + step // 2 - 2 * scale)
        cv2.circle(image, middle, 4 * scale, colour, cv2.FILLED, cv2.LINE_AA)
        draw_text(image, estimate.level, pad + 14 * scale, y, size, colour, True)
        draw_text(image, text, pad + 14 * scale + name_width, y, size, (235, 235, 235))
        y += step


def _paint_banner(image: np.ndarray, scale: int) -> None:
    size = 11 * scale
    width, height = text_size(BANNER, size, True)
    top = image.shape[0] - height - 8 * scale
    shade_box(image, 0, top, image.shape[1], image.shape[0] - top, 0.3)
    x = (image.shape[1] - width) // 2
    draw_text(image, BANNER, x, top + 4 * scale, size, (255, 214, 90), True)


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
    if result is None:
        _paint_legend(image, (), "no registration", scale)
    elif stamp_ns is not None and result.stamp_ns != stamp_ns:
        age_ms = (stamp_ns - result.stamp_ns) / 1e6
        _paint_legend(image, (), f"STALE: last result is {age_ms:.0f} ms old, not shown", scale)
    else:
        _paint_result(image, intrinsics, case, result, depth, scale)
    _paint_banner(image, scale)
    return image


def _paint_result(
    image: np.ndarray,
    intrinsics: Intrinsics,
    case: Case,
    result: NavigationResult,
    depth: np.ndarray | None,
    scale: int,
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
        for label in _label_layout(shown, renders, scale, image.shape):
            _paint_label(image, label, scale)
    _paint_legend(image, result.levels, "", scale)
