# SPDX-License-Identifier: Apache-2.0
"""The picture that the surgeon sees: registered vertebrae and planned screws over the camera image.

Only a `tracked` level of this very image is drawn as guidance. An `occluded` level keeps an amber
outline and loses its trajectories; every other level is named in the legend with its reason. What
stands beside vertebrae and plan (`core/extras.py`) is drawn under the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from spine_nav_common.core.geometry import skew, transform_points
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
    banner_height,
    label_layout,
    paint_age,
    paint_banner,
    paint_label,
    paint_legend,
)
from .core.bender import bender_picture, paste
from .core.cortex import Margins
from .core.extras import Extras, tool_deviation, tracked, usable
from .core.lens import NEAR_M, Lens, as_lens
from .core.marks import (
    Sheet,
    margin_note,
    paint_margin,
    paint_rod,
    paint_screw,
    paint_tool,
    paint_words,
)
from .core.paint import Stroke, fixed
from .core.silhouette import Silhouette, silhouette

PLAN_COLOUR = (90, 235, 255)
ENTRY_COLOUR = (255, 255, 255)
SCREW_RADIUS_M = 2.75e-3
STUB_M = 0.022  # how far the planned axis is prolonged out of the bone, towards the surgeon
OCCLUDER_MARGIN_M = 0.012  # measured surface this much nearer than the model hides the model
_AROUND_M = 0.012  # of the plan's points: the ring and the ellipses
CHI_2D_95 = 2.4477  # sqrt of the 95 % quantile of chi-square with two degrees of freedom
REFERENCE_WIDTH_PX = 640  # text is drawn at its own size on an image of this width
_FEWER_PX = 0.6  # of the finer grid, two to a pixel: how far an outline's corners are left out
_BENDER_PX = (190, 84)  # at text scale 1


def _paint_level(
    sheet: Sheet,
    seen: Silhouette,
    colour: tuple[int, int, int],
    live: bool,
    depth_m: np.ndarray | None,
) -> None:
    """Translucent shaded bone (only if live) and the outline; the hand in front stays in front."""
    image, scale = sheet.image, sheet.scale
    mask = seen.mask.astype(np.uint8) * 255
    h, w = mask.shape
    if depth_m is not None:
        measured = depth_m[seen.y0 : seen.y0 + h, seen.x0 : seen.x0 + w]
        with np.errstate(invalid="ignore"):
            mask[measured < seen.depth_m - OCCLUDER_MARGIN_M] = 0
        mask = _majority(mask, 7)  # depth is ragged at edges; the outline must not be
    fine = _enlarged(mask, 2 * scale)
    if live:
        x0, y0 = seen.x0 * scale, seen.y0 * scale
        region = image[y0 : y0 + h * scale, x0 : x0 + w * scale]
        shade = (seen.shade * 255.0).astype(np.uint8)
        inside = mask
        if scale > 1:
            shade = cv2.resize(shade, region.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            inside = _enlarged(mask, scale)
        ink = cv2.applyColorMap(shade, _tones(colour))
        cv2.copyTo(cv2.addWeighted(region, 0.55, ink, 0.45, 0.0), inside, region)
    contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    corner = np.array([seen.x0, seen.y0]) * scale - 0.25
    lines = [
        0.5 * _outward(cv2.approxPolyDP(c, _FEWER_PX, True).reshape(-1, 2)) + corner
        for c in contours
        if cv2.contourArea(c) > 4 * 60 * scale**2
    ]
    if sheet.keep is not None:
        sheet.keep += [Stroke(np.concatenate([line, line[:1]]), colour) for line in lines]
    paths = [fixed(line)[:, None] for line in lines]
    cv2.polylines(image, paths, True, (0, 0, 0), 2 * scale + 1, cv2.LINE_8, 4)
    cv2.polylines(image, paths, True, colour, scale, cv2.LINE_AA, 4)


def _outward(contour: np.ndarray) -> np.ndarray:
    """A contour (N, 2) of OpenCV's, which runs through the middles of the mask's outermost pixels,
    moved half a pixel out to the mask's border."""
    on = np.roll(contour, -1, axis=0) - contour
    on = on / np.maximum(np.hypot(on[:, 0], on[:, 1]), 1e-9)[:, None]
    along = on + np.roll(on, 1, axis=0)
    along = along / np.maximum(np.hypot(along[:, 0], along[:, 1]), 0.5)[:, None]
    # outer contours run against the clock as they are seen
    return contour + 0.5 * np.stack([-along[:, 1], along[:, 0]], axis=1)


@lru_cache(maxsize=8)
def _tones(colour: tuple[int, int, int]) -> np.ndarray:
    """(256, 1, 3) uint8: a colour from a quarter of it to the whole."""
    return (np.linspace(0.25, 1.0, 256)[:, None, None] * np.array(colour)).astype(np.uint8)


def _majority(mask: np.ndarray, size: int) -> np.ndarray:
    """The median of a mask of 0 and 255."""
    return cv2.compare(cv2.blur(mask, (size, size)), 127, cv2.CMP_GT)


def _enlarged(mask: np.ndarray, factor: int) -> np.ndarray:
    """A mask on a finer grid, its border smooth."""
    size = (mask.shape[1] * factor, mask.shape[0] * factor)
    fine = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
    if factor > 2:
        fine = cv2.GaussianBlur(fine, (0, 0), 0.35 * factor)
    return cv2.compare(fine, 127, cv2.CMP_GT)


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
    J = np.hstack([np.eye(3), -skew(point_camera_m - estimate.anchor_camera_m)])
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


@dataclass(frozen=True)
class _Place:
    """Points that marks count as lying at: the part of the picture about them, and the depth before
    which something stands in front of them. What lies in the bone is drawn through the bone."""

    x0: int
    y0: int
    x1: int
    y1: int
    nearest_m: float


def _place_of(sheet: Sheet, points_m: np.ndarray) -> list[_Place]:
    """The place of points (N, 3); none where the picture does not show them."""
    pixels = sheet.lens.project(points_m)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    nearest_m = float(points_m[:, 2].mean()) - OCCLUDER_MARGIN_M
    if not (np.isfinite(low).all() and nearest_m > 0.0):
        return []
    reach = _AROUND_M * sheet.lens.pinhole.fx / nearest_m
    (x0, y0), (x1, y1) = low - reach, high + reach + 2.0
    width, height = sheet.lens.size
    x0, x1 = (int(min(max(v, 0.0), width)) for v in (x0, x1))
    y0, y1 = (int(min(max(v, 0.0), height)) for v in (y0, y1))
    return [_Place(x0, y0, x1, y1, nearest_m)] if x1 > x0 and y1 > y0 else []


def _drawn_behind(sheet: Sheet, places: Sequence[_Place], depth_m: np.ndarray | None) -> None:
    """Put the ink on the picture; where something stands before marks, what was there comes back."""
    if depth_m is None or not places:
        sheet.ink.flush(sheet.image)
        return
    scale = sheet.scale
    covers = []
    for p in places:
        covered = cv2.compare(depth_m[p.y0 : p.y1, p.x0 : p.x1], p.nearest_m, cv2.CMP_LT)
        if cv2.hasNonZero(covered):
            covers.append((p, _majority(covered, 5)))  # depth is ragged at edges
    if not covers:
        sheet.ink.flush(sheet.image)
        return
    x0, y0 = min(p.x0 for p, _ in covers) * scale, min(p.y0 for p, _ in covers) * scale
    x1, y1 = max(p.x1 for p, _ in covers) * scale, max(p.y1 for p, _ in covers) * scale
    before = sheet.image[y0:y1, x0:x1].copy()
    sheet.ink.flush(sheet.image)
    for p, covered in covers:
        part = sheet.image[p.y0 * scale : p.y1 * scale, p.x0 * scale : p.x1 * scale]
        if scale > 1:
            covered = cv2.resize(covered, part.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        top, left = p.y0 * scale - y0, p.x0 * scale - x0
        cv2.copyTo(before[top : top + part.shape[0], left : left + part.shape[1]], covered, part)


def _paint_plans(
    sheet: Sheet, plans: Sequence[ScrewPlan], estimate: LevelEstimate, margins: Margins | None
) -> list[_Place]:
    """The screws of one level: axis from outside the bone to the target, entry ring, and the 95 %
    error ellipses at entry and target. Returns the places that they count as lying at."""
    T, scale = estimate.T_camera_ct, sheet.scale
    if T is None or not plans:
        return []
    ends = np.array([[p.entry_m, p.target_m] for p in plans])
    seen = transform_points(T, ends)
    outward = (seen[:, 0] - seen[:, 1]) / np.linalg.norm(seen[:, 0] - seen[:, 1], axis=1)[:, None]
    chains = np.stack([seen[:, 0] + STUB_M * outward, seen[:, 0], seen[:, 1]], axis=1)
    if chains[..., 2].min() < NEAR_M:
        return []
    pixels = sheet.px(chains.reshape(-1, 3)).reshape(*chains.shape[:2], 2)
    bound, ink = estimate.predicted_tre_mm, sheet.ink
    middle = pixels[:, 2].mean(axis=0)
    for plan, (_, entry, target), (stub_px, entry_px, target_px) in zip(
        plans, chains, pixels, strict=True
    ):
        ink.line(np.stack([entry_px, stub_px]), ENTRY_COLOUR, 2 * scale)
        if margins is None:
            ink.line(np.stack([entry_px, target_px]), PLAN_COLOUR, scale)
        else:
            margin = margins.planned(plan.level, plan.side, bound)
            paint_margin(sheet, T, plan, margin, PLAN_COLOUR)
            beside = stub_px - middle
            away = beside / max(float(np.linalg.norm(beside)), 1e-9)
            margin_note(sheet, stub_px, away, margin)
        ink.ring(entry_px, sheet.width_px(SCREW_RADIUS_M, entry), ENTRY_COLOUR, scale)
        for point, pixel in ((target, target_px), (entry, entry_px)):
            ellipse = entry_ellipse_px(estimate, point, sheet.lens.pinhole)
            if ellipse is not None:
                (a, b), angle = ellipse
                axes = (a * scale, b * scale)
                ink.oval(pixel, axes, angle, STATUS_COLOUR[Status.TRACKED], scale)
        ink.ring(target_px, 2 * scale, PLAN_COLOUR, cv2.FILLED)
    # the bone itself covers nothing: what lies in it counts as lying at the entry
    level = np.stack([seen[:, 0], seen[:, 1] * (seen[:, :1, 2] / seen[:, 1:, 2])], axis=1)
    return _place_of(sheet, chains[:, :2].reshape(-1, 3)) + _place_of(sheet, level.reshape(-1, 3))


def draw_overlay(
    colour: np.ndarray,
    camera: Intrinsics | Lens,
    case: Case,
    result: NavigationResult | None,
    depth: np.ndarray | None = None,
    *,
    stamp_ns: int | None = None,
    note: str = "",
    age_ms: float | None = None,
    scale: int = 1,
    extras: Extras | None = None,
    strokes: list[Stroke] | None = None,
) -> np.ndarray:
    """The camera image with what is known of this very image drawn over it.

    colour: (H, W, 3) uint8 RGB, as the camera's lens makes it (Lens) or rectified (Intrinsics).
    depth: (H, W) metres, NaN = none, same pixel grid; where given, a hand or tool in front of a
    vertebra stays in front of its drawing. stamp_ns: the image's stamp; a result of another image
    is named stale and none of it is drawn. note: why there is no result. age_ms: of the image when
    it is drawn, to be stated in it. scale: integer enlargement for pictures. extras: what else is
    known; of it only what `usable` lets through with this result. strokes: gets every line that is
    drawn, for viewers that draw themselves. Returns (H·scale, W·scale, 3)
    uint8 RGB; the input is not changed.

    Raises:
        ValueError: the image is not (H, W, 3) uint8 or does not fit the intrinsics.
    """
    lens = as_lens(camera)
    width, height = lens.size
    if colour.dtype != np.uint8 or colour.shape != (height, width, 3):
        raise ValueError(
            f"overlay: colour is {colour.dtype} {colour.shape}, expected uint8 "
            f"({height}, {width}, 3); pass the intrinsics of this image"
        )
    if depth is not None and depth.shape != colour.shape[:2]:
        raise ValueError(f"overlay: depth is {depth.shape}, colour {colour.shape[:2]}")
    image = colour.copy()
    if scale > 1:
        image = cv2.resize(image, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
    text_scale = max(1, round(image.shape[1] / REFERENCE_WIDTH_PX))
    sheet = Sheet(image, lens, scale, text_scale, strokes)
    if result is None:
        paint_legend(image, (), note or "no registration", text_scale)
    elif stamp_ns is not None and result.stamp_ns != stamp_ns:
        late_ms = (stamp_ns - result.stamp_ns) / 1e6
        paint_legend(
            image, (), f"STALE: last result is {late_ms:.0f} ms old, not shown", text_scale
        )
    else:
        _paint_result(sheet, case, result, depth, usable(extras, result) if extras else None)
    paint_banner(image, text_scale)
    if age_ms is not None:
        paint_age(image, age_ms, text_scale)
    return image


def _paint_result(
    sheet: Sheet,
    case: Case,
    result: NavigationResult,
    depth: np.ndarray | None,
    extras: Extras | None,
) -> None:
    shown = [
        e
        for e in result.levels
        if e.status in (Status.TRACKED, Status.OCCLUDED) and e.T_camera_ct is not None
    ]
    # Far levels first, so that a near one lies over its neighbour.
    found = {e.level: silhouette(case.meshes[e.level], e.T_camera_ct, sheet.lens) for e in shown}
    renders = {level: s for level, s in found.items() if s is not None and s.mask.any()}
    shown = [e for e in shown if e.level in renders]
    shown.sort(key=lambda e: -float(renders[e.level].depth_m.max()))
    for estimate in shown:
        live = estimate.status is Status.TRACKED
        # A held outline is drawn whole: cut by what covers it, only crumbs of it would be left.
        _paint_level(
            sheet,
            renders[estimate.level],
            STATUS_COLOUR[estimate.status],
            live,
            depth if live else None,
        )
    places = _paint_seen(sheet, result, extras) if extras is not None else []
    margins = extras.margins if extras is not None else None
    for estimate in shown:
        if estimate.status is Status.TRACKED:
            own = [p for p in case.plan if p.level == estimate.level]
            places += _paint_plans(sheet, own, estimate, margins)
    _drawn_behind(sheet, places, depth)
    if extras is not None:
        _paint_tool(sheet, case, result, extras)
        _paint_bends(sheet, extras)
    if shown:
        pixels = {e.level: _some(renders[e.level]) * sheet.scale for e in shown}
        for label in label_layout(shown, pixels, sheet.text_scale, sheet.image.shape):
            paint_label(sheet.image, label, sheet.text_scale)
    if extras is not None:
        guided = any(e.status is Status.TRACKED for e in shown)
        paint_words(sheet, extras, margins is not None and guided)
    paint_legend(sheet.image, result.levels, "", sheet.text_scale)


def _some(seen: Silhouette) -> np.ndarray:
    """Enough of its pixels to lay a label by."""
    some = seen.pixels(4)
    return some if len(some) else seen.pixels()


def _paint_seen(sheet: Sheet, result: NavigationResult, extras: Extras) -> list[_Place]:
    """Rods and placed screws. Returns the places that they lie at."""
    places: list[_Place] = []
    for level, estimate in tracked(result).items():
        T = estimate.T_camera_ct
        assert T is not None
        for rod in (r for r in extras.rods if r.level == level):
            paint_rod(sheet, T, rod)
            places += _place_of(sheet, transform_points(T, rod.curve_m))
        own = [s for s in extras.screws if s.level == level]
        for screw in own:
            paint_screw(sheet, T, screw)
        if own:
            places += _place_of(sheet, transform_points(T, np.array([s.head_m for s in own])))
    return places


def _paint_tool(sheet: Sheet, case: Case, result: NavigationResult, extras: Extras) -> None:
    if extras.tool is None:
        return
    T = tracked(result)[extras.tool.level].T_camera_ct
    assert T is not None
    paint_tool(sheet, T, extras.tool, tool_deviation(extras.tool, case.plan))
    sheet.ink.flush(sheet.image)


def _paint_bends(sheet: Sheet, extras: Extras) -> None:
    """The bender's setting of every side that has a next bend, at the right edge above the age."""
    s = sheet.text_scale
    w, h = _BENDER_PX[0] * s, _BENDER_PX[1] * s
    height, width = sheet.image.shape[:2]
    x, y = width - w - 2 * s, height - banner_height(s) - h - 18 * s
    for bend in extras.bends:
        if bend.step is not None and x >= 0 and y >= 0:
            paste(sheet.image, bender_picture(bend.step, bend.side, bend.steps, (w, h), s), x, y)
            y -= h + 4 * s
