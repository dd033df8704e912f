# SPDX-License-Identifier: Apache-2.0
"""The picture that the surgeon sees: registered vertebrae and planned screws over the camera image.

Only a `tracked` level of this very image is drawn as guidance. An `occluded` level keeps an amber
outline and loses its trajectories; every other level is named in the legend with its reason.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    NavigationResult,
    ScrewPlan,
    Status,
)

from .core.annotation import (
    STATUS_COLOUR,
    label_layout,
    paint_age,
    paint_banner,
    paint_label,
    paint_legend,
)
from .core.silhouette import NEAR_M, Silhouette, project_px, silhouette

PLAN_COLOUR = (90, 235, 255)
ENTRY_COLOUR = (255, 255, 255)
LIVE_STEP = 2  # pixels between the rays of a live picture: a quarter of the work, as smooth a line
SCREW_RADIUS_M = 2.75e-3
STUB_M = 0.022  # how far the planned axis is prolonged out of the bone, towards the surgeon
OCCLUDER_MARGIN_M = 0.012  # measured surface this much nearer than the model hides the model
_AROUND_M = 0.012  # of the plan's points: the ring and the ellipses
CHI_2D_95 = 2.4477  # sqrt of the 95 % quantile of chi-square with two degrees of freedom
REFERENCE_WIDTH_PX = 640  # text is drawn at its own size on an image of this width


def _transform(T_camera_ct: np.ndarray, points_m: np.ndarray) -> np.ndarray:
    return points_m @ T_camera_ct[:3, :3].T + T_camera_ct[:3, 3]


def _paint_level(
    image: np.ndarray,
    seen: Silhouette,
    colour: tuple[int, int, int],
    live: bool,
    depth_m: np.ndarray | None,
    scale: int,
) -> None:
    """Translucent shaded bone (only if live) and the outline; the hand in front stays in front."""
    outline = seen.mask.astype(np.uint8) * 255
    h, w = outline.shape
    if depth_m is not None:
        middle = seen.step // 2
        measured = depth_m[seen.y0 + middle :: seen.step, seen.x0 + middle :: seen.step][:h, :w]
        with np.errstate(invalid="ignore"):
            outline[measured < seen.depth_m - OCCLUDER_MARGIN_M] = 0
        # depth is ragged at edges; the outline must not be
        outline = cv2.medianBlur(outline, 7 if seen.step == 1 else 3)
    wide = seen.step * scale
    x0, y0 = seen.x0 * scale, seen.y0 * scale
    region = image[y0 : y0 + h * wide, x0 : x0 + w * wide]
    shade = seen.shade
    if wide > 1:
        shade = cv2.resize(shade, (w * wide, h * wide), interpolation=cv2.INTER_LINEAR)
        outline = cv2.resize(outline, (w * wide, h * wide), interpolation=cv2.INTER_LINEAR)
        if wide > 2:
            outline = cv2.GaussianBlur(outline, (0, 0), 0.35 * wide)
        outline = cv2.compare(outline, 127, cv2.CMP_GT)
    if live:
        ink = np.array(colour, np.float32) * (0.25 + 0.75 * shade[..., None])
        blended = cv2.addWeighted(region, 0.55, ink.astype(np.uint8), 0.45, 0.0)
        cv2.copyTo(blended, outline, region)
    contours, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1)
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


def _behind_what_covers(
    image: np.ndarray,
    draw: Callable[[], None],
    points_m: np.ndarray,
    intrinsics: Intrinsics,
    depth_m: np.ndarray | None,
    scale: int,
) -> None:
    """Draw what belongs to points (N, 3), and put back what stands before their middle.

    What lies in the bone is drawn through the bone: only the caller's points count.
    """
    if depth_m is None:
        draw()
        return
    pixels = project_px(points_m, intrinsics)
    nearest_m = float(points_m[:, 2].mean()) - OCCLUDER_MARGIN_M
    reach = _AROUND_M * intrinsics.fx / nearest_m
    size = depth_m.shape[::-1]
    x0, y0 = np.clip(np.floor(pixels.min(axis=0) - reach), 0, size).astype(int)
    x1, y1 = np.clip(np.ceil(pixels.max(axis=0) + reach) + 1, 0, size).astype(int)
    region = image[y0 * scale : y1 * scale, x0 * scale : x1 * scale]
    before = region.copy()
    draw()
    if not region.size:
        return
    with np.errstate(invalid="ignore"):
        covered = (depth_m[y0:y1, x0:x1] < nearest_m).astype(np.uint8)
    covered = cv2.medianBlur(covered, 5)  # depth is ragged at edges
    covered = cv2.resize(covered, region.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    cv2.copyTo(before, covered, region)


def _paint_plan(
    image: np.ndarray,
    plan: ScrewPlan,
    estimate: LevelEstimate,
    intrinsics: Intrinsics,
    scale: int,
    depth_m: np.ndarray | None,
) -> None:
    """Axis from outside the bone to the target, the entry ring, and the 95 % error ellipses at
    entry and target; a hand or tool before them stays before them."""
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

    def in_bone() -> None:
        _line(image, entry_px, target_px, PLAN_COLOUR, scale)
        ring = tuple(np.round(entry_px * 16).astype(int).tolist())
        radius = round(intrinsics.fx * SCREW_RADIUS_M / entry[2] * scale * 16)
        cv2.circle(image, ring, radius, (0, 0, 0), scale + 2, cv2.LINE_AA, 4)
        cv2.circle(image, ring, radius, ENTRY_COLOUR, scale, cv2.LINE_AA, 4)
        for point, pixel in ((target, target_px), (entry, entry_px)):
            _paint_error(image, entry_ellipse_px(estimate, point, intrinsics), pixel, scale)
        dot = tuple(np.round(target_px * 16).astype(int).tolist())
        cv2.circle(image, dot, 32 * scale, PLAN_COLOUR, cv2.FILLED, cv2.LINE_AA, 4)

    def out_of_it() -> None:
        _line(image, entry_px, stub_px, ENTRY_COLOUR, 2 * scale)

    # the bone itself covers nothing: what lies in it counts as lying at the entry
    at_entry = np.array([entry, target * (entry[2] / target[2])])
    _behind_what_covers(image, out_of_it, chain[:2], intrinsics, depth_m, scale)
    _behind_what_covers(image, in_bone, at_entry, intrinsics, depth_m, scale)


def _paint_error(
    image: np.ndarray,
    ellipse: tuple[tuple[float, float], float] | None,
    pixel: np.ndarray,
    scale: int,
) -> None:
    if ellipse is None:
        return
    (a, b), angle = ellipse
    middle = tuple(np.round(pixel * 16).astype(int).tolist())
    axes = (max(round(a * scale * 16), 16), max(round(b * scale * 16), 16))
    colour = STATUS_COLOUR[Status.TRACKED]
    cv2.ellipse(image, middle, axes, angle, 0, 360, (0, 0, 0), scale + 2, cv2.LINE_AA, 4)
    cv2.ellipse(image, middle, axes, angle, 0, 360, colour, scale, cv2.LINE_AA, 4)


def draw_overlay(
    colour: np.ndarray,
    intrinsics: Intrinsics,
    case: Case,
    result: NavigationResult | None,
    depth: np.ndarray | None = None,
    *,
    stamp_ns: int | None = None,
    note: str = "",
    age_ms: float | None = None,
    scale: int = 1,
) -> np.ndarray:
    """The camera image with what is known of this very image drawn over it.

    colour: (H, W, 3) uint8 RGB. depth: (H, W) metres, NaN = none, same pixel grid; where given,
    a hand or tool in front of a vertebra stays in front of its drawing. stamp_ns: the image's
    stamp; a result of another image is named stale and none of it is drawn. note: why there is no
    result. age_ms: of the image when it is drawn, to be stated in it. scale: integer enlargement for pictures. Returns (H·scale, W·scale, 3) uint8 RGB; the input is not changed.

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
        paint_legend(image, (), note or "no registration", text_scale)
    elif stamp_ns is not None and result.stamp_ns != stamp_ns:
        late_ms = (stamp_ns - result.stamp_ns) / 1e6
        paint_legend(
            image, (), f"STALE: last result is {late_ms:.0f} ms old, not shown", text_scale
        )
    else:
        _paint_result(image, intrinsics, case, result, depth, scale, text_scale)
    paint_banner(image, text_scale)
    if age_ms is not None:
        paint_age(image, age_ms, text_scale)
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
    step = LIVE_STEP if scale == 1 else 1
    renders = {
        e.level: silhouette(case.meshes[e.level], e.T_camera_ct, intrinsics, step) for e in shown
    }
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
                    _paint_plan(image, plan, estimate, intrinsics, scale, depth)
    if shown:
        pixels = {e.level: renders[e.level].pixels() * scale for e in shown}
        for label in label_layout(shown, pixels, text_scale, image.shape):
            paint_label(image, label, text_scale)
    paint_legend(image, result.levels, "", text_scale)
