# SPDX-License-Identifier: Apache-2.0
"""The picture that the surgeon sees: registered vertebrae and planned screws over the camera image.

Only a `tracked` level of this very image is drawn as guidance. An `occluded` level keeps an amber
outline and loses its trajectories; every other level is named in the legend with its reason. What
stands beside vertebrae and plan (`core/extras.py`) is drawn under the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from spine_nav_common.core.geometry import transform
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
    Label,
    banner_height,
    label_layout,
    paint_age,
    paint_banner,
    paint_labels,
    paint_legend,
)
from .core.bender import bender_picture, paste
from .core.brush import border, shade_bone, tell_covered, uncover
from .core.cortex import Margins
from .core.error_shape import error_shapes_px
from .core.extras import Extras, tool_deviation, tracked, usable
from .core.lens import NEAR_M, Lens, as_lens
from .core.marks import (
    OCCLUDER_MARGIN_M,
    Sheet,
    margin_notes,
    paint_margins,
    paint_rod,
    paint_screws,
    paint_tool,
    paint_words,
    placed,
)
from .core.paint import NO_DEPTH, Box, Stroke
from .core.silhouette import Silhouette, silhouette
from .core.text import rows_of

PLAN_COLOUR = (90, 235, 255)
ENTRY_COLOUR = (255, 255, 255)
SCREW_RADIUS_M = 2.75e-3
STUB_M = 0.022  # how far the planned axis is prolonged out of the bone, towards the surgeon
REFERENCE_WIDTH_PX = 640  # text is drawn at its own size on an image of this width
_EVERY = 2  # of an outline's pixels one is a corner of the drawn line
_CRUMB_PX = 60.0  # a piece of bone this small has no outline
_RAGGED_PX = (7, 7)
_BENDER_PX = (190, 84)  # at text scale 1


def _paint_level(
    sheet: Sheet,
    seen: Silhouette,
    colour: tuple[int, int, int],
    live: bool,
    depth_m: np.ndarray | None,
) -> None:
    """Translucent shaded bone (only if live) and the outline; the hand in front stays in front."""
    scale, x0, y0 = sheet.scale, seen.x0, seen.y0
    inside, covered = np.empty((2, *seen.nearness.shape), np.uint8)
    h, w = inside.shape
    depth = NO_DEPTH if depth_m is None else depth_m[y0 : y0 + h, x0 : x0 + w]
    if tell_covered(seen.nearness, depth, OCCLUDER_MARGIN_M, inside, covered):
        # depth is ragged at edges; the outline must not be
        uncover(inside, cv2.blur(covered, _RAGGED_PX), cv2.blur(inside, _RAGGED_PX))
    if live:
        fine, shade = inside, seen.shade
        if scale > 1:
            size = (w * scale, h * scale)
            fine = cv2.resize(inside, size, interpolation=cv2.INTER_LINEAR)
            fine = cv2.compare(fine, 127, cv2.CMP_GT)
            shade = cv2.resize(shade, size, interpolation=cv2.INTER_LINEAR)
        region = sheet.image[y0 * scale : (y0 + h) * scale, x0 * scale : (x0 + w) * scale]
        shade_bone(rows_of(region), fine, shade, *colour)
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for contour in contours:
        if cv2.contourArea(contour) > _CRUMB_PX:
            line = border(contour[:, 0], _EVERY) + (x0, y0)
            sheet.ink.line((line + 0.5) * scale - 0.5, colour, scale)
    sheet.ink.flush(sheet.image)  # what lies nearer is painted over it


def _paint_plans(
    sheet: Sheet,
    guided: Sequence[tuple[ScrewPlan, LevelEstimate]],
    margins: Margins | None,
    taken: list[Box],
) -> None:
    """Planned screws of tracked levels: axis from outside the bone to the target, entry ring, and
    the 95 % error ellipses at entry and target. What lies in the bone is drawn through the bone, and
    covered by what stands before the entry. The margins' numbers stand beside what is taken."""
    scale, ink = sheet.scale, sheet.ink
    poses = np.array([e.T_camera_ct for _, e in guided]).reshape(-1, 4, 4)
    ends = np.array([[p.entry_m, p.target_m] for p, _ in guided]).reshape(-1, 2, 3)
    seen = placed(poses, ends)
    outward = seen[:, 0] - seen[:, 1]
    outward = outward / np.linalg.norm(outward, axis=1)[:, None]
    chains = np.concatenate([seen, (seen[:, 0] + STUB_M * outward)[:, None]], axis=1)
    good = np.flatnonzero(chains[..., 2].min(axis=1) >= NEAR_M)
    if not len(good):
        return
    guided, poses, chains = [guided[int(i)] for i in good], poses[good], chains[good]
    plans, estimates = zip(*guided, strict=True)
    pixels = sheet.px(chains.reshape(-1, 3)).reshape(*chains.shape[:2], 2)
    near = chains[:, 0, 2] - OCCLUDER_MARGIN_M
    out_near = 0.5 * (chains[:, 0, 2] + chains[:, 2, 2]) - OCCLUDER_MARGIN_M
    ink.lines(pixels[:, ::2], ENTRY_COLOUR, 2 * scale, nearest_m=out_near)
    if margins is None:
        ink.lines(pixels[:, :2], PLAN_COLOUR, scale, nearest_m=near)
    else:
        found = [margins.planned(p.level, p.side, e.predicted_tre_mm) for p, e in guided]
        paint_margins(sheet, poses, plans, found, PLAN_COLOUR, near)
        margin_notes(sheet, plans, pixels, found, taken)
    radii = sheet.widths_px(SCREW_RADIUS_M, chains[:, 0])
    ink.rings(pixels[:, 0], radii, ENTRY_COLOUR, scale, nearest_m=near)
    told = [i for i, e in enumerate(estimates) if e.predicted_tre_mm is not None]
    if told:
        points, twice = chains[told, :2].reshape(-1, 3), np.repeat(told, 2)
        shapes = error_shapes_px([estimates[i] for i in twice], points, sheet.lens.pinhole)
        middles, green = pixels[told, :2].reshape(-1, 2), STATUS_COLOUR[Status.TRACKED]
        ink.ovals(middles, scale * shapes, green, scale, nearest_m=near[twice])
    ink.dots(pixels[:, 1], 2.0 * scale, PLAN_COLOUR, near)


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
    if depth is not None:
        depth = np.asarray(depth, np.float32)
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
            image,
            (),
            f"STALE: last result is {late_ms:.0f} ms old, not shown",
            text_scale,
        )
    else:
        _paint_result(sheet, case, result, depth, usable(extras, result) if extras else None)
    paint_banner(image, text_scale)
    if age_ms is not None:
        paint_age(image, age_ms, text_scale)
    return image


def prepare(case: Case) -> None:
    """Thin the meshes, and load what is compiled, so that the first picture does not wait for it."""
    size, focal, away = 128, 400.0, np.array([0.0, 0.0, 1.0])
    levels = tuple(
        LevelEstimate(
            v, Status.TRACKED, transform(np.eye(3), away - case.meshes[v].vertices_m.mean(axis=0)),
            predicted_tre_mm=1.0,
        )
        for v in case.exposed_levels
    )  # fmt: skip
    colour, depth = (
        np.zeros((size, size, 3), np.uint8),
        np.ones((size, size), np.float32),
    )
    depth[: size // 2] = 0.5  # something covers a half
    camera = Intrinsics(size, size, focal, focal, size / 2, size / 2)
    draw_overlay(colour, camera, case, NavigationResult(0, levels), depth)


def _paint_result(
    sheet: Sheet,
    case: Case,
    result: NavigationResult,
    depth: np.ndarray | None,
    extras: Extras | None,
) -> None:
    shown = [e for e in result.levels if e.status in (Status.TRACKED, Status.OCCLUDED)]
    # Far levels first, so that a near one lies over its neighbour.
    found = {
        e.level: silhouette(case.meshes[e.level], e.T_camera_ct, sheet.lens)
        for e in shown
        if e.T_camera_ct is not None
    }
    renders = {level: s for level, s in found.items() if s is not None and s.nearness.any()}
    shown = [e for e in shown if e.level in renders]
    shown.sort(key=lambda e: -renders[e.level].far_m)
    for estimate in shown:
        is_live = estimate.status is Status.TRACKED
        # A held outline is drawn whole: cut by what covers it, only crumbs of it would be left.
        _paint_level(
            sheet,
            renders[estimate.level],
            STATUS_COLOUR[estimate.status],
            is_live,
            depth if is_live else None,
        )
    margins = extras.margins if extras is not None else None
    if extras is not None:
        _paint_seen(sheet, result, extras)
    live = {e.level: e for e in shown if e.status is Status.TRACKED}
    guided = [(p, live[p.level]) for p in case.plan if p.level in live]
    labels: list[Label] = []
    if shown:
        pixels = sheet.scale * np.array([renders[e.level].corners_px for e in shown])
        labels = label_layout(shown, pixels, sheet.text_scale, sheet.image.shape)
    taken = [label.box for label in labels]
    _paint_plans(sheet, guided, margins, taken)
    sheet.ink.flush(sheet.image, depth, sheet.scale)
    if extras is not None:
        _paint_bends(sheet, extras)
    paint_labels(sheet.image, labels, sheet.text_scale)
    if extras is not None:
        _paint_tool(sheet, case, result, extras, taken)
        paint_words(sheet, extras, margins is not None and bool(live))
    paint_legend(sheet.image, result.levels, "", sheet.text_scale)


def _paint_seen(sheet: Sheet, result: NavigationResult, extras: Extras) -> None:
    """Rods and placed screws."""
    poses = {v: e.T_camera_ct for v, e in tracked(result).items() if e.T_camera_ct is not None}
    for rod in extras.rods:
        if rod.level in poses:
            paint_rod(sheet, poses[rod.level], rod)
    if own := [s for s in extras.screws if s.level in poses]:
        paint_screws(sheet, np.array([poses[s.level] for s in own]), own)


def _paint_tool(
    sheet: Sheet, case: Case, result: NavigationResult, extras: Extras, taken: list[Box]
) -> None:
    if extras.tool is None:
        return
    T = tracked(result)[extras.tool.level].T_camera_ct
    assert T is not None
    paint_tool(sheet, T, extras.tool, tool_deviation(extras.tool, case.plan), taken)


def _paint_bends(sheet: Sheet, extras: Extras) -> None:
    """The bender's setting of every side that has a next bend, at the right edge above the age."""
    s = sheet.text_scale
    w, h = _BENDER_PX[0] * s, _BENDER_PX[1] * s
    height, width = sheet.image.shape[:2]
    x, y = width - w - 2 * s, height - banner_height(s) - h - 18 * s
    for bend in extras.bends:
        if bend.step is not None and x >= 0 and y >= 0:
            paste(
                sheet.image,
                bender_picture(bend.step, bend.side, bend.steps, (w, h), s),
                x,
                y,
            )
            y -= h + 4 * s
